"""A bundle comes back as it was written, or not at all; the registry keeps its versions."""

import dataclasses
import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from ctray.artefact import parts, registry
from ctray.artefact.build import TrainingData, adopt_bundle, build_bundle
from ctray.artefact.bundle import Bundle, write_contents
from ctray.artefact.parts import SCHEMA, Contents, is_bundle
from ctray.config import Recipe
from ctray.decision.decide import DecisionParams
from ctray.engine.model import restore_model
from ctray.errors import UserError
from ctray.models.backbones import initial_model

pytestmark = pytest.mark.fast


DATA = TrainingData(
    classes=("a", "b", "c"),
    size=96,
    fingerprint="f" * 64,
    synthetic=True,
    train=("1", "2"),
    val=("3", "4", "5", "6"),
    val_labels=np.array([0, 2, 1, 0]),
    val_groups=("ann", "bob", "ann", "cleo"),
)
LOGITS = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
PARTS = ["bundle.json", "records.json", "weights.safetensors", "validation.safetensors"]


def write(place: Path, seed: int = 0, refit_epochs: int = 0) -> Path:
    recipe = Recipe(backbone="small_cnn", image_size=64, seed=seed, refit_epochs=refit_epochs)
    best = {"val_macro_f1": 0.5, "val_accuracy": 0.6, "step": 7}
    weights = initial_model(recipe, 3).state_dict()
    build_bundle(str(place), best, recipe, DATA, weights, LOGITS)
    return place


def write_schema_1(place: Path) -> Path:
    """As the first version of ctray wrote it: three files, and the sums of them."""
    recipe = Recipe(backbone="small_cnn", image_size=64)
    spec = {"store_size": 96, "tone": "equalise", "image_size": 64, "channels": 1}
    info = {
        "schema_version": 1,
        "backbone": "small_cnn",
        "classes": ["a", "b", "c"],
        "preprocess": spec | {"mean": [127.5], "std": [64.0]},
        "metrics": {"val_macro_f1": 0.5, "val_accuracy": 0.6},
        "fingerprint": "f" * 64,
        "synthetic": True,
        "recipe": recipe.model_dump(mode="json"),
        "versions": {"python": "3.11.2", "ctray": "0.1.0"},
        "created": "2026-01-01T00:00:00+00:00",
        "study": "",
    }
    files = {
        "bundle.json": json.dumps(info, indent=2).encode(),
        "records.json": json.dumps({"trained_on": ["1", "2"], "chosen_on": ["3"]}).encode(),
        "weights.safetensors": safetensors.torch.save(initial_model(recipe, 3).state_dict()),
    }
    place.mkdir()
    for name, data in files.items():
        (place / name).write_bytes(data)
    write_sums(place, list(files))
    return place


def write_sums(place: Path, names: list[str]) -> None:
    digests = {name: hashlib.sha256((place / name).read_bytes()).hexdigest() for name in names}
    lines = [f"{digest}  {name}\n" for name, digest in digests.items()]
    (place / "SHA256SUMS").write_text("".join(lines))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write(tmp_path / "bundle")


def test_it_comes_back_as_it_was_written(bundle: Path) -> None:
    loaded = Bundle.load(str(bundle))
    assert loaded.info.classes == ("a", "b", "c")
    assert loaded.info.metrics == {"val_macro_f1": 0.5, "val_accuracy": 0.6}
    assert loaded.seen.trained_on == ("1", "2")
    assert loaded.seen.chosen_on == ("3", "4", "5", "6")
    expected = initial_model(loaded.info.recipe, 3).state_dict()
    assert set(loaded.weights) == set(expected)
    for name, tensor in expected.items():
        assert torch.equal(loaded.weights[name], tensor), name
    assert loaded.name == "unregistered"
    assert loaded.version == loaded.digest[:12]


def test_a_file_uri_is_the_same_place(bundle: Path) -> None:
    assert Bundle.load(bundle.as_uri()).digest == Bundle.load(str(bundle)).digest


@pytest.mark.parametrize("name", [*PARTS, "SHA256SUMS"])
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


