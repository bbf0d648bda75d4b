"""The columns of a store's tables, each with its name, its type and what it means, said once.

A table is a pandas frame in memory and Parquet on disk. The dataclass of its rows says what its
columns are (docs/decisions/tables.md): a field is a column, and its default is what the column
holds where nothing is known.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

SPLITS = ("train", "val", "test")
# Before the names of a user's own columns: what a table says beside the columns of ours.
META = "meta."
# The status of an image that was not asked for: no fault of anybody's.
OTHER_VIEW = "other view"


@dataclass(frozen=True, kw_only=True)
class ManifestRow:
    """A row of `manifest.parquet`: one record, whether it is usable or was left out.

    Further columns, `meta.…`, hold as text what a user's tables say in columns of their own.

    Attributes:
        id: sha256 (hex) of the decoded pixels; empty where the file could not be decoded.
        path: what people see: unique in the store, with `/`; `#2` ends it for frame 2 of a file.
        uri: where the file is: an absolute path, or a URI.
        label: the class.
        group: what ties records together (patient, series, same picture); never in two splits.
        source: where it came from: hospital, collection.
        split: one of `SPLITS`; empty for what was left out.
        status: `ok`; `conflict`, `duplicate`, `unlabelled`, `other view`, or the fault of an
            `ImageError`, for what was left out.
        reason: why it was left out, a sentence; empty where it was not.
        warning: what is odd about a record that stays.
        width: of the decoded picture, px.
        height: of the decoded picture, px.
        bits: stored bits a sample, 1 to 32.
        format: PNG, JPEG, BMP, TIFF, WEBP or DICOM.
        colour: whether it is visibly coloured.
        bytes: size of the file.
        mean: mean grey level of the decoded picture, 0 to 255.
        std: standard deviation of its grey levels.
        phash: perceptual hash (hex) of 81 bytes.
        patient: as a table or the DICOM file names the patient.
        dicom_patient: as the DICOM file names the patient.
        study: DICOM study UID.
        series: DICOM series UID.
        slice: place in its series from 0; -1 where it is in none.
        modality: CR, DX, CT …
        scanner: manufacturer and model.
        age: of the patient, whole years as text.
        sex: of the patient.
        view: view position: PA, AP, LL …
        mask: whether a mask is stored with it.
        shard: number of the shard with its pixels.
        row: its row in the shard; -1: its pixels are not stored.
    """

    id: str = ""
    path: str = ""
    uri: str = ""
    label: str = ""
    group: str = ""
    source: str = ""
    split: str = ""
    status: str = "ok"
    reason: str = ""
    warning: str = ""
    width: int = 0
    height: int = 0
    bits: int = 0
    format: str = ""
    colour: bool = False
    bytes: int = 0
    mean: float = 0.0
    std: float = 0.0
    phash: str = ""
    patient: str = ""
    dicom_patient: str = ""
    study: str = ""
    series: str = ""
    slice: int = -1
    modality: str = ""
    scanner: str = ""
    age: str = ""
    sex: str = ""
    view: str = ""
    mask: bool = False
    shard: int = -1
    row: int = -1


@dataclass(frozen=True, kw_only=True)
class CandidateRow(ManifestRow):
    """A row of the manifest while a store is made; the columns of its own are not written.

    Attributes:
        given_split: the split its folder or table says.
        earlier: its group in an earlier store.
        earlier_split: its split in an earlier store.
        compared: whether near-duplicates were looked for among it and the others that are marked.
        new: whether its file was read for this version.
    """

    given_split: str = ""
    earlier: str = ""
    earlier_split: str = ""
    compared: bool = False
    new: bool = True


@dataclass(frozen=True)
class DuplicateRow:
    """A row of `duplicates.parquet`: two records that show the same picture.

    Attributes:
        first: path of one record.
        second: path of the other.
        kind: `exact` (the same pixels) or `near`.
        similarity: correlation of the aligned textures, 0 to 1; 1 for the same pixels.
        flipped: whether one is a mirror image of the other.
        conflict: whether their labels differ and both were left out for it.
    """

    first: str
    second: str
    kind: str
    similarity: float
    flipped: bool
    conflict: bool


def column_types(row: type) -> dict[str, type]:
    """{column: str, int, float or bool} of a table with such rows, in the table's order."""
    # `Field.type` is a text where annotations are; those of this module are types.
    return {field.name: field.type for field in fields(row) if isinstance(field.type, type)}


MANIFEST_COLUMNS = tuple(column_types(ManifestRow))


def manifest_columns(*names: str) -> tuple[str, ...]:
    """Some columns of the manifest, for a reader that needs no others.

    Raises:
        ValueError: the manifest has no such column.
    """
    unknown = [name for name in names if name not in MANIFEST_COLUMNS]
    if unknown:
        raise ValueError(f"the manifest has no column {unknown[0]!r}")
    return names


def text_columns(row: type, names: Sequence[str]) -> list[str]:
    """Those of these columns that hold text: also the ones that the row does not know."""
    types = column_types(row)
    return [name for name in names if types.get(name, str) is str]
