"""Who gets which CPUs and GPUs: worked out once, printed, and refused when it cannot work."""

import dataclasses
import math
import re
from dataclasses import dataclass

from ctray.capacity import Node, cluster_capacity
from ctray.errors import UserError
from ctray.words import counted

# What a search trial's driver holds, and what is left to the data tasks of each run.
DRIVER_CPUS = 0.1
_DATA_CPUS = 0.2
_LEAST_CPUS = 0.5
# Sums of fractions may miss a whole by less.
_ROUNDING = 1e-6
# What a worker asks for beside a GPU, or on a cluster that has still to grow.
_CPUS_ANYWHERE = 2.0
# Batches that wait for a worker. A GPU takes several while the stream begins its next block.
_PREFETCH_CPU, _PREFETCH_GPU = 2, 8
# Trials side by side share the cores, and each knows less of the others: two on two cores were
# trained 1.2 times as fast as one after the other (docs/decisions/search.md).
_CPUS_A_TRIAL = 4


@dataclass(frozen=True)
class Plan:
    """Resources of every run; several may train side by side.

    Attributes:
        workers: Train workers a run; the most of them when it is elastic.
        gpu: whether each has a GPU, or a share of one.
        cpus: that Ray reserves for each worker.
        threads: that torch uses in each worker.
        prefetch: batches that wait for each worker.
        data_cpus: that are left to the data tasks of each run.
        runs: how many runs train side by side.
        least: workers that an elastic run needs to train; None: it is not elastic.
        driver_cpus: that a search trial's own process holds.
        gpu_share: of a GPU that each worker has.
    """

    workers: int
    gpu: bool
    cpus: float
    threads: int
    prefetch: int
    data_cpus: float
    runs: int
    least: int | None = None
    driver_cpus: float = DRIVER_CPUS
    gpu_share: float = 1.0

    def __str__(self) -> str:
        device = f"{self.gpu_share:g} GPU" if self.gpu else counted(self.threads, "CPU thread")
        least = f"{self.least} to " if self.least else ""
        side = f", {self.runs} trials at a time" if self.runs > 1 else ""
        return (
            f"{least}{counted(self.workers, 'worker')} with {device} each ({self.cpus:g} CPUs "
            f"reserved, {self.data_cpus:g} for data, {self.prefetch} batches ahead){side}"
        )


def parse_workers(text: str) -> tuple[int | None, int | None]:
    """`auto`, `4` or `2:4` as the most workers (None: auto) and, of an elastic run, the fewest.

    Raises:
        UserError: anything else.
    """
    if text == "auto":
        return None, None
    match = re.fullmatch(r"(?:(\d+):)?(\d+)", text)
    if match is None:
        raise UserError(f"{text!r} is not auto, a number or MIN:MAX such as 2:4", "workers")
    most, least = int(match[2]), int(match[1]) if match[1] else None
    if least is not None and not 1 <= least <= most:
        raise UserError(f"{text}: MIN must be at least 1 and at most MAX", "workers")
    return most, least


def make_plan(
    workers: int | None = None,
    runs: int | None = 1,
    at_most: int | None = None,
    least: int | None = None,
    gpu_share: float | None = None,
) -> Plan:
    """Plan for the cluster this process is connected to.

    Args:
        workers: a run; unset: every GPU in one run, otherwise one.
        runs: side by side; unset: as many as fit, but `at_most`.
        at_most: there are no more runs than this.
        least: of an elastic run, the workers that it needs to train.
        gpu_share: of a GPU for each worker; unset: a whole one.

    Raises:
        UserError: the cluster, grown as far as its autoscaler may, can never hold it.
    """
    total, nodes = cluster_capacity()
    cpus, gpus = total.get("CPU", 0.0), int(total.get("GPU", 0.0))
    most = workers
    if least is not None and workers is not None:
        # What is refused is fewer than it needs.
        workers = max(least, min(workers, _room(cpus, gpus, nodes)))
    plan = plan_for(cpus, gpus, nodes, workers, runs, at_most, gpu_share)
    if least is None:
        return plan
    # Ray counts an elastic run's workers by whole division, which a fraction such as 0.85 upsets.
    share = math.floor(plan.cpus) if plan.cpus >= 1 else _LEAST_CPUS
    data_cpus = round(plan.data_cpus + plan.workers * (plan.cpus - share), 2)
    if most is not None and plan.gpu:
        # Those that there is no GPU for wait for one; on CPUs they would take the data's place.
        plan = dataclasses.replace(plan, workers=most)
    return dataclasses.replace(plan, cpus=share, data_cpus=data_cpus, least=least)


