"""What the recognisers of downloads look at, and what they return.

A recogniser looks at a tree of files. It returns what the download's own tables say of each image,
or None where the tree is another one. It follows the published description. Names are those of the
files as they come, and a table may lie below a folder that an archive was unpacked into.
"""

import math
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from ctray import storage
from ctray.data.image.dispatch import EXTENSIONS
from ctray.data.ingest.tables import decode_text, header_of, read_cells, suffix
from ctray.errors import UserError

_TABLES = frozenset({".csv", ".tsv"})
# Folders of what was made of the images, under the images' names.
_DERIVED = re.compile(
    r".*masks?.*|(?:grad[-_ ]?)?cams?|heat[-_ ]?maps?|overlays?|segmentations?|annotations?",
    re.IGNORECASE,
)
_DEEPEST = 4  # folders above a table; some sets have one beside each image
_START = 2**13  # bytes that hold the first line of any of these tables


@dataclass(frozen=True)
class Entry:
    """What a download says of one image.

    Attributes:
        name: the image as its table names it.
        file: its file, relative to the tree; empty: there is none.
        copies: further files of that name.
        findings: what was found, as labels; one where the labels exclude each other.
        uncertain: labels that nobody is sure of.
        also: further labels that hold, such as the wider ones of a finding.
        silent: whether nothing is said of any label, so that none is denied either.
        cells: its first row, {column: text}.
        group: patient, empty where unknown.
        view: as written, empty where unknown.
        split: train, val, test or empty.
        source: as `FileRecord`.
        mask: file of its mask, relative to the tree; empty where there is none.
        meta: what else is known of it.
        part: the part of the download that has this image, too; empty: none.
    """

    name: str
    file: str
    copies: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()
    uncertain: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    silent: bool = False
    cells: Mapping[str, str] = field(default_factory=dict)
    group: str = ""
    view: str = ""
    split: str = ""
    source: str = ""
    mask: str = ""
    meta: Mapping[str, str] = field(default_factory=dict)
    part: str = ""


@dataclass(frozen=True)
class Download:
    """A tree that was recognised.

    Attributes:
        entries: one an image.
        tables: {table relative to the tree: its columns}.
        roles: {label, patient, view or split: what was taken as it}; none: not named.
        labels: all labels it can give.
        remarks: how its labels are to be understood, as ends of a sentence.
    """

    entries: tuple[Entry, ...]
    tables: Mapping[str, tuple[str, ...]]
    roles: Mapping[str, str]
    labels: tuple[str, ...]
    remarks: tuple[str, ...] = ()


class Tree:
    """The files below a folder, and how tables find theirs among them."""

    def __init__(self, root: str, files: Sequence[str]) -> None:
        self.root = root
        self.files = files
        self._indexes: dict[int, dict[str, list[str]]] = {}

    @cached_property
    def headers(self) -> dict[str, tuple[str, ...]]:
        """The first lines of the text tables that do not lie too deep."""
        names = [name for name in self.files if _is_high(name) and suffix(name) in _TABLES]
        starts = storage.read_starts((self.uri(name) for name in names), _START)
        return dict(zip(names, map(header_of, starts), strict=True))

    def called(self, pattern: re.Pattern[str]) -> dict[str, re.Match[str]]:
        """The files of such a name, without its folder, that do not lie too deep."""
        names = {name: pattern.fullmatch(name.rpartition("/")[2]) for name in self.files}
        return {name: match for name, match in names.items() if match and _is_high(name)}

    def uri(self, name: str) -> str:
        """The place of a file of the tree."""
        return storage.join(self.root, name)

    def with_columns(self, *columns: str) -> list[str]:
        """The tables with these columns, sorted."""
        return [name for name, header in self.headers.items() if set(columns) <= set(header)]

    def rows(self, table: str) -> list[dict[str, str]]:
        """The rows of a table."""
        return read_cells(self.uri(table))[1]

    def lines(self, table: str) -> list[str]:
        """The lines of a text without a header, those that are not empty."""
        uri = self.uri(table)
        try:
            text = decode_text(storage.read_bytes(uri), uri)
        except OSError as error:
            raise UserError(f"{uri} cannot be read: {storage.cause(error)}") from error
        return [line.strip() for line in text.splitlines() if line.strip()]

    def find(self, name: str, under: str = "", folders: int = 0) -> tuple[str, ...]:
        """The files a table means by a name, whatever their letter case and their suffix.

        Args:
            name: path or file name as written, with or without a suffix.
            under: folder whose files are meant where it has one of that name.
            folders: how many folders above the file have to agree.
        """
        tails = self._tails(folders)
        tail = _tail(name.replace("\\", "/"), folders)
        found = tails.get(tail) or tails.get(_without_suffix(tail), [])
        found = [file for file in found if not _is_derived(file)] or found
        inside = [file for file in found if under and f"/{under}/" in f"/{file}"]
        return tuple(inside or found)

    def _tails(self, folders: int) -> dict[str, list[str]]:
        """Files by how their paths end, with their suffix and without."""
        if folders not in self._indexes:
            index: dict[str, list[str]] = defaultdict(list)
            for file in self.files:
                tail = _tail(file, folders)
                index[tail].append(file)
                if _without_suffix(tail) != tail:
                    index[_without_suffix(tail)].append(file)
            self._indexes[folders] = dict(index)
        return self._indexes[folders]


