"""Score a bundle on records it has not seen, and write the report."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ctray.data.store import is_store
from ctray.engine.predictor import Predictor
from ctray.errors import UserError
from ctray.evaluation.metrics import Metrics, score
from ctray.evaluation.passes import Pass, Seen, score_folder, score_store
from ctray.evaluation.report import WORST_SHOWN, write_report
from ctray.provenance import versions

DEFAULT_SPLIT = "test"


@dataclass(frozen=True)
class Evaluation:
    """The outcome of `evaluate`.

    Attributes:
        metrics: of the readable records.
        trained_on: number of records left out because the bundle was trained on them.
        chosen_on: number left out because they chose its checkpoint.
        unreadable: number of images that could not be read.
    """

    metrics: Metrics
    trained_on: int
    chosen_on: int
    unreadable: int


def evaluate(
    predictor: Predictor,
    data: Path,
    out: Path,
    split: str | None = None,
    include_training: bool = False,
) -> Evaluation:
    """Write `report.json`, `report.html` and `predictions.parquet` into `out`.

    Records whose pixels the bundle was trained on, or that chose its checkpoint, are left out and
    counted. Of a store the test split is scored unless `split` says otherwise; asking for the
    validation split by name scores it, although it chose the checkpoint.

    Args:
        predictor: the loaded bundle.
        data: a store, or a folder with one sub-folder a class.
        out: folder for the three files.
        split: train, val, test or all; for a store only.
        include_training: score everything.

    Raises:
        UserError: labels the bundle does not know, a store of another size, or nothing to score.
    """
    seen = Seen(
        predictor, trained=not include_training, chosen=not include_training and split != "val"
    )
    if is_store(data):
        split = split or DEFAULT_SPLIT
        scored = score_store(predictor, data, split, seen)
    elif split is not None:
        raise UserError(f"split {split!r} needs a store; {data} is not one", "split")
    else:
        scored = score_folder(predictor, data, seen)
    table = scored.table
    if len(table.readable) == 0:
        raise UserError(
            f"nothing to score in {data}: {scored.trained_on} records were trained on, "
            f"{scored.chosen_on} chose the checkpoint, {len(table.frame)} are unreadable"
        )
    groups = table.readable["group"].tolist()
    metrics = score(table.labels, table.probabilities, table.classes, groups)
    out.mkdir(parents=True, exist_ok=True)
    table.write(out / "predictions.parquet")
    context = {"data": str(data), "split": split, "include_training": include_training}
    write_report(
        out,
        metrics=metrics,
        predictions=table.frame,
        context=context | _context(predictor, scored),
        thumbnails=_worst_mistakes(scored),
    )
    return Evaluation(metrics, scored.trained_on, scored.chosen_on, len(table.unreadable))


def _context(predictor: Predictor, scored: Pass) -> dict[str, Any]:
    """Where the numbers of the report come from."""
    bundle = predictor.bundle
    return {
        "fingerprint": scored.fingerprint,
        "bundle": {
            "name": bundle.name,
            "version": bundle.version,
            "backbone": bundle.info.backbone,
            "digest": bundle.digest,
            "fingerprint": bundle.info.fingerprint,
        },
        "left_out": {"trained_on": scored.trained_on, "chosen_on": scored.chosen_on},
        "unreadable": scored.table.unreadable[["file", "error"]].to_dict("records"),
        "synthetic": scored.synthetic,
        "versions": versions(),
    }


def _worst_mistakes(scored: Pass) -> dict[str, np.ndarray]:
    """Images, uint8 (H, W) by file, of the mistakes that the model was surest of."""
    readable = scored.table.readable
    wrong = readable[readable["predicted"] != readable["label"]]
    worst = wrong.sort_values("confidence", ascending=False).head(WORST_SHOWN)
    return {file: scored.picture(file) for file in worst["file"]}
