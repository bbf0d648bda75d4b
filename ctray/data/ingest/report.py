"""The data report: ``report.json`` for programs and ``report.html`` for people, beside the store.

It shows what the manifest knows before anybody trains: how many records of which class are in
which split, what they look like, what was left out and why, which files are the same picture, and
what other than the finding could give a class away. The page is one file without scripts or links
to anything outside it. Its size does not grow with the set: pictures are small, and lists are cut
with a word on how many more there are. File and class names are escaped throughout.
"""

import base64
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any

import cv2
import jinja2
import numpy as np
import pandas as pd

from ctray import storage
from ctray.data.ingest.confound import PERMUTATIONS, THRESHOLDS, Confounds
from ctray.data.ingest.split import FRACTIONS
from ctray.data.manifest import SPLITS

Images = Callable[[pd.DataFrame], np.ndarray]
PictureOf = Callable[[pd.Series], np.ndarray | None]

THUMBNAIL_PIXELS = 112
MOSAIC_A_CLASS, MOSAIC_ALL = 10, 160
PAIRS_SHOWN, PAIRS_OPEN = 60, 12
QUARANTINE_A_STATUS = 12
SAMPLE_A_CLASS = 200
SOURCES_DRAWN = 6
LISTED = 50

_INFO = {"name", "version", "inputs", "date"}
_STATUSES = (
    *("conflict", "duplicate", "unlabelled", "unreadable", "truncated", "wrong type"),
    *("no pixels", "blank", "too small", "too large"),
)
_PAIR_KINDS = ("conflict", "near", "exact")
_GREY_BINS = 64
_JPEG_QUALITY = 80
_SIZE_DOTS = 60  # more different sizes than this are put in the cells of a grid
_SIZE_CELLS = 24
_FEWEST_IN_CURVE = 5


def write_report(
    root: Path,
    manifest: pd.DataFrame,
    pairs: pd.DataFrame,
    *,
    classes: Sequence[str],
    size: int,
    fingerprint: str,
    synthetic: bool,
    ignored: Sequence[str],
    images: Images,
    picture: PictureOf,
    confounds: Confounds,
    info: dict[str, Any],
) -> None:
    """Write ``root/report.json`` and ``root/report.html``, each whole or not at all.

    Args:
        root: folder of the store, made where missing.
        manifest: one row a record, the ones left out included.
        pairs: one row a pair of duplicates with ``first``, ``second`` (paths), ``kind`` (``exact``
            or ``near``), ``similarity`` (0 to 1), ``flipped`` and ``conflict``; may be empty.
        classes: names of the classes in their order.
        size: side of the stored images in pixels.
        fingerprint: of the store; it also chooses the images shown, so a report can be repeated.
        synthetic: whether the images were drawn, not taken from patients.
        ignored: paths of the files that are not images by name.
        images: stored pixels of manifest rows that have some (``row`` of 0 or more): uint8
            (len(rows), size, size).
        picture: the canonical image (uint8, H×W) of a row that is not stored, or None.
        confounds: what `find_confounds` says of the manifest.
        info: ``name`` of the data, ``version`` of ctray, ``inputs`` (a list of texts), ``date``;
            ``fractions`` are the shares of train, val and test aimed at, where they are not the
            usual ones; further texts are shown as they are.

    Raises:
        ValueError: ``info`` lacks a key.
    """
    missing = _INFO - info.keys()
    if missing:
        raise ValueError(f"the report's info lacks {sorted(missing)}")
    usable = manifest[manifest["status"] == "ok"].reset_index(drop=True)
    seed = int.from_bytes(fingerprint.encode()[:16])
    sample = _sample(usable, classes, SAMPLE_A_CLASS, np.random.default_rng([seed, 0]))
    shares = dict(zip(SPLITS, info.get("fractions", FRACTIONS), strict=True))
    facts = {
        "name": str(info["name"]),
        "info": {key: info[key] for key in info if key not in ("name", "fractions")},
        "shares": shares,
        "fingerprint": fingerprint,
        "synthetic": synthetic,
        "size": size,
        "classes": list(classes),
        "records": _totals(manifest, usable),
        "leaks": _leaks(usable, pairs),
        "class_table": _class_table(usable, classes),
        "left_out": _left_out(manifest, classes),
        "image_sizes": _image_sizes(usable),
        "encodings": _encodings(usable),
        "grey": _grey(sample, classes, images),
        "confounds": {
            **asdict(confounds),
            "thresholds": THRESHOLDS,
            "permutations": PERMUTATIONS,
        },
        "duplicates": _duplicates(pairs),
        "quarantine": _quarantine(manifest),
        "warnings": _warnings(manifest),
        "split_table": _split_table(usable, classes, shares),
        "ignored": {"n": len(ignored), "shown": [str(path) for path in ignored[:LISTED]]},
    }
    mosaic = _mosaic(usable, classes, np.random.default_rng([seed, 1]))
    page = _page(facts, manifest, mosaic, _Thumbnails(images, picture))
    text = json.dumps(facts, indent=2, ensure_ascii=False, allow_nan=False)
    for name, content in (("report.json", text), ("report.html", page)):
        # A file name that is no valid text carries lone surrogates, which UTF-8 cannot hold.
        storage.write_bytes(str(root / name), content.encode("utf-8", "backslashreplace"))


