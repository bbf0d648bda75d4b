"""`python -m serve`: one bundle behind HTTP on this machine or on the cluster at RAY_ADDRESS.

Parsing only: serve/running.py does the work.
"""

from typing import Annotated

import typer

from ctray.artefact import DEFAULT_NAME
from ctray.artefact.registry import default_registry, production
from ctray.console import run_cli
from ctray.engine.base import EngineName
from serve.running import serve_until_stopped
from serve.settings import ServiceSettings

_DEFAULT = ServiceSettings()


def main(
    bundle: Annotated[
        str | None, typer.Argument(help="Path or URI of a bundle; default: the promoted one.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = _DEFAULT.host,
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = _DEFAULT.port,
    engine: Annotated[EngineName, typer.Option(help="auto is torch with CUDA.")] = _DEFAULT.engine,
    max_body_bytes: Annotated[
        int, typer.Option(help="Largest request body; see docs/serving.md.", min=1)
    ] = _DEFAULT.max_body_bytes,
    registry: Annotated[
        str | None, typer.Option(help="Where versions are; default: $CTRAY_REGISTRY.")
    ] = None,
    name: Annotated[str, typer.Option(help="Name the bundle was promoted under.")] = DEFAULT_NAME,
) -> None:
    """Serve a bundle over HTTP until Ctrl-C or SIGTERM.

    Example: python -m serve runs/r1/bundle --port 8000
    """
    uri = bundle or production(registry or default_registry(), name)
    serve_until_stopped(
        uri,
        ServiceSettings(engine=engine, host=host, port=port, max_body_bytes=max_body_bytes),
    )


if __name__ == "__main__":
    run_cli(main)
