"""Tags of a DICOM file, read tolerantly: a bad value is passed over with a warning.

Files of real scanners break the rules of PS3.5 for tags that only describe, or that only say how
bright a picture is shown. Neither makes the pixels unreadable.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence as DicomSequence


class Warnings:
    """What was passed over or guessed in one file: each sentence once, in order."""

    def __init__(self) -> None:
        self._sentences: dict[str, None] = {}

    def add(self, sentence: str) -> None:
        """Remember a sentence."""
        self._sentences[sentence] = None

    def all(self) -> tuple[str, ...]:
        """Every sentence."""
        return tuple(self._sentences)


class Tags:
    """The tags that hold for one frame.

    Args:
        scopes: where a tag may stand, the nearest first; the last is the file itself.
        warnings: takes what is passed over.
    """

    def __init__(self, scopes: Sequence[Dataset], warnings: Warnings) -> None:
        self.scopes = scopes
        self.warnings = warnings

    @property
    def file(self) -> "Tags":
        """The tags of the file alone."""
        return Tags(self.scopes[-1:], self.warnings)

    def with_all(self, *keywords: str) -> "Tags | None":
        """The nearest scope that has all of these, or None."""
        for scope in self.scopes:
            if all(keyword in scope for keyword in keywords):
                return Tags([scope], self.warnings)
        return None

    def value(self, keyword: str) -> Any:
        """A value as pydicom reads it; None where it is missing or cannot be read."""
        for scope in self.scopes:
            if keyword in scope:
                try:
                    return scope[keyword].value
                # pydicom raises a dozen types for a value that breaks the rules of its own.
                except Exception:
                    self.pass_over(keyword, "cannot be read")
        return None

    def text(self, keyword: str) -> str:
        """A value in one line; of several the first; empty where it is missing."""
        value = first(self.value(keyword))
        if isinstance(value, bytes):
            value = value.decode("latin-1")
        return "" if value is None else " ".join(str(value).replace("\0", " ").split())

    def numbers(self, keyword: str) -> list[float | None]:
        """Every number of a value; None for each that is none; no number where it is missing."""
        value = self.value(keyword)
        if value is None:
            return [None] if any(keyword in scope for scope in self.scopes) else []
        if isinstance(value, bytes):
            value = value.decode("latin-1").split("\\")
        values = value if isinstance(value, MultiValue | list | tuple) else [value]
        return [as_number(one) for one in values] or [None]

    def number(self, keyword: str) -> float | None:
        """The first number of a value; None, with a warning where it is there and is none."""
        numbers = self.numbers(keyword)
        if numbers and numbers[0] is None:
            self.pass_over(keyword)
        return numbers[0] if numbers else None

    def whole(self, keyword: str, allowed: Iterable[int] | None = None) -> int | None:
        """The first whole number of a value; None where it is missing or not one of the allowed."""
        number = self.number(keyword)
        if number is None:
            return None
        if number != int(number) or (allowed is not None and int(number) not in allowed):
            self.pass_over(keyword)
            return None
        return int(number)

    def items(self, keyword: str) -> list["Tags"]:
        """The items of a sequence; none where it is missing, empty or no sequence."""
        value = self.value(keyword)
        if isinstance(value, DicomSequence) and len(value):
            return [Tags([item], self.warnings) for item in value]
        if value is not None:
            self.pass_over(keyword, "has no items")
        return []

    def pass_over(self, keyword: str, fault: str = "") -> None:
        """Warn that a tag was not used."""
        self.doubt(keyword, f"{fault or self._shown(keyword)} and was passed over")

    def doubt(self, keyword: str, fault: str) -> None:
        """Warn of what is wrong with a tag."""
        self.warnings.add(f"the tag {keyword} {fault}")

    def _shown(self, keyword: str) -> str:
        try:
            text = self.text(keyword)
        except (TypeError, ValueError):
            return "cannot be read"
        return f"is {text[:40]!r}" if text else "is empty"


def first(value: Any) -> Any:
    """The first of several values."""
    if isinstance(value, MultiValue | list | tuple):
        return value[0] if len(value) else None
    return value


def as_number(value: Any) -> float | None:
    """A finite number, also one that is written with a decimal comma; else None."""
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    try:
        number = float(str(value).strip("\0 ").replace(",", "."))
    except ValueError:
        return None
    return number if math.isfinite(number) else None
