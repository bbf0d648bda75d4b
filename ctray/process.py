"""This process and its machine: variables, imports, signals and ports, whatever Ray does."""

import contextlib
import importlib
import os
import random
import signal
import socket
import threading
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

from ctray.errors import UserError

# Above those of Ray's workers, below those that Linux gives to outgoing connections by default.
_PORTS = range(20_000, 32_768)


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


def free_port() -> int:
    """A TCP port of this machine that nothing listens on.

    The one that the kernel would name could be an outgoing connection's a moment later.
    """
    for port in random.SystemRandom().sample(_PORTS, len(_PORTS)):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", port))
            return port
    raise UserError(f"every TCP port from {_PORTS.start} to {_PORTS.stop - 1} is taken: free one")
