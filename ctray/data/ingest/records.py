"""What is known of files before any of them is opened."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ctray.data.ingest.tables import Table


@dataclass(frozen=True, slots=True)
class FileRecord:
    """One image file before it is opened.

    Attributes:
        path: what people see: unique, with `/`, relative to its input.
        uri: absolute path, or URI.
        label: its class, empty where unknown.
        group: patient or series, empty where unknown.
        source: where it came from, empty where unknown.
        split: train, val or test where its folder or table says so, else empty.
        mask: absolute path or URI of its mask, empty where there is none.
        meta: further columns of its table, without the empty ones.
        status: `ok`, or the manifest's status of a file that is left out unopened.
        reason: why it is left out; empty where it is not.
    """

    path: str
    uri: str
    label: str = ""
    group: str = ""
    source: str = ""
    split: str = ""
    mask: str = ""
    meta: Mapping[str, str] = field(default_factory=dict)
    status: str = "ok"
    reason: str = ""


@dataclass(frozen=True)
class Claim:
    """A file whose table gives another label than its folder."""

    table: str
    path: str
    folder: str
    row: str


@dataclass(frozen=True)
class FolderContents:
    """What one folder or manifest holds, with the labels as they are written there.

    Attributes:
        files: sorted by path.
        classes: every label that its folders and tables name.
        ignored: files that nothing was made of, sorted.
        synthetic: whether the images were drawn, not taken from patients.
        claims: files on whose label folder and table do not agree to the letter.
        tables: the tables that were read.
        notes: sentences on how it was read.
        unmatched: sentences on rows without a file and files without a row.
        warnings: sentences to print, also those of `unmatched` that no note has.
        hint: where its classes may be instead, a sentence; empty where it has several.
    """

    files: tuple[FileRecord, ...]
    classes: frozenset[str]
    ignored: tuple[str, ...]
    synthetic: bool
    claims: tuple[Claim, ...]
    tables: tuple[Table, ...]
    notes: tuple[str, ...] = ()
    unmatched: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    hint: str = ""
