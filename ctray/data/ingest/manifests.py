"""Manifests: tables that list files anywhere, with the label of each."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence

from ctray import storage
from ctray.data.ingest.finding import find_images
from ctray.data.ingest.matching import Name, less_strict, lost, match_names, tidied
from ctray.data.ingest.records import FileRecord, FolderContents
from ctray.data.ingest.tables import Table, TableRow, listed, read_table
from ctray.errors import UserError
from ctray.synthetic.marker import SYNTHETIC_MARKER
from ctray.words import counted


def read_manifest(uri: str, columns: Mapping[str, str]) -> FolderContents:
    """The files a manifest lists: columns path, label and any of the others.

    A file that is not there is looked for below the manifest's folder, as a person would. If it is
    nowhere, it stays listed: it is quarantined when it is read.

    Raises:
        UserError: no such column, a file twice, or not one of the files is there.
    """
    table = tidied(read_table(uri, "path", columns))
    if not table.labelled:
        raise UserError(f"{uri} has no column 'label' (has: {listed(table.columns)})")
    folder = storage.folder_of(uri)
    files = [_record(row, folder, storage.resolve(folder, row.path)) for row in table.rows]
    gone = _gone(files, folder)
    said: tuple[list[str], list[str]] = ([], [])
    if gone:
        files, said = _found_otherwise(table, folder, files, gone)
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
        unmatched=tuple(said[0]),
        warnings=(*said[0], *said[1]),
    )


def _record(row: TableRow, folder: str, uri: str) -> FileRecord:
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


def _gone(files: Sequence[FileRecord], folder: str) -> set[int]:
    """Places of the files that are not there; elsewhere than here nobody asks for each."""
    here = [n for n, file in enumerate(files) if "://" not in file.uri]
    gone = {n for n in here if not storage.exists(files[n].uri)}
    below = [n for n, file in enumerate(files) if "://" in file.uri and _is_below(file, folder)]
    if below:
        there = set(_below(folder))
        gone |= {n for n in below if files[n].path not in there}
    return gone


def _is_below(file: FileRecord, folder: str) -> bool:
    return storage.plain(file.uri).startswith(f"{storage.plain(folder)}/")


def _below(folder: str) -> list[str]:
    """The files below a folder; none where it cannot be listed, and nothing can be found there."""
    try:
        return storage.walk(folder).files
    except UserError:
        return []


def _found_otherwise(
    table: Table, folder: str, files: Sequence[FileRecord], gone: set[int]
) -> tuple[list[FileRecord], tuple[list[str], list[str]]]:
    """The files with those found that are called otherwise, and sentences on all that are gone."""
    below = _below(folder)
    images = find_images(folder, below).images
    # What is there keeps its row: its name is the one to the letter.
    kept = {file.path for n, file in enumerate(files) if n not in gone and _is_below(file, folder)}
    names = [
        Name(row.path if n in gone else file.path, tuple(filter(None, (row.label, row.split))))
        for n, (row, file) in enumerate(zip(table.rows, files, strict=True))
    ]
    asked = [n for n in range(len(files)) if n in gone or files[n].path in kept]
    matches = match_names([names[n] for n in asked], images | kept)
    found = list(files)
    for n, path in zip(asked, matches.files, strict=True):
        if n in gone and path is not None:
            found[n] = _record(table.rows[n], folder, storage.join(folder, path))
    name = storage.plain(table.uri).rpartition("/")[2]
    # A manifest may choose among the images of a folder: those without a row are no loss.
    missing = lost(name, dataclasses.replace(matches, unnamed=()))
    said = less_strict(name, matches)
    if matches.unnamed:
        verb = "has" if len(matches.unnamed) == 1 else "have"
        said.append(
            f"{counted(len(matches.unnamed), 'image')} below its folder {verb} no row, "
            f"such as {matches.unnamed[0]!r}"
        )
    return found, (missing, said)
