"""The store: nothing lost silently, nothing half-written, the same twice."""

import contextlib
import json
import os
import shutil
import struct
import subprocess
import sys
import zlib
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import psutil
import pytest
from PIL import Image

from ctray.data.image.dispatch import decode_image
from ctray.data.image.preprocess import to_store
from ctray.data.ingest.duplicates import Pair
from ctray.data.ingest.listing import DataInput, list_folder, list_inputs
from ctray.data.ingest.prepare import Options, prepare
from ctray.data.store import Store
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
    store = prepare(list_folder(copy), tmp_path / "store", Options(size=64))
    lost = store.manifest[store.manifest["status"] != "ok"].set_index("path")
    # The stolen picture and the one it was copied from: nobody knows which label is right.
    assert "not an image" in lost.loc["COVID/images/text.png", "reason"]
    assert "truncated" in lost.loc["COVID/images/cut.png", "reason"]
    assert lost["status"].to_dict() == {
        "COVID/images/text.png": "unreadable",
        "COVID/images/cut.png": "truncated",
        "Normal/images/again.png": "duplicate",
        "COVID/images/stolen.png": "conflict",
        first_image(copy, "Lung_Opacity").relative_to(copy).as_posix(): "conflict",
    }
    assert "different labels" in lost.loc["COVID/images/stolen.png", "reason"]
    assert store.ignored == ("Normal/images/notes.txt",)
    assert len(store.records("all")) == 320 - 1


def test_the_fingerprint_follows_content_not_place_or_order(
    store: Store, copy: Path, tmp_path: Path
) -> None:
    same = prepare(list_folder(copy), tmp_path / "same", Options(size=96))
    assert same.fingerprint == store.fingerprint
    first_image(copy, "Normal").unlink()
    other = prepare(list_folder(copy), tmp_path / "other", Options(size=96))
    assert other.fingerprint != store.fingerprint


def test_a_folder_a_class_without_images_folders_works(
    cluster: None, images: Path, tmp_path: Path
) -> None:
    for label in ("COVID", "Normal"):
        shutil.copytree(images / label / "images", tmp_path / "flat" / label)
    store = prepare(list_folder(tmp_path / "flat"), tmp_path / "store", Options(size=64))
    assert store.classes == ("COVID", "Normal")
    assert not store.synthetic, "the marker lies beside the classes and was not copied"


def test_metadata_that_names_no_file_is_refused(copy: Path) -> None:
    text = (copy / "metadata.csv").read_text()
    (copy / "metadata.csv").write_text(text.replace("-", "-none-"))
    with pytest.raises(UserError, match="names no file here"):
        list_folder(copy)
    (copy / "metadata.csv").write_text(text.replace("/", "\\"))
    assert all(record.group for record in list_folder(copy).files)


