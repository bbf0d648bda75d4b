"""Checkpoints: everything a run needs to resume, one verified file each, on any filesystem URI.

A checkpoint is a safetensors file with the run's state as JSON in its header. Its name carries the
step and the beginning of its sha256, it appears under that name only when it is whole, and it is
written by a thread beside the training. docs/decisions/checkpoints.md says why not through
`ray.train.report`.
"""

import contextlib
import hashlib
import json
import re
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypedDict, cast

import numpy as np
import safetensors.torch
import torch

from ctray import storage
from ctray.errors import UserError
from ctray.training.history import HistoryRow

Tensors = dict[str, torch.Tensor]

_Kind = Literal["step", "best"]
# Beside the weights in the file of the best model; no layer has a slash in its name.
VAL_LOGITS = "validation/logits"
_KEPT = 2
_NAME = re.compile(r"(step|best)-(\d{9})-([0-9a-f]{16})\.safetensors")


class NotWrittenError(UserError):
    """A checkpoint cannot be written; how to resume the run is for its driver to say."""


class RunState(TypedDict):
    """What a run knows beside its tensors, as JSON in the checkpoint of a step.

    Attributes:
        step: optimizer steps done.
        seconds: of training until then, over all the times that the run was started.
        best: the best evaluation so far; of a refit its last epoch.
        history: all evaluations, in order.
        sums: of the steps since the last evaluation: losses, records predicted right, records.
        finished: whether no step is left.
        recipe: as `Recipe.model_dump` gives it.
        fingerprint: of the store.
        best_file: name of the file with the best weights, beside this one; set by `Writer`.
    """

    step: int
    seconds: float
    best: HistoryRow | None
    history: list[HistoryRow]
    sums: list[float]
    finished: bool
    recipe: dict[str, Any]
    fingerprint: str
    best_file: str | None


class BestState(TypedDict):
    """What is kept with the best weights: the evaluation that chose them."""

    row: HistoryRow


class Checkpoint(NamedTuple):
    """What a run resumes from.

    Attributes:
        tensors: weights, averaged weights and optimizer state, on the CPU.
        state: everything else.
    """

    tensors: Tensors
    state: RunState


@dataclass(frozen=True)
class Snapshot:
    """What is to be written: copies that the training does not touch any more.

    Attributes:
        kind: `step`: all that a run needs to resume; `best`: weights alone.
        step: optimizer steps done.
        tensors: by name, on the CPU.
        state: a `RunState` of a step, a `BestState` of the best weights.
    """

    kind: _Kind
    step: int
    tensors: Tensors
    state: RunState | BestState


@dataclass(frozen=True)
class Best:
    """The model of the best evaluation.

    Attributes:
        weights: its state dict.
        val_logits: float32 (N, classes), what it said of the validation split, in the store's
            order; None in a refit, and in a file of an older ctray.
    """

    weights: Tensors
    val_logits: np.ndarray | None


def save(uri: str, snapshot: Snapshot) -> str:
    """Write a snapshot into the folder `uri`; returns the file's name."""
    header = {"state": json.dumps(snapshot.state)}
    data = safetensors.torch.save(snapshot.tensors, metadata=header)
    digest = hashlib.sha256(data).hexdigest()[:16]
    name = f"{snapshot.kind}-{snapshot.step:09d}-{digest}.safetensors"
    storage.write_bytes(storage.join(uri, name), data)
    return name


def load(uri: str, name: str) -> tuple[Tensors, dict[str, Any]]:
    """Read a file that `save` wrote: its tensors and its state.

    Raises:
        ValueError: it is not what was written.
    """
    match = _NAME.fullmatch(name)
    data = storage.read_bytes(storage.join(uri, name))
    if match is None or hashlib.sha256(data).hexdigest()[:16] != match[3]:
        raise ValueError(f"{storage.join(uri, name)} is damaged")
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    return safetensors.torch.load(data), json.loads(header["__metadata__"]["state"])


