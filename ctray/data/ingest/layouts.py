"""The layouts in which people keep images: what one folder or one manifest holds.

A folder has one sub-folder a class, or `train`, `val` and `test` with those inside, or any tree
whose `metadata.csv` says the label of each file. A manifest is a table that lists files anywhere.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from ctray import storage
from ctray.data.image.dispatch import EXTENSIONS
from ctray.data.ingest.tables import SPLIT_NAMES, Table, TableRow, listed, read_table, suffix
from ctray.errors import UserError
from ctray.synthetic.marker import SYNTHETIC_MARKER

METADATA = "metadata.csv"
MANIFESTS = frozenset({".csv", ".tsv", ".parquet"})
_IMAGES, _MASKS = "images", "masks"
_ABOUT = ("readme", "licen", "data_card")  # "licen": the British spell it with a c
_DICOM_MAGIC = slice(128, 132)  # DICOM PS3.10, 7.1


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
        ignored: files that are not images by name, sorted.
        synthetic: whether the images were drawn, not taken from patients.
        claims: files on whose label folder and table do not agree to the letter.
        tables: the tables that were read.
        notes: sentences on how it was read.
        unmatched: sentences on rows without a file and files without a row.
    """

    files: tuple[FileRecord, ...]
    classes: frozenset[str]
    ignored: tuple[str, ...]
    synthetic: bool
    claims: tuple[Claim, ...]
    tables: tuple[Table, ...]
    notes: tuple[str, ...] = ()
    unmatched: tuple[str, ...] = ()


def read_manifest(uri: str, columns: Mapping[str, str]) -> FolderContents:
    """The files a .csv, .tsv or .parquet manifest lists: columns path, label and any of the others.

    A file that is not there stays listed: it is quarantined when it is read.

    Raises:
        UserError: no such column, a file twice, or not one of the files is there.
    """
    table = read_table(uri, "path", columns)
    if not table.labelled:
        raise UserError(f"{uri} has no column 'label' (has: {listed(table.columns)})")
    folder = storage.folder_of(uri)
    files = [_manifest_record(row, folder) for row in table.rows]
    twice = [path for path, times in Counter(file.path for file in files).items() if times > 1]
    if twice:
        raise UserError(f"{uri} lists {twice[0]!r} twice: keep one row a file")
    if not storage.any_exists(file.uri for file in files):
        first = f"such as {files[0].uri}" if files else "it has no rows"
        raise UserError(f"{uri} lists no file that is there, {first}")
    return FolderContents(
        files=tuple(sorted(files, key=lambda file: file.path)),
        classes=frozenset(table.labels()),
        ignored=(),
        synthetic=storage.exists(storage.join(folder, SYNTHETIC_MARKER)),
        claims=(),
        tables=(table,),
    )


def _manifest_record(row: TableRow, folder: str) -> FileRecord:
    uri = storage.resolve(folder, row.path)
    return FileRecord(
        path=storage.plain(uri).removeprefix(f"{storage.plain(folder)}/").lstrip("/"),
        uri=uri,
        label=row.label,
        group=row.group,
        source=row.source,
        split=row.split,
        mask=storage.resolve(folder, row.mask) if row.mask else "",
        meta=row.meta,
    )


@dataclass(frozen=True)
class _Place:
    """A folder of images: what its name says about them. No label: a table says it."""

    folder: str
    label: str | None
    split: str


def read_folder(root: str, columns: Mapping[str, str]) -> FolderContents:
    """The images of a folder.

    Raises:
        UserError: no class folder, a class without an image, a table that names no file here or
            that gives a file another split than its folder.
    """
    files, folders, _ = storage.walk(root)
    metadata = None
    if METADATA in files:
        metadata = read_table(storage.join(root, METADATA), "file", columns)
    places = _places(root, folders, metadata)
    sheets = {} if metadata else _sheets(root, files, places, columns)
    return _Folder(root, files, metadata, sheets).contents(places)


def _places(root: str, folders: Sequence[str], metadata: Table | None) -> list[_Place]:
    tops = [folder for folder in folders if "/" not in folder and _may_hold_images(folder)]
    splits = {top: SPLIT_NAMES[top.casefold()] for top in tops if top.casefold() in SPLIT_NAMES}
    # One folder called `test` among others is a class; `train` and `test` are not.
    if len(splits) == 1 < len(tops):
        splits = {}
    below = [folder.split("/") for folder in folders if folder.count("/") == 1] if splits else []
    places = [
        _Place(f"{top}/{name}", name, splits[top])
        for top, name in below
        if top in splits and _may_hold_images(name)
    ] or ([] if splits else [_Place(top, top, "") for top in tops])
    if metadata and metadata.labelled and not _agree(metadata, places):
        return [_Place(top, None, split) for top, split in splits.items()] or [_Place("", None, "")]
    if not places:
        raise UserError(
            f"{root} has no class folders: put the images of each class in a sub-folder, or name "
            f"the label of each file in {METADATA} (columns file, label)"
        )
    return places


