"""The evaluation report: ``report.json`` for programs and ``report.html`` for people.

The page is one file without scripts or links to anything outside it, so it can be mailed, archived
and printed. File and class names come from whoever made the data and are escaped throughout.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ctray.evaluation.metrics import (
    ClassMetrics,
    Metrics,
    Reliability,
    reliability,
    score,
)
from ctray.pages.rendering import render
from ctray.pages.thumbnails import thumbnail
from ctray.pages.writing import write_json, write_page
from ctray.provenance import now

RELIABILITY_BINS = 15
WORST_SHOWN = 12
SOURCES_SHOWN = 20
UNREADABLE_SHOWN = 50
THUMBNAIL_PIXELS = 192

_CONTEXT = {
    "fingerprint",
    "bundle",
    "left_out",
    "unreadable",
    "include_training",
    "split",
    "data",
    "synthetic",
    "versions",
}


def write_report(
    out: Path,
    *,
    metrics: Metrics,
    predictions: pd.DataFrame,
    context: dict[str, Any],
    thumbnails: dict[str, np.ndarray] | None,
) -> None:
    """Write ``out/report.json`` and ``out/report.html``, each whole or not at all.

    Args:
        out: folder of the report, made where missing.
        metrics: the score of the readable records in ``predictions``.
        predictions: one row a record with ``file, label, predicted, confidence, p_<class>…, error,
            group`` and, where known, ``source``. Rows with a text in ``error`` were not scored.
        context: where the numbers come from, all of: ``fingerprint`` (str), ``bundle`` (``name``,
            ``version``, ``backbone``), ``left_out`` (counts ``trained_on`` and ``chosen_on``),
            ``unreadable`` (a list of ``file``, ``error``), ``include_training`` (bool), ``split``
            (str or None), ``data`` (str), ``synthetic`` (bool), ``versions`` (name to version).
        thumbnails: uint8 images [H, W] or [H, W, 3] (RGB) by file name, for the worst mistakes;
            files without one are listed without a picture.

    Raises:
        ValueError: the context lacks a key, or the predictions are not those that were scored.
    """
    missing = _CONTEXT - context.keys()
    if missing:
        raise ValueError(f"the report's context lacks {sorted(missing)}")
    scored = _scored(predictions, metrics)
    calibration = reliability(
        scored["confidence"].to_numpy(dtype=np.float64), scored["right"].to_numpy(dtype=bool)
    )
    sources = _sources(scored, metrics)
    summary = _summary(metrics, context, calibration, sources)
    page = _page(summary, scored, thumbnails or {})
    write_json(out / "report.json", summary)
    write_page(out / "report.html", page)


def _scored(predictions: pd.DataFrame, metrics: Metrics) -> pd.DataFrame:
    """The readable rows with a column ``right``; they must be the ones behind the metrics."""
    failed = predictions["error"].fillna("").astype(str) != ""
    scored = predictions[~failed].reset_index(drop=True)
    place = {name: i for i, name in enumerate(metrics.classes)}
    confusion = np.zeros_like(metrics.confusion)
    for true, predicted in zip(scored["label"], scored["predicted"], strict=True):
        if true not in place or predicted not in place:
            raise ValueError(f"label {true!r} or prediction {predicted!r} is not a class")
        confusion[place[true], place[predicted]] += 1
    if not np.array_equal(confusion, metrics.confusion):
        raise ValueError(
            f"the {len(scored)} readable predictions are not the {metrics.n} records of the metrics"
        )
    return scored.assign(right=scored["label"] == scored["predicted"])


def _summary(
    metrics: Metrics,
    context: dict[str, Any],
    calibration: Reliability,
    sources: list[dict[str, Any]],
) -> dict[str, Any]:
    """All of ``report.json``."""
    return {
        "n": metrics.n,
        "groups": metrics.groups,
        "classes": list(metrics.classes),
        "data": context["data"],
        "split": context["split"],
        "synthetic": context["synthetic"],
        "fingerprint": context["fingerprint"],
        "bundle": {key: context["bundle"][key] for key in ("name", "version", "backbone")},
        "include_training": context["include_training"],
        "left_out": {key: context["left_out"][key] for key in ("trained_on", "chosen_on")},
        "unreadable": [{"file": u["file"], "error": u["error"]} for u in context["unreadable"]],
        "metrics": {
            "accuracy": asdict(metrics.accuracy),
            "macro_f1": asdict(metrics.macro_f1),
            "weighted_f1": asdict(metrics.weighted_f1),
            "per_class": {name: _plain(part) for name, part in metrics.per_class.items()},
        },
        "averages": {name: _plain(part) for name, part in metrics.averages.items()},
        "interval": (
            f"95 % percentile bootstrap over groups, {metrics.replicates} replicates, "
            f"seed {metrics.seed}"
        ),
        "confusion": metrics.confusion.tolist(),
        "confusions": _confusions(metrics),
        "calibration": asdict(calibration),
        "sources": sources,
        "created": now(),
        "versions": dict(context["versions"]),
    }


def _plain(part: ClassMetrics) -> dict[str, Any]:
    measures = {"precision": part.precision, "recall": part.recall, "f1": part.f1}
    return {
        **{name: interval.value for name, interval in measures.items()},
        "support": part.support,
        "intervals": {name: {"low": i.low, "high": i.high} for name, i in measures.items()},
    }


def _confusions(metrics: Metrics) -> list[dict[str, Any]]:
    """Pairs of classes that were mixed up, the most frequent first."""
    pairs = [
        {
            "true": metrics.classes[row],
            "predicted": metrics.classes[column],
            "n": int(count),
            "share_of_true": float(count / metrics.confusion[row].sum()),
        }
        for (row, column), count in np.ndenumerate(metrics.confusion)
        if row != column and count
    ]
    return sorted(pairs, key=lambda pair: -pair["n"])


def _sources(scored: pd.DataFrame, metrics: Metrics) -> list[dict[str, Any]]:
    """Accuracy and most common class by source, the largest first; empty with fewer than two."""
    if "source" not in scored:
        return []
    names = scored["source"].fillna("").astype(str)
    if names.nunique() < 2:
        return []
    place = {name: i for i, name in enumerate(metrics.classes)}
    columns = [f"p_{name}" for name in metrics.classes]
    slices = []
    for name, rows in scored.groupby(names):
        part = score(
            rows["label"].map(place).to_numpy(dtype=np.int64),
            rows[columns].to_numpy(dtype=np.float64),
            metrics.classes,
            rows["group"].astype(str).tolist(),
            metrics.replicates,
            metrics.seed,
        )
        support = part.confusion.sum(axis=1)
        slices.append(
            {
                "source": name or "not recorded",
                "n": part.n,
                "groups": part.groups,
                "accuracy": asdict(part.accuracy),
                "most_common": metrics.classes[int(support.argmax())],
                "most_common_share": float(support.max() / part.n),
            }
        )
    return sorted(slices, key=lambda row: -row["n"])


def _page(summary: dict[str, Any], scored: pd.DataFrame, thumbnails: dict[str, np.ndarray]) -> str:
    wrong = int((~scored["right"]).sum())
    values = {
        **summary,
        "matrix": _matrix(summary["classes"], summary["confusion"]),
        "histogram": _histogram(scored),
        "wrong": wrong,
        "worst": _worst(scored, thumbnails),
        "guess": _guesses(summary),
        "sources_shown": SOURCES_SHOWN,
        "unreadable_shown": UNREADABLE_SHOWN,
    }
    return render("ctray.evaluation", "report.html.j2", values)


def _matrix(classes: list[str], confusion: list[list[int]]) -> list[dict[str, Any]]:
    """Rows of the confusion matrix with each cell's share of its true class."""
    return [
        {
            "name": name,
            "total": sum(counts),
            "cells": [
                {"n": n, "share": n / max(sum(counts), 1), "right": i == j}
                for j, n in enumerate(counts)
            ],
        }
        for i, (name, counts) in enumerate(zip(classes, confusion, strict=True))
    ]


