"""A pass of the model over a store or a folder: both give the same table of predictions."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ctray.data.image.dispatch import decode_picture
from ctray.data.image.picture import ImageError
from ctray.data.image.preprocess import stored_to_input, to_input
from ctray.data.ingest.listing import FileRecord, list_folder, read_bytes
from ctray.data.store import Store, read_image, record_id
from ctray.engine.batch import predict_many
from ctray.engine.predictor import ModelInput, Predictor
from ctray.engine.table import Known, Line, PredictionTable
from ctray.errors import UserError
from ctray.words import printable


@dataclass(frozen=True)
class Pass:
    """What came out of a pass over the data.

    Attributes:
        table: predictions of known records, in the order of the data.
        trained_on: number of records left out because the bundle was trained on them.
        chosen_on: number left out because they chose its checkpoint.
        fingerprint: of the store, or of the ids and labels in the table.
        synthetic: whether the images were drawn, not taken from patients.
        picture: file of the table to its image, uint8 (H, W), for the report.
    """

    table: PredictionTable
    trained_on: int
    chosen_on: int
    fingerprint: str
    synthetic: bool
    picture: Callable[[str], np.ndarray]


class Seen:
    """Which records to leave out: those that shaped the bundle.

    Args:
        predictor: the loaded bundle.
        trained: whether to leave out what it was trained on.
        chosen: whether to leave out what chose its checkpoint.
    """

    def __init__(self, predictor: Predictor, trained: bool, chosen: bool) -> None:
        seen = predictor.bundle.seen
        self._trained = set(seen.trained_on) if trained else set()
        self._chosen = set(seen.chosen_on) if chosen else set()

    def leaves_out(self, record: str) -> bool:
        """Whether to leave a record out, by its id."""
        return record in self._trained or record in self._chosen

    def count(self, records: Iterable[str]) -> tuple[int, int]:
        """How many of these ids are left out as trained on, and as chosen on."""
        ids = list(records)
        trained = sum(record in self._trained for record in ids)
        return trained, sum(record in self._chosen for record in ids)


def score_store(predictor: Predictor, root: Path, split: str, seen: Seen) -> Pass:
    """Predict a split of a store, from the stored pixels.

    Args:
        predictor: the loaded bundle.
        root: folder of the store.
        split: train, val, test or all.
        seen: what to leave out.

    Raises:
        UserError: images of another size, or classes the bundle does not know.
    """
    spec = predictor.bundle.info.preprocess
    store = Store.open(root)
    if store.size != spec.store_size:
        raise UserError(
            f"the store {store.root} has {store.size} px images, the bundle was trained from "
            f"{spec.store_size} px: prepare the data again with "
            f"`ctray prepare --size {spec.store_size}`"
        )
    _check_classes(predictor, store.classes)
    records = store.records(split)
    jobs = [one for one in records.to_dict("records") if not seen.leaves_out(one["id"])]
    folder = str(store.root)

    def load(record: dict[Any, Any]) -> ModelInput:
        pixels = stored_to_input(read_image(folder, record["shard"], record["row"]), spec)
        # Stores of an earlier version may lack the column.
        return ModelInput(pixels, tuple(filter(None, [record.get("warning")])))

    places = {record["path"]: (record["shard"], record["row"]) for record in jobs}

    def picture(file: str) -> np.ndarray:
        return read_image(folder, *places[file])

    lines = []
    for record, outcome in predict_many(predictor, jobs, load):
        known = Known(record["label"], record["id"], record["group"], record["source"])
        lines.append(outcome.line(record["path"], known))
    table = PredictionTable.of(predictor.bundle.info.classes, lines, known=True)
    trained_on, chosen_on = seen.count(records["id"])
    return Pass(
        table=table,
        trained_on=trained_on,
        chosen_on=chosen_on,
        fingerprint=store.fingerprint,
        synthetic=store.synthetic,
        picture=picture,
    )


def score_folder(predictor: Predictor, data: Path, seen: Seen) -> Pass:
    """Predict the images of a folder with one sub-folder a class.

    Raises:
        UserError: images without a label, or classes the bundle does not know.
    """
    listing = list_folder(data)
    if listing.hints and not set(listing.classes) <= set(predictor.bundle.info.classes):
        raise UserError(listing.hints[0])
    _check_classes(predictor, listing.classes)
    left_out = [file for file in listing.files if file.status not in ("ok", "unreadable")]
    if left_out:
        raise UserError(
            f"{len(left_out)} files of {data} are left out, the first {left_out[0].path}: "
            f"{left_out[0].reason}: prepare a store of it first, which counts them"
        )
    nameless = [file.path for file in listing.files if not file.label and not file.reason]
    if nameless:
        raise UserError(
            f"{len(nameless)} files of {data} have no label, the first {nameless[0]}: label "
            "them, or use `ctray predict`"
        )
    spec = predictor.bundle.info.preprocess
    # By path, of the images that could be read.
    ids: dict[str, str] = {}
    uris = {printable(file.path): file.uri for file in listing.files}

    def load(file: FileRecord) -> ModelInput | None:
        if file.reason:
            raise ImageError("unreadable", file.reason)
        image = decode_picture(read_bytes(file.uri), file.path)
        ids[file.path] = record_id(image.pixels)
        if seen.leaves_out(ids[file.path]):
            return None
        return ModelInput(to_input(image.pixels, spec), image.warnings)

    def picture(file: str) -> np.ndarray:
        return decode_picture(read_bytes(uris[file])).pixels

    lines = []
    for file, outcome in predict_many(predictor, listing.files, load):
        record = ids.get(file.path, "")
        known = Known(file.label, record, file.group or record or file.path, file.source)
        lines.append(outcome.line(file.path, known))
    table = PredictionTable.of(predictor.bundle.info.classes, lines, known=True)
    trained_on, chosen_on = seen.count(ids.values())
    return Pass(
        table=table,
        trained_on=trained_on,
        chosen_on=chosen_on,
        fingerprint=_fingerprint(lines),
        synthetic=listing.synthetic,
        picture=picture,
    )


def _check_classes(predictor: Predictor, classes: tuple[str, ...]) -> None:
    known = predictor.bundle.info.classes
    unknown = [name for name in classes if name not in known]
    if unknown:
        raise UserError(
            f"class {unknown[0]!r} is not one the bundle knows ({', '.join(known)}): "
            "rename the folder"
        )


def _fingerprint(lines: list[Line]) -> str:
    known = [line.known for line in lines if line.known is not None]
    text = "\n".join(sorted(f"{record.id}\t{record.label}" for record in known))
    return hashlib.sha256(text.encode()).hexdigest()
