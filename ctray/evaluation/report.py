"""The evaluation report: `report.json` for programs and `report.html` for people.

The page is one file without scripts or links to anything outside it, so it can be mailed, archived
and printed. File and class names come from whoever made the data and are escaped throughout.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ctray.evaluation.metrics import Metrics
from ctray.evaluation.summary import (
    Mistake,
    Summary,
    blind_guess,
    confidence_histogram,
    scored_rows,
    summarise,
    worst_mistakes,
)
from ctray.pages.rendering import render
from ctray.pages.thumbnails import thumbnail
from ctray.pages.writing import write_json, write_page

WORST_SHOWN = 12
SOURCES_SHOWN = 20
UNREADABLE_SHOWN = 50
THUMBNAIL_PIXELS = 192


def write_report(
    out: Path,
    *,
    metrics: Metrics,
    predictions: pd.DataFrame,
    context: dict[str, Any],
    thumbnails: dict[str, np.ndarray] | None,
) -> None:
    """Write `out/report.json` and `out/report.html`, each whole or not at all.

    Args:
        out: folder of the report, made where missing.
        metrics: the score of the readable records in `predictions`.
        predictions: one row a record with `file, label, predicted, confidence, p_<class>…, error,
            group` and, where known, `source`. Rows with a text in `error` were not scored.
        context: where the numbers come from, all of: `fingerprint` (str), `bundle` (`name`,
            `version`, `backbone`), `left_out` (counts `trained_on` and `chosen_on`), `unreadable`
            (a list of `file`, `error`), `include_training` (bool), `split` (str or None), `data`
            (str), `synthetic` (bool), `versions` (name to version).
        thumbnails: uint8 images [H, W] or [H, W, 3] (RGB) by file name, for the worst mistakes;
            files without one are listed without a picture.

    Raises:
        ValueError: the context lacks a key, or the predictions are not those that were scored.
    """
    scored = scored_rows(predictions, metrics)
    summary = summarise(metrics, scored, context)
    page = _page(summary, scored, thumbnails or {})
    write_json(out / "report.json", asdict(summary))
    write_page(out / "report.html", page)


def _page(summary: Summary, scored: pd.DataFrame, thumbnails: dict[str, np.ndarray]) -> str:
    mistakes = worst_mistakes(scored, WORST_SHOWN)
    values = {
        **vars(summary),
        "matrix": _matrix(summary),
        "histogram": confidence_histogram(scored),
        "wrong": int((~scored["right"]).sum()),
        "worst": [(mistake, _picture(mistake, thumbnails)) for mistake in mistakes],
        "guess": blind_guess(summary),
        "sources_shown": SOURCES_SHOWN,
        "unreadable_shown": UNREADABLE_SHOWN,
    }
    return render("ctray.evaluation", "report.html.j2", values)


def _picture(mistake: Mistake, thumbnails: dict[str, np.ndarray]) -> str | None:
    image = thumbnails.get(mistake.file)
    return None if image is None else thumbnail(image, THUMBNAIL_PIXELS, "png")


@dataclass(frozen=True)
class _Cell:
    """A cell of the confusion matrix, with its share of the true class."""

    n: int
    share: float
    right: bool


@dataclass(frozen=True)
class _Row:
    """A row of the confusion matrix: a true class."""

    name: str
    total: int
    cells: list[_Cell]


def _matrix(summary: Summary) -> list[_Row]:
    return [
        _Row(
            name=name,
            total=sum(counts),
            cells=[_Cell(n, n / max(sum(counts), 1), i == j) for j, n in enumerate(counts)],
        )
        for i, (name, counts) in enumerate(zip(summary.classes, summary.confusion, strict=True))
    ]
