"""The files that the rows of a table mean, found as a person would find them.

First to the letter, then step by step less strictly: spelling, letter case, suffix, folders, signs
between words, leading zeros. A step only counts where it leaves one file for a row and one row for
a file. What is left over, and what was matched less strictly, is said in sentences with counts and
an example.
"""

import functools
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from urllib.parse import unquote

from ctray.data.image.dispatch import EXTENSIONS
from ctray.data.ingest.finding import IMAGES
from ctray.data.ingest.tables import Table, suffix
from ctray.errors import UserError
from ctray.words import counted, printable

_DRIVE = re.compile(r"^[a-z]:/", re.IGNORECASE)
_SCHEME = re.compile(r"^[a-z][a-z0-9+.-]*://[^/]*/", re.IGNORECASE)
# Suffixes that hold pictures, but none that is read: a file may have been converted since.
_CONVERTED = frozenset({".jfif", ".jpe", ".jp2", ".j2k", ".gif", ".nii", ".mha", ".ima", ".gz"})
# What a step passes over, as the sentence on it says.
CASE, SUFFIX, FOLDER = "letter case", "suffix", "folder"
# Some mail programs put this behind the suffix of an attachment.
_MARKED = re.compile(r"(\.[a-z]{3,5})_+$")
_REMEMBERED = 2**17
_INVISIBLE = dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff\u00ad"))


@dataclass(frozen=True)
class Name:
    """How a row names its file.

    Attributes:
        text: as written, with `/`.
        hints: what else the row says that a folder may be called after, such as its label.
    """

    text: str
    hints: tuple[str, ...] = ()


@dataclass(frozen=True)
class Loose:
    """A row whose file is called otherwise: `passed` over is what differs."""

    text: str
    file: str
    passed: str


@dataclass(frozen=True)
class Matches:
    """Which rows mean which files.

    Attributes:
        files: file of each row, None where there is none or nobody can say which.
        loose: the rows that match less strictly than to the letter.
        missing: names for which there is no file.
        ambiguous: (name, files it may mean), several of them or one that several rows may mean.
        unnamed: files that no row means or may mean, sorted.
    """

    files: tuple[str | None, ...]
    loose: tuple[Loose, ...]
    missing: tuple[str, ...]
    ambiguous: tuple[tuple[str, tuple[str, ...]], ...]
    unnamed: tuple[str, ...]


def match_names(names: Sequence[Name], files: Iterable[str], free: Sequence[str] = ()) -> Matches:
    """Find the file of each row.

    Args:
        names: one a row; equal ones mean one file.
        files: relative to the table's folder.
        free: what may differ without a word.
    """
    matching = _Matching(sorted(files))
    found = [matching.find(name) for name in names]
    return _settled(names, found, matching.files, free)


def tidy(text: str) -> str:
    """A text as it prints: composed letters, one plain space between words, none around."""
    return " ".join(unicodedata.normalize("NFC", text.translate(_INVISIBLE)).split())


def tidied(table: Table) -> Table:
    """A table with its labels as they print.

    Raises:
        UserError: two of them print alike.
    """
    check_alike(table.labels(), table.uri)
    rows = tuple(replace(row, label=tidy(row.label)) for row in table.rows)
    return replace(table, rows=rows)


def check_alike(labels: Iterable[str], where: str) -> None:
    """Raise UserError for two classes whose names print alike."""
    written: dict[str, str] = {}
    for label in sorted(labels):
        other = written.setdefault(tidy(printable(label)), label)
        if other != label:
            raise UserError(
                f"the classes {other!a} and {label!a} of {printable(where)} print alike: "
                "spell both alike if they are one, and differently if they are two"
            )


@dataclass(frozen=True)
class _Candidates:
    """The files that are equally near to a name, and what had to be passed over."""

    files: tuple[str, ...] = ()
    passed: str = ""


