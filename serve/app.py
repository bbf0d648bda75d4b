"""The Ray Serve application: the only file that meets `ray.serve`.

`app` builds it for `serve run serve.app:app bundle=/path` and serve.yaml; `deployed` is the block
that `python -m serve` runs in. Both happen outside the replicas, so what only a replica needs is
imported there: torch alone takes seconds.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from ray import serve as ray_serve
from ray.serve import schema as ray_schema
from ray.serve.config import AutoscalingConfig, BackpressureConfig

from ctray import storage
from ctray.artefact.registry import default_registry, production
from ctray.config import load_settings
from ctray.errors import UserError
from ctray.session import cluster_has_died
from serve.schema import Refusal
from serve.settings import (
    BATCH_WAIT_S,
    MAX_BATCH,
    MAX_ONGOING,
    MAX_QUEUED,
    THREADS,
    AppSettings,
    ServedBundle,
    ServiceSettings,
)

if TYPE_CHECKING:
    import numpy as np
    from fastapi import FastAPI

    from ctray.decision.prediction import Prediction
    from ctray.engine.predictor import Answer, Predictor

NAME = "ctray"

logger = logging.getLogger("ray.serve")


class Classifier:
    """One replica: the model in memory and the threads that run it."""

    def __init__(self, settings: AppSettings) -> None:
        import cv2

        # The replica's own threads work side by side; OpenCV's would compete with them.
        cv2.setNumThreads(1)
        self.settings = settings
        self.predictor: Predictor | None = None
        self.refused: Refusal | None = None
        self._configured: dict[str, Any] | None = None
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="predict")

    def __serve_build_asgi_app__(self) -> "FastAPI":
        from serve.api import build_api

        return build_api(self)

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Load and warm the named bundle beside the one that serves, then swap them.

        A bundle that cannot be loaded is reported and the old one serves on: raising would cost
        the deployment this replica. Without an old one there is nothing to keep, and it raises.
        """
        # Serve also calls this when replicas are renumbered.
        if user_config == self._configured:
            return
        try:
            uri = load_settings(ServedBundle, None, user_config).bundle
            self.predictor = await asyncio.to_thread(_load, uri, self.settings)
        except Exception as error:
            if self.predictor is None:
                raise
            logger.exception("refused %s; the bundle before it serves on", user_config)
            self.refused = Refusal(bundle=str(user_config.get("bundle")), reason=_reason(error))
        else:
            self.refused = None
            logger.info("serving %s", uri)
        self._configured = user_config

    async def predict_one(self, predictor: "Predictor", data: bytes, name: str | None) -> "Answer":
        """Decode and predict one encoded image; ImageError if it is not one."""
        from ctray.engine.predictor import Answer

        loop = asyncio.get_running_loop()
        if predictor.engine.name == "openvino":
            return await loop.run_in_executor(self._pool, predictor.answer, data, name)
        image = await loop.run_in_executor(self._pool, predictor.read, data, name)
        return Answer(await self._predict_batch((predictor, image.pixels)), image.warnings)

    @ray_serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=BATCH_WAIT_S)
    async def _predict_batch(
        self, items: "list[tuple[Predictor, np.ndarray]]"
    ) -> "list[Prediction]":
        return await asyncio.to_thread(_predict_items, items)


def _load(uri: str, settings: AppSettings) -> "Predictor":
    from ctray.engine.predictor import Predictor

    return Predictor.load(uri, settings.engine, threads=THREADS, streams=THREADS)


def _predict_items(items: "list[tuple[Predictor, np.ndarray]]") -> "list[Prediction]":
    # While a bundle is being replaced a batch may hold requests of both.
    answers: dict[int, Prediction] = {}
    for predictor in {id(predictor): predictor for predictor, _ in items}.values():
        mine = [i for i, (owner, _) in enumerate(items) if owner is predictor]
        predictions = predictor.predict([items[i][1] for i in mine])
        answers.update(zip(mine, predictions, strict=True))
    return [answers[i] for i in range(len(items))]


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


def app(args: dict[str, Any]) -> ray_serve.Application:
    """Build the application from `key=value` arguments (AppSettings).

    Raises:
        UserError: an unknown argument, an impossible value, or no bundle to serve.
    """
    return _application(load_settings(AppSettings, None, args))


def _application(settings: AppSettings) -> ray_serve.Application:
    deployment = ray_serve.deployment(
        name="Classifier",
        user_config=_user_config(settings),
        ray_actor_options={
            "num_cpus": settings.cpus_per_replica,
            "num_gpus": settings.gpus_per_replica,
        },
        autoscaling_config=AutoscalingConfig(
            min_replicas=settings.min_replicas,
            max_replicas=settings.max_replicas,
            target_ongoing_requests=settings.target_ongoing_requests,
            # Deprecated, but the only setting that makes a replica report more often than
            # every 10 s.
            metrics_interval_s=0.5,
            look_back_period_s=2.0,
            upscale_delay_s=1.0,
            downscale_delay_s=30.0,
        ),
        max_ongoing_requests=MAX_ONGOING,
        max_queued_requests=MAX_QUEUED,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=1),
        max_surge_percent=100,
        max_constructor_retry_count=3,
        graceful_shutdown_timeout_s=5,
        logging_config=ray_schema.LoggingConfig(enable_access_log=False),
    )(ray_serve.ingress()(Classifier))
    return deployment.bind(settings)


def _user_config(settings: AppSettings) -> dict[str, str]:
    if settings.bundle is None and "bundle" in settings.model_fields_set:
        return {}
    bundle = settings.bundle or os.environ.get("CTRAY_BUNDLE")
    return {"bundle": storage.absolute(bundle or production(default_registry()))}


@contextlib.contextmanager
def deployed(settings: ServiceSettings) -> Iterator[None]:
    """Run a block with the application deployed; its replicas come up after the block begins.

    Raises:
        UserError: the cluster already runs Ray Serve, which belongs to somebody else.
    """
    if ray_serve.status().proxies:
        raise UserError(
            "this cluster already runs Ray Serve: deploy to it with `serve deploy serve/serve.yaml`"
        )
    logging_config = ray_schema.LoggingConfig(log_level="WARNING", enable_access_log=False)
    try:
        ray_serve.start(
            http_options={"host": settings.host, "port": settings.port},
            logging_config=logging_config,
        )
        ray_serve.run_many(
            [ray_serve.RunTarget(_application(settings), name=NAME, route_prefix="/")],
            wait_for_applications_running=False,
        )
        yield
    finally:
        if not cluster_has_died():
            ray_serve.shutdown()


def failure() -> str | None:
    """Why the application will not come up; None while it may."""
    application = ray_serve.status().applications.get(NAME)
    if application is None or application.status != ray_schema.ApplicationStatus.DEPLOY_FAILED:
        return None
    return application.message