def _is_high(name: str) -> bool:
    return name.count("/") <= _DEEPEST


def _tail(path: str, folders: int) -> str:
    # macOS writes an accent as a letter of its own.
    path = unicodedata.normalize("NFC", path)
    return "/".join(path.split("/")[-1 - folders :]).casefold()


def _without_suffix(path: str) -> str:
    """A path without the suffix of an image; what else follows a dot belongs to the name."""
    return path.removesuffix(suffix(path)) if suffix(path) in EXTENSIONS else path


def mark(value: str, where: str) -> int | None:
    """What a table of findings says: 1 yes, 0 no, -1 uncertain; None where it says nothing.

    Raises:
        UserError: it says something else.
    """
    text = value.strip().casefold().replace(",", ".")
    if text in ("", "nan", "none", "null"):
        return None
    if text in ("true", "false"):
        return int(text == "true")
    try:
        number = float(text)
    except ValueError:
        number = math.inf
    if number not in (1, 0, -1):
        raise UserError(f"{where} is {value!r}, which is none of 1, 0, -1 and nothing: correct it")
    return int(number)


def _is_derived(file: str) -> bool:
    """Whether a file lies in a folder of masks, heat maps or the like of other files."""
    return any(_DERIVED.fullmatch(folder) for folder in file.split("/")[:-1])


def entry_of(name: str, files: tuple[str, ...], cells: Mapping[str, str]) -> Entry:
    """What a row says by being there; the rest is to be filled in."""
    return Entry(name, files[0] if files else "", files[1:], cells=cells)


def grouped(rows: Iterable[dict[str, str]], column: str) -> dict[str, list[dict[str, str]]]:
    """Rows by the image they are about, in the table's order."""
    images: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in rows:
        if row.get(column):
            images[row[column]].append(row)
    return images


def latest(tables: Sequence[str]) -> str:
    """Of several versions of a table the last, of several places the outermost."""
    outermost = min(table.count("/") for table in tables)
    return max(table for table in tables if table.count("/") == outermost)


def person(age: str, sex: str) -> dict[str, str]:
    """Age in whole years, of `58`, `058Y` or `018M`, and sex as DICOM writes it."""
    known: dict[str, str] = {}
    if match := re.fullmatch(r"(\d+)(?:\.\d*)?([YMWD]?)", age.strip().upper()):
        known["age"] = str(int(match[1]) // {"M": 12, "W": 52, "D": 365}.get(match[2], 1))
    letter = {"male": "M", "m": "M", "female": "F", "f": "F"}.get(sex.casefold(), "")
    return known | ({"sex": letter} if letter else {})


def labels_of(entries: Iterable[Entry]) -> tuple[str, ...]:
    """All labels that these entries name, sorted."""
    return tuple(
        sorted(
            {
                label
                for entry in entries
                for label in (*entry.findings, *entry.uncertain, *entry.also)
            }
        )
    )
