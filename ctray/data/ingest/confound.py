"""The confound table: what in the data, other than the finding, could give a class away.

Public sets of chest images are often put together class by class, so that a source, a scanner, a
file format or an age band goes with a class, and a model learns that instead of the disease
(DeGrave et al. 2021, doi:10.1038/s42256-021-00338-7). Each known factor is set against the classes:
a contingency table, Cramér's V with Bergsma's correction, a permutation test that moves the images
of a patient together, and a sentence where a level names a class.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from ctray.data.ingest.factors import MAX_LEVELS, FactorColumn, factor_columns
from ctray.data.manifest import META

Verdict = Literal["none", "weak", "strong"]

STRONG_V = 0.5
WEAK_V = 0.1
CHANCE = 0.01  # a link that shuffling reaches more often than this is no link
PERMUTATIONS = 199
FEWEST_KNOWN = 30
LEAST_COVERAGE = 0.05
# A level gives a class away when this share of its images, and of the class's, are in the cell.
GIVEAWAY_PURITY, GIVEAWAY_SHARE, GIVEAWAY_RECORDS = 0.85, 0.5, 10

THRESHOLDS = (
    f"Strong: a value that holds at least {100 * GIVEAWAY_SHARE:.0f} % of a class and "
    f"{GIVEAWAY_RECORDS} of its images, of whose images at least {100 * GIVEAWAY_PURITY:.0f} % are "
    "of that class, with at most a quarter of the errors of naming it blindly; or V of at least "
    f"{STRONG_V} with p of at most {CHANCE}. Weak: V of at least {WEAK_V} with p of at most "
    f"{CHANCE}. None: anything less."
)
_FEWER_ERRORS = 4
_IMAGES_A_LEVEL = 3  # with fewer on average, a value is a name and not a factor
_NATURAL = {
    "tone": "A finding changes the grey levels too, so a part of this may be the disease.",
    "contrast": "A finding changes the contrast too, so a part of this may be the disease.",
    "age": "Illness differs with age, so a part of this may be true of patients in general.",
    "sex": "Illness differs with sex, so a part of this may be true of patients in general.",
    "view": "The very ill are X-rayed in bed, so a part of this may be how ill they are.",
}


@dataclass(frozen=True)
class Factor:
    """One factor against the classes.

    Attributes:
        key: column or word it goes by, unique: `source`, `tone`, `meta.ward`.
        name: the same for people.
        levels: its values, in the order of `counts`; bands in rising order, others by size. Of more
            than `MAX_LEVELS` the rare ones are one level.
        counts: usable records, one row a level, one column a class.
        unknown: usable records whose value is not known, one number a class; in no other figure.
        coverage: share of the usable records whose value is known, 0 to 1.
        v: bias-corrected Cramér's V, 0 (unrelated) to 1 (one names the other).
        p: share of shuffles with at least this link, above 0 to 1.
        guess: share of the known records named rightly by the commonest class of each level.
        blind: the same by naming the largest class of all.
        verdict: see `THRESHOLDS`.
        sentences: what it means, the gravest first; at least one.
        note: what else may explain it, or whose values are not known; may be empty.
        same: further metadata columns that divide the records in the same way.
    """

    key: str
    name: str
    levels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    unknown: tuple[int, ...]
    coverage: float
    v: float
    p: float
    guess: float
    blind: float
    verdict: Verdict
    sentences: tuple[str, ...]
    note: str
    same: tuple[str, ...]


@dataclass(frozen=True)
class Skipped:
    """A factor of which no table can be made, and why."""

    key: str
    name: str
    reason: str


@dataclass(frozen=True)
class Confounds:
    """All factors of a set, the gravest first, and those that could not be tabled."""

    classes: tuple[str, ...]
    records: int
    factors: tuple[Factor, ...]
    skipped: tuple[Skipped, ...]


def find_confounds(manifest: pd.DataFrame, classes: Sequence[str], seed: int = 0) -> Confounds:
    """Set every known factor of the usable records against their classes.

    Args:
        manifest: rows of the store's manifest; those whose status is not `ok` play no part.
        classes: names of the classes in their order; each usable record's label is one of them.
        seed: of the shuffles behind the p-values.

    Returns:
        Factors by verdict (strong, weak, none), give-aways and larger V first.
    """
    usable = manifest[manifest["status"] == "ok"].reset_index(drop=True)
    columns, skipped = _sift(list(factor_columns(usable)), usable["label"])
    labels = pd.Categorical(usable["label"], categories=list(classes)).codes.astype(np.int64)
    # The images of a patient move together: alone they would claim more evidence than there is.
    blocks = usable.groupby(["group", "label"], sort=False).ngroup().to_numpy()
    factors = [
        _judge(column, labels, blocks, tuple(classes), np.random.default_rng([seed, number]))
        for number, column in enumerate(columns)
    ]
    rank = {"strong": 0, "weak": 1, "none": 2}
    factors.sort(key=lambda factor: (rank[factor.verdict], -factor.v))
    return Confounds(tuple(classes), len(usable), tuple(factors), tuple(skipped))


def cramers_v(table: np.ndarray) -> float:
    """Cramér's V of a contingency table, corrected for bias; 0 to 1.

    Without the correction V is above 0 for unrelated factors, the more so the more cells and the
    fewer records there are. W. Bergsma, "A bias-correction for Cramér's V and Tschuprow's T",
    Journal of the Korean Statistical Society 42 (2013) 323-328, doi:10.1016/j.jkss.2012.10.002.

    Args:
        table: counts, int (rows, columns); empty rows and columns are left out. At least two of
            each must remain.
    """
    table = table[table.sum(axis=1) > 0][:, table.sum(axis=0) > 0]
    n = table.sum()
    rows, columns = table.shape
    phi2 = max(0.0, _chi2(table) / n - (rows - 1) * (columns - 1) / (n - 1))
    side = min(rows - (rows - 1) ** 2 / (n - 1), columns - (columns - 1) ** 2 / (n - 1))
    return float(min(1.0, np.sqrt(phi2 / (side - 1))))


def _chi2(table: np.ndarray) -> float:
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
    filled = expected > 0
    return float((((table - expected) ** 2)[filled] / expected[filled]).sum())


def _sift(
    columns: list[FactorColumn], labels: pd.Series
) -> tuple[list[FactorColumn], list[Skipped]]:
    """Those of which a table says something, and the reasons of the others."""
    kept: list[FactorColumn] = []
    skipped: list[Skipped] = []
    for column in columns:
        reason = _why_not(column, labels)
        twin = next((other for other in kept if _divide_alike(other, column)), None)
        if reason:
            skipped.append(Skipped(column.key, column.name, reason))
        elif twin and column.key.startswith(META):
            twin.same.append(column.name)
        else:
            kept.append(column)
    return kept, skipped


def _why_not(column: FactorColumn, labels: pd.Series) -> str:
    """Why no table is made of a factor; empty where one is."""
    known = column.values[column.values != ""]
    levels = known.nunique()
    is_meta = column.key.startswith(META)
    if not levels:
        return "not known for any image"
    if len(known) < FEWEST_KNOWN or len(known) < LEAST_COVERAGE * len(labels):
        return f"known for only {len(known):,} of {len(labels):,} images"
    if levels == 1:
        return f"the same wherever it is known ({len(known):,} images): {known.iloc[0]}"
    if is_meta and (column.values == labels).all():
        return "the label itself"
    if levels > len(known) / _IMAGES_A_LEVEL:
        return f"nearly every image has its own: {levels:,} different values"
    if is_meta and levels > MAX_LEVELS:
        return f"{levels:,} different values, more than {MAX_LEVELS}"
    if labels[known.index].nunique() == 1:
        return f"known for images of one class alone, {labels[known.index[0]]}"
    return ""


def _divide_alike(one: FactorColumn, other: FactorColumn) -> bool:
    together = pd.DataFrame({"one": one.values, "other": other.values}).drop_duplicates()
    return len(together) == one.values.nunique() == other.values.nunique()


def _judge(
    column: FactorColumn,
    labels: np.ndarray,
    blocks: np.ndarray,
    classes: tuple[str, ...],
    rng: np.random.Generator,
) -> Factor:
    values, levels = _levels(column)
    known = (column.values != "").to_numpy()
    codes = pd.Categorical(values, categories=levels).codes.astype(np.int64)
    table = _tally(codes[known], labels[known], len(levels), len(classes))
    v = cramers_v(table)
    p = _chance(table, codes[known], labels[known], blocks[known], rng)
    giveaways = list(_giveaways(table))
    verdict = _verdict(v, p, bool(giveaways))
    n = int(table.sum())
    guess, blind = float(table.max(axis=1).sum() / n), float(table.sum(axis=0).max() / n)
    words = _Words(column, levels, classes, table, complete=bool(known.all()))
    if giveaways:
        sentences = [words.giveaway(level, name) for level, name in giveaways]
    else:
        sentences = [words.tendency() if verdict != "none" else words.nothing(v, p)]
    if verdict != "none":
        sentences.append(words.guess(guess, blind))
    return Factor(
        key=column.key,
        name=column.name,
        levels=tuple(levels),
        counts=tuple(tuple(row) for row in table.tolist()),
        unknown=tuple(np.bincount(labels[~known], minlength=len(classes)).tolist()),
        coverage=float(known.mean()),
        v=v,
        p=p,
        guess=guess,
        blind=blind,
        verdict=verdict,
        sentences=tuple(sentences),
        note=words.note(verdict),
        same=tuple(column.same),
    )


def _levels(column: FactorColumn) -> tuple[pd.Series, list[str]]:
    """The values and their order; beyond `MAX_LEVELS` the rare ones are put together."""
    counts = column.values[column.values != ""].value_counts()
    if column.order:
        return column.values, [level for level in column.order if level in counts.index]
    names = sorted(counts.index, key=lambda level: (-counts[level], level))
    if len(names) <= MAX_LEVELS:
        return column.values, names
    kept, rare = names[: MAX_LEVELS - 1], names[MAX_LEVELS - 1 :]
    rest = f"{len(rare)} rarer values"
    return column.values.where(~column.values.isin(rare), rest), [*kept, rest]


def _tally(codes: np.ndarray, labels: np.ndarray, levels: int, classes: int) -> np.ndarray:
    flat = np.bincount(codes * classes + labels, minlength=levels * classes)
    return flat.reshape(levels, classes)


def _chance(
    table: np.ndarray,
    codes: np.ndarray,
    labels: np.ndarray,
    blocks: np.ndarray,
    rng: np.random.Generator,
) -> float:
    """How often classes dealt anew to whole blocks go with the factor at least as closely.

    A χ² test would take ten images of one patient for ten witnesses. One is added to both counts,
    so that p is never 0 (Phipson and Smyth 2010, doi:10.2202/1544-6115.1585).
    """
    _, first, block = np.unique(blocks, return_index=True, return_inverse=True)
    dealt = labels[first]
    seen = _chi2(table) * (1 - 1e-9)
    hits = sum(
        _chi2(_tally(codes, rng.permutation(dealt)[block], *table.shape)) >= seen
        for _ in range(PERMUTATIONS)
    )
    return (1 + hits) / (1 + PERMUTATIONS)


def _verdict(v: float, p: float, giveaway: bool) -> Verdict:
    if giveaway or (v >= STRONG_V and p <= CHANCE):
        return "strong"
    return "weak" if v >= WEAK_V and p <= CHANCE else "none"


def _giveaways(table: np.ndarray) -> Iterator[tuple[int, int]]:
    """Level and class of the cells that give a class away, the largest first."""
    purity = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    share = table / np.maximum(table.sum(axis=0, keepdims=True), 1)
    base = table.sum(axis=0) / table.sum()
    # Where one class is nearly everything, a level that is too gives nothing away.
    telling = (purity >= GIVEAWAY_PURITY) & (1 - purity <= (1 - base) / _FEWER_ERRORS)
    cells = np.argwhere(telling & (share >= GIVEAWAY_SHARE) & (table >= GIVEAWAY_RECORDS))
    yield from sorted(
        ((int(level), int(name)) for level, name in cells), key=lambda cell: -table[cell]
    )


@dataclass(frozen=True)
class _Words:
    """Sentences about one factor."""

    column: FactorColumn
    levels: list[str]
    classes: tuple[str, ...]
    table: np.ndarray
    complete: bool

    def giveaway(self, level: int, name: int) -> str:
        n, images = int(self.table[level, name]), int(self.table[level].sum())
        of_class, label = int(self.table[:, name].sum()), self.classes[name]
        known = "" if self.complete else f" whose {self.column.name} is known"
        which = f"{label} images{known} {self._phrase(level)}"
        if n == of_class:
            start = f"All {n:,} {which}"
        else:
            start = f"{_percent(n, of_class)} of the {of_class:,} {which}"
        if n == images:
            return (
                f"{start} and no image of another class does: "
                f"a model can name {label} from the {self.column.name} alone."
            )
        return (
            f"{start}, and {_percent(n, images)} of all that do are {label}: "
            f"a model can nearly name {label} from the {self.column.name} alone."
        )

    def tendency(self) -> str:
        """The cell that stands out most from what unrelated factors would give."""
        rows, columns = self.table.sum(axis=1), self.table.sum(axis=0)
        expected = np.outer(rows, columns) / rows.sum()
        residual = (self.table - expected) / np.sqrt(np.maximum(expected, 1e-9))
        level, name = np.unravel_index(int(residual.argmax()), residual.shape)
        inside = _percent(self.table[level, name], rows[level])
        return (
            f"{self.classes[name]} makes up {inside} of the images that "
            f"{self._phrase(int(level))}, against {_percent(columns[name], rows.sum())} of all."
        )

    def nothing(self, v: float, p: float) -> str:
        if v < WEAK_V:
            return f"The classes are spread alike over its values: V is below {WEAK_V}."
        return f"No more than chance can make of these few patients or groups: p is {p:.2f}."

    def guess(self, guess: float, blind: float) -> str:
        return (
            f"Each image's best guess from the {self.column.name} alone would be right "
            f"{100 * guess:.1f} % of the time, against {100 * blind:.1f} % by always naming the "
            "largest class."
        )

    def note(self, verdict: Verdict) -> str:
        missing = [
            label for label, n in zip(self.classes, self.table.sum(axis=0), strict=True) if not n
        ]
        notes = [f"Not known for any image of {', '.join(missing)}."] if missing else []
        if verdict != "none" and self.column.key in _NATURAL:
            notes.append(_NATURAL[self.column.key])
        return " ".join(notes)

    def _phrase(self, level: int) -> str:
        return self.column.phrase.format(self.levels[level])


def _percent(part: float, whole: float) -> str:
    """A share that says 100 % only where it is all."""
    return f"{100 * part / whole if part == whole else min(100 * part / whole, 99.9):.1f} %"
