"""Score a bundle on records it has not seen, and write the report."""

from dataclasses import dataclass
from pathlib import Path

from ctray.data.store import is_store
from ctray.engine.predictor import Predictor
from ctray.errors import UserError
from ctray.evaluation.metrics import Metrics, score
from ctray.evaluation.passes import Pass, Seen, score_folder, score_store
from ctray.evaluation.report import write_report
from ctray.evaluation.splits import DEFAULT_SPLIT, check_split
from ctray.evaluation.summary import (
    Basis,
    BundleName,
    LeftOut,
    Unreadable,
    page_figures,
    scored_rows,
    summarise,
)
from ctray.provenance import versions


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
        UserError: no such split, labels the bundle does not know, a store of another size, or
            nothing to score.
    """
    check_split(data, split)
    seen = Seen(
        predictor, trained=not include_training, chosen=not include_training and split != "val"
    )
    if is_store(data):
        split = split or DEFAULT_SPLIT
        scored = score_store(predictor, data, split, seen)
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
    rows = scored_rows(table.frame, metrics)
    summary = summarise(metrics, rows, _basis(predictor, scored, data, split, include_training))
    figures = page_figures(summary, rows)
    thumbnails = {mistake.file: scored.picture(mistake.file) for mistake in figures.worst}
    out.mkdir(parents=True, exist_ok=True)
    table.write(out / "predictions.parquet")
    write_report(out, summary, figures, thumbnails)
    return Evaluation(
        metrics=metrics,
        trained_on=scored.trained_on,
        chosen_on=scored.chosen_on,
        unreadable=len(table.unreadable),
    )


def _basis(
    predictor: Predictor, scored: Pass, data: Path, split: str | None, include_training: bool
) -> Basis:
    bundle = predictor.bundle
    unreadable = scored.table.unreadable
    return Basis(
        data=str(data),
        split=split,
        synthetic=scored.synthetic,
        fingerprint=scored.fingerprint,
        bundle=BundleName(bundle.name, bundle.version, bundle.info.backbone),
        include_training=include_training,
        left_out=LeftOut(scored.trained_on, scored.chosen_on),
        unreadable=tuple(
            Unreadable(file, error)
            for file, error in zip(unreadable["file"], unreadable["error"], strict=True)
        ),
        versions=versions(),
    )