def _totals(manifest: pd.DataFrame, usable: pd.DataFrame) -> dict[str, int]:
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


def _leaks(usable: pd.DataFrame, pairs: pd.DataFrame) -> dict[str, int]:
    """Groups and pairs of like pictures that lie in more than one split; 0 of both is right."""
    splits = usable.groupby("group", sort=False)["split"].nunique()
    split_of = usable.set_index("path")["split"]
    ends = [pairs[end].map(split_of) for end in ("first", "second")]
    apart = ends[0].notna() & ends[1].notna() & (ends[0] != ends[1])
    return {"groups": int((splits > 1).sum()), "pairs": int(apart.sum())}


def _class_table(usable: pd.DataFrame, classes: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {"class": name, "share": len(rows) / max(len(usable), 1), **_split_counts(rows)}
        for name in classes
        for rows in [usable[usable["label"] == name]]
    ]


def _split_table(
    usable: pd.DataFrame, classes: Sequence[str], shares: dict[str, float]
) -> list[dict[str, Any]]:
    """Records by class and source over the splits, and how far from the shares aimed at."""
    source = usable["source"].fillna("").astype(str).replace("", "not recorded")
    table = []
    for name in classes:
        rows = usable[usable["label"] == name]
        for place, part in rows.groupby(source[rows.index]):
            counts = _split_counts(part)
            off = {
                split: counts["splits"][split]["n"] / counts["n"] - share
                for split, share in shares.items()
            }
            table.append({"class": name, "source": str(place), **counts, "off": off})
    return table


def _split_counts(rows: pd.DataFrame) -> dict[str, Any]:
    return {
        "n": len(rows),
        "groups": int(rows["group"].nunique()),
        "splits": {
            split: {"n": len(part), "groups": int(part["group"].nunique())}
            for split in SPLITS
            for part in [rows[rows["split"] == split]]
        },
    }


