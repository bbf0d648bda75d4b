"""What `python -m serve` does: start everything, wait for a signal, stop everything.

Ray is imported inside functions: what is wrong with a bundle or an address is said before that.
"""

import contextlib
import http.client
import io
import logging
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator

from ctray.artefact.bundle import Bundle
from ctray.artefact.caveats import caveats
from ctray.errors import UserError
from serve import ingress
from serve.settings import THREADS, ServiceSettings

READY_WITHIN_S = 180.0


def serve_until_stopped(uri: str, settings: ServiceSettings) -> None:
    """Verify the bundle, start everything, print the address, wait for a signal, stop everything.

    Args:
        uri: of the bundle.
        settings: of the service; the number and the size of its replicas follow from the cluster.

    Raises:
        UserError: a bad bundle, an address that is taken, or a service that does not come up.
    """
    what, notes = _verified(uri)
    _check_free(settings)
    with ingress.environment():
        # Ray Serve reads its settings from the environment when it is imported.
        from ctray.session import ray_session
        from serve import app

        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        with _stop_is_success(), ray_session():
            fitted = settings.model_copy(update={"bundle": uri, **_replicas()})
            with app.deployed(fitted), _undisturbed_exit():
                _wait_until_ready(settings)
                url = f"http://{settings.host}:{settings.port}"
                print(f"ctray serves {what} at {url}  (docs: {url}/docs)", flush=True)
                for note in notes:
                    print(f"note: {note}", flush=True)
                threading.Event().wait()


def _verified(uri: str) -> tuple[str, list[str]]:
    """Name, version and backbone of a bundle whose every byte is as written, and its caveats."""
    bundle = Bundle.load(uri)
    return f"{bundle.name} {bundle.version} ({bundle.info.backbone})", caveats(bundle.info)


def _replicas() -> dict[str, float]:
    """Settings of the replicas: all of them and their replacements fit side by side."""
    from ctray.capacity import cluster_capacity

    total, _ = cluster_capacity()
    cpus, gpus = total.get("CPU", 1.0), int(total.get("GPU", 0.0))
    replicas = gpus or max(2, int(cpus) // 4)
    return {
        "max_replicas": replicas,
        # A replica works in two threads: more CPUs would idle.
        "cpus_per_replica": min(float(THREADS), cpus / (2 * replicas)),
        "gpus_per_replica": 1.0 if gpus else 0.0,
    }


def _wait_until_ready(settings: ServiceSettings) -> None:
    from serve import app

    deadline = time.monotonic() + READY_WITHIN_S
    while _ready_status(settings) != 200:
        reason = app.failure()
        if reason is not None:
            raise UserError(f"the service did not come up: {reason}")
        if time.monotonic() > deadline:
            raise UserError(
                f"the service was not ready within {READY_WITHIN_S:g} s: see whether the cluster "
                "has free CPUs (`ray status`), and the logs in /tmp/ray/session_latest/logs/serve"
            )
        time.sleep(0.2)


def _ready_status(settings: ServiceSettings) -> int | None:
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    connection = http.client.HTTPConnection(reachable, settings.port, timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def _check_free(settings: ServiceSettings) -> None:
    try:
        family = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((settings.host, settings.port))
    except OSError as error:
        raise UserError(
            f"cannot listen on {settings.host}:{settings.port}: {error.strerror}; "
            "choose another address",
            "host",
            "port",
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
