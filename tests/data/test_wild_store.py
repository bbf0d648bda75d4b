"""What comes in odd is in the store with a word: names, faults, warnings, tables, splits."""

import os
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from ctray.console import print_store
from ctray.data.image.picture import Picture
from ctray.data.ingest import shards
from ctray.data.ingest.listing import list_folder
from ctray.data.ingest.prepare import Options, prepare
from ctray.data.store import SHARDS
from ctray.errors import UserError


def write(path: Path, seed: int) -> Path:
    """An image like no other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (64, 64), dtype=np.uint8)
    path.write_bytes(bytes(cv2.imencode(".png", pixels)[1]))
    return path


def test_wild_files_are_records_or_have_a_reason(
    cluster: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "data"
    for number in range(12):
        write(root / "train" / "ab"[number % 2] / f"{number}.png", number)
    for number in range(12, 16):
        write(root / "test" / "ab"[number % 2] / f"{number}.png", number)
    names = [os.fsdecode(b"\xe9\xff.png"), os.fsdecode(b"I\xe8"), "x.IMA"]
    for seed, name in enumerate(names, start=100):
        write(root / "train" / "a" / name, seed)
    (root / "train" / "a" / os.fsdecode(b"\xfc.jpg")).write_text("no image")
    (root / "train" / "b" / "odd").write_text("no image")
    (root / "train" / "b" / "gone").symlink_to("nowhere")
    (root / "train" / "b" / "notes.txt").write_text("not read")
    table = "file,group\ntrain/a/0.png,p0\ntrain/b/99.png,p1\n"
    (root / "metadata.csv").write_text(table)
    store = prepare(list_folder(root), tmp_path / "store", Options(size=64))
    manifest = store.manifest.set_index("path")
    assert store.ignored == ("train/b/notes.txt",)
    assert {path for path in manifest.index if "\\" in path or "." not in path} == {
        "train/a/\\xe9\\xff.png",
        "train/a/I\\xe8",
        "train/a/\\xfc.jpg",
        "train/b/odd",
        "train/b/gone",
    }
    lost = manifest[manifest["status"] != "ok"]
    assert lost["status"].to_dict() == {
        "train/a/\\xfc.jpg": "unreadable",
        "train/b/odd": "unreadable",
        "train/b/gone": "unreadable",
    }
    assert "'nowhere', which is not there" in lost.loc["train/b/gone", "reason"]
    counts = store.records("all").groupby(["label", "split"]).size()
    assert counts["a", "val"] >= 1
    assert counts["b", "val"] >= 1
    assert counts["a", "test"] == counts["b", "test"] == 2
    assert any("1 row of metadata.csv has no file" in notice for notice in store.notices)
    assert any("no val split is given" in notice for notice in store.notices)
    print_store(store)
    printed = capsys.readouterr().out
    page = (store.root / "report.html").read_text()
    for notice in store.notices:
        assert notice in printed
    assert "1 row of metadata.csv has no file here" in page
    assert "1 other file not read" in printed
    with pytest.raises(UserError, match=r"1 row of metadata\.csv has no file here") as caught:
        prepare(list_folder(root), tmp_path / "strict", Options(size=64, strict=True))
    assert caught.value.arguments == ("strict",)
    # What could not be read is tried again; what was read is known by its escaped name.
    again = prepare(list_folder(root), store.root, Options(size=64), append=True)
    assert len(again.manifest) == len(manifest)


@pytest.mark.fast
def test_wild_warnings_of_reading_are_in_the_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def warned(data: bytes, name: str | None = None) -> list[Picture]:
        pixels = np.arange(64 * 64, dtype=np.uint8).reshape(64, 64)
        return [Picture(pixels, "PNG", 8, False, 0, 1, {}, ("its suffix is another", "odd"))]

    monkeypatch.setattr(shards, "decode", warned)
    (tmp_path / SHARDS).mkdir()
    (tmp_path / shards.ROWS).mkdir()
    image = write(tmp_path / "x.jpg", 0)
    mask = str(tmp_path / "gone.png")
    shards._write_shard([(str(image), ""), (str(image), mask)], tmp_path, 0, 64)
    rows = pd.read_parquet(tmp_path / shards.ROWS / "00000.parquet")
    assert rows["warning"][0] == "its suffix is another; odd"
    assert rows["warning"][1].startswith("its suffix is another; odd; its mask cannot be used: ")
