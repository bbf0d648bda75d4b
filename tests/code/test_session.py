"""The Ray session beside other clusters."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest
import ray

from ctray.session import free_port

OTHER = (
    "import ray; ray.init('local', num_cpus=1, include_dashboard=False, log_to_driver=False); "
    "print('up', flush=True); input()"
)


def test_the_state_api_is_found_beside_another_cluster(cluster: None) -> None:
    """Ray Train frees stopped trials' CPUs through it, from a worker's process."""

    @ray.remote(num_cpus=0.1)
    def nodes_seen_from_a_worker() -> list[str]:
        from ray.util.state import list_nodes

        return [node.node_id for node in list_nodes()]

    other = subprocess.Popen(
        [sys.executable, "-c", OTHER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout is not None
        assert "up" in other.stdout.readline()
        assert ray.get(nodes_seen_from_a_worker.remote()) == [
            ray.get_runtime_context().get_node_id()
        ]
    finally:
        other.communicate("\n", timeout=60)


@pytest.mark.fast
def test_a_free_port_is_not_one_that_the_system_gives_away() -> None:
    """The cluster's own connections took one of those between its choice and its use."""
    given = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    port = free_port()
    assert not int(given[0]) <= port <= int(given[1])
    with socket.socket() as server:
        server.bind(("127.0.0.1", port))
        server.listen()
