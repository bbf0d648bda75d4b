"""Everything people have, in one list of files with label, group, source and split.

An input is a folder, a manifest or an earlier store, here or on any filesystem URI. Several are put
together: their classes are renamed to agree, their files are told apart by the input's name.
"""

import dataclasses
import difflib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from urllib.parse import urlsplit

from ctray import storage
from ctray.data.image.picture import ImageError
from ctray.data.ingest.downloads.reading import FOLDERS, Choice, check_choice, read_download
from ctray.data.ingest.folders import MANIFESTS
from ctray.data.ingest.layouts import read_folder
from ctray.data.ingest.manifests import read_manifest
from ctray.data.ingest.matching import tidy
from ctray.data.ingest.records import FileRecord, FolderContents
from ctray.data.ingest.tables import ROLES, listed, suffix
from ctray.data.store import INFO
from ctray.errors import UserError
from ctray.words import printable

_NOTHING: Mapping[str, str] = MappingProxyType({})
_ANY = Choice()
_NAMED = re.compile(r"([^=/\\:]*)=(.*)", re.DOTALL)


@dataclass(frozen=True)
class DataInput:
    """One place to read from.

    Attributes:
        uri: folder, manifest or store: a path or a URI pyarrow can open.
        source: the name of its images' source; empty: their table says it, or nobody.
        mapping: {its class: class in the listing}, for classes that are called otherwise here.
    """

    uri: str
    source: str = ""
    mapping: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class StoreInput:
    """An earlier store among the inputs.

    Attributes:
        root: its folder, absolute.
        prefix: what its paths begin with in this listing; empty for the only input.
        source: replaces the source of its records; empty: they keep theirs.
        mapping: {its class: class in the listing}, one entry a class.
    """

    root: Path
    prefix: str
    source: str
    mapping: Mapping[str, str]


@dataclass(frozen=True)
class Listing:
    """What the inputs hold, before a single image is opened.

    Attributes:
        roots: the inputs, absolute paths or URIs, in their order.
        files: input by input, sorted by path within each; no path twice.
        classes: sorted labels of the files and stores, without the empty one.
        ignored: files that nothing was made of.
        synthetic: whether any input was drawn, not taken from patients.
        stores: the inputs that are stores; none of their records is in `files`.
        notes: sentences on how inputs were read.
        unmatched: sentences on rows of tables without a file and files without a row.
        warnings: sentences to print, also those of `unmatched` that no note has.
        hints: of inputs whose classes may be one folder further down, where that is.
    """

    roots: tuple[str, ...]
    files: tuple[FileRecord, ...]
    classes: tuple[str, ...]
    ignored: tuple[str, ...]
    synthetic: bool
    stores: tuple[StoreInput, ...] = ()
    notes: tuple[str, ...] = ()
    unmatched: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()


def parse_input(text: str) -> DataInput:
    """`NAME=URI` or `URI` to an input; a path with `=` behind its first `/` needs no NAME.

    Raises:
        UserError: an empty name or place.
    """
    named = _NAMED.fullmatch(text)
    source, uri = (named[1].strip(), named[2].strip()) if named else ("", text.strip())
    if not uri or (named and not source):
        raise UserError(
            f"{text!r} is not an input: write FOLDER, or NAME=FOLDER to name its source"
        )
    return DataInput(uri, source)


def list_folder(root: Path) -> Listing:
    """List one folder; see `list_inputs`."""
    return list_inputs([DataInput(str(root))])


def list_inputs(
    inputs: Sequence[DataInput],
    *,
    columns: Mapping[str, str] = _NOTHING,
    classes: Mapping[str, str] = _NOTHING,
    group_regex: str | None = None,
    choice: Choice = _ANY,
) -> Listing:
    """List the images of folders, manifests and stores.

    A folder has one sub-folder a class, with the images at any depth, or in `images` with `masks`
    beside; or those below `train`, `val` and `test`; or any tree whose `metadata.csv` gives a
    `label` a `file`. `metadata.csv`, or one Excel file a class beside its folder (the Kaggle
    COVID-19 Radiography Database), gives groups and sources. A manifest is a .csv, .tsv or .parquet
    with the columns path, label and any of group, split, source and mask. A folder with
    `store.json` is an earlier store. Well-known downloads are recognised by their tables
    (`ctray.data.ingest.downloads`).

    Args:
        inputs: at least one. Of several the paths begin with the source's or folder's name.
        columns: {path, label, group, split, source or mask: what the tables call it}.
        classes: {class: new name}, after each input's own mapping; may merge classes.
        group_regex: searched in the path of a file whose group no table gives: the first
            bracketed part, or the whole match, is its group.
        choice: which labels and views of a well-known download are wanted.

    Groups are not kept apart by input: one patient in two inputs stays one.

    Raises:
        UserError: an input that is not there or holds no images, and any mistake in a table, a
            mapping or the expression.
    """
    if not inputs:
        raise UserError("no input: name a folder, a manifest or a store")
    for role in columns:
        if role not in ROLES:
            raise UserError(f"{role!r} is not a column to map: choose of {listed(ROLES)}")
    check_choice(choice)
    roots = _roots(inputs)
    parts = [
        _list_input(given, root, prefix, columns, classes, choice)
        for given, root, prefix in zip(inputs, roots, _prefixes(inputs, roots), strict=True)
    ]
    _check_columns(columns, [name for part in parts for name in part.columns], roots)
    _check_mapping(classes, {name for part in parts for name in part.mapped})
    listing = Listing(
        roots=roots,
        files=tuple(file for part in parts for file in part.files),
        classes=tuple(sorted({name for part in parts for name in part.classes})),
        ignored=tuple(name for part in parts for name in part.ignored),
        synthetic=any(part.synthetic for part in parts),
        stores=tuple(part.store for part in parts if part.store),
        notes=tuple(note for part in parts for note in part.notes),
        unmatched=tuple(sentence for part in parts for sentence in part.unmatched),
        warnings=tuple(sentence for part in parts for sentence in part.warnings),
        hints=tuple(part.hint for part in parts if part.hint),
    )
    if len(listing.hints) == len(parts) > 1:
        raise UserError(listing.hints[0])
    check_spelling(listing.classes)
    return listing if group_regex is None else _with_groups(listing, group_regex)


