"""A Ray session for one command: join the cluster at RAY_ADDRESS, or start and stop one."""

import contextlib
import importlib
import logging
import os
import random
import shutil
import signal
import socket
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, NamedTuple, NoReturn, cast

import psutil
import ray
from ray._private import auto_init_hook
from ray._private import worker as ray_worker
from ray._private.state import state as ray_state

from ctray.errors import ClusterDiedError, UserError

_GONE_WITHIN_S = 10.0
# Tells the processes of a cluster that it has no dashboard to show what they count.
NO_DASHBOARD = "CTRAY_NO_DASHBOARD"
# What the processes of a cluster of one's own inherit.
_OWN_CLUSTER = {
    # A process that a task leaves idle is of use to the next: Ray ends it after a second, and the
    # one that follows spends longer on its imports (docs/decisions/search.md).
    "RAY_idle_worker_killing_time_threshold_ms": "60000",
    # Nobody takes a machine away: a process less for each run (docs/decisions/session.md).
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    NO_DASHBOARD: "1",
}
# Without one of these a cluster is dead, though its other processes go on for a while.
_VITAL = ("gcs_server", "raylet")
_died = threading.Event()
# Above those of Ray's workers, below those that Linux gives to outgoing connections by default.
_PORTS = range(20_000, 32_768)
_QUIET = {
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    # Announces a change of a default that nothing here depends on.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Tune's own tables and status lines.
    "RAY_AIR_NEW_OUTPUT": "0",
    "NO_ALBUMENTATIONS_UPDATE": "1",
}


@contextlib.contextmanager
def ray_session(verbose: bool = False, again: str = "run the same command again") -> Iterator[None]:
    """Run a block with Ray; whatever was started here is gone when the block ends.

    With RAY_ADDRESS set it joins that cluster and leaves it running. SIGTERM ends the block as
    Ctrl-C would, so that a stopped command leaves no process behind. Ray's logs of a cluster that
    was started here go with it when the block ends well.

    Args:
        verbose: show Ray's own messages and the workers' output.
        again: what to do when the cluster dies.

    Raises:
        UserError: no cluster answers at RAY_ADDRESS.
        ClusterDiedError: the one that was started here died.
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
        # Not longer: it is the cluster's, and Ray Train would hand it on from here again.
        with environment(_OWN_CLUSTER):
            # Its processes take seconds of the start, and nobody looks (docs/decisions/session.md).
            ray.init("local", include_dashboard=False, **quiet)
    # Of a cluster that was joined nothing is ours.
    roots = [] if address else [p for p in psutil.Process().children() if p not in before]
    logs = None if address else cast(Any, ray_worker._global_node).get_session_dir_path()
    ended_well = False
    try:
        # After Ray, which installs a handler of its own.
        with sigterm_as_exit(), _death_as_error(roots, again):
            yield
        ended_well = True
    finally:
        started = [process for root in roots for process in (root, *_below(root))]
        # A thread that still asks something must not join or start another cluster.
        auto_init_hook.enable_auto_connect = False
        if not cluster_has_died():
            ray.shutdown()
        _wait_until_gone(started, 0.0 if cluster_has_died() else _GONE_WITHIN_S)
        if logs is not None and ended_well and not verbose:
            shutil.rmtree(logs, ignore_errors=True)


@contextlib.contextmanager
def environment(values: dict[str, str]) -> Iterator[None]:
    """Set variables for a block, where the user has not."""
    added = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


@contextlib.contextmanager
def import_meanwhile(module: str) -> Iterator[None]:
    """Import a module in a thread while a block runs, such as one that waits for Ray to start."""
    thread = threading.Thread(target=importlib.import_module, args=(module,), daemon=True)
    thread.start()
    yield


@contextlib.contextmanager
def _death_as_error(roots: list[psutil.Process], again: str) -> Iterator[None]:
    """Raise ClusterDiedError in the block when a vital process of the cluster dies.

    Ray would end this process without a word.
    """
    _died.clear()
    main = threading.main_thread()
    if threading.current_thread() is not main or not roots:
        yield
        return
    over, lock = threading.Event(), threading.Lock()

    def watch(pid: int) -> None:
        with contextlib.suppress(ChildProcessError):
            # It stays for whoever counts it; Ray ends us at the next word to a dead raylet.
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        with lock:
            # One of them is enough: a second interruption would come into the cleaning up.
            if not over.is_set() and not _died.is_set():
                _died.set()
                signal.pthread_kill(main.ident or 0, signal.SIGUSR2)

    def interrupt(*_: object) -> NoReturn:
        # While Ray waits it lets no other exception through.
        raise KeyboardInterrupt

    # Not SIGUSR1, which Tune takes for itself.
    before = signal.signal(signal.SIGUSR2, interrupt)
    for process in roots:
        if process.name() in _VITAL:
            threading.Thread(target=watch, args=(process.pid,), daemon=True).start()
    try:
        try:
            yield
        finally:
            with lock:
                over.set()
            signal.signal(signal.SIGUSR2, before)
    except BaseException as error:
        if _died.is_set():
            raise ClusterDiedError(f"the Ray cluster of this command died: {again}") from error
        raise


def cluster_has_died() -> bool:
    """Whether the cluster that `ray_session` started is dead.

    Nothing that is asked of it answers, and Ray ends a process that asks.
    """
    return _died.is_set()


def _wait_until_gone(processes: list[psutil.Process], within_s: float) -> None:
    """Ray's agents take some seconds to notice that their cluster has ended."""
    _, left = psutil.wait_procs(processes, timeout=within_s)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def _below(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def free_port() -> int:
    """A TCP port of this machine that nothing listens on.

    The one that the kernel would name could be an outgoing connection's a moment later.
    """
    for port in random.SystemRandom().sample(_PORTS, len(_PORTS)):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", port))
            return port
    raise UserError(f"every TCP port from {_PORTS.start} to {_PORTS.stop - 1} is taken: free one")


class Node(NamedTuple):
    """What a live machine of the cluster has."""

    cpus: float
    gpus: int = 0


def cluster_capacity() -> tuple[dict[str, float], list[Node]]:
    """What the cluster has, or may grow to: total resources, and the live machines."""
    total = {name: float(value) for name, value in ray.cluster_resources().items()}
    largest = ray_state.get_max_resources_from_cluster_config() or {}
    for name, value in largest.items():
        total[name] = max(total.get(name, 0.0), float(value))
    alive = (node["Resources"] for node in ray.nodes() if node["Alive"])
    return total, [Node(one.get("CPU", 0.0), int(one.get("GPU", 0))) for one in alive]


@contextlib.contextmanager
def sigterm_as_exit() -> Iterator[None]:
    """Let SIGTERM end the block by an exception, so that what it started is stopped."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    received: list[int] = []

    def stop(number: int, _: FrameType | None) -> NoReturn:
        received.append(number)
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except SystemExit as error:
        # Where Ray waits, it makes 1 of the number.
        if received:
            raise SystemExit(128 + received[0]) from error
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