def _may_hold_images(folder: str) -> bool:
    return folder[0] != "_" and folder.casefold() not in (_IMAGES, _MASKS)


def _agree(metadata: Table, places: Iterable[_Place]) -> bool:
    """Whether the table and the folders speak of the same classes."""
    named = {label.casefold() for label in metadata.labels()}
    folders = {place.label.casefold() for place in places if place.label}
    return bool(named & folders) or (not named and bool(folders))


def _sheets(
    root: str, files: Sequence[str], places: Iterable[_Place], columns: Mapping[str, str]
) -> dict[str, Table]:
    """The Excel table of each class that has one: a file beside the folder, named like it."""
    labels = sorted((place.folder for place in places), key=len, reverse=True)
    found: dict[str, str] = {}
    for name in files:
        if "/" in name or suffix(name) != ".xlsx":
            continue
        label = next((each for each in labels if name.casefold().startswith(each.casefold())), None)
        if label is None:
            continue
        if label in found:
            raise UserError(f"{root} has two tables of class {label!r}: {found[label]} and {name}")
        found[label] = name
    return {
        label: read_table(storage.join(root, name), "FILE NAME", columns)
        for label, name in found.items()
    }


class _Folder:
    """One pass over the files of a folder, place by place."""

    def __init__(
        self, root: str, files: Sequence[str], metadata: Table | None, sheets: dict[str, Table]
    ) -> None:
        self._root = root
        self._files = files
        self._metadata = metadata
        self._rows = _by_path(metadata) if metadata else {}
        self._sheets = sheets
        self._images = _image_files(root, files)
        self._records: list[FileRecord] = []
        self._claims: list[Claim] = []
        self._masks: set[str] = set()

    def contents(self, places: Sequence[_Place]) -> FolderContents:
        """What the places hold; what no place took is ignored."""
        inside = _distribute(self._files, places)
        for place in places:
            self._take(place, inside[place.folder])
        self._check_labels(places)
        self._check_metadata()
        tables = [*([self._metadata] if self._metadata else ()), *self._sheets.values()]
        taken = {record.path for record in self._records} | self._masks
        taken |= {storage.plain(table.uri).rpartition("/")[2] for table in tables}
        left = [name for name in self._files if name not in taken and not _is_about(name)]
        self._check_left(left, places)
        labels = {place.label for place in places if place.label}
        return FolderContents(
            files=tuple(sorted(self._records, key=lambda record: record.path)),
            classes=frozenset(labels.union(*(table.labels() for table in tables))),
            ignored=tuple(left),
            synthetic=SYNTHETIC_MARKER in self._files,
            claims=tuple(self._claims),
            tables=tuple(tables),
        )

    def _take(self, place: _Place, names: Sequence[str]) -> None:
        tops = {name.partition("/")[0].casefold() for name in names if "/" in name}
        # A table names its files itself; a class folder with `images` keeps all of them there.
        only_images = _IMAGES in tops and place.label is not None
        masks: dict[str, str] = {}
        chosen: list[tuple[str, str]] = []
        for name in names:
            path = f"{place.folder}/{name}" if place.folder else name
            top, _, rest = name.partition("/")
            top = top.casefold() if rest else ""
            if top == _MASKS:
                self._masks.add(path)
                if path in self._images:
                    masks[_stem(rest)] = path
            elif path in self._images and (top == _IMAGES or not only_images):
                chosen.append((path, _stem(rest if top == _IMAGES else name)))
        rows = self._rows_of(place)
        for path, stem in chosen:
            row = rows.get(path if self._metadata else _key(path))
            self._add(place, path, masks.get(stem, ""), row)

    def _rows_of(self, place: _Place) -> Mapping[str, TableRow]:
        sheet = self._sheets.get(place.folder)
        return self._rows if sheet is None else {_key(row.path): row for row in sheet.rows}

    def _add(self, place: _Place, path: str, mask: str, row: TableRow | None) -> None:
        row = row or TableRow(path)
        if place.label is not None and row.label not in ("", place.label):
            self._claims.append(Claim(self._table_of(place), path, place.label, row.label))
        if place.split and row.split not in ("", place.split):
            raise UserError(
                f"{self._table_of(place)} puts {path!r} into {row.split!r}, its folder says "
                f"{place.split!r}: correct one of them"
            )
        self._records.append(
            FileRecord(
                path=path,
                uri=storage.join(self._root, path),
                label=row.label if place.label is None else place.label,
                group=row.group,
                source=row.source,
                split=place.split or row.split,
                mask=self._mask(mask, row),
                meta=row.meta,
            )
        )

    def _mask(self, found: str, row: TableRow) -> str:
        if row.mask:
            return storage.resolve(self._root, row.mask)
        return storage.join(self._root, found) if found else ""

    def _table_of(self, place: _Place) -> str:
        table = self._metadata or self._sheets[place.folder]
        return table.uri

    def _check_labels(self, places: Sequence[_Place]) -> None:
        seen = {record.label for record in self._records}
        for place in places:
            if place.label is not None and place.label not in seen:
                where = storage.join(self._root, place.folder)
                raise UserError(f"class {place.label!r} has no image file in {where}")
        if not self._records:
            raise UserError(f"{self._root} has no image file")

    def _check_metadata(self) -> None:
        # Patients that match no file would straddle the splits without a word.
        paths = {record.path for record in self._records}
        if self._metadata and self._rows and paths.isdisjoint(self._rows):
            self._refuse(self._metadata, min(paths))
        for label, sheet in self._sheets.items():
            own = [path for path in paths if path.startswith(f"{label}/")]
            named = {_key(row.path) for row in sheet.rows}
            if named and named.isdisjoint(map(_key, own)):
                self._refuse(sheet, min(own))

    def _refuse(self, table: Table, path: str) -> None:
        raise UserError(
            f"{table.uri} names no file here: it has {table.rows[0].path!r}, "
            f"the files are called like {path!r}"
        )

    def _check_left(self, left: Sequence[str], places: Sequence[_Place]) -> None:
        if not any(place.split for place in places):
            return
        for name in left:
            if name in self._images and name.rpartition("/")[0].casefold() in SPLIT_NAMES:
                where = storage.join(self._root, name.rpartition("/")[0])
                raise UserError(
                    f"{where} has images outside class folders, such as {name!r}: "
                    "put the images of each class in a sub-folder"
                )