def read_bytes(uri: str) -> bytes:
    """The bytes of a listed file.

    Raises:
        ImageError: it cannot be read ("unreadable").
    """
    try:
        return storage.read_bytes(uri)
    except OSError as error:
        reason = f"the file cannot be opened: {storage.cause(error)}"
        raise ImageError("unreadable", reason) from error
    except UserError as error:
        raise ImageError("unreadable", f"the file cannot be opened: {error}") from error


@dataclass(frozen=True)
class _Part:
    """One input, listed; `mapped` are its classes before the mapping of all inputs."""

    mapped: frozenset[str]
    classes: frozenset[str]
    synthetic: bool
    files: tuple[FileRecord, ...] = ()
    ignored: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    store: StoreInput | None = None
    notes: tuple[str, ...] = ()
    unmatched: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    hint: str = ""


def _roots(inputs: Sequence[DataInput]) -> tuple[str, ...]:
    for given in inputs:
        if "://" in given.uri and urlsplit(given.uri).password:
            raise UserError(
                f"the URI of {urlsplit(given.uri).hostname!r} holds a password, which would be "
                "written into the manifest: give credentials by the environment"
            )
    roots = tuple(storage.absolute(given.uri) for given in inputs)
    for place, root in enumerate(roots):
        if root in roots[:place]:
            raise UserError(f"{root} is given twice: name each input once")
    return roots


def _prefixes(inputs: Sequence[DataInput], roots: Sequence[str]) -> list[str]:
    if len(inputs) == 1:
        return [""]
    prefixes: list[str] = []
    for given, root in zip(inputs, roots, strict=True):
        base = given.source or storage.plain(root).rpartition("/")[2]
        name, number = base, 1
        while f"{name}/" in prefixes:
            number += 1
            name = f"{base}-{number}"
        prefixes.append(f"{name}/")
    return prefixes


def _list_input(
    given: DataInput,
    root: str,
    prefix: str,
    columns: Mapping[str, str],
    classes: Mapping[str, str],
    choice: Choice,
) -> _Part:
    if not storage.is_folder(root) or storage.is_file(storage.join(root, INFO)):
        _check_no_choice(given.uri, choice)
    if storage.is_file(root):
        if suffix(root) not in MANIFESTS:
            kinds = listed(sorted(MANIFESTS))
            raise UserError(f"{root} is neither a folder nor a manifest ({kinds})")
        return _list_contents(given, read_manifest(root, columns), prefix, classes)
    if not storage.is_folder(root):
        kind = "file" if suffix(root) in MANIFESTS else "folder"
        raise UserError(f"no such {kind}: {given.uri}")
    if storage.is_file(storage.join(root, INFO)):
        return _list_store(given, root, prefix, classes)
    contents = read_download(root, columns, choice)
    if contents is None:
        _check_no_choice(given.uri, dataclasses.replace(choice, layout=""))
        contents = read_folder(root, columns, sure=choice.layout == FOLDERS)
    return _list_contents(given, contents, prefix, classes)


def _check_no_choice(uri: str, choice: Choice) -> None:
    """Raise UserError where something was asked of an input that is no known download."""
    for name, value in (("layout", choice.layout), ("label", ", ".join(choice.labels))):
        if value:
            raise UserError(
                f"{uri} is no download that is known, of which to choose the {name} {value!r}", name
            )


