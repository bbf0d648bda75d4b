"""What a cluster has to give, for whoever plans on it."""

from typing import NamedTuple

import ray

from ctray import ray_internals


class Node(NamedTuple):
    """What a live machine of the cluster has."""

    cpus: float
    gpus: int = 0


def cluster_capacity() -> tuple[dict[str, float], list[Node]]:
    """What the cluster has, or may grow to: total resources, and the live machines."""
    total = {name: float(value) for name, value in ray.cluster_resources().items()}
    for name, value in ray_internals.largest_resources().items():
        total[name] = max(total.get(name, 0.0), value)
    alive = (node["Resources"] for node in ray.nodes() if node["Alive"])
    return total, [Node(one.get("CPU", 0.0), int(one.get("GPU", 0))) for one in alive]
