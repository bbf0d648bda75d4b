"""The synthetic radiographs: repeatable, labelled by what is drawn, planted only where asked."""

import csv
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from ctray.errors import UserError
from ctray.synthetic.folder import write_folder
from ctray.synthetic.marker import SYNTHETIC_MARKER
from ctray.synthetic.phantom import CLASSES, PhantomSpec, draw

pytestmark = pytest.mark.fast

SPEC = PhantomSpec(images_per_class=5, size=128, seed=7)


@pytest.mark.parametrize("label", CLASSES)
def test_an_image_depends_on_its_index_alone(label: str) -> None:
    other = replace(SPEC, images_per_class=400)
    forwards = [draw(SPEC, label, index) for index in range(12)]
    for index in reversed(range(12)):
        again = draw(other, label, index)
        np.testing.assert_array_equal(again.image, forwards[index].image)
        np.testing.assert_array_equal(again.mask, forwards[index].mask)
        assert again.name == forwards[index].name
        assert again.patient_id == forwards[index].patient_id


def test_images_differ_between_indices_classes_and_seeds() -> None:
    pictures = [draw(SPEC, label, index) for label in CLASSES for index in range(6)]
    pictures += [draw(replace(SPEC, seed=8), label, 0) for label in CLASSES]
    assert len({picture.image.tobytes() for picture in pictures}) == len(pictures)


@pytest.mark.parametrize("size", [64, 101, 256])
def test_shape_dtype_and_grey_range(size: int) -> None:
    for index in range(4):
        picture = draw(replace(SPEC, size=size), "COVID", index)
        assert picture.image.shape == picture.mask.shape == (size, size)
        assert picture.image.dtype == picture.mask.dtype == np.uint8
        assert set(np.unique(picture.mask)) == {0, 255}
        assert picture.image.std() > 20


@pytest.mark.parametrize("label", CLASSES)
def test_the_mask_covers_what_the_finding_changes(label: str) -> None:
    for index in range(16):
        picture = draw(SPEC, label, index)
        without = draw(SPEC, label, index, with_finding=False)
        inside = picture.mask.astype(bool)
        change = np.subtract(picture.image, without.image, dtype=np.int16)
        assert not without.mask.any()
        if label == "Normal":
            assert not inside.any()
            assert not change.any()
            continue
        near = cv2.dilate(picture.mask, np.ones((25, 25), np.uint8)).astype(bool)
        assert 0.002 < inside.mean() < 0.35
        assert change[inside].mean() > 2
        assert change[inside].mean() > 5 * np.abs(change[~near]).mean()


@pytest.mark.parametrize("label", ["COVID", "Lung_Opacity", "Viral Pneumonia"])
def test_findings_are_where_the_class_has_them(label: str) -> None:
    """COVID and viral findings take both lungs, a focal opacity one: the mask's halves say so."""
    for index in range(16):
        columns = np.flatnonzero(draw(SPEC, label, index).mask.max(axis=0))
        sides = int(columns.min() < 60) + int(columns.max() > 68)
        assert sides == (1 if label == "Lung_Opacity" else 2)


@pytest.mark.parametrize("label", CLASSES)
def test_scanners_are_balanced_in_every_class(label: str) -> None:
    scanners = [draw(SPEC, label, index).scanner for index in range(16)]
    assert scanners.count("A") == scanners.count("B") == 8


def test_patients_have_one_to_four_images_and_one_label() -> None:
    labels = defaultdict(list)
    for label in CLASSES:
        for index in range(48):
            labels[draw(SPEC, label, index).patient_id].append(label)
    counts = [len(images) for images in labels.values()]
    assert set(counts) == {1, 2, 3, 4}
    assert all(len(set(images)) == 1 for images in labels.values())


def test_the_marker_goes_with_its_class_only() -> None:
    planted = replace(SPEC, shortcut="marker", shortcut_class="Normal")
    for label in CLASSES:
        for index in range(8):
            clean, marked = draw(SPEC, label, index), draw(planted, label, index)
            changed = clean.image != marked.image
            assert changed.any() == (label == "Normal")
            if changed.any():
                rows, columns = np.nonzero(changed)
                assert rows.min() > 0.85 * SPEC.size
                assert columns.max() < 0.15 * SPEC.size
                assert marked.image[changed].max() > 245
            np.testing.assert_array_equal(clean.mask, marked.mask)


