"""The parts of a bundle, as a table: which files it has, what each holds, and how it is read.

A new part is a line in `PARTS` and a field in `Contents`. Nothing here imports torch before weights
are read or written.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from ctray import storage
from ctray.config import PreprocessSpec, Recipe, Strict
from ctray.decision.decide import DecisionParams

if TYPE_CHECKING:
    import torch

# The last file to be written: where it is, a bundle is whole.
SUMS = "SHA256SUMS"
# 1: no validation part; its three files may be read as they are.
SCHEMA = 2
INFO = "bundle.json"


class BundleInfo(Strict):
    """What `bundle.json` holds."""

    schema_version: int = Field(SCHEMA, description="of the bundle")
    backbone: str = Field(description="name the model is rebuilt by")
    classes: tuple[str, ...] = Field(
        min_length=2, description="in the order of the model's outputs"
    )
    preprocess: PreprocessSpec = Field(description="how a canonical image becomes model input")
    metrics: dict[str, float] = Field(
        description="of the chosen checkpoint on validation data, before a refit of the recipe's"
    )
    fingerprint: str = Field(description="of the store it was trained from")
    synthetic: bool = Field(description="whether that data was drawn, not taken from patients")
    recipe: Recipe = Field(description="what the run was made from")
    versions: dict[str, str] = Field(description="of Python and the packages that matter")
    created: str = Field(description="ISO 8601, UTC")
    study: str = Field("", description="id of the search that found it; empty without one")


class SeenRecords(Strict):
    """Ids of the records that shaped the model, so that nobody scores it on them."""

    trained_on: tuple[str, ...] = Field(
        description="the training split; after a refit validation, too"
    )
    chosen_on: tuple[str, ...] = Field(
        description="the validation split, which chose the checkpoint; empty after a refit"
    )


# Whose logits a validation part holds. After a refit the bundle's own weights have learned from
# these records: their logits would look better than the model is.
ScoredBy = Literal["chosen checkpoint", "chosen checkpoint, before the refit"]


@dataclass(frozen=True)
class Validation:
    """What the model said of the validation split, for what is fitted on it and nowhere else.

    Attributes:
        logits: float32 (N, classes), in the store's order of the split: of the averaged weights
            and with the test-time augmentation of the recipe.
        labels: int64 (N,), the index of each record's class.
        groups: int64 (N,), equal for records of one group. Numbers in order of appearance, not the
            store's names, which may be a hospital's own of its patients.
        ids: of the N records.
        scored_by: whose logits they are.
    """

    logits: np.ndarray
    labels: np.ndarray
    groups: np.ndarray
    ids: tuple[str, ...]
    scored_by: ScoredBy

    def __post_init__(self) -> None:
        count = len(self.ids)
        if self.logits.ndim != 2 or len(self.logits) != count:
            raise ValueError(f"logits {self.logits.shape} are not those of {count} records")
        if self.labels.shape != (count,) or self.groups.shape != (count,):
            raise ValueError(
                f"labels {self.labels.shape} or groups {self.groups.shape} are not those of "
                f"{count} records"
            )


@dataclass(frozen=True)
class Contents:
    """What a bundle holds: one attribute a part.

    Attributes:
        info: settings, metrics and provenance.
        seen: ids of the records it was trained and chosen on.
        weights: state dict of the model, on the CPU.
        validation: predictions of the validation split; None in a bundle that was made without.
        decision: what the parts of the decision fitted; None where nothing was fitted.
    """

    info: BundleInfo
    seen: SeenRecords
    weights: "dict[str, torch.Tensor]"
    validation: Validation | None = None
    decision: DecisionParams | None = None


@dataclass(frozen=True)
class Part:
    """One file of a bundle.

    Attributes:
        file: its name.
        attribute: of `Contents`.
        required: whether every bundle has it.
        holds: what, in words.
        dump: what the attribute holds, as bytes.
        load: those bytes, read; raises ValueError (as pydantic's errors are), KeyError or
            SafetensorError when they are something else.
    """

    file: str
    attribute: str
    required: bool
    holds: str
    dump: Callable[[Any], bytes]
    load: Callable[[bytes], Any]


def _dump_info(info: BundleInfo) -> bytes:
    # Indented: people read it.
    return info.model_dump_json(indent=2).encode()


def _dump_model(model: Strict) -> bytes:
    return model.model_dump_json().encode()


def _dump_weights(weights: "dict[str, torch.Tensor]") -> bytes:
    import safetensors.torch

    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    return safetensors.torch.save(contiguous)


def _load_weights(data: bytes) -> "dict[str, torch.Tensor]":
    import safetensors.torch

    return safetensors.torch.load(data)


class _ValidationHeader(Strict):
    """What is no tensor of a validation part: JSON in the file's header, under `validation`."""

    scored_by: ScoredBy
    ids: tuple[str, ...]


def _dump_validation(validation: Validation) -> bytes:
    import safetensors.numpy

    header = _ValidationHeader(scored_by=validation.scored_by, ids=validation.ids)
    tensors: dict[str, np.ndarray] = {
        "logits": np.ascontiguousarray(validation.logits, np.float32),
        "labels": np.ascontiguousarray(validation.labels, np.int64),
        "groups": np.ascontiguousarray(validation.groups, np.int64),
    }
    return safetensors.numpy.save(tensors, {"validation": header.model_dump_json()})


def _load_validation(data: bytes) -> Validation:
    import safetensors.numpy

    tensors = safetensors.numpy.load(data)
    # safetensors reads the tensors of bytes, but not what their header says beside them.
    length = int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8 : 8 + length])["__metadata__"]
    header = _ValidationHeader.model_validate_json(metadata["validation"])
    return Validation(
        logits=tensors["logits"],
        labels=tensors["labels"],
        groups=tensors["groups"],
        ids=header.ids,
        scored_by=header.scored_by,
    )


PARTS = (
    Part(
        file=INFO,
        attribute="info",
        required=True,
        holds="settings, metrics and provenance",
        dump=_dump_info,
        load=BundleInfo.model_validate_json,
    ),
    Part(
        file="records.json",
        attribute="seen",
        required=True,
        holds="ids of the records that shaped the model",
        dump=_dump_model,
        load=SeenRecords.model_validate_json,
    ),
    Part(
        file="weights.safetensors",
        attribute="weights",
        required=True,
        holds="the model's weights",
        dump=_dump_weights,
        load=_load_weights,
    ),
    Part(
        file="validation.safetensors",
        attribute="validation",
        required=False,
        holds="logits, labels and groups of the validation split, with the ids in its header",
        dump=_dump_validation,
        load=_load_validation,
    ),
    Part(
        file="decision.json",
        attribute="decision",
        required=False,
        holds="what the parts of the decision fitted",
        dump=_dump_model,
        load=DecisionParams.model_validate_json,
    ),
)


def is_bundle(uri: str) -> bool:
    """Whether a whole bundle lies in a folder."""
    return storage.is_file(storage.join(uri, SUMS))