def newest(uri: str, warn: Callable[[str], None]) -> Checkpoint | None:
    """The newest whole checkpoint in `uri`, or None; each one passed over is named to `warn`."""
    for name in reversed(_names(uri, "step")):
        try:
            tensors, state = load(uri, name)
            if state["best_file"]:
                load(uri, state["best_file"])
        except (ValueError, FileNotFoundError) as error:
            warn(f"{error}: resuming from the checkpoint before it, or from the beginning")
            continue
        return Checkpoint(tensors, cast(RunState, state))
    return None


def load_best(uri: str) -> Best:
    """The best model that the newest checkpoint knows of.

    Raises:
        UserError: there is none, such as where the workers wrote to folders of their own.
    """
    found = newest(uri, lambda _: None)
    if found is None or not found[1]["best_file"]:
        raise UserError(
            f"the workers' checkpoints are not in {uri}: name a place that all machines reach",
            "checkpoints",
        )
    weights = load(uri, found[1]["best_file"])[0]
    logits = weights.pop(VAL_LOGITS, None)
    return Best(weights, None if logits is None else logits.numpy())


def clear(uri: str) -> None:
    """Delete every checkpoint in `uri`."""
    for name in storage.files(uri):
        if _NAME.fullmatch(name) or _is_half(name):
            storage.delete(storage.join(uri, name))


class Writer:
    """Writes snapshots one after the other beside the training, and keeps the last ones.

    Args:
        uri: the folder.
        state: of the checkpoint that the run resumes from.
    """

    def __init__(self, uri: str, state: RunState | None) -> None:
        self._uri = uri
        self._last: int | None = state["step"] if state else None
        self._best_file: str | None = state["best_file"] if state else None
        # That of the checkpoint before the last.
        self._earlier_best = self._best_file
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._under_way: Future[None] | None = None

    def submit(self, snapshot: Snapshot, best: Snapshot | None = None) -> None:
        """Write `best`, if there is a new one, then `snapshot`, which refers to it.

        Waits for the one before; raises NotWrittenError when that could not be written.
        """
        self.wait()
        self._under_way = self._thread.submit(self._write, snapshot, best)

    def check(self) -> None:
        """Raise NotWrittenError when the last one could not be written."""
        if self._under_way is not None and self._under_way.done():
            self.wait()

    def wait(self) -> None:
        """Return when everything is written; raises NotWrittenError when it could not be."""
        if self._under_way is not None:
            pending, self._under_way = self._under_way, None
            pending.result()

    def _write(self, snapshot: Snapshot, best: Snapshot | None) -> None:
        try:
            if best is not None:
                self._best_file = save(self._uri, best)
            cast(RunState, snapshot.state)["best_file"] = self._best_file
            save(self._uri, snapshot)
        except OSError as error:
            none = self._last is None
            good = "there is none yet" if none else f"the last good one is of step {self._last}"
            raise NotWrittenError(
                f"the checkpoint of step {snapshot.step} cannot be written to {self._uri}: "
                f"{storage.cause(error)}; {good}; make room"
            ) from error
        self._last = snapshot.step
        kept = {self._best_file, self._earlier_best}
        self._earlier_best = self._best_file
        # What cannot be deleted now is deleted after the next one.
        with contextlib.suppress(OSError):
            self._prune(kept)

    def _prune(self, kept_bests: set[str | None]) -> None:
        steps = _names(self._uri, "step")[:-_KEPT]
        bests = [name for name in _names(self._uri, "best") if name not in kept_bests]
        halves = [name for name in storage.files(self._uri) if _is_half(name)]
        for name in (*steps, *bests, *halves):
            storage.delete(storage.join(self._uri, name))


def _names(uri: str, kind: _Kind) -> list[str]:
    """Names of the checkpoints of a kind, oldest first."""
    return [name for name in storage.files(uri) if (m := _NAME.fullmatch(name)) and m[1] == kind]


def _is_half(name: str) -> bool:
    """Whether a kill left this file while it was written."""
    return name.endswith(".partial") and _NAME.fullmatch(name.removesuffix(".partial")) is not None
