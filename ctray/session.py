"""A Ray session for one command: join the cluster at RAY_ADDRESS, or start and stop one."""

import contextlib
import logging
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from typing import Any, NoReturn

import psutil
import ray

from ctray import ray_internals
from ctray.errors import ClusterDiedError, UserError
from ctray.process import environment, sigterm_as_exit

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
# Without one of these a cluster is dead, though its other processes live on for a while.
_VITAL = ("gcs_server", "raylet")
_died = threading.Event()
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
    ray_internals.set_start_level(level)
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
    logs = None if address else ray_internals.session_folder()
    ended_well = False
    try:
        # After Ray, which installs a handler of its own.
        with sigterm_as_exit(), _death_as_error(roots, again):
            yield
        ended_well = True
    finally:
        started = [process for root in roots for process in (root, *_below(root))]
        # A thread that still asks something must not join or start another cluster.
        ray_internals.stay_disconnected()
        if not cluster_has_died():
            ray.shutdown()
        _wait_until_gone(started, 0.0 if cluster_has_died() else _GONE_WITHIN_S)
        if logs is not None and ended_well and not verbose:
            shutil.rmtree(logs, ignore_errors=True)


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
