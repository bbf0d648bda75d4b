"""Score a bundle on records it has not seen, and write the report."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ctray.data.image.dispatch import decode_image
from ctray.data.image.preprocess import stored_to_input, to_input
from ctray.data.ingest.listing import FileRecord, list_folder, read_bytes
from ctray.data.store import Store, is_store, read_image, record_id
from ctray.engine.batch import Outcome, predict_many, row
from ctray.engine.predictor import Predictor
from ctray.errors import UserError
from ctray.evaluation.metrics import Metrics, score
from ctray.evaluation.report import WORST_SHOWN, write_report
from ctray.provenance import versions

DEFAULT_SPLIT = "test"


@dataclass
class Scored:
    """What came out of a pass over the data, before metrics."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    trained_on: int = 0
    chosen_on: int = 0


@dataclass(frozen=True)
class Evaluation:
    """The outcome of `evaluate`."""

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
    seen = _Seen(predictor, include_training, split)
    if is_store(data):
        store = Store.open(data)
        scored = _score_store(predictor, store, split or DEFAULT_SPLIT, seen)
        fingerprint, synthetic = store.fingerprint, store.synthetic
        shown_split: str | None = split or DEFAULT_SPLIT
        uris: dict[str, str] = {}
    else:
        if split is not None:
            raise UserError(f"--split {split} needs a store; {data} is not one")
        listing = list_folder(data)
        _check_classes(predictor, listing.classes)
        nameless = [file.path for file in listing.files if not file.label]
        if nameless:
            raise UserError(
                f"{len(nameless)} files of {data} have no label, the first {nameless[0]}: label "
                "them, or use `ctray predict`"
            )
        scored = _score_folder(predictor, listing.files, seen)
        fingerprint, synthetic = _fingerprint(scored), listing.synthetic
        shown_split = None
        uris = {file.path: file.uri for file in listing.files}
    frame = pd.DataFrame(scored.rows)
    readable = frame[frame["error"].isna()] if len(frame) else frame
    if len(readable) == 0:
        raise UserError(
            f"nothing to score in {data}: {scored.trained_on} records were trained on, "
            f"{scored.chosen_on} chose the checkpoint, {len(frame)} are unreadable"
        )
    metrics = _metrics(predictor, readable)
    out.mkdir(parents=True, exist_ok=True)
    frame.to_parquet(out / "predictions.parquet", index=False)
    bundle = predictor.bundle
    unreadable = frame[frame["error"].notna()]
    write_report(
        out,
        metrics=metrics,
        predictions=frame,
        context={
            "fingerprint": fingerprint,
            "bundle": {
                "name": bundle.name,
                "version": bundle.version,
                "backbone": bundle.info.backbone,
                "digest": bundle.digest,
                "fingerprint": bundle.info.fingerprint,
            },
            "left_out": {"trained_on": scored.trained_on, "chosen_on": scored.chosen_on},
            "unreadable": unreadable[["file", "error"]].to_dict("records"),
            "include_training": include_training,
            "split": shown_split,
            "data": str(data),
            "synthetic": synthetic,
            "versions": versions(),
        },
        thumbnails=_thumbnails(data, readable, uris),
    )
    return Evaluation(metrics, scored.trained_on, scored.chosen_on, len(unreadable))


class _Seen:
    """Which records to leave out, and how many were."""

    def __init__(self, predictor: Predictor, include_training: bool, split: str | None) -> None:
        seen = predictor.bundle.seen
        self._trained = set() if include_training else set(seen.trained_on)
        self._chosen = set() if include_training or split == "val" else set(seen.chosen_on)

    def leaves_out(self, record: str) -> bool:
        """Whether to leave a record out."""
        return record in self._trained or record in self._chosen

    def count(self, records: Iterable[str], scored: Scored) -> None:
        """Count which of these were left out, and why."""
        for record in records:
            scored.trained_on += record in self._trained
            scored.chosen_on += record in self._chosen


def _score_store(predictor: Predictor, store: Store, split: str, seen: _Seen) -> Scored:
    spec = predictor.bundle.info.preprocess
    if split not in ("train", "val", "test", "all"):
        raise UserError(f"--split {split!r} must be train, val, test or all")
    if store.size != spec.store_size:
        raise UserError(
            f"the store {store.root} has {store.size} px images, the bundle was trained from "
            f"{spec.store_size} px: prepare the data again with --size {spec.store_size}"
        )
    _check_classes(predictor, store.classes)
    scored = Scored()
    jobs = [
        record
        for record in store.records(split).to_dict("records")
        if not seen.leaves_out(record["id"])
    ]
    seen.count(store.records(split)["id"], scored)
    root = str(store.root)

    def load(record: dict[Any, Any]) -> np.ndarray:
        return stored_to_input(read_image(root, record["shard"], record["row"]), spec)

    for record, outcome in predict_many(predictor, jobs, load):
        scored.rows.append(_row(predictor, record["path"], record, outcome))
    return scored


def _score_folder(predictor: Predictor, files: tuple[FileRecord, ...], seen: _Seen) -> Scored:
    spec = predictor.bundle.info.preprocess
    scored = Scored()
    ids: dict[str, str] = {}

    def load(file: FileRecord) -> np.ndarray | None:
        image = decode_image(read_bytes(file.uri))
        ids[file.path] = record_id(image)
        return None if seen.leaves_out(ids[file.path]) else to_input(image, spec)

    for file, outcome in predict_many(predictor, files, load):
        record = ids.get(file.path, "")
        known = {"id": record, "label": file.label, "source": file.source}
        known["group"] = file.group or record or file.path
        scored.rows.append(_row(predictor, file.path, known, outcome))
    seen.count(ids.values(), scored)
    return scored


def _row(
    predictor: Predictor, file: str, record: dict[Any, Any], outcome: Outcome
) -> dict[str, Any]:
    return {
        **row(file, outcome, predictor.bundle.info.classes),
        "label": record["label"],
        "id": record["id"],
        "group": record["group"],
        "source": record["source"],
    }


def _metrics(predictor: Predictor, readable: pd.DataFrame) -> Metrics:
    classes = predictor.bundle.info.classes
    labels = pd.Categorical(readable["label"], categories=list(classes)).codes.astype(np.int64)
    probabilities = readable[[f"p_{name}" for name in classes]].to_numpy(np.float64)
    return score(labels, probabilities, classes, readable["group"].tolist())


def _check_classes(predictor: Predictor, classes: tuple[str, ...]) -> None:
    known = predictor.bundle.info.classes
    unknown = [name for name in classes if name not in known]
    if unknown:
        raise UserError(
            f"class {unknown[0]!r} is not one the bundle knows ({', '.join(known)}): "
            "rename the folder"
        )


def _fingerprint(scored: Scored) -> str:
    lines = sorted(f"{entry['id']}\t{entry['label']}" for entry in scored.rows)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _thumbnails(data: Path, readable: pd.DataFrame, uris: dict[str, str]) -> dict[str, np.ndarray]:
    wrong = readable[readable["predicted"] != readable["label"]]
    worst = wrong.sort_values("confidence", ascending=False).head(WORST_SHOWN)
    if is_store(data):
        store = Store.open(data)
        places = store.manifest.set_index("path").loc[worst["file"], ["shard", "row"]]
        return {
            str(file): read_image(str(store.root), int(place["shard"]), int(place["row"]))
            for file, place in places.iterrows()
        }
    return {file: decode_image(read_bytes(uris[file])) for file in worst["file"]}
