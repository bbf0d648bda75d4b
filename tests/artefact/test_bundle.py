"""A bundle comes back as it was written, or not at all; the registry keeps its versions."""

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from ctray.artefact import registry
from ctray.artefact.bundle import Bundle, BundleInfo, SeenRecords, write_bundle
from ctray.config import Recipe
from ctray.errors import UserError
from ctray.models.backbones import initial_model, preprocess_spec
from ctray.provenance import versions

pytestmark = pytest.mark.fast


def write(place: Path, seed: int = 0) -> Path:
    recipe = Recipe(backbone="small_cnn", image_size=64, seed=seed)
    info = BundleInfo(
        backbone=recipe.backbone,
        classes=("a", "b", "c"),
        preprocess=preprocess_spec(recipe, 96),
        metrics={"val_macro_f1": 0.5, "val_accuracy": 0.6},
        fingerprint="f" * 64,
        synthetic=True,
        recipe=recipe,
        versions=versions(),
        created="2026-01-01T00:00:00+00:00",
    )
    seen = SeenRecords(trained_on=("1", "2"), chosen_on=("3",))
    write_bundle(str(place), info, seen, initial_model(recipe, 3).state_dict())
    return place


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write(tmp_path / "bundle")


def test_it_comes_back_as_it_was_written(bundle: Path) -> None:
    loaded = Bundle.load(str(bundle))
    assert loaded.info.classes == ("a", "b", "c")
    assert loaded.seen.chosen_on == ("3",)
    expected = initial_model(loaded.info.recipe, 3).state_dict()
    assert set(loaded.weights) == set(expected)
    for name, tensor in expected.items():
        assert torch.equal(loaded.weights[name], tensor), name
    assert loaded.name == "unregistered"
    assert loaded.version == loaded.digest[:12]


def test_a_file_uri_is_the_same_place(bundle: Path) -> None:
    assert Bundle.load(bundle.as_uri()).digest == Bundle.load(str(bundle)).digest


@pytest.mark.parametrize(
    "name", ["bundle.json", "records.json", "weights.safetensors", "SHA256SUMS"]
)
def test_any_changed_byte_is_found(bundle: Path, name: str) -> None:
    whole = (bundle / name).read_bytes()
    random = np.random.default_rng(0)
    places = {0, len(whole) - 1, *random.integers(0, len(whole), 40).tolist()}
    for place in places:
        changed = bytearray(whole)
        changed[place] ^= 1 << int(random.integers(8))
        (bundle / name).write_bytes(changed)
        with pytest.raises(UserError, match="is damaged"):
            Bundle.load(str(bundle))


@pytest.mark.parametrize(
    "name", ["bundle.json", "records.json", "weights.safetensors", "SHA256SUMS"]
)
def test_a_missing_file_is_one_sentence(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    with pytest.raises(UserError, match=r"damaged|not a bundle"):
        Bundle.load(str(bundle))


def test_nothing_in_it_is_a_pickle(bundle: Path) -> None:
    for file in bundle.iterdir():
        with pytest.raises((pickle.UnpicklingError, ValueError, KeyError, EOFError, IndexError)):
            pickle.loads(file.read_bytes())
    assert safetensors.torch.load_file(bundle / "weights.safetensors")
    assert json.loads((bundle / "bundle.json").read_text())["schema_version"] == 1


def test_promoting_counts_up_and_points(tmp_path: Path) -> None:
    place = str(tmp_path / "registry")
    first, second = write(tmp_path / "one"), write(tmp_path / "two", seed=1)
    assert registry.promote(str(first), place, "chest").version == "1"
    assert registry.promote(str(second), place, "chest").version == "2"
    assert registry.promote(str(second), place, "chest").version == "2", "already in production"
    assert [v.production for v in registry.list_versions(place, "chest")] == [False, True]
    loaded = Bundle.load(registry.production(place, "chest"))
    assert (loaded.name, loaded.version) == ("chest", "2")
    assert loaded.digest == Bundle.load(str(second)).digest
    # The first again: a version of its own, so that history reads in order.
    assert registry.promote(str(first), place, "chest").version == "3"


def test_a_changed_byte_of_the_registration_is_found(tmp_path: Path) -> None:
    version = registry.promote(str(write(tmp_path / "one")), str(tmp_path / "registry"), "chest")
    file = Path(version.uri) / "registered.json"
    whole = file.read_bytes()
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1
        file.write_bytes(changed)
        with pytest.raises(UserError, match="is damaged"):
            Bundle.load(version.uri)


def test_a_registered_bundle_cannot_pass_for_another(tmp_path: Path) -> None:
    place = str(tmp_path / "registry")
    version = registry.promote(str(write(tmp_path / "one")), place, "chest")
    shutil.copytree(write(tmp_path / "two", seed=1), version.uri, dirs_exist_ok=True)
    with pytest.raises(UserError, match="damaged"):
        Bundle.load(version.uri)


def test_an_empty_registry_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="ctray promote BUNDLE"):
        registry.production(str(tmp_path / "none"), "chest")
    with pytest.raises(UserError, match="--name"):
        registry.promote(str(write(tmp_path / "one")), str(tmp_path), "../evil")