def test_the_tone_goes_with_its_class_only_and_equalisation_undoes_it() -> None:
    planted = replace(SPEC, shortcut="tone", shortcut_class="COVID")
    for index in range(8):
        clean, toned = draw(SPEC, "COVID", index).image, draw(planted, "COVID", index).image
        assert toned.mean() < clean.mean() - 20
        gap = cv2.equalizeHist(toned).astype(int) - cv2.equalizeHist(clean)
        assert np.abs(gap).mean() < 4
        np.testing.assert_array_equal(
            draw(planted, "Normal", index).image, draw(SPEC, "Normal", index).image
        )


def test_the_shortcut_strength_is_a_share() -> None:
    def share(strength: float) -> float:
        planted = replace(SPEC, shortcut="marker", shortcut_strength=strength)
        pairs = [(draw(SPEC, "COVID", i), draw(planted, "COVID", i)) for i in range(80)]
        return float(np.mean([(a.image != b.image).any() for a, b in pairs]))

    assert share(0.0) == 0.0
    assert 0.3 < share(0.5) < 0.7


def test_the_folder_holds_what_the_metadata_says(tmp_path: Path) -> None:
    out = write_folder(SPEC, tmp_path / "new" / "phantom")
    with (out / "metadata.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["file", "class", "patient_id", "source"]
    on_disk = {path.relative_to(out).as_posix() for path in out.glob("*/images/*")}
    assert {row["file"] for row in rows} == on_disk
    assert len(rows) == len(on_disk) == SPEC.images_per_class * len(CLASSES)
    numbers = dict.fromkeys(CLASSES, 0)
    for row in rows:
        expected = draw(SPEC, row["class"], numbers[row["class"]])
        numbers[row["class"]] += 1
        image = out / row["file"]
        mask = out / row["class"] / "masks" / image.name
        np.testing.assert_array_equal(cv2.imread(str(image), cv2.IMREAD_UNCHANGED), expected.image)
        np.testing.assert_array_equal(cv2.imread(str(mask), cv2.IMREAD_UNCHANGED), expected.mask)
        assert image.parts[-3] == row["class"]
        assert row["patient_id"] == expected.patient_id
        assert row["source"] == f"synthetic scanner {expected.scanner}"
    assert set(numbers.values()) == {SPEC.images_per_class}


def test_the_folder_says_that_it_is_synthetic(tmp_path: Path) -> None:
    out = write_folder(replace(SPEC, images_per_class=1), tmp_path / "phantom")
    assert len((out / SYNTHETIC_MARKER).read_text().splitlines()) == 1
    readme = (out / "README.md").read_text()
    assert len(readme.splitlines()) == 2
    for word in ("synthetic", "ctray.synthetic.phantom", "seed=7", "size=128"):
        assert word in readme


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    kept = tmp_path / "kept.txt"
    kept.write_text("mine")
    with pytest.raises(UserError, match="not an empty folder"):
        write_folder(SPEC, tmp_path)
    with pytest.raises(UserError, match="not an empty folder"):
        write_folder(SPEC, kept)
    assert list(tmp_path.iterdir()) == [kept]
    assert kept.read_text() == "mine"


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("images_per_class", 0),
        ("size", 63),
        ("size", 1025),
        ("seed", -1),
        ("shortcut", "letter"),
        ("shortcut_class", "Flu"),
        ("shortcut_strength", 1.1),
        ("shortcut_strength", float("nan")),
    ],
)
def test_a_setting_out_of_range_is_named(setting: str, value: object) -> None:
    with pytest.raises(UserError, match=setting):
        PhantomSpec(**{setting: value})  # type: ignore[arg-type]


def test_an_unknown_label_or_index_is_named() -> None:
    with pytest.raises(UserError, match="Flu"):
        draw(SPEC, "Flu", 0)
    with pytest.raises(UserError, match="-1"):
        draw(SPEC, "Normal", -1)
