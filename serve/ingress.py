"""The settings of Ray Serve's HAProxy ingress, in one table.

`ctray serve` sets all of them before Ray starts. A cluster that is started otherwise needs those
marked `on_clusters` in the environment of every `ray start`: cluster.yaml has them, and
docs/serving.md lists them. A test holds both to this table.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Setting:
    """One environment variable that Ray Serve reads when it is imported.

    Attributes:
        variable: its name.
        value: the same at every start, or made at each start from that start's own folder.
        why: what it is for.
        on_clusters: whether every `ray start` of a cluster needs it.
    """

    variable: str
    value: str | Callable[[Path], str]
    why: str
    on_clusters: bool

    def at_start(self, folder: Path) -> str:
        """Its value for a service whose sockets are in `folder`."""
        return self.value if isinstance(self.value, str) else self.value(folder)


def _free_port(_: Path) -> str:
    from ctray.process import free_port

    return str(free_port())


def _threads(_: Path) -> str:
    return str(min(4, os.cpu_count() or 1))


SETTINGS = (
    Setting(
        "RAY_SERVE_ENABLE_HA_PROXY",
        "1",
        "Answers twice as many requests a second as Serve's own proxy.",
        on_clusters=True,
    ),
    Setting(
        "RAY_SERVE_HAPROXY_RETRY_ON",
        "conn-failure empty-response",
        "Sends the request of a killed replica to another one. Predicting twice does no harm.",
        on_clusters=True,
    ),
    Setting(
        "RAY_SERVE_HAPROXY_RETRIES",
        "3",
        "How often it does so.",
        on_clusters=True,
    ),
    Setting(
        "RAY_SERVE_HAPROXY_TUNE_BUFSIZE",
        str(2**20),
        "Bytes of a request that it can send again. 1 MiB holds most radiographs as PNG.",
        on_clusters=True,
    ),
    Setting(
        "RAY_SERVE_HAPROXY_MAXCONN",
        "512",
        "Bounds the memory: a connection may take two buffers.",
        on_clusters=True,
    ),
    Setting(
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S",
        "60",
        "Closes a connection on which the client is silent. Serve's default is an hour.",
        on_clusters=True,
    ),
    Setting(
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S",
        "1",
        "A replica that stops takes no longer than it must. Serve's default is 30 s.",
        on_clusters=True,
    ),
    Setting(
        "RAY_SERVE_HAPROXY_NBTHREAD",
        _threads,
        "Serve's default of 4 threads is more than a small machine has cores.",
        on_clusters=False,
    ),
    Setting(
        "RAY_SERVE_HAPROXY_STATS_PORT",
        _free_port,
        "Two services on one machine need different ports.",
        on_clusters=False,
    ),
    Setting(
        "RAY_SERVE_HAPROXY_METRICS_PORT",
        _free_port,
        "Two services on one machine need different ports.",
        on_clusters=False,
    ),
    Setting(
        "RAY_SERVE_HAPROXY_SOCKET_PATH",
        lambda folder: str(folder / "a.sock"),
        "Everyone may write to it, so its folder is ours alone.",
        on_clusters=False,
    ),
    Setting(
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH",
        lambda folder: str(folder / "m.sock"),
        "Two services on one machine need different sockets.",
        on_clusters=False,
    ),
    Setting(
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC",
        lambda folder: str(folder / "haproxy.cfg"),
        "Two services on one machine need different files.",
        on_clusters=False,
    ),
    Setting(
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE",
        str,
        "Two services on one machine need different files.",
        on_clusters=False,
    ),
    Setting(
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE",
        lambda folder: str(folder / "state"),
        "Two services on one machine need different files.",
        on_clusters=False,
    ),
)


@contextlib.contextmanager
def environment() -> Iterator[None]:
    """Set the ingress up for a block; what the user has set in the environment stays.

    Ray Serve reads it when it is imported, so the block is where that may happen first.
    """
    from ctray import process

    # Short, because the path of a socket may have no more than 97 characters.
    folder = Path(tempfile.mkdtemp(prefix="ctray-", dir="/tmp"))
    try:
        with process.environment({one.variable: one.at_start(folder) for one in SETTINGS}):
            yield
    finally:
        shutil.rmtree(folder)
