"""Tables people keep beside their images (CSV, Parquet, Excel) to rows with known roles.

The columns are called differently everywhere: each role has the names by which it is found, letter
case ignored, and the user may name the column of a role.
"""

import csv
import io
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from urllib.parse import urlsplit

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ctray import storage
from ctray.errors import UserError

PATH_COLUMNS = ("path", "file", "file name", "file_name", "filename")
ROLES = {
    "path": PATH_COLUMNS,
    "label": ("label", "class"),
    "group": ("group", "patient_id", "patient", "group_id"),
    "split": ("split",),
    "source": ("source", "url"),
    "mask": ("mask",),
}
# What people call the three splits.
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
# Described under these names in reports, however their column is capitalised.
_KNOWN_META = frozenset({"age", "sex", "view", "scanner", "modality"})


@dataclass(frozen=True)
class TableRow:
    """What a table says about one file; empty where it says nothing.

    Attributes:
        path: the file as the table names it, with `/`.
        split: train, val, test or empty.
        source: as written; of a web address only host, owner and repository.
        meta: the columns without a role, those that are not empty.
    """

    path: str
    label: str = ""
    group: str = ""
    split: str = ""
    source: str = ""
    mask: str = ""
    meta: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """A table that was read.

    Attributes:
        uri: where it is.
        columns: its columns as written.
        labelled: whether one of them is the label.
        rows: in the table's order.
    """

    uri: str
    columns: tuple[str, ...]
    labelled: bool
    rows: tuple[TableRow, ...]

    def labels(self) -> set[str]:
        """The labels it gives."""
        return {row.label for row in self.rows if row.label}


def read_table(uri: str, path_column: str, columns: Mapping[str, str]) -> Table:
    """Read a .csv, .parquet or .xlsx table.

    Args:
        uri: path or URI of the table; its suffix says what it is.
        path_column: what the column with the file is called in this kind of table.
        columns: {role: column} as the user names them; a column that is not here is passed over.

    Raises:
        UserError: unreadable, a column twice, no column with the file, a row without a file, or a
            split that is none of the three.
    """
    readers = {".csv": _read_csv, ".parquet": _read_parquet, ".xlsx": _read_xlsx}
    try:
        data = storage.read_bytes(uri)
    except OSError as error:
        raise UserError(f"{uri} cannot be read: {storage.cause(error)}") from error
    names, cells = readers[suffix(uri)](data, uri)
    roles = _find_roles(names, path_column, columns)
    if "path" not in roles:
        raise UserError(f"{uri} has no column {path_column!r} (has: {listed(names)})")
    rows = tuple(
        _row(number, row, roles, uri)
        for number, row in enumerate(cells, start=2)
        if any(row.values())
    )
    return Table(uri, names, "label" in roles, rows)


def listed(names: Iterable[str]) -> str:
    """Names for a sentence."""
    return ", ".join(names) or "nothing"


def suffix(name: str) -> str:
    """The suffix of a path or URI, in lower case."""
    return PurePosixPath(storage.plain(name) if "://" in name else name).suffix.lower()


def repository(source: str) -> str:
    """Host, owner and repository of a web address; anything else as it is.

    Thousands of images share a repository and none shares its own address.
    """
    if not source.lower().startswith(("http://", "https://")):
        return source
    parts = urlsplit(source)
    names = [name for name in parts.path.split("/") if name][:2]
    return "/".join((parts.netloc.lower().removeprefix("www."), *names))


_Cells = tuple[tuple[str, ...], list[dict[str, str]]]


def _read_csv(data: bytes, uri: str) -> _Cells:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{uri} is not UTF-8: save it as UTF-8") from error
    reader = csv.DictReader(io.StringIO(text, newline=""), restval="")
    try:
        names = _distinct(reader.fieldnames or (), uri)
        rows = list(reader)
    except csv.Error as error:
        raise UserError(f"{uri}, line {reader.line_num} is not CSV: {error}") from error
    # The fields beyond the last column come under the key None.
    longer = next((number for number, row in enumerate(rows, start=2) if len(row) > len(names)), 0)
    if longer:
        raise UserError(
            f"{uri}, row {longer} has more fields than the header: put fields with commas in quotes"
        )
    return names, [{name.strip(): value.strip() for name, value in row.items()} for row in rows]


def _read_parquet(data: bytes, uri: str) -> _Cells:
    try:
        table = pq.read_table(io.BytesIO(data))
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{uri} is not a Parquet file that can be read") from error
    names = _distinct(table.column_names, uri)
    cells = [[_text(value) for value in column.to_pylist()] for column in table.columns]
    return names, [dict(zip(names, row, strict=True)) for row in zip(*cells, strict=True)]


def _read_xlsx(data: bytes, uri: str) -> _Cells:
    try:
        frame = pd.read_excel(
            io.BytesIO(data), engine="openpyxl", dtype=object, keep_default_na=False
        )
    except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{uri} is not an Excel file that can be read") from error
    names = _distinct([str(name) for name in frame.columns], uri)
    cells = frame.itertuples(index=False, name=None)
    return names, [dict(zip(names, map(_text, row), strict=True)) for row in cells]


def _distinct(names: Sequence[str], uri: str) -> tuple[str, ...]:
    stripped = tuple(name.strip() for name in names)
    for name in stripped:
        if stripped.count(name) > 1:
            raise UserError(f"{uri} has the column {name!r} twice: rename one of them")
    return stripped


def _text(value: object) -> str:
    if value is None or value != value:
        return ""
    # A column of whole numbers with a gap comes as floating point: patient 12 is not "12.0".
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def _find_roles(
    names: Sequence[str], path_column: str, columns: Mapping[str, str]
) -> dict[str, str]:
    written = {name.casefold(): name for name in reversed(names)}
    roles: dict[str, str] = {}
    for role, usual in ROLES.items():
        if columns.get(role) in names:
            roles[role] = columns[role]
            continue
        wanted = (path_column.casefold(), *usual) if role == "path" else usual
        found = next((written[name] for name in wanted if name in written), None)
        if found is not None:
            roles[role] = found
    return roles


def _row(number: int, cells: dict[str, str], roles: dict[str, str], uri: str) -> TableRow:
    values = {role: cells[name] for role, name in roles.items()}
    path = _slashes(values["path"])
    if not path:
        raise UserError(f"{uri}, row {number} names no file in its column {roles['path']!r}")
    split = values.get("split", "")
    if split and split.casefold() not in SPLIT_NAMES:
        raise UserError(f"{uri}: the split {split!r} of {path!r} is none of train, val and test")
    used = set(roles.values())
    return TableRow(
        path=path,
        label=values.get("label", ""),
        group=values.get("group", ""),
        split=SPLIT_NAMES.get(split.casefold(), ""),
        source=repository(values.get("source", "")),
        mask=_slashes(values.get("mask", "")),
        meta={
            name.casefold() if name.casefold() in _KNOWN_META else name: value
            for name, value in cells.items()
            if value and name not in used
        },
    )


def _slashes(path: str) -> str:
    return path if "://" in path else path.replace("\\", "/").removeprefix("./")