def _distribute(files: Iterable[str], places: Iterable[_Place]) -> dict[str, list[str]]:
    """The files of each place, relative to it."""
    inside: dict[str, list[str]] = {place.folder: [] for place in places}
    depth = max(place.folder.count("/") + bool(place.folder) for place in places)
    for name in files:
        parts = name.split("/", depth) if depth else [name]
        folder = "/".join(parts[:depth]) if depth else ""
        if len(parts) == depth + 1 and folder in inside:
            inside[folder].append(parts[depth])
    return inside


def _image_files(root: str, files: Sequence[str]) -> frozenset[str]:
    """The files that are images by name, or DICOM by their first bytes where the name is silent."""
    silent = [name for name in files if _says_nothing(name)]
    starts = storage.read_starts((storage.join(root, name) for name in silent), _DICOM_MAGIC.stop)
    dicom = {
        name for name, start in zip(silent, starts, strict=True) if start[_DICOM_MAGIC] == b"DICM"
    }
    return frozenset(dicom.union(name for name in files if suffix(name) in EXTENSIONS))


def _says_nothing(name: str) -> bool:
    """No suffix, or the last number of a UID; a DICOMDIR is an index, not an image."""
    base = PurePosixPath(name)
    return base.suffix[1:].isdigit() or (not base.suffix and base.name.upper() != "DICOMDIR")


def _is_about(name: str) -> bool:
    return "/" not in name and (name == SYNTHETIC_MARKER or name.casefold().startswith(_ABOUT))


def _by_path(table: Table) -> dict[str, TableRow]:
    rows: dict[str, TableRow] = {}
    for row in table.rows:
        if rows.setdefault(row.path, row) != row:
            raise UserError(f"{table.uri} names {row.path!r} twice, differently: keep one row")
    return rows


def _stem(path: str) -> str:
    """A path without the suffix of its file."""
    return path.removesuffix(PurePosixPath(path).suffix)


def _key(path: str) -> str:
    """The file name by which an Excel table knows an image: no folder, no suffix, no case."""
    name = path.rpartition("/")[2]
    return (_stem(name) if suffix(name) in EXTENSIONS else name).casefold()
