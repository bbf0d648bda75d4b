"""The Ray session beside other clusters."""

import socket
from pathlib import Path

import pytest

from ctray.process import free_port


@pytest.mark.fast
def test_a_free_port_is_not_one_that_the_system_gives_away() -> None:
    """The cluster's own connections took one of those between its choice and its use."""
    first, _ = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    if int(first) < 32_768:
        pytest.skip(f"this system gives away ports from {first} on")
    port = free_port()
    assert port < int(first)
    with socket.socket() as server:
        server.bind(("127.0.0.1", port))
        server.listen()