class _Matching:
    def __init__(self, files: Sequence[str]) -> None:
        self.files = files
        self._known = frozenset(files)
        self._folders = {folder for file in files for folder in _folders(file)}
        # Made when a name asks for them first: most tables name their files to the letter.
        self._indexes: dict[str, dict[str, list[str]]] = {}

    def find(self, name: Name) -> _Candidates:
        if name.text in self._known:
            return _Candidates((name.text,))
        for passed, key in _STEPS.items():
            if passed not in self._indexes:
                self._indexes[passed] = _index(self.files, key)
            found = self._indexes[passed].get(key(name.text), [])
            # A file that lacks is not one of the same name in another class.
            if _RANKS[passed] >= _RANKS[FOLDER] and (own := self._own_folder(name)):
                found = [file for file in found if own in _folders(file)]
            if found:
                return _Candidates(tuple(_nearest(name, found)), passed)
        return _Candidates()

    def _own_folder(self, name: Name) -> str:
        """The last folder of a name, if there is one called so; empty otherwise."""
        last = next((one for one in reversed(_folders(name.text)) if one != IMAGES), "")
        return last if last in self._folders else ""


def _folders(path: str) -> list[str]:
    return _folded(path).split("/")[:-1]


def _index(files: Sequence[str], key: Callable[[str], str]) -> dict[str, list[str]]:
    index: dict[str, list[str]] = defaultdict(list)
    for file in files:
        index[key(file)].append(file)
    return dict(index)


def _settled(
    names: Sequence[Name],
    found: Sequence[_Candidates],
    files: Sequence[str],
    free: Sequence[str],
) -> Matches:
    # The strictest match of a file counts. Equal rows are one; different ones leave it open.
    wanted: dict[str, dict[str, set[Name]]] = defaultdict(lambda: defaultdict(set))
    for name, one in zip(names, found, strict=True):
        if len(one.files) == 1:
            wanted[one.files[0]][one.passed].add(name)
    strictest = {file: min(ways, key=_RANKS.__getitem__) for file, ways in wanted.items()}
    # What another row means more strictly is no candidate for a looser one.
    left = [_without_meant(one, strictest) for one in found]
    chosen: list[str | None] = []
    loose: dict[Name, Loose] = {}
    missing: dict[str, None] = {}
    ambiguous: dict[str, tuple[str, ...]] = {}
    for name, one, rest in zip(names, found, left, strict=True):
        file = one.files[0] if len(one.files) == 1 else None
        if not rest.files or (file and one.passed != strictest[file]):
            missing[name.text] = None
            file = None
        elif file is None or (one.passed and len(wanted[file][one.passed]) > 1):
            ambiguous[name.text] = rest.files
            file = None
        elif one.passed and one.passed not in free:
            loose[name] = Loose(name.text, file, one.passed)
        chosen.append(file)
    open_ = {file for files in ambiguous.values() for file in files}
    return Matches(
        files=tuple(chosen),
        loose=tuple(loose.values()),
        missing=tuple(missing),
        ambiguous=tuple(ambiguous.items()),
        unnamed=tuple(sorted(set(files) - {*chosen} - open_)),
    )


def _without_meant(one: _Candidates, strictest: Mapping[str, str]) -> _Candidates:
    rank = _RANKS[one.passed]
    if len(one.files) < 2 or rank < _RANKS[FOLDER]:
        return one
    files = (file for file in one.files if _RANKS[strictest.get(file, one.passed)] >= rank)
    remaining = tuple(files)
    # One that is left over by chance is no match.
    return replace(one, files=remaining if len(remaining) > 1 else ())


def _nearest(name: Name, files: Sequence[str]) -> list[str]:
    """Of files of one name those whose folders fit best: the last ones first, then any."""
    if len(files) < 2:
        return list(files)
    folders = _folded(name.text).split("/")[:-1]
    hints = {*folders, *map(_folded, name.hints)}

    def fit(file: str) -> tuple[int, int, int]:
        own = _folded(file).split("/")[:-1]
        tail = 0
        while tail < min(len(own), len(folders)) and own[-1 - tail] == folders[-1 - tail]:
            tail += 1
        same_suffix = suffix(file) == suffix(name.text)
        return tail, sum(folder in hints for folder in own), same_suffix

    best = max(map(fit, files))
    return [file for file in files if fit(file) == best]


