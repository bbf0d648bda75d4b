"""What a data report says: the content of `report.json`, from the manifest and the store's images.

A summary stays small whatever the size of the set: lists are cut, with a count of the whole.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from ctray.data.ingest.confound import PERMUTATIONS, THRESHOLDS, Confounds
from ctray.data.ingest.report_types import (
    ClassRow,
    DataSummary,
    Duplicates,
    Encoding,
    Grey,
    GreyCurve,
    ImageSizes,
    Leaks,
    LeftOutRow,
    Quarantine,
    SplitCount,
    SplitRow,
    Totals,
    Warnings,
)
from ctray.data.ingest.split import FRACTIONS
from ctray.data.manifest import OTHER_VIEW, SPLITS

Images = Callable[[pd.DataFrame], np.ndarray]

PAIRS_SHOWN = 60
QUARANTINE_A_STATUS = 12
SAMPLE_A_CLASS = 200
SOURCES_DRAWN = 6
LISTED = 50
GREY_BINS = 64

_INFO = {"name", "version", "inputs", "date"}
_STATUSES = (
    "conflict",
    "duplicate",
    "unlabelled",
    OTHER_VIEW,
    "unreadable",
    "truncated",
    "wrong type",
    "no pixels",
    "blank",
    "too small",
    "too large",
)
_PAIR_KINDS = ("conflict", "near", "exact")
_SIZE_DOTS = 60  # more different sizes than this are put in the cells of a grid
_SIZE_CELLS = 24
_FEWEST_IN_CURVE = 5


@dataclass(frozen=True)
class Origin:
    """Where a store comes from.

    Attributes:
        classes: names of the classes in their order.
        size: side of the stored images in px.
        fingerprint: of the store; it also chooses the images shown, so a report can be repeated.
        synthetic: whether the images were drawn by a program, not taken from patients.
        ignored: paths of the files that nothing was made of.
        info: see `ctray.data.ingest.report.write_report`.
        notices: sentences on the set as a whole.
    """

    classes: Sequence[str]
    size: int
    fingerprint: str
    synthetic: bool
    ignored: Sequence[str]
    info: dict[str, Any]
    notices: Sequence[str] = ()

    @property
    def shares(self) -> dict[str, float]:
        """The share (0 to 1) aimed at for each split."""
        return dict(zip(SPLITS, self.info.get("fractions", FRACTIONS), strict=True))

    def rng(self, purpose: int) -> np.random.Generator:
        """Random numbers that are the same for the same store, one stream a purpose."""
        seed = int.from_bytes(self.fingerprint.encode()[:16])
        return np.random.default_rng([seed, purpose])


def summarise(
    manifest: pd.DataFrame,
    pairs: pd.DataFrame,
    confounds: Confounds,
    origin: Origin,
    images: Images,
) -> DataSummary:
    """Put together what `report.json` says; for the arguments see `write_report`.

    Raises:
        ValueError: `info` lacks a key.
    """
    info = origin.info
    missing = _INFO - info.keys()
    if missing:
        raise ValueError(f"the report's info lacks {sorted(missing)}")
    usable = usable_rows(manifest)
    classes = origin.classes
    sampled = sample(usable, classes, SAMPLE_A_CLASS, origin.rng(0))
    return {
        "name": str(info["name"]),
        "info": {key: info[key] for key in info if key not in ("name", "fractions")},
        "shares": origin.shares,
        "fingerprint": origin.fingerprint,
        "synthetic": origin.synthetic,
        "size": origin.size,
        "classes": list(classes),
        "records": _totals(manifest, usable),
        "leaks": _leaks(usable, pairs),
        "class_table": _class_table(usable, classes),
        "left_out": _left_out(manifest, classes),
        "image_sizes": _image_sizes(usable),
        "encodings": _encodings(usable),
        "grey": _grey(sampled, classes, images),
        "confounds": {
            **asdict(confounds),
            "thresholds": THRESHOLDS,
            "permutations": PERMUTATIONS,
        },
        "duplicates": _duplicates(pairs),
        "quarantine": _quarantine(manifest),
        "warnings": _warnings(manifest),
        "notices": [str(notice) for notice in origin.notices],
        "split_table": _split_table(usable, classes, origin.shares),
        "ignored": {
            "n": len(origin.ignored),
            "shown": [str(path) for path in origin.ignored[:LISTED]],
        },
    }


def usable_rows(manifest: pd.DataFrame) -> pd.DataFrame:
    """The records that are not left out."""
    return manifest[manifest["status"] == "ok"].reset_index(drop=True)


def sample(
    usable: pd.DataFrame, classes: Sequence[str], most: int, rng: np.random.Generator
) -> pd.DataFrame:
    """At most so many random rows of each class, in the order of the manifest."""
    parts = []
    for name in classes:
        rows = np.flatnonzero(usable["label"] == name)
        parts.append(np.sort(rng.permutation(rows)[:most]))
    return usable.iloc[np.concatenate(parts)]


def _totals(manifest: pd.DataFrame, usable: pd.DataFrame) -> Totals:
    known = usable["patient"].fillna("").astype(str)
    known = known[known != ""]
    return {
        "listed": len(manifest),
        "usable": len(usable),
        "left_out": len(manifest) - len(usable),
        "groups": int(usable["group"].nunique()),
        "patients": int(known.nunique()),
        "patient_known": len(known),
    }


def _leaks(usable: pd.DataFrame, pairs: pd.DataFrame) -> Leaks:
    splits = usable.groupby("group", sort=False)["split"].nunique()
    split_of = usable.set_index("path")["split"]
    ends = [pairs[end].map(split_of) for end in ("first", "second")]
    apart = ends[0].notna() & ends[1].notna() & (ends[0] != ends[1])
    return {"groups": int((splits > 1).sum()), "pairs": int(apart.sum())}


def _class_table(usable: pd.DataFrame, classes: Sequence[str]) -> list[ClassRow]:
    return [
        {
            "class": name,
            "share": len(rows) / max(len(usable), 1),
            "n": len(rows),
            "groups": _groups(rows),
            "splits": _split_counts(rows),
        }
        for name in classes
        for rows in [usable[usable["label"] == name]]
    ]


def _split_table(
    usable: pd.DataFrame, classes: Sequence[str], shares: dict[str, float]
) -> list[SplitRow]:
    """Records by class and source over the splits, and how far from the shares aimed at."""
    sources = usable["source"].fillna("").astype(str).replace("", "not recorded")
    table: list[SplitRow] = []
    for name in classes:
        rows = usable[usable["label"] == name]
        for source, part in rows.groupby(sources[rows.index]):
            splits = _split_counts(part)
            table.append(
                {
                    "class": name,
                    "source": str(source),
                    "n": len(part),
                    "groups": _groups(part),
                    "splits": splits,
                    "off": {
                        split: splits[split]["n"] / len(part) - share
                        for split, share in shares.items()
                    },
                }
            )
    return table


def _split_counts(rows: pd.DataFrame) -> dict[str, SplitCount]:
    return {
        split: {"n": len(part), "groups": _groups(part)}
        for split in SPLITS
        for part in [rows[rows["split"] == split]]
    }


def _groups(rows: pd.DataFrame) -> int:
    return int(rows["group"].nunique())


def _left_out(manifest: pd.DataFrame, classes: Sequence[str]) -> list[LeftOutRow]:
    rest = manifest[manifest["status"] != "ok"]
    return [
        {
            "status": status,
            "n": len(rows),
            "by_class": [int((rows["label"] == name).sum()) for name in classes],
            "no_class": int((~rows["label"].isin(list(classes))).sum()),
        }
        for status in _statuses(rest)
        for rows in [rest[rest["status"] == status]]
    ]


def _statuses(rest: pd.DataFrame) -> list[str]:
    there = set(rest["status"])
    return [name for name in _STATUSES if name in there] + sorted(there.difference(_STATUSES))


def _image_sizes(usable: pd.DataFrame) -> ImageSizes:
    sizes = usable[["width", "height"]]
    different = len(sizes.drop_duplicates())
    if different > _SIZE_DOTS:
        cell = max(1, int(np.ceil(sizes.to_numpy().max() / _SIZE_CELLS)))
        sizes = (sizes // cell) * cell + cell // 2
    dots = sizes.value_counts().reset_index()
    return {
        "different": different,
        "smallest": [int(usable["width"].min()), int(usable["height"].min())],
        "largest": [int(usable["width"].max()), int(usable["height"].max())],
        "binned": different > _SIZE_DOTS,
        "dots": [
            {"width": int(width), "height": int(height), "n": int(n)}
            for width, height, n in dots.itertuples(index=False)
        ],
    }


def _encodings(usable: pd.DataFrame) -> list[Encoding]:
    kinds = usable.groupby(["format", "bits", "colour"], as_index=False)["bytes"]
    table = kinds.agg(["size", "mean"]).sort_values("size", ascending=False)
    return [
        {
            "format": str(row["format"]),
            "bits": int(row["bits"]),
            "colour": bool(row["colour"]),
            "n": int(row["size"]),
            "mean_bytes": float(row["mean"]),
        }
        for row in table.to_dict("records")
    ]


def _grey(sampled: pd.DataFrame, classes: Sequence[str], images: Images) -> Grey:
    """Mean histograms of the sampled stored images, by class and by the commonest sources."""
    # Class by class: a sample of many classes would not fit in memory at once.
    counts: dict[Any, np.ndarray] = {}
    for name in classes:
        rows = sampled[sampled["label"] == name]
        if len(rows):
            stored = images(rows)
            counts |= dict(zip(rows.index, map(_histogram, stored), strict=True))
    sources = sampled["source"].fillna("").astype(str)
    largest = sources[sources != ""].value_counts().index[:SOURCES_DRAWN]
    return {
        "bins": GREY_BINS,
        "sampled": len(sampled),
        "most_a_class": SAMPLE_A_CLASS,
        "by_class": [
            _curve(name, [counts[i] for i in sampled.index[sampled["label"] == name]])
            for name in classes
        ],
        "by_source": [
            _curve(str(name), [counts[i] for i in sampled.index[sources == name]])
            for name in largest
            if (sources == name).sum() >= _FEWEST_IN_CURVE
        ],
    }


def _histogram(image: np.ndarray) -> np.ndarray:
    """Share of an image's pixels (uint8) in each of the equally wide grey bins."""
    counts = np.bincount(image.ravel(), minlength=256)
    return counts.reshape(GREY_BINS, -1).sum(axis=1) / image.size


