"""COVIDx: lists without a header, `train*.txt` and `test*.txt`, beside `train` and `test`.

https://github.com/lindawangg/COVID-Net/blob/master/docs/COVIDx.md
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from ctray.data.image.dispatch import EXTENSIONS
from ctray.data.ingest.downloads.tree import Download, Entry, Tree, entry_of, labels_of
from ctray.data.ingest.tables import suffix
from ctray.errors import UserError

_LIST = re.compile(r"(train|val|test)(.*)\.txt", re.IGNORECASE)
_LOOKED_AT = 20  # lines most of which have to be of the form


def recognise(tree: Tree) -> Download | None:
    """Lines of patient, file, class and source, separated by spaces.

    Raises:
        UserError: lists of several versions, or a line that is not of the form.
    """
    lists: dict[str, str] = {}
    versions = set()
    for name, match in tree.called(_LIST).items():
        if _is_list(tree.lines(name)):
            lists[name] = match[1].casefold()
            versions.add(match[2])
    if not lists:
        return None
    if len(versions) > 1:
        names = ", ".join(lists)
        raise UserError(f"{tree.root} has lists of several versions of COVIDx ({names}): keep one")
    entries = _told_apart(
        [_entry(tree, line, split) for name, split in lists.items() for line in tree.lines(name)]
    )
    roles = {"label": "the third column", "patient": "the first column"}
    roles["split"] = " and ".join(PurePosixPath(name).name for name in lists)
    return Download(entries, dict.fromkeys(lists, ()), roles, labels_of(entries))


def _is_list(lines: Sequence[str]) -> bool:
    """Whether most of the first lines fit; one that does not is an error where it is read."""
    looked = lines[:_LOOKED_AT]
    return 2 * sum(_fields(line) is not None for line in looked) > len(looked)


def _fields(line: str) -> tuple[list[str], str, str] | None:
    """The words of patient and file, the class, and the source, which early lists do not have."""
    words = line.split()
    at = max((n for n, word in enumerate(words) if suffix(word) in EXTENSIONS), default=0)
    if at == 0 or not 2 <= len(words) - at <= 3:
        return None
    return words[: at + 1], words[at + 1], words[at + 2] if len(words) - at == 3 else ""


def _entry(tree: Tree, line: str, split: str) -> Entry:
    fields = _fields(line)
    if fields is None:
        raise UserError(f"{tree.root}: the line {line!r} is not of the form PATIENT FILE CLASS")
    words, label, source = fields
    # Patients and files may have spaces: the file is the longest end that is there.
    ends = [(at, " ".join(words[at:])) for at in range(1, len(words))]
    at, name = next(((at, end) for at, end in ends if tree.find(end, split)), ends[-1])
    return replace(
        entry_of(name, tree.find(name, split), {}),
        findings=(label,),
        group=" ".join(words[:at]),
        split=split,
        source=source,
    )


def _told_apart(entries: Sequence[Entry]) -> tuple[Entry, ...]:
    """One number in two of the collections is two patients: they number alike."""
    sources = defaultdict(set)
    for entry in entries:
        sources[entry.group].add(entry.source)
    return tuple(
        replace(entry, group=f"{entry.source} {entry.group}")
        if len(sources[entry.group]) > 1
        else entry
        for entry in entries
    )
