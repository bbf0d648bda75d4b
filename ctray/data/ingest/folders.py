"""Folders that are not classes: parts of a download, patients, copies of a data set.

A classifier of them would learn which archive an image was packed in. What tells them apart from
classes is their names, what lies in them, and a table beside them that lists their files.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ctray import storage
from ctray.data.ingest.finding import IMAGES, MASKS
from ctray.data.ingest.matching import base_name
from ctray.data.ingest.tables import SPLIT_NAMES, listed, read_cells, suffix
from ctray.errors import UserError

METADATA = "metadata.csv"
MANIFESTS = frozenset({".csv", ".tsv", ".parquet", ".xlsx"})
_MOST_TABLES = 12  # beside the folders; some sets have a text file an image
_SAID = 3
_PART = re.compile(
    r"(?:(?:train|test|val)[ _.-]*)?(?:images?|imgs?|pictures?|pics?|photos?|png|jpe?g|dicoms?|dcm"
    r"|data|datasets?|parts?|batch|batches|chunk|archive|folder|new folder|export|download|dis[ck]"
    r"|cd|dvd|vol|volume|files?|subset|shard|bucket|zip|raw)s?"
    r"[ _.()-]*(?:\d+|copy|[a-z])?[ _.()-]*",
    re.IGNORECASE,
)
_PERSON = re.compile(
    r"(?:patient|pat|pt|subject|subj|case|person|participant|volunteer|mrn|anon|anonymous|accession"
    r"|exam|study|series|visit|session)s?[ _.#-]*\d+.*|\d+(?:\.\d+){3,}|\d{5,}"
    r"|\d{4}[-_.]\d{2}[-_.]\d{2}.*|[0-9a-f]{16,}|[0-9a-f]{8}-[0-9a-f-]{27}",
    re.IGNORECASE,
)
# Shorter names may be of classes: stages, sub-types.
_PERSON_IF_MANY = re.compile(r"(?:sub|p|s|id|case|no|nr)[ _.#-]*\d+", re.IGNORECASE)
# Stages of tumours and kinds of cells are classes, whatever else their names look like.
_CLASS = re.compile(r"[cp]?T[0-4][a-d]?|CD\d+", re.IGNORECASE)
_MANY, _FEW_IMAGES = 20, 5
_COMPARED = 8  # files of the same name in two folders
_COPY = re.compile(
    r"(?:[ _.-]*(?:copy|kopie|copia|copie|old|backup|v?\d+|\(\d+\)))+$", re.IGNORECASE
)
_LABEL = re.compile(
    r"(?:image[ _]?)?(?:labels?|class(?:es)?|findings?|diagnos[ie]s|disease|target|dx|pathology)"
    r"(?:[ _](?:labels?|class(?:es)?|name))?",
    re.IGNORECASE,
)
_LABEL_LIKE = re.compile("label|class|finding|diagnos|target|disease|patholog|condition|category")
_PATIENT_LIKE = re.compile("patient|subject|person|case")
# A part of a word counts for those only that are in no word for a class: age is in stage.
_DESCRIBING = re.compile(
    r"(?<![a-z])(?:ages?|sex|ap/pa|url)(?![a-z])|gender|view|frontal|lateral|position|width|height"
    r"|split|date|file|path"
)
# By which columns the tables of downloads are known, that are read with the folder they lie in.
_OF_DOWNLOADS = (
    frozenset({"Path", "Frontal/Lateral", "No Finding"}),
    frozenset({"Image Index", "Finding Labels", "Patient ID"}),
)
_MOST_LABELS = 30


@dataclass(frozen=True)
class TableBeside:
    """A table that lists the images of a folder.

    Attributes:
        uri: where it is.
        columns: {path, label or group: its column}, those that were found.
        labels: {image: its label} of the images it lists.
        certain: whether the label's column is called so.
        of_download: whether a well-known download is read by it.
    """

    uri: str
    columns: Mapping[str, str]
    labels: Mapping[str, str]
    certain: bool
    of_download: bool


def check_folders(
    root: str, images: Mapping[str, Sequence[str]], files: Sequence[str]
) -> list[str]:
    """Refuse folders that are no classes.

    Args:
        root: absolute path or URI.
        images: {folder that would be a class: its images}, all relative to the root.
        files: all files below the root.

    Returns:
        Sentences on what may be amiss.

    Raises:
        UserError: the folders are parts, patients or copies, or a table that lists their files
            gives labels that do not go with the folders.
    """
    names = {folder: folder.rpartition("/")[2] for folder in images}
    warnings = _check_copies(root, images) if len(images) > 1 else []
    why = _why_no_classes(images, names)
    table = table_beside(root, [name for found in images.values() for name in found], files)
    if why:
        raise UserError(_with_fix(root, f"{_some(names.values())} {why}", table), *_fixes(table))
    # A table of the folder around may be of something else.
    within = table is not None and storage.folder_of(table.uri) == root
    if (
        table
        and within
        and table.certain
        and len(images) > 1
        and (_contradicts(table, images, names))
    ):
        shown = f"{_some(names.values())} do not go with the labels"
        raise UserError(_with_fix(root, shown, table), *_fixes(table))
    return warnings


def folder_within(images: Sequence[str], files: Sequence[str], start: str = "") -> str | None:
    """The folder further down whose folders look like classes; None where there is none.

    Args:
        images: all images, relative to the root.
        files: all files.
        start: the folder to begin with.
    """
    place = f"{start}/" if start else ""
    while True:
        below = {name[len(place) :] for name in images if name.startswith(place)}
        tops = {name.partition("/")[0] for name in below if "/" in name}
        if place.rstrip("/") != start:
            if place + METADATA in files or any(top.casefold() in SPLIT_NAMES for top in tops):
                return place.rstrip("/")
            may = {top for top in tops if top.casefold() not in (IMAGES, MASKS)}
            if len(may) > 1:
                return None if _are_all(_PERSON, may) else place.rstrip("/")
        if len(tops) != 1:
            return None
        place += f"{min(tops)}/"


def table_beside(root: str, images: Sequence[str], files: Sequence[str]) -> TableBeside | None:
    """The table of the root, or of the folder around it, that lists at least half of the images."""
    beside = [name for name in files if "/" not in name and suffix(name) in MANIFESTS]
    places = [storage.join(root, name) for name in beside[:_MOST_TABLES]]
    found = [table for place in places if (table := _listing_table(place, images))]
    if not found:
        around = storage.folder_of(root)
        try:
            names = [name for name in storage.files(around) if suffix(name) in MANIFESTS]
        except OSError:  # not ours to read, and none of ours lies there
            names = []
        places = [storage.join(around, name) for name in names[:_MOST_TABLES]]
        found = [table for place in places if (table := _listing_table(place, images))]
    return max(found, key=lambda table: (table.certain, len(table.columns)), default=None)


# ── what the names and the folders within say ────────────────────────────────────────────────────


def _why_no_classes(images: Mapping[str, Sequence[str]], names: Mapping[str, str]) -> str:
    plain = set(names.values())
    if len(plain) < 2 or _are_all(_CLASS, plain):
        return ""
    if _are_most(_PART, plain):
        return "are named as parts of a download, not as classes"
    few = sum(map(len, images.values())) < _FEW_IMAGES * len(plain)
    if _are_most(_PERSON, plain) or (_are_all(_PERSON_IF_MANY, plain) and len(plain) > _FEW_IMAGES):
        return "are named as patients or studies, not as classes"
    if len(plain) >= _MANY and few:
        return f"are {len(plain)} folders of fewer than {_FEW_IMAGES} images each, not classes"
    return ""


def _are_all(pattern: re.Pattern[str], names: set[str]) -> bool:
    return all(pattern.fullmatch(name.strip()) for name in names)


def _are_most(pattern: re.Pattern[str], names: set[str]) -> bool:
    """Whether all are, or two and more with a number, and at most every third is a stray one."""
    if _are_all(pattern, names):
        return True
    numbered = {name for name in names if re.search(r"\d", name) and not _CLASS.fullmatch(name)}
    alike = sum(bool(pattern.fullmatch(name.strip())) for name in numbered)
    return alike > 1 and 3 * alike >= 2 * len(names)


def _check_stray(
    root: str, images: Mapping[str, Sequence[str]], within: Mapping[str, set[str]]
) -> list[str]:
    """Refuse the one folder that holds the classes beside folders that hold images only."""
    deep = [folder for folder, below in within.items() if below]
    if len(deep) != 1 or len(within[deep[0]]) < 2 or _are_all(_PERSON, within[deep[0]]):
        return []
    folder = deep[0]
    if not all("/" in name.removeprefix(f"{folder}/") for name in images[folder]):
        return []
    others, these = _some(within.keys() - {folder}), _some(within[folder])
    there = storage.join(root, *folder.split("/"))
    name = folder.rpartition("/")[2]
    if name.casefold() in SPLIT_NAMES or _PART.fullmatch(name):
        raise UserError(
            f"the folder {folder!r} of {root} holds {these}, which look like the classes, and "
            f"{others} beside it holds images only: give {there}",
            "layout",
        )
    return [f"the folder {folder!r} holds {these}: if those are the classes, give {there}"]


def _check_copies(root: str, images: Mapping[str, Sequence[str]]) -> list[str]:
    """Refuse copies of one data set; warn where the classes may be one folder further down."""
    within = {folder: _folders_in(folder, found) for folder, found in images.items()}
    names = {folder.rpartition("/")[2].casefold(): folder for folder in images}
    for folder, below in within.items():
        shared = sorted(name for name in below if name.casefold() in names.keys() - {folder})
        if len(shared) > 1:
            raise UserError(
                f"the folder {folder!r} of {root} holds folders called like the classes beside it, "
                f"{_some(shared)}: move it elsewhere, or give it as another input"
            )
    if stray := _check_stray(root, images, within):
        return stray
    common = sorted(set.intersection(*within.values()))
    if len(common) < 2 or _are_all(_PERSON, {*common}):
        return []
    those, these = _some(images), _some(common)
    if all(name.casefold() in SPLIT_NAMES for name in common):
        return [f"the folders {those} each hold {these}, and are divided anew without regard to it"]
    if _are_alike(names.keys()) or _are_all(_PART, {*names}) or _hold_the_same(root, images):
        raise UserError(
            f"the folders {those} of {root} each hold {these}, which are the classes: give "
            f"{storage.join(root, min(images))}, or each of them as an input of its own",
            "layout",
        )
    return [
        f"the folders {those} each hold {these}: if those are the classes, give "
        f"each of {those} as an input of its own"
    ]


def _folders_in(folder: str, images: Sequence[str]) -> set[str]:
    """The folders in a folder, or those further down if it holds one folder or splits only."""
    below = [name.removeprefix(f"{folder}/") for name in images]
    first = tops = _tops(below)
    while tops and all("/" in name for name in below):
        if len(tops) > 1 and not all(top.casefold() in SPLIT_NAMES for top in tops):
            return first if _are_all(_PERSON, tops) else tops
        below = [name.partition("/")[2] for name in below if name.partition("/")[0] in tops]
        tops = _tops(below)
    return first


def _tops(names: Sequence[str]) -> set[str]:
    tops = {name.partition("/")[0] for name in names if "/" in name}
    return {top for top in tops if top.casefold() not in (IMAGES, MASKS)}


def _are_alike(names: Collection[str]) -> bool:
    """Whether they are `x`, `x2`, `x (1)`, `x copy` …; stages 1 and 2 may be classes."""
    stems = {_COPY.sub("", name) for name in names}
    return len(stems) == 1 and (min(stems) in names or any("cop" in name for name in names))


def _hold_the_same(root: str, images: Mapping[str, Sequence[str]]) -> bool:
    """Whether half of the files of the smallest are in all, byte by byte as far as is looked."""
    paths = [
        {name.removeprefix(f"{folder}/") for name in found} for folder, found in images.items()
    ]
    common = sorted(set.intersection(*paths))
    if not common or 2 * len(common) < min(map(len, paths)):
        return False
    one, other = sorted(images)[:2]

    def data(folder: str, name: str) -> bytes:
        return storage.read_bytes(storage.join(root, *folder.split("/"), *name.split("/")))

    try:
        return all(data(one, name) == data(other, name) for name in common[:_COMPARED])
    except OSError:  # the file has its own reason later
        return False


# ── what a table says ────────────────────────────────────────────────────────────────────────────


def _listing_table(uri: str, images: Sequence[str]) -> TableBeside | None:
    try:
        columns, rows = read_cells(uri)
    except UserError:  # whatever it is, it is no table that lists images
        return None
    depth = 0 if 2 * len(set(map(base_name, images))) >= len(images) else 2
    keys = {image: _tail(image, depth) for image in images}
    best, hits = "", 0
    for column in columns:
        named = {_tail(row.get(column, ""), depth) for row in rows}
        number = sum(key in named for key in keys.values())
        if number > hits:
            best, hits = column, number
    if 2 * hits < len(images) or not hits:
        return None
    by_key = {_tail(row.get(best, ""), depth): row for row in rows}
    matched = {image: by_key[key] for image, key in keys.items() if key in by_key}
    label = _label_column([name for name in columns if name != best], list(matched.values()))
    group = next((name for name in columns if _PATIENT_LIKE.search(name.casefold())), "")
    roles = {"path": best, "label": label, "group": "" if group in (best, label) else group}
    return TableBeside(
        uri=uri,
        columns={role: column for role, column in roles.items() if column},
        labels={image: row.get(label, "") for image, row in matched.items()} if label else {},
        certain=bool(_LABEL.fullmatch(label.strip())),
        of_download=any(known <= {*columns} for known in _OF_DOWNLOADS),
    )


def _tail(path: str, folders: int) -> str:
    parts = path.replace("\\", "/").casefold().split("/")
    return "/".join([*parts[-1 - folders : -1], base_name(path)] if folders else [base_name(path)])


def _label_column(columns: Sequence[str], rows: Sequence[Mapping[str, str]]) -> str:
    """The column that is called so, else the one with the fewest different texts."""
    called = [name for name in columns if _LABEL.fullmatch(name.strip())]
    called += [name for name in columns if _LABEL_LIKE.search(name.casefold())]
    counts = {name: len({row.get(name, "") for row in rows} - {""}) for name in columns}
    for name in called:
        if counts[name] > 1:
            return name
    few = {
        name: counts[name]
        for name in columns
        if 1 < counts[name] <= _MOST_LABELS
        and not _DESCRIBING.search(name.casefold())
        and not _PATIENT_LIKE.search(name.casefold())
    }
    return min(few, key=few.__getitem__) if few else ""


def _contradicts(
    table: TableBeside, images: Mapping[str, Sequence[str]], names: Mapping[str, str]
) -> bool:
    """Whether one label is in several folders, and no label is called like a folder."""
    places: dict[str, set[str]] = defaultdict(set)
    for folder, found in images.items():
        for image in found:
            if label := table.labels.get(image, ""):
                places[label.casefold()].add(names[folder].casefold())
    torn = Counter(len(folders) > 1 for folders in places.values())
    return torn[True] > 0 and not places.keys() & {name.casefold() for name in names.values()}


def _with_fix(root: str, what: str, table: TableBeside | None) -> str:
    if table is None:
        return (
            f"the folders {what} ({root}): put the images of each class in a folder, name the "
            f"label of each file in {METADATA} (columns file, label), or prepare a store of it "
            "with the layout folders if they are the classes"
        )
    around = storage.folder_of(table.uri)
    if table.of_download and around != root:
        return f"the folders {what} ({root}): {table.uri} lists these files, give {around} as data"
    pairs = [f"{role}={column}" for role, column in table.columns.items()]
    if "label" not in table.columns:
        pairs.insert(1, "label=(the column with the class)")
    if table.uri == storage.join(root, METADATA):
        own = listed(pair for pair in pairs if not pair.startswith("path="))
        return f"the folders {what} ({root}): {METADATA} lists these files, name its columns {own}"
    return (
        f"the folders {what} ({root}): the table {table.uri} lists these files, give it as the "
        f"data instead of the folder, with its columns {listed(pairs)}"
    )


def _fixes(table: TableBeside | None) -> tuple[str, ...]:
    if table is None:
        return ("layout",)
    return ("layout",) if table.of_download else ("column", "layout")


def _some(names: Iterable[str]) -> str:
    """The first names, for a sentence."""
    shown = sorted(set(names))
    if len(shown) > _SAID:
        return f"{', '.join(map(repr, shown[:2]))} and {len(shown) - 2} more"
    return " and ".join(map(repr, shown))
