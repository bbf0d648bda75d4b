"""The layouts in which people keep images: what one folder holds.

A folder has one sub-folder a class, or `train`, `val` and `test` with those inside, or any tree
whose `metadata.csv` says the label of each file.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ctray import storage
from ctray.data.image.dispatch import EXTENSIONS
from ctray.data.ingest.finding import IMAGES, MASKS, find_images, image_key, masks_among
from ctray.data.ingest.folders import (
    MANIFESTS,
    METADATA,
    check_folders,
    folder_within,
    table_beside,
)
from ctray.data.ingest.matching import (
    CASE,
    FOLDER,
    SUFFIX,
    Matches,
    Name,
    base_name,
    check_alike,
    less_strict,
    lost,
    match_names,
    tidied,
    tidy,
)
from ctray.data.ingest.records import Claim, FileRecord, FolderContents
from ctray.data.ingest.tables import SPLIT_NAMES, Table, TableRow, read_table, suffix
from ctray.errors import UserError
from ctray.synthetic.marker import SYNTHETIC_MARKER
from ctray.words import counted, printable

_ABOUT = ("readme", "licen", "data_card")  # "licen": the British spell it with a c
# Columns that name the folder of a file; the sheets of the Kaggle layout name the class by theirs.
_FOLDER_COLUMNS = frozenset({"folder", "dir", "directory", "subfolder", "subdir"})
_FREE_IN_SHEETS = (CASE, SUFFIX, FOLDER)


@dataclass(frozen=True)
class _Place:
    """A folder of images: what its name says about them. No label: a table says it."""

    folder: str
    label: str | None
    split: str


def read_folder(root: str, columns: Mapping[str, str], sure: bool = False) -> FolderContents:
    """The images of a folder.

    Args:
        root: absolute path or URI.
        columns: {role: what its tables call it}.
        sure: whether the folders are classes, whatever they are called.

    Raises:
        UserError: no class folder, folders that are no classes, a class without an image, a table
            that names no file here or that gives a file another split than its folder.
    """
    walked = storage.walk(root)
    metadata = None
    if name := _metadata_among(walked.files):
        metadata = tidied(read_table(storage.join(root, name), "file", columns))
    places = _places(root, walked, metadata)
    sheets = {} if metadata else _sheets(root, walked.files, places, columns)
    return _Folder(root, walked, metadata, sheets).contents(places, sure)


def _metadata_among(files: Sequence[str]) -> str:
    """The table of the whole folder, also in other letter case or as another kind of table."""
    stem = METADATA.removesuffix(suffix(METADATA))
    named = [
        name
        for name in files
        if suffix(name) in MANIFESTS and name.casefold() == stem + suffix(name)
    ]
    return METADATA if METADATA in named else min(named, default="")


def _places(root: str, walked: storage.Walked, metadata: Table | None) -> list[_Place]:
    folders = walked.folders
    tops = [folder for folder in folders if "/" not in folder and _may_hold_images(folder)]
    splits = {top: SPLIT_NAMES[top.casefold()] for top in tops if top.casefold() in SPLIT_NAMES}
    # One folder called `test` among others is a class; `train` and `test` are not.
    if len(splits) == 1 < len(tops):
        splits = {}
    below = [folder.split("/") for folder in folders if folder.count("/") == 1] if splits else []
    places = [
        _Place(f"{top}/{name}", tidy(printable(name)), splits[top])
        for top, name in below
        if top in splits and _may_hold_images(name)
    ] or ([] if splits else [_Place(top, tidy(printable(top)), "") for top in tops])
    check_alike({place.folder.rpartition("/")[2] for place in places}, root)
    if metadata and metadata.labelled and not _agree(metadata, places):
        return [_Place(top, None, split) for top, split in splits.items()] or [_Place("", None, "")]
    if not places:
        raise _no_classes(root, walked.files)
    return places


def _no_classes(root: str, files: Sequence[str]) -> UserError:
    """The error for a folder without class folders, with the way to them where one shows."""
    images = [name for name in files if suffix(name) in EXTENSIONS]
    inside = folder_within(images, files)
    if inside:
        return UserError(f"{root} has no class folders: give {storage.join(root, inside)}")
    table = table_beside(root, images, files)
    if table:
        pairs = ", ".join(f"{role}={column}" for role, column in table.columns.items())
        own = table.uri == storage.join(root, METADATA)
        give = "name its columns" if own else "give it as the data, with its columns"
        return UserError(
            f"{root} has no class folders: the table {table.uri} lists these files, {give} {pairs}",
            "column",
        )
    return UserError(
        f"{root} has no class folders: put the images of each class in a sub-folder, or name "
        f"the label of each file in {METADATA} (columns file, label)"
    )


def _may_hold_images(folder: str) -> bool:
    return folder[0] != "_" and folder.casefold() not in (IMAGES, MASKS)


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
        label: tidied(read_table(storage.join(root, name), "FILE NAME", columns))
        for label, name in found.items()
    }


class _Folder:
    """One pass over the files of a folder, place by place."""

    def __init__(
        self, root: str, walked: storage.Walked, metadata: Table | None, sheets: dict[str, Table]
    ) -> None:
        self._root = root
        self._walked = walked
        self._metadata = metadata
        self._sheets = sheets
        found = find_images(root, walked.files)
        masks = masks_among(found.images)
        self._faults = found.faults
        self._images = found.images - masks.keys()
        self._mask_of = {image: mask for mask, image in masks.items()}
        self._set_aside = set(masks)
        self._drawn: set[str] = set()
        self._records: list[FileRecord] = []
        self._claims: list[Claim] = []
        self._lost: list[str] = []
        self._warnings: list[str] = []

    def contents(self, places: Sequence[_Place], sure: bool) -> FolderContents:
        """What the places hold; what no place took is ignored."""
        inside = _distribute(self._walked.files, places)
        chosen = {place: self._choose(place, inside[place.folder]) for place in places}
        images = {
            place.folder: [path for path in paths if path in self._images]
            for place, paths in chosen.items()
        }
        self._check_labels(places, images)
        by_name = places[0].label is not None
        if by_name and not sure:
            self._warnings += check_folders(self._root, images, self._walked.files)
        rows = self._match_rows(images)
        for place, paths in chosen.items():
            for path in paths:
                self._add(place, path, rows.get(path, TableRow(path)))
        tables = [*([self._metadata] if self._metadata else ()), *self._sheets.values()]
        left = self._left(tables)
        self._check_left(left, places)
        self._say_passed()
        labels = {place.label for place in places if place.label}
        return FolderContents(
            files=tuple(sorted(self._records, key=lambda record: record.path)),
            classes=frozenset(labels.union(*(table.labels() for table in tables))),
            ignored=tuple(left),
            synthetic=SYNTHETIC_MARKER in self._walked.files,
            claims=tuple(self._claims),
            tables=tuple(tables),
            unmatched=tuple(self._lost),
            warnings=(*self._lost, *self._warnings),
            hint=self._hint(places) if by_name else "",
        )

    def _choose(self, place: _Place, names: Sequence[str]) -> list[str]:
        """The files of a place that become records, also those at fault."""
        paths: dict[str, list[str]] = {IMAGES: [], "": []}
        for name in names:
            path = f"{place.folder}/{name}" if place.folder else name
            top = name.partition("/")[0].casefold() if "/" in name else ""
            if top == MASKS:
                self._set_aside.add(path)
                if path in self._images:
                    self._mask_of.setdefault(image_key(path, MASKS), path)
            elif path in self._images or path in self._faults:
                paths[top if top == IMAGES else ""].append(path)
        main, beside = paths[IMAGES], paths[""]
        # A table names its files itself; a class folder with `images` should keep them there.
        if not main or place.label is None:
            return main + beside
        return main + self._beside(place.label, main, beside)

    def _beside(self, label: str, main: Sequence[str], beside: Sequence[str]) -> list[str]:
        """Of the files beside `images` those that are not drawings of the images in it."""
        called = set(map(base_name, main))
        images = [path for path in beside if path in self._images]
        drawn = [path for path in images if base_name(path) in called]
        taken = [path for path in images if base_name(path) not in called]
        self._drawn.update(drawn)
        if drawn:
            verb = "is" if len(drawn) == 1 else "are"
            self._lost.append(
                f"{counted(len(drawn), 'image')} of class {label!r} {verb} called like another in "
                f"its folder {IMAGES} and left out as a drawing of it, such as {drawn[0]!r}"
            )
        if taken:
            verbs = ("lies", "is") if len(taken) == 1 else ("lie", "are")
            self._warnings.append(
                f"{counted(len(taken), 'image')} of class {label!r} {verbs[0]} beside its folder "
                f"{IMAGES} and {verbs[1]} taken, such as {taken[0]!r}"
            )
        return [path for path in beside if path not in set(drawn)]

    def _match_rows(self, images: Mapping[str, Sequence[str]]) -> dict[str, TableRow]:
        """The row of each image that has one."""
        if self._metadata:
            return self._rows_of(self._metadata, [path for one in images.values() for path in one])
        rows: dict[str, TableRow] = {}
        for folder, sheet in self._sheets.items():
            rows |= self._rows_of(sheet, images[folder], _FREE_IN_SHEETS)
        return rows

    def _rows_of(
        self, table: Table, paths: Sequence[str], free: Sequence[str] = ()
    ) -> dict[str, TableRow]:
        name = storage.plain(table.uri).rpartition("/")[2]
        # A table of the whole folder may also name what lies elsewhere in it.
        there = self._images.union(paths) if table is self._metadata else paths
        matches = match_names([_named(row) for row in table.rows], there, free)
        own = set(paths)
        matches = replace(matches, unnamed=tuple(path for path in matches.unnamed if path in own))
        found: dict[str, TableRow] = {}
        for row, path in zip(table.rows, matches.files, strict=True):
            if path is not None and found.setdefault(path, row) != row:
                raise UserError(f"{table.uri} names {row.path!r} twice, differently: keep one row")
        if table.rows and own.isdisjoint(found):
            self._refuse(table, matches, min(paths))
        self._lost += lost(name, matches)
        gone = table.labels() - {row.label for row in found.values()}
        self._lost += [f"class {label!r} of {name} has no file here" for label in sorted(gone)]
        self._warnings += less_strict(name, matches)
        return found

    def _refuse(self, table: Table, matches: Matches, path: str) -> None:
        # Patients that match no file would straddle the splits without a word.
        if matches.ambiguous:
            raise UserError(lost(table.uri, replace(matches, missing=(), unnamed=()))[0])
        raise UserError(
            f"{table.uri} names no file here: it has {table.rows[0].path!r}, "
            f"the files are called like {path!r}"
        )

    def _add(self, place: _Place, path: str, row: TableRow) -> None:
        if place.label is not None and row.label not in ("", place.label):
            self._claims.append(Claim(self._table_of(place), path, place.label, row.label))
        if place.split and row.split not in ("", place.split):
            raise UserError(
                f"{self._table_of(place)} puts {path!r} into {row.split!r}, its folder says "
                f"{place.split!r}: correct one of them"
            )
        fault = self._faults.get(path, "")
        self._records.append(
            FileRecord(
                path=path,
                uri=storage.join(self._root, path),
                label=row.label if place.label is None else place.label,
                group=row.group,
                source=row.source,
                split=place.split or row.split,
                mask=self._mask(path, row),
                meta=row.meta,
                status="unreadable" if fault else "ok",
                reason=fault,
            )
        )

    def _mask(self, path: str, row: TableRow) -> str:
        if row.mask:
            return storage.resolve(self._root, row.mask)
        mask = self._mask_of.get(image_key(path), "")
        return storage.join(self._root, mask) if mask else ""

    def _table_of(self, place: _Place) -> str:
        table = self._metadata or self._sheets[place.folder]
        return table.uri

    def _check_labels(self, places: Sequence[_Place], images: Mapping[str, Sequence[str]]) -> None:
        seen = {place.label for place in places if images[place.folder]}
        for place in places:
            if place.label is not None and place.label not in seen:
                where = storage.join(self._root, place.folder)
                inside = folder_within(sorted(self._images), self._walked.files)
                fix = ""
                if inside and not place.split:
                    fix = f": give {storage.join(self._root, inside)} if the classes are in it"
                raise UserError(f"class {place.label!r} has no image file in {where}{fix}")
        if not seen:
            raise UserError(f"{self._root} has no image file")

    def _hint(self, places: Sequence[_Place]) -> str:
        """The way to the classes where all images are of one."""
        first = min(place.folder for place in places)
        around = first.rpartition("/")[0]
        inside = folder_within(sorted(self._images), self._walked.files, around)
        if len({place.label for place in places}) > 1 or inside is None:
            return ""
        where = storage.join(self._root, inside)
        if around:
            return f"{self._root} has one class folder, {first!r}: move what is in {where} to it"
        return f"{self._root} has one class folder, {first!r}: give {where}, which has more"

    def _left(self, tables: Sequence[Table]) -> list[str]:
        """The files that nothing was made of, but for masks and what is about the data."""
        taken = {record.path for record in self._records} | self._set_aside
        taken |= {storage.plain(table.uri).rpartition("/")[2] for table in tables}
        return [name for name in self._walked.files if name not in taken and not _is_about(name)]

    def _check_left(self, left: Sequence[str], places: Sequence[_Place]) -> None:
        images = [name for name in left if name in self._images - self._drawn]
        dangling = [name for name in left if name in self._faults and "/" not in name]
        links = [name for name in dangling if not storage.exists(storage.join(self._root, name))]
        if links:
            # It may have been a whole class, on a drive that is not connected.
            self._lost.append(
                f"{counted(len(links), 'link')} beside the class folders "
                f"{'leads' if len(links) == 1 else 'lead'} nowhere, such as {links[0]!r}: "
                f"{self._faults[links[0]]}"
            )
        if any(place.split for place in places):
            for name in images:
                folder = name.rpartition("/")[0]
                if folder.casefold() in SPLIT_NAMES:
                    raise UserError(
                        f"{storage.join(self._root, folder)} has images outside class folders, "
                        f"such as {name!r}: put the images of each class in a sub-folder"
                    )
        if images:
            verbs = ("lies", "is") if len(images) == 1 else ("lie", "are")
            self._lost.append(
                f"{counted(len(images), 'image')} {verbs[0]} outside the class folders and "
                f"{verbs[1]} left out, such as {images[0]!r}"
            )

    def _say_passed(self) -> None:
        counts = Counter(why for _, why in self._walked.passed)
        for why, number in counts.items():
            first = next(path for path, reason in self._walked.passed if reason == why)
            said, verb = ("1 entry", "was") if number == 1 else (f"{number} entries", "were")
            self._warnings.append(
                f"{said} {verb} passed over, such as '{printable(first)}', which {why}"
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


def _is_about(name: str) -> bool:
    return "/" not in name and (name == SYNTHETIC_MARKER or name.casefold().startswith(_ABOUT))


def _named(row: TableRow) -> Name:
    folders = (text for name, text in row.meta.items() if name.casefold() in _FOLDER_COLUMNS)
    return Name(row.path, tuple(filter(None, (row.label, row.split, *folders))))