def plan_for(
    cpus: float,
    gpus: int,
    nodes: list[Node],
    workers: int | None,
    runs: int | None,
    at_most: int | None = None,
    gpu_share: float | None = None,
) -> Plan:
    """The plan for a cluster of `cpus` and `gpus` in all, of which these machines are there.

    The other arguments, and what is raised, are those of `make_plan`.
    """
    if gpu_share is not None:
        _check_share(gpu_share, gpus, workers)
    devices = gpus or math.floor(cpus)
    room = _room(cpus, gpus, nodes, gpu_share)
    if workers is None:
        workers = max(1, min(gpus, room)) if gpus and runs == 1 else 1
    _check_workers(workers, devices, "GPU" if gpus else "CPU")
    if runs is None:
        side_by_side = room if gpus else devices // _CPUS_A_TRIAL
        runs = max(1, min(side_by_side // workers, at_most or side_by_side))
    runs = min(runs, at_most or runs)
    a_gpu = _a_gpu(gpus, gpu_share)
    if gpus and runs * workers > gpus * a_gpu:
        raise UserError(
            f"the cluster has {counted(gpus * a_gpu, 'share')} of a GPU, too few for "
            f"{counted(runs, 'trial')} of {counted(workers, 'worker')} at a time: run fewer",
            "concurrency",
        )
    share = _cpus_of_a_worker(cpus, gpus, nodes, workers, runs, a_gpu)
    return Plan(
        workers=workers,
        gpu=gpus > 0,
        cpus=share,
        threads=max(1, math.ceil(share)),
        prefetch=_PREFETCH_GPU if gpus else _PREFETCH_CPU,
        data_cpus=round(cpus / runs - DRIVER_CPUS - workers * share, 2),
        runs=runs,
        gpu_share=gpu_share or 1.0,
    )


def _check_workers(workers: int, devices: int, kind: str) -> None:
    if workers < 1:
        raise UserError(f"a run needs at least one worker, not {workers}", "workers")
    if workers > devices:
        raise UserError(
            f"the cluster has {counted(devices, kind)}, too few for "
            f"{counted(workers, 'worker')}: use {devices} or fewer",
            "workers",
        )


def _check_share(share: float, gpus: int, workers: int | None) -> None:
    if not gpus:
        raise UserError(
            f"{share:g} of a GPU for each worker, and the cluster has no GPU: leave it out",
            "gpu_share",
        )
    if not 0 < share <= 1:
        raise UserError(f"{share:g} is not a share of a GPU, above 0 and up to 1", "gpu_share")
    if share < 1 and (workers or 1) > 1:
        raise UserError(
            f"{share:g} of a GPU: the workers of one trial cannot share a GPU; use one worker",
            "gpu_share",
            "workers",
        )


def _cpus_of_a_worker(
    cpus: float, gpus: int, nodes: list[Node], workers: int, runs: int, a_gpu: int
) -> float:
    """CPUs that Ray reserves for each worker, in hundredths.

    Args:
        cpus: of the cluster.
        gpus: of the cluster.
        nodes: the machines that are there.
        workers: of a run.
        runs: side by side.
        a_gpu: workers that a GPU takes; 0: they are trained on CPUs.
    """
    spare = cpus - runs * (DRIVER_CPUS + _DATA_CPUS)
    share = spare / (runs * workers)
    if share < _LEAST_CPUS:
        raise UserError(
            f"in {counted(runs, 'run')} of {counted(workers, 'worker')} each worker has "
            f"{share:.1f} CPUs, {_LEAST_CPUS} is the least: use fewer workers or a larger cluster",
            "workers",
            "concurrency",
        )
    grows = _grows(cpus, gpus, nodes)
    if gpus:
        # A GPU is fed by as many CPUs as its worker has, or more.
        share = max(_LEAST_CPUS, share / 2)
    if gpus or grows:
        # The machines that will join are of unknown size.
        share = min(share, _CPUS_ANYWHERE)
    if not grows:
        share = _share_that_fits(nodes, share, workers, runs, a_gpu)
    return math.floor(share * 100) / 100


def _grows(cpus: float, gpus: int, nodes: list[Node]) -> bool:
    """Whether machines of the kind that trains may still join."""
    if gpus:
        return sum(node.gpus for node in nodes) < gpus
    return sum(node.cpus for node in nodes) < cpus


def _a_gpu(gpus: int, gpu_share: float | None) -> int:
    """Workers that a GPU takes; 0: they are trained on CPUs."""
    return math.floor(1 / (gpu_share or 1.0)) if gpus else 0


def _room(cpus: float, gpus: int, nodes: list[Node], gpu_share: float | None = None) -> int:
    """The most workers, all runs together, that the cluster has a GPU or a CPU for."""
    if not gpus:
        return math.floor(cpus)
    a_gpu = _a_gpu(gpus, gpu_share)
    there = gpus * a_gpu
    return there if _grows(cpus, gpus, nodes) else min(there, sum(_places(nodes, a_gpu)))


def _places(nodes: list[Node], a_gpu: int, cpus: float = _LEAST_CPUS) -> list[int]:
    """How many workers of so many CPUs find a place on each of these machines."""
    free = [math.floor(node.cpus / cpus + _ROUNDING) for node in nodes]
    if a_gpu:
        free = [min(n, node.gpus * a_gpu) for n, node in zip(free, nodes, strict=True)]
    return free


def _share_that_fits(nodes: list[Node], share: float, workers: int, runs: int, a_gpu: int) -> float:
    """The most CPUs, up to `share`, with which all find a place on these machines.

    Args:
        nodes: all there will be.
        share: CPUs of a worker, if they were all on one machine.
        workers: of a run.
        runs: each of which needs room for a driver and for data, too.
        a_gpu: workers that a GPU takes; 0: they need none.
    """
    total, beside = workers * runs, DRIVER_CPUS + _DATA_CPUS

    def fits(cpus: float) -> bool:
        places = _places(nodes, a_gpu, cpus)
        left = (node.cpus - n * cpus for node, n in zip(nodes, places, strict=True))
        spare = sum(math.floor(cpus_left / beside + _ROUNDING) for cpus_left in left)
        empty = sum(places) - total
        return empty >= 0 and spare + empty * math.floor(cpus / beside + _ROUNDING) >= runs

    largest = max(node.cpus for node in nodes if node.gpus or not a_gpu)
    share = max(_LEAST_CPUS, min(share, largest - beside))
    while not fits(share):
        if share == _LEAST_CPUS:
            needs = f"{_LEAST_CPUS} CPUs and a GPU" if a_gpu else f"{_LEAST_CPUS} CPUs"
            raise UserError(
                f"there is room for {sum(_places(nodes, a_gpu))} of {counted(total, 'worker')}, "
                f"each with {needs} on one machine, beside their data: use fewer workers, or "
                "machines with more CPUs",
                "workers",
                "concurrency",
            )
        share = max(_LEAST_CPUS, share - 0.05)
    return share
