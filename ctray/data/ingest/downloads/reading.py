"""Well-known downloads to files with a class, or with the reason for having none.

What is left out for its view or its findings stays in the list with its reason, and is counted in
the sentence on what was read.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from ctray import storage
from ctray.data.image.dispatch import EXTENSIONS
from ctray.data.ingest.downloads import (
    chexpert,
    cohen,
    covidqu,
    covidx,
    nih,
    radiography,
    rsna,
    vindr,
)
from ctray.data.ingest.downloads.choosing import Fault, class_of, sentence, spelt, view_fault
from ctray.data.ingest.downloads.tree import Download, Entry, Tree
from ctray.data.ingest.finding import find_images
from ctray.data.ingest.layouts import read_folder
from ctray.data.ingest.records import FileRecord, FolderContents
from ctray.data.ingest.tables import Table, listed, repository, suffix
from ctray.errors import UserError
from ctray.synthetic.marker import SYNTHETIC_MARKER
from ctray.words import counted

FOLDERS = "folders"  # the layout of one who wants no download recognised
VIEWS = ("frontal", "all")


@dataclass(frozen=True)
class Choice:
    """What of a download is wanted.

    Attributes:
        layout: name of the download it is; empty: found out; `folders`: none.
        labels: of one, images with it and without it are the classes; of several, each is a class;
            of none, the only finding of an image is its class.
        views: `frontal`, or `all`.
    """

    layout: str = ""
    labels: tuple[str, ...] = ()
    views: str = "frontal"


@dataclass(frozen=True)
class _Known:
    title: str
    signs: str
    recognise: Callable[[Tree], Download | None]


_KNOWN = {
    "nih": _Known("NIH ChestX-ray14", "a table with Image Index and Finding Labels", nih.recognise),
    "rsna": _Known("RSNA Pneumonia", "a table with patientId and Target", rsna.recognise),
    "chexpert": _Known(
        "CheXpert", "a table with Path, Frontal/Lateral and No Finding", chexpert.recognise
    ),
    "covid-chestxray": _Known(
        "covid-chestxray-dataset",
        "a table with patientid, finding, view and filename",
        cohen.recognise,
    ),
    "covidx": _Known(
        "COVIDx", "lists such as train.txt with patient, file and class", covidx.recognise
    ),
    "vindr": _Known("VinDr-CXR", "a table with image_id, rad_id and findings", vindr.recognise),
    "covid-qu-ex": _Known(
        "COVID-QU-Ex", "folders such as Train/COVID-19/lung masks", covidqu.recognise
    ),
}
_RADIOGRAPHY, _RADIOGRAPHY_TITLE = "radiography", "COVID-19 Radiography Database"
LAYOUTS = (*_KNOWN, _RADIOGRAPHY, FOLDERS)


def check_choice(choice: Choice) -> None:
    """Raise UserError for a layout or views that there are not."""
    if choice.layout and choice.layout not in LAYOUTS:
        raise UserError(
            f"there is no layout {choice.layout!r} (there are: {listed(LAYOUTS)})", "layout"
        )
    if choice.views not in VIEWS:
        raise UserError(
            f"there are no views {choice.views!r}: choose {' or '.join(VIEWS)}", "views"
        )


def read_download(root: str, columns: Mapping[str, str], choice: Choice) -> FolderContents | None:
    """The images of a folder that is a well-known download, or None where it is none.

    Args:
        root: absolute path or URI of the folder; the download may lie in a folder within.
        columns: {label, group, split, source or mask: the column to take instead}.
        choice: what of it is wanted.

    Raises:
        UserError: it is not the layout that was asked for, has no label that was asked for, has a
            table that cannot be read, or none of its images.
    """
    if choice.layout == FOLDERS:
        return None
    tree = Tree(root, storage.walk(root)[0])
    for name, known in _KNOWN.items():
        download = known.recognise(tree) if choice.layout in ("", name) else None
        if download is not None:
            reading = _Reading(tree, known.title, download, columns, choice)
            # A table somewhere within class folders may be about other images.
            astray = all("/" in table for table in download.tables)
            if astray and not choice.layout and not choice.labels and not reading.has_files:
                return _folders_beside(reading, download, root, columns, known.title)
            return reading.contents()
        if choice.layout == name:
            raise UserError(f"{root} is not {known.title}: it lacks {known.signs}", "layout")
    base = radiography.base_of(tree)
    if base is None and choice.layout != _RADIOGRAPHY:
        return None
    return _by_folders(root, base or "", columns, choice)


def _folders_beside(
    reading: "_Reading", download: Download, root: str, columns: Mapping[str, str], title: str
) -> FolderContents:
    """The class folders among which a table lies, or the download if there are none."""
    try:
        contents = read_folder(root, columns)
    except UserError:
        return reading.contents()
    tables = listed(download.tables)
    said = f"{tables} is as in {title}, but names none of the images here, and was not read"
    return replace(contents, warnings=(*contents.warnings, said))


def _by_folders(root: str, base: str, columns: Mapping[str, str], choice: Choice) -> FolderContents:
    """The one whose folders say the class, as any folder's do."""
    contents = read_folder(storage.join(root, *base.split("/")) if base else root, columns)
    labels = spelt(choice.labels, sorted(contents.classes))
    place = f"{base}/" if base else ""
    files: list[FileRecord] = []
    counts = Counter[Fault]()
    for file in contents.files:
        file = replace(file, path=place + file.path)
        if labels:
            entry = Entry(file.path, file.path, findings=(file.label,))
            file = _with_class(file, class_of(entry, labels), counts)
        files.append(file)
    patients = "its table" if any(file.group for file in files) else ""
    note = sentence(_RADIOGRAPHY_TITLE, {"label": "the folder", "patient": patients}, labels)
    return replace(
        contents,
        files=tuple(files),
        classes=_classes(files) if labels else contents.classes,
        ignored=tuple(place + name for name in contents.ignored),
        claims=() if labels else contents.claims,
        notes=(*contents.notes, "; ".join([note, *_clauses(counts)])),
    )