def _curve(name: str, histograms: list[np.ndarray]) -> GreyCurve:
    mean = np.mean(histograms, axis=0) if histograms else np.zeros(GREY_BINS)
    return {"name": name, "n": len(histograms), "shares": np.round(mean, 6).tolist()}


def _duplicates(pairs: pd.DataFrame) -> Duplicates:
    """Conflicts first, then near pairs, then exact ones; the least alike of each first."""
    kinds = pairs["kind"].astype(str).where(~pairs["conflict"].astype(bool), "conflict")
    rank = kinds.map({kind: number for number, kind in enumerate(_PAIR_KINDS)})
    ordered = pairs.assign(shown=kinds, rank=rank).sort_values(
        ["rank", "similarity", "first", "second"]
    )
    return {
        "n": len(pairs),
        "by_kind": {kind: int((kinds == kind).sum()) for kind in _PAIR_KINDS},
        "flipped": int(pairs["flipped"].astype(bool).sum()),
        "shown": [
            {
                "first": str(row["first"]),
                "second": str(row["second"]),
                "kind": str(row["kind"]),
                "conflict": bool(row["conflict"]),
                "flipped": bool(row["flipped"]),
                "similarity": float(row["similarity"]),
            }
            for _, row in ordered.head(PAIRS_SHOWN).iterrows()
        ],
    }


def _quarantine(manifest: pd.DataFrame) -> list[Quarantine]:
    rest = manifest[manifest["status"] != "ok"]
    return [
        {
            "status": status,
            "n": len(rows),
            "shown": [
                {"path": str(row["path"]), "label": str(row["label"]), "reason": str(row["reason"])}
                for _, row in rows.head(QUARANTINE_A_STATUS).iterrows()
            ],
        }
        for status in _statuses(rest)
        for rows in [rest[rest["status"] == status]]
    ]


def _warnings(manifest: pd.DataFrame) -> Warnings:
    texts = manifest["warning"].fillna("").astype(str)
    warned = manifest[texts != ""]
    without_numbers = texts[texts != ""].map(lambda text: re.sub(r"\d+(\.\d+)?", "0", text))
    kinds = sorted(warned.groupby(without_numbers, sort=False), key=lambda kind: -len(kind[1]))
    return {
        "n": len(warned),
        "kinds": len(kinds),
        "shown": [
            {
                "n": len(rows),
                "example": str(rows.iloc[0]["warning"]),
                "path": str(rows.iloc[0]["path"]),
            }
            for _, rows in kinds[:LISTED]
        ],
    }
