"""Commands of their own that can be watched, and killed piece by piece."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence

import psutil

MARK = "CTRAY_TEST_MARK"
# Generous: the machine of a test may be busy. What is waited for comes in a fraction of it.
DEADLINE_S = 480.0
_RAY = ("RAY_ADDRESS", "RAY_AUTH_MODE")


class Command:
    """A `python -m …`, whose processes are told by a mark in their environment.

    Args:
        arguments: after `-m`.
        environment: laid over this process's, without what would make it join a cluster.
    """

    def __init__(self, *arguments: str, environment: dict[str, str] | None = None) -> None:
        self.mark = uuid.uuid4().hex
        # Ray's workers would write their titles over the environment that the kernel shows, and
        # give way to whatever else a busy machine does.
        own = {MARK: self.mark, "SPT_NOENV": "1", "RAY_worker_niceness": "0"} | (environment or {})
        inherited = {key: value for key, value in os.environ.items() if key not in _RAY}
        self.environment = inherited | own
        self.started = time.monotonic()
        with interruptible():
            self.process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                env=self.environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        self.lines: list[str] = []
        self.errors: list[str] = []
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self._readers = [
            threading.Thread(target=lines.extend, args=(stream,), daemon=True)
            for lines, stream in (
                (self.lines, self.process.stdout),
                (self.errors, self.process.stderr),
            )
        ]
        for reader in self._readers:
            reader.start()

    def __str__(self) -> str:
        return f"exit {self.process.poll()}\n{''.join(self.lines)}\n{''.join(self.errors)}"

    def wait_for(self, condition: Callable[[], object], what: str) -> None:
        """Wait until true while the command runs; it fails when the command ends before."""
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            assert self.process.poll() is None, f"it ended before: {what}\n{self}"
            assert time.monotonic() < deadline, f"not within {DEADLINE_S:g} s: {what}\n{self}"
            time.sleep(0.02)

    def says(self, text: str) -> bool:
        """Whether it printed this."""
        return text in "".join(self.lines)

    def wait(self, within: float = DEADLINE_S) -> int:
        """Wait for the command's end; returns its exit code."""
        try:
            code = self.process.wait(within)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {within:g} s\n{self}") from None
        for reader in self._readers:
            reader.join(10)
        return code

    @property
    def error(self) -> str:
        """What it printed to stderr."""
        return "".join(self.errors)

    def family(self) -> list[psutil.Process]:
        """Every living process with the mark, the command's own one too."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(MARK) == self.mark:
                    found.append(process)
        return found

    def process_named(self, name: str) -> psutil.Process:
        """Wait for a process of this name."""
        found: list[psutil.Process] = []
        self.wait_for(lambda: found.extend(self.named([name])) or found, name)
        return found[0]

    def named(self, names: Sequence[str]) -> list[psutil.Process]:
        """Those of the family whose command line has one of these in it."""
        found = []
        for process in self.family():
            with contextlib.suppress(psutil.Error):
                line = " ".join(process.cmdline())
                if any(name in line for name in names):
                    found.append(process)
        return found

    def end(self) -> None:
        """kill -9 whatever is left."""
        kill(self.family())
        self.process.wait()


def kill(processes: Sequence[psutil.Process]) -> None:
    """kill -9 all of them."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let what is started in the block hear Ctrl-C, however the tests themselves were started.

    A script's background job and nohup's child ignore SIGINT, and a process inherits that; a signal
    that has a handler is set to its default where a process starts.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def running(*arguments: str, environment: dict[str, str] | None = None) -> Iterator[Command]:
    """A command for a block; nothing of it is left afterwards."""
    command = Command(*arguments, environment=environment)
    try:
        yield command
    finally:
        command.end()
