"""A Ray session for one command: join the cluster at RAY_ADDRESS, or start and stop one."""

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, NoReturn

import psutil
import ray
from ray._private.state import state as ray_state

from ctray.errors import UserError

_STATE_API = "RAY_API_SERVER_ADDRESS"
_GONE_WITHIN_S = 10.0
_QUIET = {
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    # Announces a change of a default that nothing here depends on.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Tune's own tables and status lines.
    "RAY_AIR_NEW_OUTPUT": "0",
    "NO_ALBUMENTATIONS_UPDATE": "1",
}


@contextlib.contextmanager
def ray_session(verbose: bool = False) -> Iterator[None]:
    """Run a block with Ray; whatever was started here is gone when the block ends.

    With RAY_ADDRESS set it joins that cluster and leaves it running. SIGTERM ends the block as
    Ctrl-C would, so that a stopped command leaves no process behind.

    Args:
        verbose: show Ray's own messages and the workers' output.
    """
    if ray.is_initialized():
        yield
        return
    os.environ.update({name: os.environ.get(name, value) for name, value in _QUIET.items()})
    level = logging.INFO if verbose else logging.ERROR
    # Said while a cluster starts, before Ray sets its own level.
    logging.getLogger("ray._private.authentication").setLevel(level)
    quiet: dict[str, Any] = {"log_to_driver": verbose, "logging_level": level}
    address = os.environ.get("RAY_ADDRESS")
    before = psutil.Process().children()
    if address:
        try:
            ray.init(address, **quiet)
        except ConnectionError as error:
            raise UserError(
                f"no Ray cluster answers at RAY_ADDRESS={address}: unset it or start one"
            ) from error
    else:
        # The dashboard stays on: Ray Train frees the CPUs of stopped trials through its state API,
        # and finds it by this variable. Without it a second cluster on the machine makes the
        # look-up fail, and the search waits for those CPUs for ever (docs/decisions/session.md).
        port = free_port()
        os.environ[_STATE_API] = f"http://127.0.0.1:{port}"
        ray.init("local", include_dashboard=True, dashboard_port=port, **quiet)
    # Of a cluster that was joined nothing is ours.
    roots = [] if address else [p for p in psutil.Process().children() if p not in before]
    try:
        # After Ray, which installs a handler of its own.
        with sigterm_as_exit():
            yield
    finally:
        started = [process for root in roots for process in (root, *_below(root))]
        ray.shutdown()
        _wait_until_gone(started)
        os.environ.pop(_STATE_API, None)


def _wait_until_gone(processes: list[psutil.Process]) -> None:
    """Ray's dashboard takes some seconds to notice that its cluster has ended."""
    _, left = psutil.wait_procs(processes, timeout=_GONE_WITHIN_S)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def _below(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def free_port() -> int:
    """A TCP port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def cluster_capacity() -> tuple[dict[str, float], list[float]]:
    """What the cluster has, or may grow to: total resources, and the CPUs of each live node."""
    total = {name: float(value) for name, value in ray.cluster_resources().items()}
    largest = ray_state.get_max_resources_from_cluster_config() or {}
    for name, value in largest.items():
        total[name] = max(total.get(name, 0.0), float(value))
    nodes = [float(node["Resources"].get("CPU", 0.0)) for node in ray.nodes() if node["Alive"]]
    return total, sorted(nodes, reverse=True)


@contextlib.contextmanager
def sigterm_as_exit() -> Iterator[None]:
    """Let SIGTERM end the block by an exception, so that what it started is stopped."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