def _histogram(scored: pd.DataFrame) -> dict[str, Any]:
    """Shares of the right and of the wrong answers by confidence, in equally wide bins."""
    edges = np.linspace(0, 1, RELIABILITY_BINS + 1)
    sides = {}
    for name, rows in (("right", scored[scored["right"]]), ("wrong", scored[~scored["right"]])):
        counts, _ = np.histogram(rows["confidence"].clip(0, 1), edges)
        sides[name] = {
            "n": len(rows),
            "counts": counts.tolist(),
            "shares": (counts / max(len(rows), 1)).tolist(),
            "median": float(rows["confidence"].median()) if len(rows) else None,
        }
    top = max(*sides["right"]["shares"], *sides["wrong"]["shares"])
    return {**sides, "top": top}


def _worst(scored: pd.DataFrame, thumbnails: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """The wrong answers given with the highest confidence."""
    wrong = scored[~scored["right"]].sort_values(["confidence", "file"], ascending=[False, True])
    return [
        {
            "file": row["file"],
            "true": row["label"],
            "predicted": row["predicted"],
            "confidence": row["confidence"],
            "true_probability": row[f"p_{row['label']}"],
            "picture": (
                thumbnail(thumbnails[row["file"]], THUMBNAIL_PIXELS, "png")
                if row["file"] in thumbnails
                else None
            ),
        }
        for _, row in wrong.head(WORST_SHOWN).iterrows()
    ]


def _guesses(summary: dict[str, Any]) -> dict[str, float]:
    """Accuracy of naming the most common class without a look at any image.

    ``blind`` knows the class counts of the whole; ``by_source`` those of each source. Far apart,
    they say that the source gives the class away.
    """
    n = summary["n"]
    return {
        "blind": max(sum(row) for row in summary["confusion"]) / n,
        "by_source": sum(s["most_common_share"] * s["n"] for s in summary["sources"]) / n,
    }