def _spelt(text: str) -> str:
    """A path in one spelling: plain slashes and spaces, no %-escapes, composed letters."""
    # A byte that is not UTF-8 is most often Latin-1, as old archives have it.
    text = "".join(chr(ord(c) - 0xDC00) if 0xDC80 <= ord(c) <= 0xDCFF else c for c in text)
    if _SCHEME.match(text):
        text = text.partition("?")[0]
    text = unquote(_SCHEME.sub("/", text).strip().strip("\"'"))
    text = _DRIVE.sub("/", text.replace("\\", "/"))
    parts: list[str] = []
    for part in text.split("/"):
        part = tidy(part)
        if part == ".." and parts:
            parts.pop()
        elif part not in ("", ".", ".."):
            parts.append(part)
    return "/".join(parts)


@functools.lru_cache(_REMEMBERED)
def _folded(text: str) -> str:
    return _spelt(text).casefold()


@functools.lru_cache(_REMEMBERED)
def _bare(text: str) -> str:
    """Without the suffix of an image, also a doubled one; other dots belong to the name."""
    text = _MARKED.sub(r"\1", _folded(text))
    while suffix(text) in EXTENSIONS | _CONVERTED and PurePosixPath(text).stem:
        text = text.removesuffix(suffix(text))
    return text


def base_name(text: str) -> str:
    """The name of a file without its folders and the suffix of an image, whatever its case."""
    return _bare(text).rpartition("/")[2]


def _plain_words(text: str) -> str:
    """File systems and browsers put other signs for some."""
    return re.sub(r"[\W_]+", "-", base_name(text)).strip("-")


def _plain_numbers(text: str) -> str:
    """Spreadsheets drop the zeros that a number begins with, and may add a decimal."""
    whole = re.sub(r"^(\d+)\.0+$", r"\1", base_name(text))
    return re.sub(r"\d+", lambda digits: digits[0].lstrip("0") or "0", _plain_words(whole))


_STEPS: dict[str, Callable[[str], str]] = {
    "spelling": _spelt,
    CASE: _folded,
    SUFFIX: _bare,
    FOLDER: base_name,
    "punctuation": _plain_words,
    "number of leading zeros": _plain_numbers,
}
_RANKS = {passed: rank for rank, passed in enumerate(["", *_STEPS])}


def lost(table: str, matches: Matches) -> list[str]:
    """Sentences on rows without a file, files without a row, and rows that may mean several."""
    clauses = []
    if matches.missing:
        verb = "has" if len(matches.missing) == 1 else "have"
        clauses.append(
            f"{counted(len(matches.missing), 'row')} of {printable(table)} {verb} no file here, "
            f"such as {matches.missing[0]!r}"
        )
    if matches.unnamed:
        verb = "has" if len(matches.unnamed) == 1 else "have"
        where = "it" if clauses else printable(table)
        clauses.append(
            f"{counted(len(matches.unnamed), 'image')} {verb} no row in {where}, "
            f"such as {matches.unnamed[0]!r}"
        )
    said = [", and ".join(clauses)] if clauses else []
    if matches.ambiguous:
        text, files = matches.ambiguous[0]
        one = len(matches.ambiguous) == 1
        may = (
            f"may mean {' or '.join(map(repr, files[:3]))}"
            if len(files) > 1
            else f"may mean {files[0]!r} as another row does"
        )
        said.append(
            f"{counted(len(matches.ambiguous), 'row')} of {printable(table)} "
            f"{'is' if one else 'are'} passed over, such as {text!r}, which {may}: "
            "write there the path of each file as it is"
        )
    return said


def less_strict(table: str, matches: Matches) -> list[str]:
    """Sentences on rows whose file is called otherwise, one for each way to differ."""
    counts = Counter(one.passed for one in matches.loose)
    first = {one.passed: one for one in reversed(matches.loose)}
    return [
        f"{counted(counts[passed], 'row')} of {printable(table)} "
        f"{'matches' if counts[passed] == 1 else 'match'} a file only where the {passed} may "
        f"differ, such as {first[passed].text!r} for {first[passed].file!r}"
        for passed in _STEPS
        if counts[passed]
    ]
