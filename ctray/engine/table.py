"""The table of predictions: its columns, said once, for `ctray predict`, evaluation and reports.

One row a file, in the order the files were given:

- `file`: its path, as it was named or as the store knows it; a byte that is not UTF-8 as `\\xff`
- `predicted`: the most probable class
- `decision`: what to do with it (`ctray.decision.prediction.Decision`)
- `confidence`: probability of `predicted`, 0–1
- `p_<class>`: probability of each class, 0–1, in the bundle's order
- `error`: why there is no prediction; then the columns above, but `file`, are empty
- `warning`: what was passed over or guessed when the image was read; empty where nothing was

Where the records are known, as in an evaluation, four more:

- `label`: the true class
- `id`: of the record; "" when the image could not be read and came from a folder
- `group`: what must not straddle splits: patient, series or cluster of near-duplicates
- `source`: where the image comes from; "" when nobody said

In a CSV file a text that a spreadsheet would take for a formula begins with an apostrophe.
"""

import csv
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import pyarrow as pa

from ctray import storage
from ctray.decision.prediction import Prediction
from ctray.errors import UserError
from ctray.words import printable

KNOWN_COLUMNS = ("label", "id", "group", "source")
# OWASP, CSV injection: with these a spreadsheet begins a formula.
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")


@dataclass(frozen=True)
class Known:
    """What is known of a record beside its pixels: columns of the table."""

    label: str
    id: str
    group: str
    source: str


@dataclass(frozen=True)
class Line:
    """One row of the table.

    Attributes:
        file: see the columns.
        prediction: None where there is an error.
        error: the reason; "" without one.
        known: None where nothing is known of the record.
        warning: see the columns; "" without one.
    """

    file: str
    prediction: Prediction | None
    error: str
    known: Known | None = None
    warning: str = ""


def probability_column(name: str) -> str:
    """The column with the probability of this class."""
    return f"p_{name}"


def table_schema(classes: Iterable[str], known: bool) -> pa.Schema:
    """The columns and their types.

    Args:
        classes: of the bundle.
        known: whether the records are known.
    """
    fields = [
        ("file", pa.string()),
        ("predicted", pa.string()),
        ("decision", pa.string()),
        ("confidence", pa.float64()),
        *((probability_column(name), pa.float64()) for name in classes),
        ("error", pa.string()),
        ("warning", pa.string()),
        *((name, pa.string()) for name in (KNOWN_COLUMNS if known else ())),
    ]
    return pa.schema(fields)


@dataclass(frozen=True)
class PredictionTable:
    """The predictions of some files.

    Attributes:
        classes: of the bundle, in the order of its outputs.
        schema: of `frame`, from `table_schema`.
        frame: one row a file; empty cells are missing values.
    """

    classes: tuple[str, ...]
    schema: pa.Schema
    frame: pd.DataFrame

    @classmethod
    def of(cls, classes: tuple[str, ...], lines: Iterable[Line], known: bool = False) -> Self:
        """The table of these lines.

        Args:
            classes: of the bundle.
            lines: one a file; all of them with `known` records, or none.
            known: whether the table has the columns of known records.
        """
        schema = table_schema(classes, known)
        frame = pd.DataFrame([_cells(line, classes) for line in lines], columns=schema.names)
        numbers = [field.name for field in schema if pa.types.is_floating(field.type)]
        return cls(classes, schema, frame.astype(dict.fromkeys(numbers, np.float64)))

    @property
    def probabilities(self) -> np.ndarray:
        """Float64 (N, classes) of the N readable rows."""
        columns = [probability_column(name) for name in self.classes]
        return self.readable[columns].to_numpy(np.float64)

    @property
    def labels(self) -> np.ndarray:
        """Class index, int64 (N,), of the N readable rows of known records."""
        labels = pd.Categorical(self.readable["label"], categories=list(self.classes))
        return labels.codes.astype(np.int64)

    @property
    def readable(self) -> pd.DataFrame:
        """The rows with a prediction."""
        return self.frame[self.frame["error"].isna()]

    @property
    def unreadable(self) -> pd.DataFrame:
        """The rows with an error."""
        return self.frame[self.frame["error"].notna()]

    def write(self, path: Path) -> None:
        """Write it as the name's ending says, over what is there; its folder is made.

        `check_table_path` has accepted the path.
        """
        storage.write_bytes(str(path), WRITERS[path.suffix.lower()](self))


def _cells(line: Line, classes: Iterable[str]) -> dict[str, Any]:
    prediction = line.prediction
    probabilities = prediction.probabilities if prediction else {}
    cells: dict[str, Any] = {
        "file": printable(line.file),
        "predicted": prediction.predicted if prediction else None,
        "decision": prediction.decision if prediction else None,
        "confidence": prediction.confidence if prediction else None,
        **{probability_column(name): probabilities.get(name) for name in classes},
        "error": line.error or None,
        "warning": line.warning or None,
    }
    if line.known is not None:
        cells |= {name: getattr(line.known, name) for name in KNOWN_COLUMNS}
    return cells


def _csv(table: PredictionTable) -> bytes:
    texts = [field.name for field in table.schema if pa.types.is_string(field.type)]
    escaped = {name: table.frame[name].map(_not_a_formula, na_action="ignore") for name in texts}
    frame = table.frame.assign(**escaped)
    # Python quotes a carriage return from 3.13 on; before, readers take it for the end of a line.
    returns = any("\r" in text for name in texts for text in frame[name].dropna())
    if returns:
        return frame.to_csv(index=False, quoting=csv.QUOTE_NONNUMERIC).encode()
    return frame.to_csv(index=False).encode()


def _not_a_formula(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text


def _parquet(table: PredictionTable) -> bytes:
    buffer = io.BytesIO()
    table.frame.to_parquet(buffer, index=False, schema=table.schema)
    return buffer.getvalue()


def _jsonl(table: PredictionTable) -> bytes:
    return table.frame.to_json(orient="records", lines=True).encode()


WRITERS: dict[str, Callable[[PredictionTable], bytes]] = {
    ".csv": _csv,
    ".parquet": _parquet,
    ".jsonl": _jsonl,
}


def check_table_path(path: Path) -> None:
    """Raise UserError when a table cannot be written there, before any work is done."""
    if path.suffix.lower() not in WRITERS:
        raise UserError(f"{path}: the name must end in {', '.join(WRITERS)}", "out")
    if path.is_dir():
        raise UserError(f"{path} is a folder: name a file in it", "out")
    storage.check_writable(path.parent)