@pytest.mark.parametrize("mistake", ["one class", "unreadable class", "taken"])
def test_a_mistake_is_one_sentence_and_leaves_no_store(
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
        prepare(list_folder(data), out, Options(size=64))
    left = sorted(path.name for path in out.parent.iterdir())
    # What was decoded stays, for the next try; nothing that looks like a store does.
    expected = {"one class": [], "unreadable class": ["store.partial"], "taken": ["store"]}
    assert left == expected[mistake]


def test_a_killed_run_goes_on_and_ends_the_same(store: Store, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "store"
    rows = tmp_path / "store.partial" / "rows"
    command = [sys.executable, "-m", "ctray", "prepare", str(images), "--out", str(out)]
    command += ["--size", "96"]
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    while not list(rows.glob("*.parquet")):
        assert process.poll() is None, "it ended before it wrote a shard"
    family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    psutil.wait_procs(family, timeout=60)
    assert not out.exists()
    kept = {path: path.stat().st_mtime_ns for path in rows.glob("*.parquet")}
    shards = {path.stem for path in kept}
    assert prepare(list_folder(images), out, Options(size=96)).fingerprint == store.fingerprint
    assert not rows.exists()
    for shard in shards:
        written = (out / "shards" / f"{shard}.arrow").stat().st_mtime_ns
        assert written < min(kept.values()) + 1, "the finished shard was made again"


def test_changed_files_are_read_again_after_a_kill(
    copy: Path, cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("ctray.data.ingest.prepare.write_report", interrupt)
        with pytest.raises(KeyboardInterrupt):
            prepare(list_folder(copy), tmp_path / "out", Options(size=64))
    assert (tmp_path / "out.partial" / "rows" / "00000.parquet").exists()
    changed = first_image(copy, "Normal")
    cv2.imwrite(str(changed), 255 - cv2.imread(str(changed), 0))
    assert_pixels_are_the_files(prepare(list_folder(copy), tmp_path / "out", Options(size=64)))


def test_what_an_interrupted_run_left_is_not_taken_for_another_stores(
    cluster: None, copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepare(list_folder(copy), tmp_path / "first", Options(size=64))
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr("ctray.data.ingest.prepare.write_report", interrupt)
        shutil.rmtree(copy / "COVID")
        with pytest.raises(KeyboardInterrupt):
            prepare(list_folder(copy), out, Options(size=64))
    assert (tmp_path / "out.partial" / "shards" / "00000.arrow").exists()
    taken = prepare(list_inputs([DataInput(str(first.root))]), out, Options(size=64))
    assert taken.fingerprint == first.fingerprint
    assert np.array_equal(taken.images(taken.records("all")), first.images(first.records("all")))


def test_what_a_dead_append_left_is_not_taken_for_the_next(
    cluster: None, copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = []
    for name, start in (("x", 0), ("y", 20)):
        parts.append(tmp_path / name / "COVID")
        parts[-1].mkdir(parents=True)
        for path in sorted((copy / "COVID" / "images").iterdir())[start : start + 20]:
            shutil.copy(path, parts[-1])
    for path in sorted((copy / "COVID" / "images").iterdir())[:40]:
        path.unlink()
    out = tmp_path / "store"
    prepare(list_folder(copy), out, Options(size=64))
    with monkeypatch.context() as patch:
        patch.setattr("ctray.data.ingest.prepare.os.replace", moved_shards_only)
        with pytest.raises(KeyboardInterrupt):
            prepare(list_folder(tmp_path / "x"), out, Options(size=64), append=True)
    after = prepare(list_folder(tmp_path / "y"), out, Options(size=64), append=True)
    assert len(after.records("all")) == 280 + 20
    assert_pixels_are_the_files(after)


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def moved_shards_only(source: Path, target: Path) -> None:
    if Path(target).suffix != ".arrow":
        raise KeyboardInterrupt
    shutil.move(source, target)


def assert_pixels_are_the_files(store: Store) -> None:
    records = store.records("all")
    for uri, stored in zip(records["uri"], store.images(records), strict=True):
        expected = to_store(decode_image(Path(uri).read_bytes()), store.size)
        assert np.array_equal(stored, expected), uri


def test_appending_moves_nothing_and_keeps_the_earlier_version(
    cluster: None, copy: Path, tmp_path: Path
) -> None:
    later = tmp_path / "later"
    for label in ("COVID", "Normal"):
        (later / label).mkdir(parents=True)
        for path in sorted((copy / label / "images").iterdir())[:30]:
            path.rename(later / label / path.name)
    out = tmp_path / "store"
    before = prepare(list_folder(copy), out, Options(size=64))
    # A copy of a picture that is there already, and one under another label.
    known = first_image(copy, "Lung_Opacity")
    shutil.copy(known, later / "COVID" / "known.png")
    after = prepare(list_folder(later), out, Options(size=64), append=True)
    assert (before.version, after.version) == (1, 2)
    old, new = (s.manifest.set_index("path") for s in (before, after))
    assert len(after.records("all")) == 320 - 1
    assert new.loc["COVID/known.png", "status"] == "conflict"
    same = old.index[new.loc[old.index, "status"] == "ok"]
    assert len(same) == len(old) - 1
    for column in ("id", "group", "split", "shard", "row"):
        assert (old.loc[same, column] == new.loc[same, column]).all(), column
    assert after.records("all").groupby("group")["split"].nunique().max() == 1
    again = Store.open(out, 1)
    assert again.fingerprint == before.fingerprint
    assert np.array_equal(again.images(again.records("val")), before.images(before.records("val")))
    expected = to_store(decode_image((later / "COVID" / "known.png").read_bytes()), 64)
    row = after.manifest[after.manifest["path"] == "COVID/known.png"]
    assert np.array_equal(after.images(row)[0], expected)
    with pytest.raises(UserError, match="nothing to append"):
        prepare(list_folder(later), out, Options(size=64), append=True)
    # A broken file is a reason to append once, and again when it was repaired.
    late = later / "COVID" / "late.png"
    whole = cv2.imencode(".png", 255 - cv2.imread(str(later / "COVID" / "known.png"), 0))[
        1
    ].tobytes()
    late.write_bytes(whole[:500])
    broken = prepare(list_folder(later), out, Options(size=64), append=True)
    assert (broken.manifest["status"] == "truncated").sum() == 1
    with pytest.raises(UserError, match="nothing to append"):
        prepare(list_folder(later), out, Options(size=64), append=True)
    # The repaired one is the brightened copy of an old record: it must be compared with that.
    old = first_image(copy, "COVID")
    cv2.imwrite(str(late), np.minimum(cv2.imread(str(old), 0), 250) + 5)
    repaired = prepare(list_folder(later), out, Options(size=64), append=True)
    row = repaired.manifest[repaired.manifest["path"] == "COVID/late.png"]
    assert row["row"].tolist() == [0]
    group = repaired.manifest.set_index("uri").loc[str(old), "group"]
    assert row["group"].tolist() == [group]


def test_an_interrupted_append_leaves_the_earlier_version(
    cluster: None, copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = tmp_path / "later" / "COVID"
    later.mkdir(parents=True)
    first_image(copy, "COVID").rename(later / "late.png")
    out = tmp_path / "store"
    before = prepare(list_folder(copy), out, Options(size=64))
    real = os.replace

    def stop_before_the_end(source: Path, target: Path) -> None:
        if Path(target).name == "store.json":
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr("ctray.data.ingest.prepare.os.replace", stop_before_the_end)
    with pytest.raises(KeyboardInterrupt):
        prepare(list_folder(later.parent), out, Options(size=64), append=True)
    monkeypatch.undo()
    assert Store.open(out).fingerprint == before.fingerprint
    assert len(Store.open(out).manifest) == len(before.manifest)
    after = prepare(list_folder(later.parent), out, Options(size=64), append=True)
    assert after.version == 2
    assert len(after.records("all")) == 320


def test_an_earlier_store_joins_another_input(cluster: None, copy: Path, tmp_path: Path) -> None:
    later = tmp_path / "later"
    shutil.move(copy / "COVID", later / "covid")
    first = prepare(list_folder(copy), tmp_path / "first", Options(size=64))
    inputs = [DataInput(str(tmp_path / "first")), DataInput(str(later), source="later")]
    both = prepare(
        list_inputs(inputs, classes={"covid": "COVID"}), tmp_path / "both", Options(size=64)
    )
    assert both.classes == ("COVID", "Lung_Opacity", "Normal", "Viral Pneumonia")
    assert len(both.records("all")) == 320
    added = both.manifest[both.manifest["label"] == "COVID"]
    assert set(added["source"]) == {"later"}
    assert "'later'" in both.confounds[0]
    kept = both.manifest.set_index("id").loc[first.manifest["id"]]
    assert kept["split"].tolist() == first.manifest["split"].tolist()
    with pytest.raises(UserError, match="prepare the new store at that size, 64"):
        prepare(list_inputs(inputs), tmp_path / "other", Options(size=96))


def ready_made(images: Path, root: Path) -> Path:
    """Split folders without a patient in two of them, from a folder in the Kaggle layout."""
    table = pd.read_csv(images / "metadata.csv")
    for _, row in table.iterrows():
        split = "test" if sum(row["patient_id"].encode()) % 4 == 0 else "train"
        label = row["file"].split("/")[0]
        (root / split / label).mkdir(parents=True, exist_ok=True)
        shutil.copy(images / row["file"], root / split / label / Path(row["file"]).name)
    return root


def test_a_given_split_is_kept_and_its_train_lends_val(
    cluster: None, images: Path, tmp_path: Path
) -> None:
    root = ready_made(images, tmp_path / "given")
    store = prepare(list_folder(root), tmp_path / "store", Options(size=64))
    records = store.records("all")
    given = records["path"].str.split("/").str[0]
    assert (given[records["split"] == "test"] == "test").all()
    assert (given[records["split"] != "test"] == "train").all()
    assert 0.05 < (records["split"] == "val").sum() / (given == "train").sum() < 0.25
    anew = prepare(
        list_folder(root), tmp_path / "anew", Options(size=64, fractions=(0.5, 0.2, 0.3))
    )
    assert len(anew.records("test")) / 320 == pytest.approx(0.3, abs=0.1)


def test_a_leak_in_a_given_split_stops_and_names_the_records(
    cluster: None, images: Path, tmp_path: Path
) -> None:
    root = ready_made(images, tmp_path / "given")
    stolen = next((root / "train" / "Normal").iterdir())
    again = cv2.imencode(".jpg", cv2.imread(str(stolen), 0), [cv2.IMWRITE_JPEG_QUALITY, 60])[1]
    (root / "test" / "Normal" / "again.jpg").write_bytes(again.tobytes())
    with pytest.raises(UserError, match="leak: ") as leak:
        prepare(list_folder(root), tmp_path / "store", Options(size=64))
    assert f"train/Normal/{stolen.name} (train)" in str(leak.value)
    assert "test/Normal/again.jpg (test)" in str(leak.value)


def test_the_same_file_in_two_given_splits_is_a_leak_too(
    cluster: None, images: Path, tmp_path: Path
) -> None:
    root = ready_made(images, tmp_path / "given")
    stolen = next((root / "train" / "Normal").iterdir())
    shutil.copy(stolen, root / "test" / "Normal" / "again.png")
    with pytest.raises(UserError, match=r"test/Normal/again.png \(test\)"):
        prepare(list_folder(root), tmp_path / "store", Options(size=64))


def test_the_pages_of_one_file_stay_in_one_group(cluster: None, copy: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (6, 64, 64), dtype=np.uint8)
    pages = [Image.fromarray(page) for page in noise]
    file = copy / "COVID" / "images" / "stack.tif"
    pages[0].save(file, save_all=True, append_images=pages[1:])
    store = prepare(list_folder(copy), tmp_path / "store", Options(size=64))
    rows = store.manifest[store.manifest["uri"] == str(file)]
    assert rows["path"].tolist() == [f"COVID/images/stack.tif#{page}" for page in range(6)]
    assert np.array_equal(store.images(rows), noise)
    assert rows["group"].nunique() == 1


def test_a_conflict_is_seen_past_a_copy_without_a_label(
    cluster: None, copy: Path, tmp_path: Path
) -> None:
    source = sorted((copy / "COVID" / "images").iterdir())[3]
    again = cv2.imencode(".jpg", cv2.imread(str(source), 0), [cv2.IMWRITE_JPEG_QUALITY, 80])[1]
    (tmp_path / "a.jpg").write_bytes(again.tobytes())
    table = pd.read_csv(copy / "metadata.csv")
    rows = pd.DataFrame({"path": copy.as_posix() + "/" + table["file"]})
    rows["label"] = table["file"].str.split("/").str[0]
    more = {"path": [str(tmp_path / "0.png"), str(tmp_path / "a.jpg")], "label": ["", "Normal"]}
    shutil.copy(source, tmp_path / "0.png")
    pd.concat([pd.DataFrame(more), rows]).to_csv(tmp_path / "list.csv", index=False)
    store = prepare(list_folder(tmp_path / "list.csv"), tmp_path / "store", Options(size=64))
    status = store.manifest.set_index("uri")["status"]
    assert status[str(source)] == status[str(tmp_path / "a.jpg")] == "conflict"


def test_look_alikes_under_two_labels_stay_and_copies_do_not(
    cluster: None, copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The folders follow each other: 0 and 1 are COVID, 100 and 101 Lung_Opacity.
    pairs = [Pair(0, 100, 0.74, False), Pair(1, 101, 0.76, False)]
    monkeypatch.setattr("ctray.data.ingest.checks.near_duplicates", lambda *_: pairs)
    store = prepare(list_folder(copy), tmp_path / "store", Options(size=64))
    rows = store.manifest.iloc[[0, 100, 1, 101]]
    assert rows["label"].tolist() == ["COVID", "Lung_Opacity"] * 2
    assert rows["status"].tolist() == ["ok", "ok", "conflict", "conflict"]
    assert rows["group"].iloc[0] == rows["group"].iloc[1]
    assert store.duplicates["conflict"].tolist() == [False, True]


def test_strict_makes_a_fault_an_error(cluster: None, copy: Path, tmp_path: Path) -> None:
    (copy / "COVID" / "images" / "text.png").write_text("no picture")
    with open(copy / "metadata.csv", "a") as table:
        table.write("COVID/images/text.png,COVID,,\n")
    with pytest.raises(UserError, match=r"^1 of 321 .*COVID/images/text.png"):
        prepare(list_folder(copy), tmp_path / "store", Options(size=64, strict=True))
    assert not (tmp_path / "store").exists()


def test_masks_travel_with_their_images(cluster: None, copy: Path, tmp_path: Path) -> None:
    image = first_image(copy, "COVID")
    mask = np.zeros((96, 96), np.uint8)
    mask[:48] = 255
    cv2.imwrite(str(copy / "COVID" / "masks" / image.name), mask)
    shutil.rmtree(copy / "Normal" / "masks")
    store = prepare(list_folder(copy), tmp_path / "store", Options(size=64))
    records = store.records("all")
    assert (records["mask"] == (records["label"] != "Normal")).all()
    masks = store.masks(records)
    assert masks[~records["mask"].to_numpy()].max() == 0
    (one,) = masks[(records["path"] == f"COVID/images/{image.name}").to_numpy()]
    assert one[:32].min() == 255
    assert one[32:].max() == 0


def test_a_colour_photograph_is_stored_with_a_warning(
    cluster: None, copy: Path, tmp_path: Path
) -> None:
    photograph = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    cv2.imwrite(str(copy / "COVID" / "images" / "holiday.png"), photograph)
    store = prepare(list_folder(copy), tmp_path / "store", Options(size=64))
    warned = store.manifest[store.manifest["warning"] != ""]
    assert warned["path"].tolist() == ["COVID/images/holiday.png"]
    assert warned["status"].tolist() == ["ok"]


@pytest.fixture(scope="module")
def real(cluster: None, radiographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    return prepare(list_folder(radiographs), tmp_path_factory.mktemp("real") / "store")


def test_real_radiographs(real: Store, radiographs: Path) -> None:
    records = real.records("all")
    assert len(records) == 2480
    assert records.groupby("group")["split"].nunique().max() == 1
    known = records[records["group"] == "kermany-train-person124"]
    assert len(known) == 11, "the data card's patient with most images"
    for split, share in (("train", 0.70), ("val", 0.15), ("test", 0.15)):
        assert len(real.records(split)) / 2480 == pytest.approx(share, abs=0.04)
    path = radiographs / records["path"][0]
    expected = cv2.resize(cv2.imread(str(path), 0), (256, 256), interpolation=cv2.INTER_AREA)
    assert np.array_equal(real.images(records[:1])[0], expected)


def test_the_pairs_of_the_data_card_are_found_and_grouped(real: Store) -> None:
    pairs = {frozenset(pair) for pair in real.duplicates[["first", "second"]].to_numpy()}
    group = real.manifest.set_index("path")["group"]
    for one, other in ((1171, 183), (1197, 127)):
        paths = [f"COVID/images/COVID-{number}.png" for number in (one, other)]
        assert frozenset(paths) in pairs
        assert group[paths[0]] == group[paths[1]]


def test_the_confound_of_the_data_card_is_said(real: Store) -> None:
    report = json.loads((real.root / "report.json").read_text())
    strong = {f["key"]: f for f in report["confounds"]["factors"] if f["verdict"] == "strong"}
    assert strong["source"]["v"] == pytest.approx(1.0, abs=0.001)
    assert "All 620 COVID images come from 'GitKentC/lundis'" in strong["source"]["sentences"][0]
    # Viral Pneumonia is children of Guangzhou: the collection of a patient goes with the class.
    assert strong["collection"]["v"] > 0.9
    assert any(
        sentence.startswith("All 620 Viral Pneumonia") and "kermany" in sentence
        for sentence in strong["collection"]["sentences"]
    )


def test_real_slices_are_grouped_by_paper(cluster: None, radiographs: Path, tmp_path: Path) -> None:
    store = prepare(list_folder(radiographs.parent / "ct"), tmp_path / "store")
    table = pd.read_csv(radiographs.parent / "ct" / "metadata.csv").set_index("file")
    records = store.records("all")
    given = table.loc[records["path"], "group_id"].to_numpy()
    assert (records.groupby(given)["group"].nunique() == 1).all()
    lost = store.manifest[store.manifest["status"] != "ok"]
    assert set(lost["status"]) <= {"too small"}


def test_real_dicom_files_are_all_decoded(cluster: None, radiographs: Path, tmp_path: Path) -> None:
    store = prepare(list_folder(radiographs.parent / "dicom"), tmp_path / "store")
    assert len(store.manifest) == 4
    assert (store.manifest["row"] >= 0).all()
    assert (store.manifest["format"] == "DICOM").all()


BROKEN = {
    "empty.png": ("unreadable", b""),
    "words.png": ("unreadable", b"these are words, not a picture"),
    "half.png": ("truncated", None),
    "half.jpg": ("truncated", None),
    "tiny.png": ("too small", np.random.default_rng(0).integers(0, 256, (9, 9), dtype=np.uint8)),
    "blank.png": ("blank", np.full((200, 200), 7, np.uint8)),
    "black.png": ("blank", np.zeros((200, 200), np.uint8)),
    "bomb.png": ("too large", None),
}


def test_planted_copies_and_broken_files_are_reported_as_what_they_are(
    real: Store, radiographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(radiographs, tmp_path / "planted"))
    files = sorted(folder.glob("*/images/*.png"))
    chosen = iter(np.random.default_rng(5).permutation(len(files))[:50])
    planted: dict[str, tuple[str, str]] = {}

    def plant(kind: str, count: int, change: Callable[[np.ndarray], bytes], suffix: str) -> None:
        for _ in range(count):
            source = files[next(chosen)]
            home = source.parent
            if kind == "conflict":
                classes = sorted(path.name for path in folder.iterdir() if path.is_dir())
                other = classes[(classes.index(home.parent.name) + 1) % len(classes)]
                home = folder / other / "images"
            target = home / f"planted-{kind}-{len(planted):02d}{suffix}"
            if kind in ("duplicate", "conflict"):
                shutil.copy(source, target)
            else:
                target.write_bytes(change(cv2.imread(str(source), cv2.IMREAD_GRAYSCALE)))
            names = (path.relative_to(folder).as_posix() for path in (target, source))
            planted[next(names)] = (kind, next(names))

    def png(image: np.ndarray) -> bytes:
        return cv2.imencode(".png", image)[1].tobytes()

    jpeg = [cv2.IMWRITE_JPEG_QUALITY, 60]
    plant("duplicate", 20, png, ".png")
    plant("conflict", 5, png, ".png")
    plant("q60", 10, lambda i: cv2.imencode(".jpg", i, jpeg)[1].tobytes(), ".jpg")
    plant("scaled", 10, lambda i: png(cv2.resize(i, None, fx=0.8, fy=0.8)), ".png")
    plant("shifted", 5, lambda i: png(cv2.copyMakeBorder(i, 4, 0, 4, 0, 0)[:-4, :-4]), ".png")
    whole = files[7].read_bytes()
    cut = cv2.imencode(".jpg", cv2.imread(str(files[8]), 0))[1].tobytes()
    content = {"half.png": whole[: len(whole) // 2], "half.jpg": cut[: len(cut) // 2]}
    bomb = bytearray(whole)
    bomb[16:24] = struct.pack(">II", 65536, 65536)
    bomb[29:33] = struct.pack(">I", zlib.crc32(bomb[12:29]))
    content |= {"bomb.png": bytes(bomb)}
    # Named as what they are not: the bytes decide.
    first, second = [file for file in files if "Normal" in file.parts][:2]
    again = cv2.imencode(".jpg", cv2.imread(str(second), cv2.IMREAD_GRAYSCALE))[1].tobytes()
    for name, kind, source, data in (
        ("other.jpg", "duplicate", first, first.read_bytes()),
        ("scan.dcm", "q60", second, again),
    ):
        (source.parent / f"planted-{name}").write_bytes(data)
        path = source.relative_to(folder).as_posix()
        planted[f"Normal/images/planted-{name}"] = (kind, path)
    for name, (_, pixels) in BROKEN.items():
        made = png(pixels) if isinstance(pixels, np.ndarray) else pixels
        (folder / "Normal" / "images" / f"broken-{name}").write_bytes(
            content[name] if made is None else made
        )

    store = prepare(list_folder(folder), tmp_path / "store")
    rows = store.manifest.set_index("path")
    pairs = {frozenset(pair) for pair in store.duplicates[["first", "second"]].to_numpy()}
    found: dict[str, list[bool]] = defaultdict(list)
    for path, (kind, source) in planted.items():
        told = {rows.loc[path, "status"], rows.loc[source, "status"]}
        expected = {"duplicate": {"ok", "duplicate"}, "conflict": {"conflict"}}.get(kind, {"ok"})
        tied = rows.loc[path, "group"] == rows.loc[source, "group"]
        found[kind].append(told == expected and frozenset((path, source)) in pairs and tied)
    for name, (status, _) in BROKEN.items():
        found[f"broken {name}"].append(rows.loc[f"Normal/images/broken-{name}", "status"] == status)
    # Planting copies ties no two pictures that were not tied before.
    ours = store.manifest[store.manifest["path"].isin(real.manifest["path"])]
    before = real.manifest.set_index("path").loc[ours["path"], "group"].to_numpy()
    merged = ours.groupby(before)["group"].nunique().max() - 1
    merged += pd.Series(before, index=ours.index).groupby(ours["group"]).nunique().max() - 1
    extra = [
        pair
        for pair in pairs
        if not any(path in planted for path in pair)
        and pair not in {frozenset(p) for p in real.duplicates[["first", "second"]].to_numpy()}
    ]
    with capsys.disabled():
        recall = {kind: f"{sum(hits)}/{len(hits)}" for kind, hits in found.items()}
        print(f"\nrecall {recall}; groups merged or torn: {merged}; false pairs: {len(extra)}")
    assert all(all(hits) for hits in found.values()), dict(found)
    assert merged == 0
    assert not extra
