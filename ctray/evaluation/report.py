"""The evaluation report: `report.json` for programs and `report.html` for people.

The page is one file without scripts or links to anything outside it, so it can be mailed, archived
and printed. File and class names come from whoever made the data and are escaped throughout. The
figures come from `ctray.evaluation.summary`, out of a table of predictions, whose columns are those
of `ctray.engine.table`; here they are drawn and written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np

from ctray.evaluation.summary import Mistake, PageFigures, Summary
from ctray.pages.rendering import render
from ctray.pages.thumbnails import thumbnail
from ctray.pages.writing import write_json, write_page

SOURCES_SHOWN = 20
UNREADABLE_SHOWN = 50
THUMBNAIL_PIXELS = 192


def write_report(
    out: Path, summary: Summary, figures: PageFigures, thumbnails: Mapping[str, np.ndarray]
) -> None:
    """Write `out/report.json` and `out/report.html`, each whole or not at all.

    Args:
        out: folder of the report, made where missing.
        summary: all of `report.json`.
        figures: what the page draws beyond it.
        thumbnails: uint8 images [H, W] or [H, W, 3] (RGB) by file name, for the worst mistakes;
            files without one are listed without a picture.
    """
    page = _page(summary, figures, thumbnails)
    write_json(out / "report.json", asdict(summary))
    write_page(out / "report.html", page)


def _page(summary: Summary, figures: PageFigures, thumbnails: Mapping[str, np.ndarray]) -> str:
    values = {
        **vars(summary),
        **vars(figures),
        "worst": [(mistake, _picture(mistake, thumbnails)) for mistake in figures.worst],
        "sources_shown": SOURCES_SHOWN,
        "unreadable_shown": UNREADABLE_SHOWN,
    }
    return render("ctray.evaluation", "report.html.j2", values)


def _picture(mistake: Mistake, thumbnails: Mapping[str, np.ndarray]) -> str | None:
    image = thumbnails.get(mistake.file)
    return None if image is None else thumbnail(image, THUMBNAIL_PIXELS, "png")
