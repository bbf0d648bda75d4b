"""The application builder, serve.yaml and one replica's model host, without a cluster."""

import asyncio
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from pydantic import BaseModel
from ray import serve as ray_serve
from ray.serve import context as serve_context
from ray.serve._private.common import DeploymentID, ReplicaID
from ray.serve.schema import (
    DeploymentSchema,
    ReplicaRank,
    ServeApplicationSchema,
    ServeDeploySchema,
)
from serve_kit import png

import serve
from ctray.artefact.bundle import Bundle
from ctray.artefact.registry import promote
from ctray.data.image.picture import ImageError
from ctray.engine.predictor import Answer, Predictor
from ctray.errors import UserError
from serve.app import Classifier, app
from serve.settings import AppSettings, EngineName, ServedBundle

pytestmark = pytest.mark.fast


def deployed(args: dict[str, Any]) -> ray_serve.Deployment:
    """The deployment that the builder makes of these arguments."""
    return app(args)._bound_deployment


def classifier(engine: EngineName) -> Classifier:
    """A replica's model host, in this process."""
    return Classifier(AppSettings(engine=engine))


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ({"bundel": "/x"}, "unknown setting 'bundel'; did you mean 'bundle'?"),
        ({"bundle": "/x", "engine": "onnx"}, "engine='onnx'"),
        ({"bundle": "/x", "max_replicas": "none"}, "max_replicas='none'"),
        ({"bundle": "/x", "min_replicas": "3"}, "max_replicas=2 is below min_replicas=3"),
        # Where Serve listens is in serve.yaml's http_options, and not the application's to say.
        ({"bundle": "/x", "port": "80"}, "unknown setting 'port'"),
    ],
)
def test_arguments_are_strict(args: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as refused:
        app(args)
    assert sentence in str(refused.value)


def test_arguments_of_serve_run_are_strings() -> None:
    made = deployed({"bundle": "/b", "max_replicas": "4", "cpus_per_replica": "1.5"})
    assert made.user_config == {"bundle": "/b"}
    assert made._deployment_config.autoscaling_config.max_replicas == 4
    assert made.ray_actor_options["num_cpus"] == 1.5


def test_where_the_bundle_comes_from(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bundle: Path
) -> None:
    monkeypatch.delenv("CTRAY_BUNDLE", raising=False)
    monkeypatch.setenv("CTRAY_REGISTRY", str(tmp_path))
    with pytest.raises(UserError, match="nothing was promoted"):
        app({})
    version = promote(str(bundle), str(tmp_path))
    assert deployed({}).user_config == {"bundle": version.uri}
    monkeypatch.setenv("CTRAY_BUNDLE", "/elsewhere")
    assert deployed({}).user_config == {"bundle": "/elsewhere"}
    assert deployed({"bundle": "/named"}).user_config == {"bundle": "/named"}
    assert deployed({"bundle": None}).user_config == {}


def test_serve_yaml_has_only_keys_that_serve_knows() -> None:
    config = yaml.safe_load(Path(serve.__file__).with_name("serve.yaml").read_text())
    assert unknown_keys(ServeDeploySchema, config) == []
    assert unknown_keys(ServeDeploySchema, {**config, "proxy": 1}) == ["proxy"]
    for application in config["applications"]:
        assert unknown_keys(ServeApplicationSchema, application) == []
        AppSettings.model_validate(application["args"])
        for deployment in application["deployments"]:
            assert unknown_keys(DeploymentSchema, deployment) == []
            assert deployment["name"] == deployed({"bundle": "/b"}).name
            ServedBundle.model_validate(deployment["user_config"])


def unknown_keys(model: type[BaseModel], values: dict[str, Any]) -> list[str]:
    """Keys that Serve would drop without a word; it checks values but not names."""
    unknown = [key for key in values if key not in model.model_fields]
    for key, value in values.items():
        field = model.model_fields.get(key)
        if field is None or not isinstance(value, dict) or not isinstance(field.annotation, type):
            continue
        if issubclass(field.annotation, BaseModel):
            unknown += unknown_keys(field.annotation, value)
    return unknown


@pytest.fixture
def replica(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's batch queue asks which replica it runs in."""
    monkeypatch.setattr(serve_context, "_INTERNAL_REPLICA_CONTEXT", None)
    serve_context._set_internal_replica_context(
        replica_id=ReplicaID("one", DeploymentID("Classifier", "ctray")),
        servable_object=Classifier,
        _deployment_config=deployed({"bundle": "/b"})._deployment_config,
        rank=ReplicaRank(rank=0, node_rank=0, local_rank=0),
        world_size=1,
    )


@pytest.mark.usefixtures("replica")
def test_requests_on_torch_share_batches(bundle: Path, other_bundle: Path) -> None:
    # One test, because Ray keeps one batch queue and its event loop for the whole process.
    async def scenario() -> None:
        host = classifier("torch")
        first, second = (Predictor.load(str(b), "torch") for b in (bundle, other_bundle))
        batches = spy_on_batches(first)
        pictures = [*(png(seed) for seed in range(9)), b"not an image"]
        *good, bad = await asyncio.gather(
            *(host.predict_one(first, data, None) for data in pictures), return_exceptions=True
        )
        assert isinstance(bad, ImageError)
        assert sum(batches) == 9
        assert max(batches) > 1
        assert_as_alone(first, pictures[:-1], good)

        # While a bundle is being swapped a batch may hold requests of both models.
        mixed = await asyncio.gather(
            *(
                host.predict_one(owner, png(seed), None)
                for seed in range(4)
                for owner in (first, second)
            )
        )
        assert_as_alone(first, [png(seed) for seed in range(4)], mixed[::2])
        assert_as_alone(second, [png(seed) for seed in range(4)], mixed[1::2])

    asyncio.run(scenario())


def assert_as_alone(predictor: Predictor, pictures: list[bytes], answers: list[Answer]) -> None:
    """The answers are those of each picture alone; the two models differ by more."""
    for data, answer in zip(pictures, answers, strict=True):
        alone = predictor.answer(data).prediction.probabilities
        # bf16 sums in another order in a larger batch.
        assert answer.prediction.probabilities == pytest.approx(alone, abs=1e-2)


def test_a_first_bundle_that_cannot_be_loaded_is_an_error(bundle: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        host = classifier("openvino")
        with pytest.raises(UserError, match="is not a bundle"):
            await host.reconfigure({"bundle": str(tmp_path)})
        with pytest.raises(UserError, match="bundle"):
            await host.reconfigure({})
        assert host.predictor is None
        await host.reconfigure({"bundle": str(bundle)})
        assert host.predictor is not None

    asyncio.run(scenario())


def test_being_renumbered_does_not_load_the_bundle_again(bundle: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        host = classifier("openvino")
        copy = shutil.copytree(bundle, tmp_path / "copy")
        await host.reconfigure({"bundle": str(copy)})
        loaded = host.predictor
        shutil.rmtree(copy)
        await host.reconfigure({"bundle": str(copy)})
        assert host.predictor is loaded
        assert host.refused is None
        assert loaded is not None
        assert loaded.bundle.digest == Bundle.load(str(bundle)).digest

    asyncio.run(scenario())


def spy_on_batches(predictor: Predictor) -> list[int]:
    """Sizes of the batches the engine gets from now on."""
    sizes: list[int] = []
    logits = predictor.engine.logits

    def spy(images: np.ndarray) -> np.ndarray:
        sizes.append(len(images))
        return logits(images)

    predictor.engine.logits = spy  # type: ignore[method-assign]
    return sizes


def test_the_application_is_built_without_what_only_a_replica_needs() -> None:
    code = "from serve.app import app; app({'bundle': '/b'})"
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    imports = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "serve.settings" in imports
    assert {"torch", "openvino", "cv2", "timm"} & imports == set()