@pytest.mark.parametrize("name", [*PARTS, "SHA256SUMS"])
def test_a_missing_file_is_one_sentence(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    with pytest.raises(UserError, match=r"damaged|not a bundle"):
        Bundle.load(str(bundle))


def test_nothing_in_it_is_a_pickle(bundle: Path) -> None:
    assert json.loads((bundle / "bundle.json").read_text())["schema_version"] == SCHEMA
    files = {file.name: file for file in bundle.iterdir()}
    # Lines of digests and names.
    assert re.fullmatch(r"([0-9a-f]{64}  \S+\n)+", files.pop("SHA256SUMS").read_text())
    for file in files.values():
        if file.suffix == ".json":
            assert json.loads(file.read_text())
        else:
            assert safetensors.torch.load_file(file)


def test_it_keeps_what_the_chosen_checkpoint_said_of_the_validation_split(bundle: Path) -> None:
    validation = Bundle.load(str(bundle)).validation
    assert validation is not None
    assert np.array_equal(validation.logits, LOGITS)
    assert validation.logits.dtype == np.float32
    assert validation.labels.tolist() == [0, 2, 1, 0]
    assert validation.labels.dtype == validation.groups.dtype == np.int64
    assert validation.ids == ("3", "4", "5", "6")
    assert validation.scored_by == "chosen checkpoint"


def test_groups_are_told_apart_and_not_named(bundle: Path) -> None:
    validation = Bundle.load(str(bundle)).validation
    assert validation is not None
    assert validation.groups.tolist() == [0, 1, 0, 2]
    for file in bundle.iterdir():
        assert b"cleo" not in file.read_bytes(), file


def test_after_a_refit_the_predictions_are_said_to_be_from_before_it(tmp_path: Path) -> None:
    loaded = Bundle.load(str(write(tmp_path / "bundle", refit_epochs=2)))
    assert loaded.seen.trained_on == ("1", "2", "3", "4", "5", "6")
    assert loaded.seen.chosen_on == ()
    assert loaded.validation is not None
    assert loaded.validation.scored_by == "chosen checkpoint, before the refit"
    assert np.array_equal(loaded.validation.logits, LOGITS)


def test_logits_of_other_records_make_no_bundle(tmp_path: Path) -> None:
    recipe = Recipe(backbone="small_cnn", image_size=64)
    weights = initial_model(recipe, 3).state_dict()
    with pytest.raises(ValueError, match="not those of 4 records"):
        build_bundle(str(tmp_path), {}, recipe, DATA, weights, LOGITS[:3])
    assert not is_bundle(str(tmp_path))


def test_a_bundle_of_schema_1_loads(tmp_path: Path) -> None:
    old = write_schema_1(tmp_path / "old")
    loaded = Bundle.load(str(old))
    assert loaded.info.schema_version == 1
    assert loaded.info.metrics["val_accuracy"] == 0.6
    assert loaded.seen.chosen_on == ("3",)
    assert loaded.validation is None
    expected = Bundle.load(str(write(tmp_path / "new")))
    assert loaded.info.preprocess == expected.info.preprocess
    assert all(torch.equal(loaded.weights[name], expected.weights[name]) for name in loaded.weights)
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64), dtype=np.uint8)
    answers = [restore_model(one)(torch.from_numpy(images)) for one in (loaded, expected)]
    assert torch.equal(*answers)


def test_a_bundle_of_schema_1_is_promoted_and_adopted(tmp_path: Path) -> None:
    old = write_schema_1(tmp_path / "old")
    registered = registry.promote(str(old), str(tmp_path / "registry"))
    assert Bundle.load(registered.uri).digest == Bundle.load(str(old)).digest
    adopt_bundle(Bundle.load(str(old)), str(tmp_path / "adopted"), study="s1")
    adopted = Bundle.load(str(tmp_path / "adopted"))
    assert (adopted.info.study, adopted.info.schema_version) == ("s1", SCHEMA)
    assert adopted.validation is None


def test_a_study_adopts_all_of_a_bundle(bundle: Path, tmp_path: Path) -> None:
    trial = Bundle.load(str(bundle))
    adopt_bundle(trial, str(tmp_path / "best"), study="s1")
    best = Bundle.load(str(tmp_path / "best"))
    assert best.info == trial.info.model_copy(update={"study": "s1"})
    assert best.seen == trial.seen
    assert all(torch.equal(best.weights[name], trial.weights[name]) for name in trial.weights)
    assert best.validation is not None
    assert np.array_equal(best.validation.logits, LOGITS)


