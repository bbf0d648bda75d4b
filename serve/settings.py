"""The service's settings: one strict model, handed on whole to whoever needs a part of it.

`serve.app:app` takes AppSettings as `key=value` arguments; `python -m serve` adds where to listen.
A replica's constants stand above them. The ingress has a table of its own: serve/ingress.py.
"""

from typing import Self

from pydantic import Field, model_validator

from ctray.config import Strict
from ctray.engine.base import EngineName

# Threads of a replica. Two OpenVINO streams that take one image each came out fastest on a CPU.
THREADS = 2
# Images that a replica on CUDA puts into one batch, and how long the first of them waits.
MAX_BATCH = 32
BATCH_WAIT_S = 0.003
# Requests that a replica works on, and that wait for one; further ones are refused with 429.
MAX_ONGOING = 32
MAX_QUEUED = 32


class AppSettings(Strict):
    """Arguments of `serve.app:app`. The defaults fit a machine with 2 cores."""

    bundle: str | None = Field(
        default=None,
        description="path or URI; unset: $CTRAY_BUNDLE, then the bundle in production; "
        "null: the deployment's user_config names it",
    )
    engine: EngineName = Field("auto", description="auto, openvino or torch")
    min_replicas: int = Field(1, ge=1, description="replicas that are always there")
    max_replicas: int = Field(2, ge=1, description="replicas under load")
    target_ongoing_requests: float = Field(
        4.0,
        gt=0.0,
        lt=MAX_ONGOING,
        description="requests a replica works on before another one starts",
    )
    cpus_per_replica: float = Field(0.5, gt=0.0, description="CPUs Ray sets aside for a replica")
    gpus_per_replica: float = Field(0.0, ge=0.0, description="above 0 the replica sees CUDA")
    body_timeout_s: float = Field(60.0, gt=0.0, description="a request body must be in by then")
    max_body_bytes: int = Field(64 * 2**20, ge=1, description="largest request body")
    max_files: int = Field(64, ge=1, description="most files in one form")

    @model_validator(mode="after")
    def _most_is_not_below_least(self) -> Self:
        if self.max_replicas < self.min_replicas:
            raise ValueError(
                f"max_replicas={self.max_replicas} is below min_replicas={self.min_replicas}"
            )
        return self


class ServiceSettings(AppSettings):
    """What `python -m serve` runs: the application, and where it listens."""

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=1, le=65535, description="port to listen on")


class ServedBundle(Strict):
    """The deployment's user_config: changing it swaps the model in place."""

    bundle: str = Field(description="path or URI that every replica can read")