def _left_out(manifest: pd.DataFrame, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Records by status and class; the last number is of those that have no known class."""
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


def _image_sizes(usable: pd.DataFrame) -> dict[str, Any]:
    """How many images have which size; many different ones are put in the cells of a grid."""
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


def _encodings(usable: pd.DataFrame) -> list[dict[str, Any]]:
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


def _sample(
    usable: pd.DataFrame, classes: Sequence[str], most: int, rng: np.random.Generator
) -> pd.DataFrame:
    """At most so many random rows of each class, in the order of the manifest."""
    parts = []
    for name in classes:
        rows = np.flatnonzero(usable["label"] == name)
        parts.append(np.sort(rng.permutation(rows)[:most]))
    return usable.iloc[np.concatenate(parts)]


def _grey(sample: pd.DataFrame, classes: Sequence[str], images: Images) -> dict[str, Any]:
    """Mean histograms of the sampled stored images, by class and by the commonest sources."""
    # Class by class: a sample of many classes would not fit in memory at once.
    counts: dict[Any, np.ndarray] = {}
    for name in classes:
        rows = sample[sample["label"] == name]
        if len(rows):
            stored = images(rows)
            counts |= dict(zip(rows.index, map(_histogram, stored), strict=True))
    sources = sample["source"].fillna("").astype(str)
    largest = sources[sources != ""].value_counts().index[:SOURCES_DRAWN]
    return {
        "bins": _GREY_BINS,
        "sampled": len(sample),
        "most_a_class": SAMPLE_A_CLASS,
        "by_class": [
            _curve(name, [counts[i] for i in sample.index[sample["label"] == name]])
            for name in classes
        ],
        "by_source": [
            _curve(str(name), [counts[i] for i in sample.index[sources == name]])
            for name in largest
            if (sources == name).sum() >= _FEWEST_IN_CURVE
        ],
    }


def _histogram(image: np.ndarray) -> np.ndarray:
    """Share of an image's pixels (uint8) in each of the equally wide grey bins."""
    counts = np.bincount(image.ravel(), minlength=256)
    return counts.reshape(_GREY_BINS, -1).sum(axis=1) / image.size


def _curve(name: str, histograms: list[np.ndarray]) -> dict[str, Any]:
    mean = np.mean(histograms, axis=0) if histograms else np.zeros(_GREY_BINS)
    return {"name": name, "n": len(histograms), "shares": np.round(mean, 6).tolist()}


def _duplicates(pairs: pd.DataFrame) -> dict[str, Any]:
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


def _quarantine(manifest: pd.DataFrame) -> list[dict[str, Any]]:
    """What was left out, by status, the first of each with their reasons."""
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


def _warnings(manifest: pd.DataFrame) -> dict[str, Any]:
    """Warnings that differ in their numbers alone are one kind."""
    texts = manifest["warning"].fillna("").astype(str)
    warned = manifest[texts != ""]
    kinds = texts[texts != ""].map(lambda text: re.sub(r"\d+(\.\d+)?", "0", text))
    groups = sorted(warned.groupby(kinds, sort=False), key=lambda item: -len(item[1]))
    return {
        "n": len(warned),
        "kinds": len(groups),
        "shown": [
            {
                "n": len(rows),
                "example": str(rows.iloc[0]["warning"]),
                "path": str(rows.iloc[0]["path"]),
            }
            for _, rows in groups[:LISTED]
        ],
    }


def _mosaic(
    usable: pd.DataFrame, classes: Sequence[str], rng: np.random.Generator
) -> list[tuple[str, pd.DataFrame]]:
    """Random rows of each class to look at, fewer where there are many classes."""
    drawn = list(classes)[:MOSAIC_ALL]
    most = min(MOSAIC_A_CLASS, MOSAIC_ALL // len(drawn))
    sample = _sample(usable, drawn, most, rng)
    return [(name, sample[sample["label"] == name]) for name in drawn]


class _Thumbnails:
    """Small JPEG pictures of manifest rows as data addresses."""

    def __init__(self, images: Images, picture: PictureOf) -> None:
        self._images = images
        self._picture = picture

    def of(self, rows: pd.DataFrame) -> list[str | None]:
        """One address a row, None where there is no picture."""
        stored = rows["row"].to_numpy() >= 0
        pixels = iter(self._images(rows[stored]) if stored.any() else ())
        return [
            _address(next(pixels) if kept else self._picture(row))
            for (_, row), kept in zip(rows.iterrows(), stored, strict=True)
        ]

    def by_path(self, manifest: pd.DataFrame, paths: set[str]) -> dict[str, str | None]:
        """The address of each of these paths that the manifest has."""
        rows = manifest[manifest["path"].isin(paths)]
        return dict(zip(rows["path"].astype(str), self.of(rows), strict=True))


def _address(image: np.ndarray | None) -> str | None:
    """A uint8 image (H×W) as a JPEG whose longer side has at most `THUMBNAIL_PIXELS`."""
    if image is None:
        return None
    scale = THUMBNAIL_PIXELS / max(image.shape)
    if scale < 1:
        width, height = (max(1, round(scale * side)) for side in image.shape[::-1])
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    _, jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    return "data:image/jpeg;base64," + base64.b64encode(jpeg.tobytes()).decode("ascii")


def _page(
    facts: dict[str, Any],
    manifest: pd.DataFrame,
    mosaic: list[tuple[str, pd.DataFrame]],
    thumbnails: _Thumbnails,
) -> str:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "count": lambda number: f"{number:,}",
        "percent": lambda share: f"{100 * share:.1f}\N{NO-BREAK SPACE}%",
        "points": lambda share: f"{100 * share:+.1f}".replace("-", "−"),
    }
    paths = {pair[end] for pair in facts["duplicates"]["shown"] for end in ("first", "second")}
    paths |= {item["path"] for kind in facts["quarantine"] for item in kind["shown"]}
    rows = manifest[manifest["path"].isin(paths)].set_index("path")
    source = resources.files("ctray.data.ingest").joinpath("report.html.j2").read_text("utf-8")
    return environment.from_string(source).render(
        **facts,
        pairs_open=PAIRS_OPEN,
        rows_shown=LISTED,
        mosaic=[
            {
                "class": name,
                "images": list(zip(part["path"].astype(str), thumbnails.of(part), strict=True)),
            }
            for name, part in mosaic
        ],
        pictures=thumbnails.by_path(manifest, paths),
        labels=rows["label"].to_dict(),
        statuses=rows["status"].to_dict(),
        axis=_axis(max(facts["image_sizes"]["largest"])),
        curves={side: _lines(facts["grey"][side]) for side in ("by_class", "by_source")},
    )


def _axis(largest: int) -> list[int]:
    """Round marks from 0 to at least the largest value."""
    power = 10 ** int(np.floor(np.log10(largest / 4)))
    step = next(power * factor for factor in (1, 2, 5, 10) if 5 * power * factor >= largest)
    return list(range(0, largest + step, step))


def _lines(curves: list[dict[str, Any]]) -> dict[str, Any]:
    """Points of the curves in a field 400 wide and 200 high.

    The end bins hold the black and white borders, which would press everything else flat.
    """
    top = max((share for curve in curves for share in curve["shares"][1:-1]), default=0) or 1.0
    lines = []
    for curve in curves:
        marks = [
            f"{400 * (place + 0.5) / _GREY_BINS:.1f},{200 - 200 * min(share / top, 1):.1f}"
            for place, share in enumerate(curve["shares"])
        ]
        lines.append({"name": curve["name"], "n": curve["n"], "points": " ".join(marks)})
    return {"top": top, "lines": lines}
