"""The store: nothing lost silently, nothing half-written, the same twice."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from ctray.data.decode import decode_image
from ctray.data.preprocess import to_store
from ctray.data.records import list_folder
from ctray.data.store import Store, prepare
from ctray.errors import UserError


def first_image(folder: Path, label: str) -> Path:
    return sorted((folder / label / "images").iterdir())[0]


@pytest.fixture
def copy(images: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(images, tmp_path / "images"))


def test_it_holds_every_image_as_decoded_and_resized(store: Store, images: Path) -> None:
    records = store.records("all")
    assert len(records) == 320
    assert store.classes == tuple(sorted(set(records["label"])))
    assert store.synthetic
    some = records.sample(10, random_state=0)
    for path, stored in zip(some["path"], store.images(some), strict=True):
        expected = to_store(decode_image((images / path).read_bytes()), 96)
        assert np.array_equal(stored, expected)


def test_no_group_straddles_a_split(store: Store) -> None:
    records = store.records("all")
    assert records.groupby("group")["split"].nunique().max() == 1
    assert records["group"].nunique() < len(records), "patients have several images"


def test_bad_files_are_quarantined_with_their_reason(
    cluster: None, copy: Path, tmp_path: Path
) -> None:
    normal, covid = first_image(copy, "Normal"), first_image(copy, "COVID")
    (copy / "COVID" / "images" / "text.png").write_text("no picture")
    (copy / "COVID" / "images" / "cut.png").write_bytes(covid.read_bytes()[:-50])
    shutil.copy(normal, copy / "Normal" / "images" / "again.png")
    shutil.copy(first_image(copy, "Lung_Opacity"), copy / "COVID" / "images" / "stolen.png")
    (copy / "Normal" / "images" / "notes.txt").write_text("not an image by name")
    store = prepare(list_folder(copy), tmp_path / "store", size=64)
    lost = store.manifest[store.manifest["status"] != "ok"].set_index("path")
    # The stolen picture and the one it was copied from: nobody knows which label is right.
    assert len(lost) == 5
    assert "not an image" in lost.loc["COVID/images/text.png", "reason"]
    assert "truncated" in lost.loc["COVID/images/cut.png", "reason"]
    again = lost[lost["status"] == "duplicate"]
    assert set(again["label"]) == {"COVID", "Lung_Opacity", "Normal"}
    assert "different labels" in lost.loc["COVID/images/stolen.png", "reason"]
    assert store.ignored == ("Normal/images/notes.txt",)
    assert len(store.records("all")) == 320 - 1


def test_the_fingerprint_follows_content_not_place_or_order(
    store: Store, copy: Path, tmp_path: Path
) -> None:
    same = prepare(list_folder(copy), tmp_path / "same", size=96)
    assert same.fingerprint == store.fingerprint
    first_image(copy, "Normal").unlink()
    other = prepare(list_folder(copy), tmp_path / "other", size=96)
    assert other.fingerprint != store.fingerprint


def test_a_folder_a_class_without_images_folders_works(
    cluster: None, images: Path, tmp_path: Path
) -> None:
    for label in ("COVID", "Normal"):
        shutil.copytree(images / label / "images", tmp_path / "flat" / label)
    store = prepare(list_folder(tmp_path / "flat"), tmp_path / "store", size=64)
    assert store.classes == ("COVID", "Normal")
    assert not store.synthetic, "the marker lies beside the classes and was not copied"


def test_metadata_that_names_no_file_is_refused(copy: Path) -> None:
    text = (copy / "metadata.csv").read_text()
    (copy / "metadata.csv").write_text(text.replace("/images/", "/pictures/"))
    with pytest.raises(UserError, match="names no file here"):
        list_folder(copy)
    (copy / "metadata.csv").write_text(text.replace("/", "\\"))
    assert all(record.group for record in list_folder(copy).files)


@pytest.mark.parametrize("mistake", ["one class", "unreadable class", "taken"])
def test_a_mistake_is_one_sentence_and_leaves_nothing(
    cluster: None, images: Path, tmp_path: Path, mistake: str
) -> None:
    data, out = tmp_path / "data", tmp_path / "out" / "store"
    out.parent.mkdir()
    shutil.copytree(images / "Normal", data / "Normal")
    match = "one class, 'Normal'"
    if mistake != "one class":
        bad = data / "COVID"
        bad.mkdir()
        (bad / "x.png").write_text("nothing")
        match = "class 'COVID' has no usable image"
    if mistake == "taken":
        out.mkdir()
        (out / "mine.txt").write_text("mine")
        match = "not empty"
    with pytest.raises(UserError, match=match):
        prepare(list_folder(data), out, size=64)
    left = sorted(path.name for path in out.parent.rglob("*"))
    assert left == (["mine.txt", "store"] if mistake == "taken" else [])


def test_real_radiographs(cluster: None, radiographs: Path, tmp_path: Path) -> None:
    store = prepare(list_folder(radiographs), tmp_path / "store")
    records = store.records("all")
    assert len(records) == 2480
    assert records.groupby("group")["split"].nunique().max() == 1
    known = records[records["group"] == "kermany-train-person124"]
    assert len(known) == 11, "the data card's patient with most images"
    for split, share in (("train", 0.70), ("val", 0.15), ("test", 0.15)):
        assert len(store.records(split)) / 2480 == pytest.approx(share, abs=0.04)
    path = radiographs / records["path"][0]
    expected = cv2.resize(cv2.imread(str(path), 0), (256, 256), interpolation=cv2.INTER_AREA)
    assert np.array_equal(store.images(records[:1])[0], expected)
