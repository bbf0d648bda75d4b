"""The data report: `report.json` for programs and `report.html` for people, beside the store.

It shows what the manifest knows before anybody trains: how many records of which class are in
which split, what they look like, what was left out and why, which files are the same picture, and
what other than the finding could give a class away. The page is one file without scripts or links
to anything outside it. Its size does not grow with the set: pictures are small, and lists are cut
with a word on how many more there are. File and class names are escaped throughout.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ctray.data.ingest.confound import Confounds
from ctray.data.ingest.report_types import DataSummary, GreyCurve
from ctray.data.ingest.summary import (
    GREY_BINS,
    LISTED,
    Images,
    Origin,
    sample,
    summarise,
    usable_rows,
)
from ctray.pages.rendering import render
from ctray.pages.thumbnails import thumbnail
from ctray.pages.writing import write_json, write_page

PictureOf = Callable[[pd.Series], np.ndarray | None]

THUMBNAIL_PIXELS = 112
MOSAIC_A_CLASS, MOSAIC_ALL = 10, 160
PAIRS_OPEN = 12


def write_report(
    root: Path,
    manifest: pd.DataFrame,
    pairs: pd.DataFrame,
    *,
    confounds: Confounds,
    classes: Sequence[str],
    size: int,
    fingerprint: str,
    synthetic: bool,
    ignored: Sequence[str],
    notices: Sequence[str] = (),
    images: Images,
    picture: PictureOf,
    info: dict[str, Any],
) -> None:
    """Write `root/report.json` and `root/report.html`, each whole or not at all.

    Args:
        root: folder of the store, made where missing.
        manifest: one row a record, the ones left out included.
        pairs: one row a pair of duplicates with `first`, `second` (paths), `kind` (`exact` or
            `near`), `similarity` (0 to 1), `flipped` and `conflict`; may be empty.
        confounds: what `find_confounds` says of the manifest.
        classes: names of the classes in their order.
        size: side of the stored images in px.
        fingerprint: of the store; it also chooses the images shown, so a report can be repeated.
        synthetic: whether the images were drawn by a program, not taken from patients.
        ignored: paths of the files that nothing was made of.
        notices: sentences on the set as a whole: what tables and files lack, what splits lack.
        images: stored pixels of manifest rows that have some (`row` of 0 or more): uint8
            [len(rows), size, size].
        picture: the canonical image (uint8 [H, W]) of a row that is not stored, or None.
        info: `name` of the data, `version` of ctray, `inputs` (a list of texts), `date`;
            `fractions` are the shares of train, val and test aimed at, where they are not the
            usual ones; further texts are shown as they are.

    Raises:
        ValueError: `info` lacks a key.
    """
    origin = Origin(classes, size, fingerprint, synthetic, ignored, info, notices)
    summary = summarise(manifest, pairs, confounds, origin, images)
    mosaic = _mosaic(usable_rows(manifest), classes, origin.rng(1))
    page = _page(summary, manifest, mosaic, _Thumbnails(images, picture))
    write_json(root / "report.json", summary)
    write_page(root / "report.html", page)


def _mosaic(
    usable: pd.DataFrame, classes: Sequence[str], rng: np.random.Generator
) -> list[tuple[str, pd.DataFrame]]:
    """Random rows of each class to look at, fewer where there are many classes."""
    drawn = list(classes)[:MOSAIC_ALL]
    most = min(MOSAIC_A_CLASS, MOSAIC_ALL // len(drawn))
    rows = sample(usable, drawn, most, rng)
    return [(name, rows[rows["label"] == name]) for name in drawn]


class _Thumbnails:
    """Small JPEG pictures of manifest rows as data URIs."""

    def __init__(self, images: Images, picture: PictureOf) -> None:
        self._images = images
        self._picture = picture

    def of(self, rows: pd.DataFrame) -> list[str | None]:
        """One data URI a row, None where there is no picture."""
        stored = rows["row"].to_numpy() >= 0
        pixels = iter(self._images(rows[stored]) if stored.any() else ())
        return [
            _data_uri(next(pixels) if kept else self._picture(row))
            for (_, row), kept in zip(rows.iterrows(), stored, strict=True)
        ]

    def by_path(self, manifest: pd.DataFrame, paths: set[str]) -> dict[str, str | None]:
        """The data URI of each of these paths that the manifest has."""
        rows = manifest[manifest["path"].isin(paths)]
        return dict(zip(rows["path"].astype(str), self.of(rows), strict=True))


def _data_uri(image: np.ndarray | None) -> str | None:
    return None if image is None else thumbnail(image, THUMBNAIL_PIXELS, "jpeg")


def _page(
    summary: DataSummary,
    manifest: pd.DataFrame,
    mosaic: list[tuple[str, pd.DataFrame]],
    thumbnails: _Thumbnails,
) -> str:
    paths = {pair[end] for pair in summary["duplicates"]["shown"] for end in ("first", "second")}
    paths |= {item["path"] for kind in summary["quarantine"] for item in kind["shown"]}
    rows = manifest[manifest["path"].isin(paths)].set_index("path")
    values = {
        **summary,
        "pairs_open": PAIRS_OPEN,
        "rows_shown": LISTED,
        "mosaic": [
            {
                "class": name,
                "images": list(zip(part["path"].astype(str), thumbnails.of(part), strict=True)),
            }
            for name, part in mosaic
        ],
        "pictures": thumbnails.by_path(manifest, paths),
        "labels": rows["label"].to_dict(),
        "statuses": rows["status"].to_dict(),
        "axis": _axis(max(summary["image_sizes"]["largest"])),
        "curves": {side: _lines(summary["grey"][side]) for side in ("by_class", "by_source")},
    }
    filters = {"points": lambda share: f"{100 * share:+.1f}".replace("-", "−")}
    return render("ctray.data.ingest", "report.html.j2", values, filters)


def _axis(largest: int) -> list[int]:
    """Round marks from 0 to at least the largest value."""
    power = 10 ** int(np.floor(np.log10(largest / 4)))
    step = next(power * factor for factor in (1, 2, 5, 10) if 5 * power * factor >= largest)
    return list(range(0, largest + step, step))


def _lines(curves: list[GreyCurve]) -> dict[str, Any]:
    """Points of the curves in a field 400 wide and 200 high.

    The end bins hold the black and white borders, which would press everything else flat.
    """
    top = max((share for curve in curves for share in curve["shares"][1:-1]), default=0) or 1.0
    lines = []
    for curve in curves:
        marks = [
            f"{400 * (place + 0.5) / GREY_BINS:.1f},{200 - 200 * min(share / top, 1):.1f}"
            for place, share in enumerate(curve["shares"])
        ]
        lines.append({"name": curve["name"], "n": curve["n"], "points": " ".join(marks)})
    return {"top": top, "lines": lines}
