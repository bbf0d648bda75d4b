"""The rows of a run's history: every evaluation is one, and here its values are named."""

from collections.abc import Mapping
from typing import Any, TypedDict


class HistoryRow(TypedDict, total=False):
    """One evaluation, and the training steps since the one before.

    An epoch of a refit has no validation, and so none of the `val_` values. In `history.jsonl` the
    keys stand in this order; the last two are not written there.

    Attributes:
        step: optimizer steps done, from 1.
        epoch: passes over the training records done, a fraction within an epoch, above 0.
        train_loss: mean loss of a record that was trained on, in nats, as the recipe defines it
            (mixing, smoothing and class weights included).
        train_accuracy: share of those records that the model had right, 0 to 1, as they were mixed
            and augmented.
        val_loss: mean cross entropy of a validation record, in nats.
        val_accuracy: share of the validation records that are right, 0 to 1.
        val_macro_f1: mean over the classes of the F1 score, 0 to 1.
        lr: learning rate of the last step, before a layer's own factor.
        image_size: side in px of the images that were trained on and evaluated.
        images_per_s: training records a second, by all workers together.
        seconds: of training until then, over all the times that the run was started.
        evaluation: its number in the run, from 1.
        val_records: validation records that were scored, each once.
    """

    step: int
    epoch: float
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    val_macro_f1: float
    lr: float
    image_size: int
    images_per_s: float
    seconds: float
    evaluation: int
    val_records: int


ROW_KEYS = tuple(HistoryRow.__annotations__)
# Of a line in history.jsonl, in order.
HISTORY_KEYS = tuple(key for key in ROW_KEYS if key not in ("evaluation", "val_records"))


def value(row: HistoryRow, key: str) -> float:
    """The value of a row under a key that only the running program knows.

    Args:
        row: one that has it: rows of a refit lack the `val_` values.
        key: one of ROW_KEYS.
    """
    values: Mapping[str, Any] = row
    return float(values[key])


def written(row: HistoryRow) -> dict[str, Any]:
    """What trackers write down of a row: the values of HISTORY_KEYS, in order."""
    values: Mapping[str, Any] = row
    return {key: values[key] for key in HISTORY_KEYS}
