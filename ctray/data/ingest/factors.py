"""The factors of a manifest: what is known of the records other than the finding."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pandas as pd

from ctray.data.manifest import META

MAX_LEVELS = 20  # values of one factor that are told apart
_WIDE = 10  # bands of numbers spread further than this are named in whole numbers


@dataclass
class FactorColumn:
    """A factor before it is judged.

    Attributes:
        key: column or word it goes by, unique.
        name: the same for people.
        phrase: completes "images that …"; `{}` is the value.
        values: one text a record, empty where unknown.
        order: of the values that are bands; empty: the largest first.
        same: further metadata columns that divide the records in the same way.
    """

    key: str
    name: str
    phrase: str
    values: pd.Series
    order: list[str] = field(default_factory=list)
    same: list[str] = field(default_factory=list)


def factor_columns(usable: pd.DataFrame) -> Iterator[FactorColumn]:
    """Every factor a manifest can know, in a fixed order."""

    def text(column: str) -> pd.Series:
        return usable[column].fillna("").astype(str).str.strip()

    yield FactorColumn("source", "source", "come from '{}'", text("source"))
    yield FactorColumn(
        "collection",
        "patient collection",
        "have patient ids that begin with '{}'",
        _collections(text("patient")),
    )
    yield FactorColumn("scanner", "scanner", "come from the scanner '{}'", text("scanner"))
    yield FactorColumn("modality", "modality", "have the modality '{}'", text("modality"))
    yield FactorColumn("view", "view", "have the view '{}'", text("view"))
    yield _sizes(usable)
    bits = text("bits").replace("0", "")
    yield FactorColumn("bits", "bit depth", "have {} bits a pixel", bits)
    yield FactorColumn("format", "file format", "have the format {}", text("format"))
    yield _banded("tone", "mean grey level", "have a mean grey level of {}", usable["mean"])
    yield _banded("contrast", "contrast", "have a contrast of {} grey levels", usable["std"])
    yield _ages(text("age"))
    yield FactorColumn("sex", "sex", "have the sex '{}'", text("sex"))
    for name in usable.columns:
        if str(name).startswith(META):
            own = str(name).removeprefix(META)
            phrase = "have the {} '{{}}'".format(own.replace("{", "{{").replace("}", "}}"))
            yield FactorColumn(str(name), own, phrase, text(str(name)))


def _collections(patients: pd.Series) -> pd.Series:
    """`kermany…` of `kermany-train-person124`: collections put their own name before the number."""

    def prefix(patient: str) -> str:
        letters = re.match(r"[^\W\d_]+", patient)
        return f"{letters[0]}…" if letters else "no letters"

    return patients.map(lambda patient: prefix(patient) if patient else "")


def _sizes(usable: pd.DataFrame) -> FactorColumn:
    exact = usable["width"].astype(str) + "×" + usable["height"].astype(str)
    if exact.nunique() <= MAX_LEVELS:
        return FactorColumn("size", "image size", "have the size {} px", exact)
    side = np.sqrt(usable["width"] * usable["height"].astype(float))
    return _banded("size", "image size", "have about {} px a side", side)


def _banded(key: str, name: str, phrase: str, values: pd.Series) -> FactorColumn:
    """Quarters of the whole set by a number, named by their limits."""
    digits = 0 if values.quantile(0.75) - values.quantile(0.25) >= _WIDE else 1
    # Rounded first, so that the limits shown are the limits used.
    rounded = values.astype(float).round(digits)
    limits = np.unique(rounded.quantile([0, 0.25, 0.5, 0.75, 1]).round(digits))
    if len(limits) < 2:
        return FactorColumn(key, name, phrase, rounded.map(f"{{:.{digits}f}}".format))
    names = [f"{low:.{digits}f}–{high:.{digits}f}" for low, high in pairwise(limits)]
    bands = pd.cut(rounded, limits.tolist(), labels=names, include_lowest=True)
    return FactorColumn(key, name, phrase, bands.astype(object), names)


def _ages(ages: pd.Series) -> FactorColumn:
    bands = ["0–17", "18–39", "40–64", "65+"]
    years = pd.to_numeric(ages, errors="coerce")
    values = pd.cut(years, [0.0, 18.0, 40.0, 65.0, np.inf], right=False, labels=bands)
    return FactorColumn(
        "age", "age", "have patients aged {}", values.astype(object).fillna(""), bands
    )