class _Reading:
    """One pass over what a download says of its images."""

    def __init__(
        self,
        tree: Tree,
        title: str,
        download: Download,
        columns: Mapping[str, str],
        choice: Choice,
    ) -> None:
        known = {column for header in download.tables.values() for column in header}
        self._columns = {role: column for role, column in columns.items() if column in known}
        self._tree = tree
        self._title = title
        self._download = download
        self._all_views = choice.views == "all"
        self._labels = spelt(choice.labels, download.labels)
        self._records: dict[str, FileRecord] = {}
        self._entries: dict[str, Entry] = {}
        self._counts = Counter[Fault]()
        self._missing: list[str] = []

    @property
    def has_files(self) -> bool:
        """Whether any of its images is here."""
        return any(entry.file for entry in self._download.entries)

    def contents(self) -> FolderContents:
        """The files that are named, those that are not, and the sentences on both."""
        for entry in self._download.entries:
            self._take(self._with_columns(entry))
        if not self._records:
            self._refuse()
        divided = self._divide()
        taken = {*self._records, *self._download.tables, SYNTHETIC_MARKER}
        taken |= {entry.mask for entry in self._download.entries}
        left = [name for name in self._tree.files if name not in taken]
        found = find_images(self._tree.root, [name for name in left if not _is_mask(name)])
        unnamed = sorted(found.images)
        for name, why in found.faults.items():
            tail = " that cannot be read"
            self._leave_out(name, Fault("unreadable", why, noun="file", tail=tail))
        for name in unnamed:
            self._leave_out(name, Fault("unlabelled", "no row of a table names it"))
        files = tuple(self._records[name] for name in sorted(self._records))
        unmatched = self._unmatched(unnamed)
        several = not self._labels and any(fault.is_several for fault in self._counts)
        notes = [
            sentence(self._title, self._roles(), self._labels),
            *self._download.remarks,
            *divided,
            *_clauses(self._counts),
            *unmatched,
            *(["name a label to keep images with several findings"] if several else []),
        ]
        return FolderContents(
            files=files,
            classes=_classes(files),
            ignored=tuple(name for name in left if name not in self._records),
            synthetic=SYNTHETIC_MARKER in self._tree.files,
            claims=(),
            tables=tuple(
                Table(self._tree.uri(name), header, True, ())
                for name, header in self._download.tables.items()
            ),
            notes=("; ".join(notes),),
            unmatched=unmatched,
        )

    def _with_columns(self, entry: Entry) -> Entry:
        """An entry with what the user's own columns say instead."""
        roles = {role: entry.cells.get(column, "") for role, column in self._columns.items()}
        if "label" in roles:
            label = (roles["label"],) if roles["label"] else ()
            entry = replace(entry, findings=label, uncertain=(), also=(), silent=not label)
        return replace(
            entry,
            group=roles.get("group", entry.group),
            split=roles.get("split", entry.split),
            source=repository(roles.get("source", entry.source)),
            mask=roles.get("mask", entry.mask),
        )

    def _take(self, entry: Entry) -> None:
        if not entry.file:
            self._missing.append(entry.name)
            return
        before = self._entries.setdefault(entry.file, entry)
        if entry.file in self._records:
            if (before.findings, before.split) != (entry.findings, entry.split):
                self._leave_out(
                    entry.file,
                    Fault("conflict", "its rows differ", tail=" whose rows differ"),
                )
            return
        fault = None if self._all_views else view_fault(entry.view)
        if entry.part:
            fault = Fault(
                "duplicate", f"it is in {entry.part}, too", tail=f" repeated from {entry.part}"
            )
        meta = {"view": entry.view, **entry.meta} if entry.view else entry.meta
        record = FileRecord(
            path=entry.file,
            uri=self._tree.uri(entry.file),
            group=entry.group,
            source=entry.source,
            split=entry.split,
            mask=self._tree.uri(entry.mask) if entry.mask else "",
            meta=meta,
        )
        chosen = fault or class_of(entry, self._labels)
        self._records[entry.file] = _with_class(record, chosen, self._counts)
        for copy in entry.copies:
            self._leave_out(
                copy,
                Fault(
                    "duplicate",
                    f"it is called like {entry.file}",
                    "further file",
                    " of the same name",
                ),
            )

    def _leave_out(self, name: str, fault: Fault) -> None:
        known = self._records.get(name) or FileRecord(path=name, uri=self._tree.uri(name))
        # What no row names has a clause of its own.
        counts = self._counts if fault.tail else Counter[Fault]()
        self._records[name] = _with_class(known, fault, counts)

    def _divide(self) -> list[str]:
        """Without a test split what is for training is given none: a part of it becomes one."""
        used = {file.split for file in self._records.values() if file.status == "ok"}
        if "train" not in used or "test" in used:
            return []
        for name, file in self._records.items():
            if file.split == "train":
                self._records[name] = replace(file, split="")
        return ["no test split is here, so that train is divided"]

    def _roles(self) -> dict[str, str]:
        own = {("patient" if role == "group" else role): c for role, c in self._columns.items()}
        return {**self._download.roles, **own}

    def _unmatched(self, unnamed: list[str]) -> tuple[str, ...]:
        """Sentences on rows without a file and files without a row."""
        clauses = []
        if self._missing:
            verb = "has" if len(self._missing) == 1 else "have"
            clauses.append(
                f"{counted(len(self._missing), 'image')} of {len(self._download.entries)} "
                f"in the tables {verb} no file here, such as {self._missing[0]!r}"
            )
        if unnamed:
            verb = "is" if len(unnamed) == 1 else "are"
            clauses.append(
                f"{counted(len(unnamed), 'image')} here {verb} in no table and left out, "
                f"such as {unnamed[0]!r}"
            )
        return tuple(clauses)

    def _refuse(self) -> None:
        images = [name for name in self._tree.files if _is_image(name)]
        there = f"the files are called like {images[0]!r}" if images else "there is no image"
        named = f"such as {self._missing[0]!r}" if self._missing else "for they name none"
        raise UserError(
            f"{self._tree.root} is laid out as {self._title}, but has none of the images of its "
            f"tables, {named}: {there}; its folders are taken as classes if you say so",
            "layout",
        )


def _with_class(record: FileRecord, chosen: str | Fault, counts: Counter[Fault]) -> FileRecord:
    """A file with its class, or left out and counted."""
    if isinstance(chosen, str):
        return replace(record, label=chosen)
    counts[chosen.kind] += 1
    return replace(record, label="", status=chosen.status, reason=chosen.reason)


def _clauses(counts: Counter[Fault]) -> list[str]:
    return [fault.count(number) for fault, number in counts.items()]


def _classes(files: tuple[FileRecord, ...] | list[FileRecord]) -> frozenset[str]:
    return frozenset(file.label for file in files if file.label)


def _is_image(name: str) -> bool:
    """An image by name that is no mask."""
    return suffix(name) in EXTENSIONS and not _is_mask(name)


def _is_mask(name: str) -> bool:
    return any("mask" in folder for folder in name.casefold().split("/")[:-1])
