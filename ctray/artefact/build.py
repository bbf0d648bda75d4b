"""The one place that makes bundles: from the outcome of a run, or from a trial's bundle."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ctray.artefact.bundle import write_contents
from ctray.artefact.parts import PARTS, SCHEMA, BundleInfo, Contents, SeenRecords, Validation
from ctray.config import Recipe
from ctray.models.backbones import preprocess_spec
from ctray.provenance import now, versions

if TYPE_CHECKING:
    import torch

    from ctray.data.store import Store


@dataclass(frozen=True)
class TrainingData:
    """What a bundle says of the store that its model was trained from.

    Attributes:
        classes: in the order of the model's outputs.
        size: side of the stored images, px.
        fingerprint: of the store.
        synthetic: whether its images were drawn, not taken from patients.
        train: ids of the training split.
        val: ids of the validation split, in the store's order, as the three that follow.
        val_labels: int64 (N,), index of each record's class.
        val_groups: name of each record's group.
    """

    classes: tuple[str, ...]
    size: int
    fingerprint: str
    synthetic: bool
    train: tuple[str, ...]
    val: tuple[str, ...]
    val_labels: np.ndarray
    val_groups: tuple[str, ...]

    @classmethod
    def of(cls, store: "Store") -> Self:
        """Of an opened store."""
        val = store.records("val")
        return cls(
            classes=store.classes,
            size=store.size,
            fingerprint=store.fingerprint,
            synthetic=store.synthetic,
            train=tuple(store.records("train")["id"]),
            val=tuple(val["id"]),
            val_labels=store.labels(val),
            val_groups=tuple(val["group"]),
        )


def build_bundle(
    place: str,
    best: Mapping[str, Any],
    recipe: Recipe,
    data: TrainingData,
    weights: "dict[str, torch.Tensor]",
    val_logits: np.ndarray | None,
    study: str = "",
) -> None:
    """Make the bundle of a finished run.

    Args:
        place: folder or URI to write into.
        best: row of the evaluation that chose the checkpoint; its `val_…` are the metrics.
        recipe: of the run; with `refit_epochs` the weights are those after the refit.
        data: what it was trained from.
        weights: state dict of the model.
        val_logits: float32 (N, classes), what the chosen checkpoint, before a refit, said of the
            validation split in the store's order; None when nobody kept it.
        study: id of the search that found it.
    """
    info = BundleInfo(
        backbone=recipe.backbone,
        classes=data.classes,
        preprocess=preprocess_spec(recipe, data.size),
        metrics={key: float(best[key]) for key in best if key.startswith("val_")},
        fingerprint=data.fingerprint,
        synthetic=data.synthetic,
        recipe=recipe,
        versions=versions(),
        created=now(),
        study=study,
    )
    if recipe.refit_epochs:
        seen = SeenRecords(trained_on=data.train + data.val, chosen_on=())
    else:
        seen = SeenRecords(trained_on=data.train, chosen_on=data.val)
    validation = None if val_logits is None else _validation(recipe, data, val_logits)
    write_contents(place, Contents(info, seen, weights, validation))


def adopt_bundle(trial: Contents, place: str, study: str) -> None:
    """Make the bundle of a study from the one of its chosen trial, as it is."""
    info = trial.info.model_copy(update={"study": study, "schema_version": SCHEMA})
    # By the table: a part that is added to it is adopted, too.
    kept = {part.attribute: getattr(trial, part.attribute) for part in PARTS} | {"info": info}
    write_contents(place, Contents(**kept))


def _validation(recipe: Recipe, data: TrainingData, logits: np.ndarray) -> Validation:
    numbers: dict[str, int] = {}
    for group in data.val_groups:
        numbers.setdefault(group, len(numbers))
    return Validation(
        logits=logits,
        labels=data.val_labels,
        groups=np.array([numbers[group] for group in data.val_groups], np.int64),
        ids=data.val,
        scored_by=(
            "chosen checkpoint, before the refit" if recipe.refit_epochs else "chosen checkpoint"
        ),
    )
