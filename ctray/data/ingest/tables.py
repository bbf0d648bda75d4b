"""Tables people keep beside their images (CSV, Parquet, Excel) to rows with known roles.

The columns are called differently everywhere: each role has the names by which it is found, letter
case ignored, and the user may name the column of a role. A text table is separated by commas,
semicolons or tabs, in the encoding that the program which wrote it took for granted.
"""

import codecs
import csv
import io
import re
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
# The comma comes first: it wins where nothing tells.
_SEPARATORS = (",", ";", "\t")
_SAMPLE = 2**16  # characters that are looked at for the separator
# The mark of UTF-32 begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_FILE_LIKE = re.compile(r"image|img|file|path|picture|radiograph|dicom")
_NAME_IT = "name the column with the file as path"
_NOT_TEXT = re.compile(r"[\x00-\x08\x0e-\x1f]")
_HINT = re.compile(r"\A\s*\"?sep=[,;\t|]\"?\r?\n", re.IGNORECASE)

Cells = tuple[tuple[str, ...], list[dict[str, str]]]


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
    """Read a .csv, .tsv, .parquet or .xlsx table.

    Args:
        uri: path or URI of the table; its suffix says what it is.
        path_column: what the column with the file is called in this kind of table.
        columns: {role: column} as the user names them; a column that is not here is passed over.

    Raises:
        UserError: unreadable, a column twice, no column with the file, a row without a file, or a
            split that is none of the three.
    """
    names, cells = read_cells(uri)
    roles = _find_roles(names, path_column, columns)
    if "path" not in roles:
        missing = f"{uri} has no column {path_column!r} (has: {listed(names)})"
        likely = next((name for name in names if _FILE_LIKE.search(name.casefold())), "")
        fix = f"name the column with the file, such as path={likely}" if likely else _NAME_IT
        raise UserError(f"{missing}: {fix}", "column")
    rows = tuple(
        _row(number, row, roles, uri)
        for number, row in enumerate(cells, start=2)
        if any(row.values())
    )
    return Table(uri, names, "label" in roles, rows)


def read_cells(uri: str) -> Cells:
    """The columns of a table as written, and its rows as {column: text}.

    Raises:
        UserError: unreadable, or a column twice.
    """
    try:
        data = storage.read_bytes(uri)
    except OSError as error:
        raise UserError(f"{uri} cannot be read: {storage.cause(error)}") from error
    readers = {".parquet": _read_parquet, ".xlsx": _read_xlsx}
    return readers.get(suffix(uri), _read_csv)(data, uri)


def decode_text(data: bytes, uri: str, *, whole: bool = True) -> str:
    """The text of a file in UTF-8, UTF-16, UTF-32, Windows-1252 or Latin-1.

    Args:
        data: the file's bytes, or its first ones where `whole` is false.
        uri: where it is, for the sentence.
        whole: whether a character that is cut off at the end is a fault.

    Raises:
        UserError: it holds something other than text.
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            try:
                return _decoded(data, encoding, whole)
            except UnicodeDecodeError as error:
                raise UserError(f"{uri} is cut short or not {encoding}: save it again") from error
    text = _unmarked(data, whole)
    if _NOT_TEXT.search(text):
        raise UserError(f"{uri} is not a text table: save it as CSV in UTF-8")
    return text


def header_of(start: bytes) -> tuple[str, ...]:
    """The fields of the first line of a text table, given its first bytes; () where it is none."""
    try:
        text = _without_hint(decode_text(start, "", whole=False))
        first = next(csv.reader(io.StringIO(text, newline=""), delimiter=_separator(text)), [])
    except (UserError, csv.Error):
        return ()
    return tuple(field.strip() for field in first)


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


def _decoded(data: bytes, encoding: str, whole: bool, errors: str = "strict") -> str:
    return codecs.getincrementaldecoder(encoding)(errors).decode(data, final=whole)


def _unmarked(data: bytes, whole: bool) -> str:
    """Text without a byte order mark; the first 4 KiB tell UTF-16, half of which is zeros."""
    start = data[:4096]
    for zeros, encoding in ((start[1::2], "utf-16-le"), (start[::2], "utf-16-be")):
        if zeros and zeros.count(0) > 0.4 * len(zeros):
            return _decoded(data, encoding, whole, "replace")
    for encoding in ("utf-8", "cp1252"):
        try:
            return _decoded(data, encoding, whole)
        except UnicodeDecodeError:
            continue
    return data.decode("latin-1")


def _without_hint(text: str) -> str:
    """A table without the line `sep=;` by which Excel tells itself the separator."""
    return _HINT.sub("", text, count=1)


def _separator(text: str) -> str:
    """What separates the fields: what most lines have as often as the first.

    Of two that do, the one of which there are more wins, and then the comma.
    """
    lines = io.StringIO(text[:_SAMPLE], newline="")

    def judge(separator: str) -> tuple[float, int]:
        lines.seek(0)
        try:
            rows = [row for row in csv.reader(lines, delimiter=separator) if row]
        except csv.Error:
            return 0.0, 0
        # The sample may end within a row.
        whole = rows[:-1] if len(text) > _SAMPLE and len(rows) > 1 else rows
        if not whole or len(whole[0]) == 1:
            return 0.0, 0
        alike = sum(len(row) == len(whole[0]) for row in whole)
        return round(alike / len(whole), 1), len(whole[0])

    return max(_SEPARATORS, key=judge)


def _read_csv(data: bytes, uri: str) -> Cells:
    text = _without_hint(decode_text(data, uri))
    reader = csv.DictReader(io.StringIO(text, newline=""), restval="", delimiter=_separator(text))
    try:
        names = _distinct(reader.fieldnames or (), uri)
        rows = list(reader)
    except csv.Error as error:
        raise UserError(f"{uri}, line {reader.line_num} is not CSV: {error}") from error
    # The fields beyond the last column come under the key None. Empty ones are the separators with
    # which some programs end their rows.
    longer = next((n for n, row in enumerate(rows, start=2) if any(row.pop(None, ()))), 0)
    if longer:
        raise UserError(
            f"{uri}, row {longer} has more fields than the header: put fields with commas in quotes"
        )
    return names, [{name.strip(): value.strip() for name, value in row.items()} for row in rows]


def _read_parquet(data: bytes, uri: str) -> Cells:
    try:
        table = pq.read_table(io.BytesIO(data))
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{uri} is not a Parquet file that can be read") from error
    names = _distinct(table.column_names, uri)
    cells = [[_text(value) for value in column.to_pylist()] for column in table.columns]
    return names, [dict(zip(names, row, strict=True)) for row in zip(*cells, strict=True)]


def _read_xlsx(data: bytes, uri: str) -> Cells:
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
        if name and stripped.count(name) > 1:
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
