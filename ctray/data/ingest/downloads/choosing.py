"""Which class an image of a download has, or why it has none.

Several findings may be on one image. A class is either the only finding of an image, or what was
asked for: of one label, images with it and without it; of several, those with exactly one of them.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ctray.data.ingest.downloads.tree import Entry
from ctray.data.ingest.tables import listed
from ctray.data.manifest import OTHER_VIEW
from ctray.errors import UserError
from ctray.words import counted

_SEVERAL = " with several findings"
_SHOWN = 20  # labels that a sentence names
# PA, AP, AP Supine, APS, Frontal …, or not known.
_FRONTAL = re.compile(r"(pa|ap|frontal)\b.*|aps|unknown|xx|", re.IGNORECASE)
_LATERAL = re.compile(r"((left|right)[ -])?(l|ll|rl|lat|lateral|llat|rlat)\b.*", re.IGNORECASE)


@dataclass(frozen=True)
class Fault:
    """Why an image is left out.

    Attributes:
        status: as in the manifest.
        reason: a sentence on this image.
        noun: what such images are called when they are counted.
        tail: what follows the noun.
    """

    status: str
    reason: str
    noun: str = "image"
    tail: str = ""

    def count(self, number: int) -> str:
        """A clause on so many of them."""
        return f"{counted(number, self.noun)}{self.tail} left out"

    @property
    def is_several(self) -> bool:
        """Whether a label that is asked for would keep such images."""
        return self.tail == _SEVERAL

    @property
    def kind(self) -> "Fault":
        """The same, without what is said of one image only."""
        return Fault(self.status, "", self.noun, self.tail)


def spelt(asked: Sequence[str], labels: Sequence[str]) -> tuple[str, ...]:
    """Labels as the download writes them, of those that were asked for.

    Raises:
        UserError: it has no such label.
    """
    written = {_folded(label): label for label in labels}
    for label in asked:
        if _folded(label) not in written:
            there = listed(labels[:_SHOWN]) + (" …" if len(labels) > _SHOWN else "")
            raise UserError(f"there is no label {label!r} here (there are: {there})", "label")
    return tuple(dict.fromkeys(written[_folded(label)] for label in asked))


def class_of(entry: Entry, labels: Sequence[str]) -> str | Fault:
    """The class of an image, or why it has none.

    Args:
        entry: what is known of it.
        labels: those that were asked for, as the download writes them; none: its only finding.
    """
    if entry.silent:
        return Fault("unlabelled", "its table gives it no label", tail=" without a label")
    if not labels:
        return _only(entry)
    named = {*entry.findings, *entry.also}
    there = [label for label in labels if label in named]
    unsure = [label for label in labels if label in entry.uncertain]
    if len(there) > 1:
        return _several(there)
    if unsure and not (len(labels) == 1 and there):
        return _unsure(unsure, f" on which {' or '.join(labels)} is uncertain")
    if there:
        return there[0]
    if len(labels) == 1:
        return without(labels[0])
    reason = f"none of {listed(labels)} is on it"
    return Fault("unlabelled", reason, tail=f" with none of {listed(labels)}")


def without(label: str) -> str:
    """What images without a label are called; those without `No Finding` have a finding."""
    denied = re.fullmatch(r"no (.+)", label, re.IGNORECASE)
    return denied[1] if denied else f"no {label}"


def view_fault(view: str) -> Fault | None:
    """Why an image of this view is left out where only the frontal ones are wanted."""
    if _FRONTAL.fullmatch(view):
        return None
    reason = f"its view is {view}, which is not frontal"
    if _LATERAL.fullmatch(view):
        return Fault(OTHER_VIEW, reason, noun="lateral image")
    return Fault(OTHER_VIEW, reason, tail=f" of the view {view}")


def sentence(title: str, roles: Mapping[str, str], labels: Sequence[str]) -> str:
    """What was seen, and what was taken as label, patient, view and split."""
    chosen = f"{', '.join(labels)} of " if labels else ""
    label = chosen + roles["label"]
    others = [
        f"{role} {roles[role]}" if roles.get(role) else f"{role} not named"
        for role in ("patient", "view")
    ]
    given = [f"{role} {roles[role]}" for role in ("split", "source", "mask") if roles.get(role)]
    return f"read as {title}: {', '.join([f'label {label}', *others, *given])}"


def _folded(label: str) -> str:
    """Letter case aside, and whether words are joined by spaces or underscores."""
    return " ".join(label.casefold().replace("_", " ").split())


def _only(entry: Entry) -> str | Fault:
    if entry.uncertain:
        return _unsure(entry.uncertain, " with an uncertain finding")
    if len(entry.findings) > 1:
        return _several(entry.findings)
    if not entry.findings:
        return Fault("unlabelled", "nothing is found on it", tail=" on which nothing is found")
    return entry.findings[0]


def _several(findings: Sequence[str]) -> Fault:
    reason = f"it has several findings: {listed(findings)}"
    return Fault("unlabelled", reason, tail=_SEVERAL)


def _unsure(labels: Sequence[str], tail: str) -> Fault:
    verb = "is" if len(labels) == 1 else "are"
    return Fault("unlabelled", f"{listed(labels)} {verb} uncertain on it", tail=tail)