def test_a_study_adopts_every_part_of_the_table(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = Bundle.load(str(bundle))
    given = {part.attribute: getattr(loaded, part.attribute) for part in parts.PARTS}
    trial = Contents(**given | {"decision": DecisionParams()})
    assert all(getattr(trial, part.attribute) is not None for part in parts.PARTS)
    written: list[Contents] = []
    monkeypatch.setattr(
        "ctray.artefact.build.write_contents", lambda _, contents: written.append(contents)
    )
    adopt_bundle(trial, str(tmp_path / "best"), study="s1")
    (best,) = written
    for part in parts.PARTS:
        if part.attribute != "info":
            assert getattr(best, part.attribute) is getattr(trial, part.attribute), part.attribute


def test_what_the_decision_fitted_is_kept(bundle: Path, tmp_path: Path) -> None:
    loaded = Bundle.load(str(bundle))
    assert loaded.decision is None, "nothing is fitted today"
    fitted = DecisionParams()
    place = tmp_path / "fitted"
    write_contents(
        str(place),
        Contents(loaded.info, loaded.seen, loaded.weights, loaded.validation, fitted),
    )
    assert {file.name for file in place.iterdir()} == {*PARTS, "decision.json", "SHA256SUMS"}
    assert Bundle.load(str(place)).decision == fitted
    (place / "decision.json").write_text('{"other": 1}')
    write_sums(place, [*PARTS, "decision.json"])
    with pytest.raises(UserError, match="another version of ctray; export it again"):
        Bundle.load(str(place))


@pytest.mark.parametrize(
    ("version", "sentence"),
    [
        (SCHEMA + 1, f"has schema {SCHEMA + 1}, this ctray reads up to {SCHEMA}: update ctray"),
        (0, "written by another version of ctray; export it again"),
        ("two", "written by another version of ctray; export it again"),
    ],
)
def test_a_schema_it_does_not_know_is_one_sentence(
    bundle: Path, version: object, sentence: str
) -> None:
    info = json.loads((bundle / "bundle.json").read_text())
    # What else a newer version changed must not hide what to do about it.
    info |= {"schema_version": version, "something": "new"}
    (bundle / "bundle.json").write_text(json.dumps(info))
    (bundle / "new.json").write_text("{}")
    write_sums(bundle, [*PARTS, "new.json"] if version == SCHEMA + 1 else PARTS)
    with pytest.raises(UserError, match=sentence):
        Bundle.load(str(bundle))


def test_a_part_it_does_not_know_is_one_sentence(bundle: Path) -> None:
    (bundle / "extra.json").write_text("{}")
    assert Bundle.load(str(bundle)), "what the sums do not list is no part of it"
    write_sums(bundle, [*PARTS, "extra.json"])
    with pytest.raises(UserError, match=r"extra\.json, which is no part of a bundle"):
        Bundle.load(str(bundle))


@pytest.mark.parametrize("name", PARTS)
def test_a_part_that_the_sums_leave_out(bundle: Path, name: str) -> None:
    write_sums(bundle, [part for part in PARTS if part != name])
    if name == "validation.safetensors":
        assert Bundle.load(str(bundle)).validation is None
        return
    with pytest.raises(UserError, match=f"lacks {name}"):
        Bundle.load(str(bundle))


@pytest.mark.parametrize("data", [b"", b"no tensors", b"{}"])
@pytest.mark.parametrize("name", PARTS)
def test_a_part_with_something_else_in_it_is_one_sentence(
    bundle: Path, name: str, data: bytes
) -> None:
    (bundle / name).write_bytes(data)
    write_sums(bundle, PARTS)
    with pytest.raises(UserError, match="another version of ctray; export it again"):
        Bundle.load(str(bundle))


def test_tensors_that_are_no_predictions_are_one_sentence(bundle: Path) -> None:
    shutil.copy(bundle / "weights.safetensors", bundle / "validation.safetensors")
    write_sums(bundle, PARTS)
    with pytest.raises(UserError, match="another version of ctray; export it again"):
        Bundle.load(str(bundle))


def test_the_table_of_parts_fits_what_a_bundle_holds(bundle: Path) -> None:
    # The last is not made yet.
    assert [part.file for part in parts.PARTS] == [*PARTS, "decision.json"]
    assert {part.attribute for part in parts.PARTS} == {
        field.name for field in dataclasses.fields(parts.Contents)
    }
    assert {file.name for file in bundle.iterdir()} == {*PARTS, "SHA256SUMS"}


def test_reading_about_bundles_needs_no_torch() -> None:
    code = (
        "import sys, ctray.artefact.registry, ctray.engine.base, ctray.decision.decide;"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


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
    with pytest.raises(UserError, match=r"the name '\.\./evil' may hold letters") as caught:
        registry.promote(str(write(tmp_path / "one")), str(tmp_path), "../evil")
    assert caught.value.arguments == ("name",)
