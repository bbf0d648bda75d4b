"""The table of predictions has the same columns and types whatever is in it."""

import csv
import io
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from ctray.decision.prediction import Prediction
from ctray.engine.table import (
    WRITERS,
    Known,
    Line,
    PredictionTable,
    check_table_path,
    table_schema,
)
from ctray.errors import UserError

pytestmark = pytest.mark.fast

CLASSES = ("a", "b")
ANSWER = Prediction("b", "answer", 0.75, {"a": 0.25, "b": 0.75})
GOOD = Line("one.png", ANSWER, "", Known("a", "f" * 64, "ann", "east"), "a guess")
BAD = Line("two.png", None, "not an image", Known("b", "", "two.png", ""))
COLUMNS = ["file", "predicted", "decision", "confidence", "p_a", "p_b", "error", "warning"]
KNOWN = ["label", "id", "group", "source"]


def test_its_columns_are_what_scripts_rely_on() -> None:
    unknown = [
        Line(line.file, line.prediction, line.error, warning=line.warning) for line in (GOOD, BAD)
    ]
    assert list(PredictionTable.of(CLASSES, unknown).frame.columns) == COLUMNS
    assert list(PredictionTable.of(CLASSES, [GOOD, BAD], known=True).frame) == COLUMNS + KNOWN


def test_a_row_has_an_answer_or_an_error() -> None:
    table = PredictionTable.of(CLASSES, [GOOD, BAD], known=True)
    assert table.readable["file"].tolist() == ["one.png"]
    assert table.unreadable[["file", "error"]].to_dict("records") == [
        {"file": "two.png", "error": "not an image"}
    ]
    empty = table.unreadable[["predicted", "decision", "confidence", "p_a", "p_b"]]
    assert empty.isna().all(axis=None)
    assert table.readable["warning"].tolist() == ["a guess"]
    assert table.unreadable["warning"].isna().all()


def test_labels_and_probabilities_are_those_of_the_readable_rows() -> None:
    table = PredictionTable.of(CLASSES, [BAD, GOOD], known=True)
    assert table.labels.tolist() == [0]
    assert table.labels.dtype == np.int64
    assert table.probabilities.tolist() == [[0.25, 0.75]]


@pytest.mark.parametrize("lines", [[], [GOOD], [BAD], [GOOD, BAD]])
def test_the_types_in_a_file_do_not_depend_on_the_rows(lines: list[Line], tmp_path: Path) -> None:
    table = PredictionTable.of(CLASSES, lines, known=True)
    table.write(tmp_path / "table.parquet")
    written = pq.read_schema(tmp_path / "table.parquet").remove_metadata()
    assert written == table_schema(CLASSES, known=True)
    read = pd.read_parquet(tmp_path / "table.parquet")
    assert read["file"].tolist() == [line.file for line in lines]
    pd.testing.assert_frame_equal(read.isna(), table.frame.isna())


@pytest.mark.parametrize("suffix", [*WRITERS, ".CSV", ".Parquet"])
def test_every_format_holds_the_same(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"table{suffix}"
    check_table_path(path)
    table = PredictionTable.of(CLASSES, [GOOD, BAD], known=True)
    table.write(path)
    read = {
        ".csv": pd.read_csv,
        ".parquet": pd.read_parquet,
        ".jsonl": lambda place: pd.read_json(place, lines=True),
    }[suffix.lower()](path)
    assert list(read) == COLUMNS + KNOWN
    assert read["confidence"].tolist()[0] == 0.75
    assert np.isnan(read["confidence"].tolist()[1])
    assert read["label"].tolist() == ["a", "b"]


def test_a_place_it_cannot_be_written_to_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "file").touch()
    for path, words in (
        (tmp_path / "table.xlsx", r"must end in \.csv, \.parquet, \.jsonl"),
        (tmp_path / "folder.csv", "is a folder: name a file in it"),
        (tmp_path / "file" / "sub" / "table.csv", "file is a file, not a folder"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            check_table_path(path)
        assert caught.value.arguments == ("out",)


def test_a_place_that_takes_no_files_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The super-user may write everywhere.
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(UserError, match=f"nothing can be written into {tmp_path}"):
        check_table_path(tmp_path / "none" / "table.csv")


def test_a_missing_folder_is_made_and_an_old_table_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "none" / "yet" / "table.csv"
    for lines in ([GOOD, BAD], [BAD]):
        check_table_path(path)
        PredictionTable.of(CLASSES, lines, known=True).write(path)
        assert pd.read_csv(path)["file"].tolist() == [line.file for line in lines]
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_names_that_are_not_utf_8_are_written(tmp_path: Path) -> None:
    table = PredictionTable.of(CLASSES, [Line(os.fsdecode(b"r\xf6ntgen.png"), ANSWER, "")])
    for suffix, read in ((".csv", pd.read_csv), (".parquet", pd.read_parquet)):
        path = tmp_path / os.fsdecode(b"\xe4") / os.fsdecode(b"\xf6" + suffix.encode())
        check_table_path(path)
        table.write(path)
        assert read(io.BytesIO(path.read_bytes()))["file"].tolist() == [r"r\xf6ntgen.png"]


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n"])
def test_a_spreadsheet_takes_no_text_of_a_csv_for_a_formula(start: str, tmp_path: Path) -> None:
    text = f"{start}1+cmd|'/C calc'!A1"
    lines = [
        Line(text, ANSWER, "", Known(text, "", "a-b", "")),
        Line("a=b.png", None, text, Known("a", "", text, text)),
    ]
    table = PredictionTable.of(CLASSES, lines, known=True)
    table.frame.loc[0, "confidence"] = -1.5
    table.write(tmp_path / "table.csv")
    with (tmp_path / "table.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert [first["file"], first["label"], second["error"], second["group"], second["source"]] == [
        f"'{text}"
    ] * 5
    assert [first["group"], second["file"], first["confidence"]] == ["a-b", "a=b.png", "-1.5"]
    assert [second["predicted"], first["error"], first["id"]] == ["", "", ""]
    table.write(tmp_path / "table.parquet")
    table.write(tmp_path / "table.jsonl")
    for read in (
        pd.read_parquet(tmp_path / "table.parquet"),
        pd.read_json(tmp_path / "table.jsonl", lines=True),
    ):
        assert read["file"].tolist() == [text, "a=b.png"]
