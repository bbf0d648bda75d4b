"""Every backbone of the deck builds by name, runs, and comes back through both engines alike."""

import numpy as np
import pytest
import torch

from ctray.artefact.build import TrainingData, build_bundle
from ctray.artefact.bundle import Bundle
from ctray.config import PreprocessSpec, Recipe
from ctray.engine.loading import load_engine
from ctray.engine.model import restore_model
from ctray.errors import UserError
from ctray.models.backbones import (
    build_model,
    initial_model,
    last_feature_layer,
    preprocess_spec,
)
from ctray.models.names import check_backbone

DECK = ("small_cnn", "efficientnet_b0", "vgg16", "xception", "resnet18", "tf_efficientnet_lite0")


@pytest.mark.parametrize("backbone", DECK)
def test_it_builds_and_has_a_map_to_explain(backbone: str) -> None:
    recipe = Recipe(backbone=backbone, weights="none", image_size=96)
    spec = preprocess_spec(recipe, 96)
    model = build_model(backbone, 3, 96).eval()
    with torch.inference_mode():
        assert model(torch.zeros(2, spec.channels, 96, 96)).shape == (2, 3)
    assert isinstance(last_feature_layer(model, spec), torch.nn.Conv2d)


@pytest.mark.parametrize("backbone", ["small_cnn", "resnet18", "tf_efficientnet_lite0"])
def test_both_engines_agree_with_the_model_in_float32(
    backbone: str, tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe(backbone=backbone, weights="none", image_size=64, seed=4)
    data = TrainingData(
        classes=("a", "b"),
        size=96,
        fingerprint="0" * 64,
        synthetic=True,
        train=(),
        val=(),
        val_labels=np.zeros(0, np.int64),
        val_groups=(),
    )
    model = initial_model(recipe, 2)
    # Norms with real statistics, as in a trained net; bf16 still costs an untrained one a lot.
    model.train()
    with torch.no_grad():
        for _ in range(20):
            model(torch.randn(8, preprocess_spec(recipe, 96).channels, 64, 64))
    best = {"val_macro_f1": 0.5}
    build_bundle(str(tmp_path), best, recipe, data, model.state_dict(), val_logits=None)
    bundle = Bundle.load(str(tmp_path))
    images = np.random.default_rng(0).integers(0, 256, (5, 64, 64), dtype=np.uint8)
    with torch.inference_mode():
        exact = restore_model(bundle)(torch.from_numpy(images)).numpy()
    scale = np.abs(exact).max()
    for name in ("openvino", "torch"):
        engine = load_engine(bundle, name)
        assert np.abs(engine.logits(images) - exact).max() < 0.25 * scale, name
    monkeypatch.setattr("ctray.engine.openvino_engine._precision", lambda core: "f32")
    assert np.allclose(load_engine(bundle, "openvino").logits(images), exact, atol=1e-3 * scale)


@pytest.mark.fast
def test_the_package_weights_are_in_every_layer_but_the_classifier() -> None:
    loaded = initial_model(Recipe(seed=0), 4).state_dict()
    other = initial_model(Recipe(seed=1), 4).state_dict()
    random = build_model("tf_efficientnet_lite0", 4, 160).state_dict()
    assert torch.equal(loaded["conv_stem.weight"], other["conv_stem.weight"])
    assert not torch.equal(loaded["conv_stem.weight"], random["conv_stem.weight"])
    assert loaded["classifier.weight"].shape == (4, 1280)
    assert torch.count_nonzero(loaded["classifier.weight"]) == 0


@pytest.mark.fast
def test_the_package_weights_know_imagenet() -> None:
    # A wrong order of layers would still have fitting shapes; its features would be noise. With
    # the right ones the stem's filters respond to edges far more than to a flat image.
    model = initial_model(Recipe(seed=0), 4).eval()
    edges = torch.zeros(1, 3, 64, 64)
    edges[..., 32:] = 1.0
    with torch.inference_mode():
        seen, flat = model.forward_features(edges), model.forward_features(torch.zeros_like(edges))
    assert torch.isfinite(seen).all()
    assert (seen - flat).abs().mean() > 0.05 * flat.abs().mean()


@pytest.mark.fast
def test_file_weights_load_and_bad_ones_are_named(tmp_path: object) -> None:
    path = f"{tmp_path}/weights.pt"
    torch.save(build_model("resnet18", 10, 64).state_dict(), path)
    loaded = initial_model(Recipe(backbone="resnet18", weights=path), 3)
    assert loaded.state_dict()["fc.weight"].shape == (3, 512)
    with pytest.raises(UserError, match="does not fit this backbone"):
        initial_model(Recipe(backbone="efficientnet_b0", weights=path), 3)
    with pytest.raises(UserError, match="no such file"):
        initial_model(Recipe(backbone="resnet18", weights="/nowhere.pt"), 3)
    with pytest.raises(UserError, match="tf_efficientnet_lite0 only"):
        initial_model(Recipe(backbone="resnet18", weights="package"), 3)


@pytest.mark.fast
def test_an_unreachable_hub_is_one_sentence_and_no_random_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ctray.models.weights._cached", lambda repository: False)

    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", unreachable)
    with pytest.raises(UserError, match="weights of resnet18 cannot be fetched"):
        initial_model(Recipe(backbone="resnet18"), 3)


@pytest.mark.fast
def test_each_backbone_is_scaled_as_its_weights_saw_it() -> None:
    assert preprocess_spec(Recipe(backbone="xception"), 256).mean == (127.5,) * 3
    assert preprocess_spec(Recipe(backbone="resnet18"), 256).mean[0] == pytest.approx(123.675)
    assert preprocess_spec(Recipe(), 256).mean == (127.0,) * 3


@pytest.mark.fast
def test_an_unknown_backbone_names_the_nearest() -> None:
    with pytest.raises(UserError, match="'resnet19'; did you mean 'resnet1"):
        check_backbone("resnet19")


@pytest.mark.fast
def test_a_networks_spec_adds_only_what_is_the_networks() -> None:
    recipe = Recipe(backbone="small_cnn", image_size=64, tone="percentile")
    spec, plain = preprocess_spec(recipe, 96), PreprocessSpec.of(recipe, 96)
    assert (plain.store_size, plain.tone, plain.image_size) == (96, "percentile", 64)
    own = {"channels", "mean", "std"}
    assert spec.model_dump(exclude=own) == plain.model_dump(exclude=own)
    assert PreprocessSpec.model_validate_json(spec.model_dump_json()) == spec
