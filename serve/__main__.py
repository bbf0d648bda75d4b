"""`python -m serve`: one bundle behind HTTP on this machine or on the cluster at RAY_ADDRESS."""

import contextlib
import http.client
import io
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from ctray.artefact.bundle import Bundle
from ctray.artefact.registry import DEFAULT_NAME, default_registry, production
from ctray.console import run_cli
from ctray.engine.base import EngineName
from ctray.errors import UserError

READY_WITHIN_S = 180.0


def main(
    bundle: Annotated[
        str | None, typer.Argument(help="Path or URI of a bundle; default: the promoted one.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 8000,
    engine: Annotated[EngineName, typer.Option(help="auto is torch with CUDA.")] = "auto",
    registry: Annotated[
        str | None, typer.Option(help="Where versions are; default: $CTRAY_REGISTRY.")
    ] = None,
    name: Annotated[str, typer.Option(help="Name the bundle was promoted under.")] = DEFAULT_NAME,
) -> None:
    """Serve a bundle over HTTP until Ctrl-C or SIGTERM.

    Example: python -m serve runs/r1/bundle --port 8000
    """
    uri = bundle or production(registry or default_registry(), name)
    serve_until_stopped(uri, host, port, engine)


def serve_until_stopped(uri: str, host: str, port: int, engine: EngineName) -> None:
    """Verify the bundle, start everything, print the address, wait for a signal, stop everything.

    Raises:
        UserError: a bad bundle, an address that is taken, or a service that does not come up.
    """
    loaded = Bundle.load(uri)
    _check_free(host, port)
    with _ingress_environment():
        # Ray Serve reads its settings from the environment when it is imported.
        from ctray.session import ray_session
        from serve import app

        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        with _stop_is_success(), ray_session():
            args = {"bundle": uri, "engine": engine, **_resources()}
            with app.deployed(args, host, port), _undisturbed_exit():
                _wait_until_ready(host, port)
                url = f"http://{host}:{port}"
                what = f"{loaded.name} {loaded.version} ({loaded.info.backbone})"
                print(f"ctray serves {what} at {url}  (docs: {url}/docs)", flush=True)
                threading.Event().wait()


def _resources() -> dict[str, float]:
    """Replicas for this cluster, so that all of them and their replacements fit side by side."""
    from ctray.capacity import cluster_capacity

    total, _ = cluster_capacity()
    cpus, gpus = total.get("CPU", 1.0), int(total.get("GPU", 0.0))
    replicas = gpus or max(2, int(cpus) // 4)
    return {
        "max_replicas": replicas,
        # A replica works in two threads: more CPUs would idle.
        "cpus_per_replica": min(2.0, cpus / (2 * replicas)),
        "gpus_per_replica": 1.0 if gpus else 0.0,
    }


def _wait_until_ready(host: str, port: int) -> None:
    from serve import app

    deadline = time.monotonic() + READY_WITHIN_S
    while _ready_status(host, port) != 200:
        reason = app.failure()
        if reason is not None:
            raise UserError(f"the service did not come up: {reason}")
        if time.monotonic() > deadline:
            raise UserError(
                f"the service was not ready within {READY_WITHIN_S:g} s: see whether the cluster "
                "has free CPUs (`ray status`), and the logs in /tmp/ray/session_latest/logs/serve"
            )
        time.sleep(0.2)


def _ready_status(host: str, port: int) -> int | None:
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    connection = http.client.HTTPConnection(reachable, port, timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def _check_free(host: str, port: int) -> None:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        raise UserError(
            f"cannot listen on {host}:{port}: {error.strerror}; choose another --host or --port"
        ) from error


@contextlib.contextmanager
def _stop_is_success() -> Iterator[None]:
    # Being asked to stop is how this command ends. The session turns SIGTERM into SystemExit, and
    # so does Ray while it starts, with another code.
    try:
        yield
    except KeyboardInterrupt:
        pass
    except SystemExit as stopped:
        if stopped.code not in (signal.SIGTERM, 128 + signal.SIGTERM):
            raise


@contextlib.contextmanager
def _undisturbed_exit() -> Iterator[None]:
    try:
        yield
    finally:
        # A second Ctrl-C would leave processes behind; what follows is bounded.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        # Serve stops its controller by killing it; Ray reports that on stdout, at times when this
        # process is about to end.
        sys.stdout = io.StringIO()


@contextlib.contextmanager
def _ingress_environment() -> Iterator[None]:
    """Settings of the HAProxy ingress; what the user has set in the environment stays."""
    from ctray.process import free_port

    # Short, because the path of a socket may have 97 characters; in a folder of our own, because
    # the sockets in it are open to everyone, and so that two services can run side by side.
    folder = Path(tempfile.mkdtemp(prefix="ctray-", dir="/tmp"))
    settings = {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        # A killed replica is hidden by sending the request to another one: right for a pure
        # function, possible if the whole request fits in HAProxy's buffer. 1 MiB holds most
        # radiographs as PNG; at the size of the largest body throughput falls by half.
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
        "RAY_SERVE_HAPROXY_RETRIES": "3",
        "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": str(2**20),
        # Memory is up to two buffers a connection.
        "RAY_SERVE_HAPROXY_MAXCONN": "512",
        "RAY_SERVE_HAPROXY_NBTHREAD": str(min(4, os.cpu_count() or 1)),
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "60",
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "a.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "m.sock"),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "state"),
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
    }
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    try:
        yield
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    run_cli(main)
