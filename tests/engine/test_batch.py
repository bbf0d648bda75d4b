"""`ctray predict`: which files get a row, and what is in it. The model answers at once."""

import csv
import dataclasses
import os
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from ctray.cli import app
from ctray.config import PreprocessSpec, Recipe
from ctray.data.image.dispatch import decode_picture
from ctray.data.image.picture import Picture
from ctray.engine.batch import expand
from ctray.engine.predictor import Predictor
from ctray.errors import UserError

pytestmark = pytest.mark.fast

NOT_AN_IMAGE = "not an image: no PNG, JPEG, BMP, TIFF, WebP or DICOM header"


@pytest.fixture(autouse=True)
def predictor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every bundle is one that finds all classes equally likely."""
    info = SimpleNamespace(
        classes=("a", "b"), preprocess=PreprocessSpec.of(Recipe(image_size=64), 64)
    )
    bundle: Any = SimpleNamespace(decision=None, info=info)
    engine: Any = SimpleNamespace(logits=lambda batch: np.zeros((len(batch), 2), np.float32))
    monkeypatch.setattr(Predictor, "load", lambda _: Predictor(bundle, engine))


def picture(suffix: str) -> bytes:
    """An image that is not blank."""
    ramp = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (64, 1))
    return cv2.imencode(suffix, ramp)[1].tobytes()


def predict(out: Path, *paths: Path) -> tuple[str, list[dict[str, str]]]:
    """What the command prints, and the rows of its table."""
    done = CliRunner().invoke(app, ["predict", "bundle", *map(str, paths), "--out", str(out)])
    if done.exception is not None:
        raise done.exception
    with out.open(newline="") as file:
        return done.stdout, list(csv.DictReader(file))


def write(place: Path, data: bytes) -> Path:
    """Write a file and its folders."""
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(data)
    return place


def test_every_file_below_a_folder_gets_a_row(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "folder", tmp_path / "elsewhere"
    images = {
        "I00001": ".png",
        "1.2.840.113619.2.55": ".png",
        "CT.0001.IMA": ".tiff",
        "a.jfif": ".jpg",
        "deep/er/b.PNG": ".png",
        "linked.png": ".png",
    }
    for name, suffix in images.items():
        write((elsewhere if name == "linked.png" else folder) / name, picture(suffix))
    (folder / "link").symlink_to(elsewhere)
    (folder / "shortcut").symlink_to(elsewhere / "linked.png")
    (folder / "gone.png").symlink_to(elsewhere / "missing.png")
    texts = {"README.md": b"read me", "metadata.csv": b"file,label\n", "notes": b"x" * 500}
    for name, data in texts.items():
        write(folder / name, data)
    write(folder / "empty.png", b"")
    write(folder / "cut.png", picture(".png")[:150])
    write(folder / ".hidden.png", picture(".png"))

    said, rows = predict(tmp_path / "out.csv", folder)
    errors = {str(Path(row["file"]).relative_to(folder)): row["error"] for row in rows}
    answered = {*images, "link/linked.png", "shortcut"} - {"linked.png"}
    assert {name for name, error in errors.items() if not error} == answered
    assert [row["file"] for row in rows] == sorted(row["file"] for row in rows)
    assert {name: errors.pop(name) for name in texts} == dict.fromkeys(texts, NOT_AN_IMAGE)
    bad = {name: error for name, error in errors.items() if error}
    assert bad == {
        "gone.png": f"the link leads to '{elsewhere}/missing.png', which is not there",
        "empty.png": "the file is empty",
        "cut.png": "the PNG file is truncated: copy or export it again",
    }
    assert f"{len(answered)} answered, 6 with an error, 0 with a warning, " in said


def test_files_from_the_wild_have_a_row_each_and_no_exceptions_name(
    wild: Path, tmp_path: Path
) -> None:
    _, rows = predict(tmp_path / "out.csv", wild)
    assert [row["file"] for row in rows] == sorted(
        str(path) for path in wild.rglob("*") if path.is_file()
    )
    assert not [row for row in rows if re.search(r"[a-z](Error|Exception)\b", row["error"])]


def test_a_row_has_the_warnings_of_its_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decode(data: bytes, name: str | None) -> Picture:
        guesses = ("one guess", "another") if name == "b.png" else ()
        return dataclasses.replace(decode_picture(data, name), warnings=guesses)

    monkeypatch.setattr("ctray.engine.predictor.decode_picture", decode)
    for name in ("a.png", "b.png"):
        write(tmp_path / "in" / name, picture(".png"))
    write(tmp_path / "in" / "c.png", b"")
    said, rows = predict(tmp_path / "out.csv", tmp_path / "in")
    assert [row["warning"] for row in rows] == ["", "one guess; another", ""]
    assert "2 answered, 1 with an error, 1 with a warning, " in said


def test_masks_beside_images_get_no_row_and_are_counted(tmp_path: Path) -> None:
    for kind in ("images", "masks"):
        write(tmp_path / "COVID" / kind / "a.png", picture(".png"))
    write(tmp_path / "other" / "masks" / "b.png", picture(".png"))
    said, rows = predict(tmp_path / "out.csv", tmp_path)
    assert [Path(row["file"]).relative_to(tmp_path).as_posix() for row in rows] == [
        "COVID/images/a.png",
        "other/masks/b.png",
    ]
    assert ", left out 1 mask, " in said


def test_the_table_of_an_earlier_command_gets_no_row(tmp_path: Path) -> None:
    image = write(tmp_path / "a.png", picture(".png"))
    for _ in range(2):
        _, rows = predict(tmp_path / "new" / "out.csv", tmp_path)
        assert [row["file"] for row in rows] == [str(image)]


def test_a_name_that_is_not_utf_8_is_escaped(tmp_path: Path) -> None:
    for name in (b"r\xf6ntgen.png", b"\xfc"):
        write(tmp_path / "in" / os.fsdecode(name), picture(".png"))
    (tmp_path / "in" / os.fsdecode(b"\xff")).write_text("a text")
    for suffix, read in ((".csv", pd.read_csv), (".parquet", pd.read_parquet)):
        out = tmp_path / f"out{suffix}"
        arguments = ["predict", "bundle", str(tmp_path / "in"), "--out", str(out)]
        assert CliRunner().invoke(app, arguments, catch_exceptions=False).exit_code == 0
        table = read(out)
        assert table["file"].tolist() == [
            str(tmp_path / "in" / name) for name in (r"r\xf6ntgen.png", r"\xfc", r"\xff")
        ]
        assert table["error"].notna().tolist() == [False, False, True]


def test_linked_folders_are_listed_once_and_the_systems_own_never(tmp_path: Path) -> None:
    for folder, other in (("a", "b"), ("b", "a")):
        write(tmp_path / "in" / folder / "x.png", picture(".png"))
        (tmp_path / "in" / folder / "link").symlink_to(tmp_path / "in" / other)
    for name in ("@eaDir", "__MACOSX", "$RECYCLE.BIN", "lost+found"):
        write(tmp_path / "in" / name / "y.png", picture(".png"))
    _, rows = predict(tmp_path / "out.csv", tmp_path / "in")
    files = [Path(row["file"]).relative_to(tmp_path / "in").as_posix() for row in rows]
    assert files == ["a/x.png", "b/x.png"]


@pytest.mark.parametrize("name", ["backup.tar", "backup", "backup.png"])
def test_a_file_that_is_no_image_is_not_read_whole(tmp_path: Path, name: str) -> None:
    os.truncate(write(tmp_path / "in" / name, b"a text"), 2**36)
    for path in (tmp_path / "in", tmp_path / "in" / name):
        _, rows = predict(tmp_path / "out.csv", path)
        assert [row["error"] for row in rows] == [NOT_AN_IMAGE]


def test_files_are_taken_as_they_are_named(tmp_path: Path) -> None:
    hidden, gone = write(tmp_path / ".a.png", picture(".png")), tmp_path / "gone"
    gone.symlink_to(tmp_path / "missing")
    _, rows = predict(tmp_path / "out.csv", hidden, gone, hidden)
    assert [(row["file"], bool(row["error"])) for row in rows] == [
        (str(hidden), False),
        (str(gone), True),
        (str(hidden), False),
    ]


@pytest.mark.timeout(30)
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    pipe, link = tmp_path / "pipe.png", tmp_path / "link.png"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    listed = expand([pipe, link, Path("/dev/null")], tmp_path / "out.csv").listed
    assert [file.fault for file in listed] == ["no regular file"] * 3
    good = write(tmp_path / "a.png", picture(".png"))
    _, rows = predict(tmp_path / "out.csv", pipe, good)
    assert [row["error"] for row in rows] == ["no regular file", ""]


def test_what_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    for path, sentence in (
        (tmp_path / "none", "no such file or folder: .*none"),
        (tmp_path, "has no file to predict"),
    ):
        with pytest.raises(UserError, match=sentence):
            expand([path], tmp_path / "out.csv")