def _list_store(given: DataInput, root: str, prefix: str, classes: Mapping[str, str]) -> _Part:
    if "://" in root:
        raise UserError(f"the store {given.uri} must be a local folder: copy it here")
    try:
        info = json.loads((Path(root) / INFO).read_text())
        names, synthetic = list(info["classes"]), bool(info["synthetic"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{Path(root) / INFO} is not a store's: prepare it again") from error
    mapped, rename = _renaming(given.mapping, names, classes)
    mapping = {name: rename(name) for name in names}
    return _Part(
        mapped=mapped,
        classes=frozenset(mapping.values()),
        synthetic=synthetic,
        store=StoreInput(Path(root), prefix, given.source, mapping),
    )


def _list_contents(
    given: DataInput, contents: FolderContents, prefix: str, classes: Mapping[str, str]
) -> _Part:
    mapped, rename = _renaming(given.mapping, contents.classes, classes)
    _check_claims(contents, rename)
    files = tuple(
        _placed(file, prefix, rename(file.label), given.source) for file in contents.files
    )
    return _Part(
        mapped=mapped,
        classes=frozenset(file.label for file in files if file.label),
        synthetic=contents.synthetic,
        files=files,
        ignored=tuple(prefix + printable(name) for name in contents.ignored),
        columns=tuple(name for table in contents.tables for name in table.columns),
        notes=tuple(f"{given.uri} is {note}" for note in contents.notes),
        unmatched=tuple(f"{given.uri}: {sentence}" for sentence in contents.unmatched),
        warnings=tuple(f"{given.uri}: {sentence}" for sentence in contents.warnings),
        hint=contents.hint,
    )


def _renaming(
    own: Mapping[str, str], names: Iterable[str], everywhere: Mapping[str, str]
) -> tuple[frozenset[str], Callable[[str], str]]:
    """The classes after the input's own mapping, and the function that applies both."""
    names = frozenset(names)
    _check_mapping(own, names)

    def rename(label: str) -> str:
        label = own.get(label, label)
        return everywhere.get(label, label)

    return frozenset(own.get(name, name) for name in names), rename


def _check_mapping(mapping: Mapping[str, str], names: Iterable[str]) -> None:
    known = sorted(names)
    for old, new in mapping.items():
        if not new:
            raise UserError(f"the mapping {old}= gives class {old!r} no name: write {old}=NEW")
        if old not in known:
            folded = {name.casefold(): name for name in known}
            near = difflib.get_close_matches(old.casefold(), folded, n=1)
            hint = (
                f": did you mean {folded[near[0]]!r}?" if near else f" (there are: {listed(known)})"
            )
            raise UserError(f"the mapping {old}={new} names no class here{hint}")


def _check_claims(contents: FolderContents, rename: Callable[[str], str]) -> None:
    for claim in contents.claims:
        folder, row = rename(claim.folder), rename(claim.row)
        if folder.casefold() != row.casefold():
            raise UserError(
                f"{claim.table} gives {claim.path!r} the class {row!r}, its folder {folder!r}: "
                "correct the row, move the file, or map one class to the other"
            )


def _placed(file: FileRecord, prefix: str, label: str, source: str) -> FileRecord:
    meta = file.meta
    if source and file.source:
        meta = {**meta, "source": file.source}
    return dataclasses.replace(
        file,
        path=prefix + printable(file.path),
        uri=storage.printable_uri(file.uri),
        mask=storage.printable_uri(file.mask),
        label=label,
        source=source or file.source,
        meta=meta,
    )


def _check_columns(columns: Mapping[str, str], known: Sequence[str], roots: Sequence[str]) -> None:
    for role, name in columns.items():
        if name not in known:
            raise UserError(
                f"no table of {listed(roots)} has the column {name!r} for {role} "
                f"(has: {listed(dict.fromkeys(known))})"
            )


def check_spelling(classes: Sequence[str]) -> None:
    """Raise UserError for classes that differ in letter case, spaces or Unicode form only."""
    folded: dict[str, str] = {}
    for name in classes:
        other = folded.setdefault(tidy(name).casefold(), name)
        if other != name:
            alike = other.casefold() == name.casefold()
            how = "letter case" if alike else "spaces or the form of letters"
            raise UserError(
                f"the classes {other!r} and {name!r} differ in {how} only: "
                f"map {other}={name} if they are one"
            )


def _with_groups(listing: Listing, expression: str) -> Listing:
    try:
        pattern = re.compile(expression)
    except re.error as error:
        raise UserError(f"the group expression {expression!r} is not valid: {error}") from error
    found = [pattern.search(file.path) for file in listing.files]
    if listing.files and not any(found):
        raise UserError(
            f"the group expression {expression!r} matches no file, "
            f"such as {listing.files[0].path!r}"
        )
    files = tuple(
        dataclasses.replace(file, group=match[min(pattern.groups, 1)] or "")
        if match and not file.group
        else file
        for file, match in zip(listing.files, found, strict=True)
    )
    return dataclasses.replace(listing, files=files)
