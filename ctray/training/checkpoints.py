"""Checkpoints: everything a run needs to go on, one verified file each, on any filesystem URI.

A checkpoint is a safetensors file with the run's state as JSON in its header. Its name carries the
step and the beginning of its sha256, it appears under that name only when it is whole, and it is
written by a thread beside the training. docs/decisions/checkpoints.md says why not through
`ray.train.report`.
"""

import hashlib
import json
import re
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import safetensors.torch
import torch

from ctray import storage
from ctray.errors import UserError

Tensors = dict[str, torch.Tensor]
State = dict[str, Any]
Kind = Literal["step", "best"]

_KEPT = 2
_NAME = re.compile(r"(step|best)-(\d{9})-([0-9a-f]{16})\.safetensors")


@dataclass(frozen=True)
class Snapshot:
    """What is to be written: copies that the training does not touch any more."""

    kind: Kind
    step: int
    tensors: Tensors
    state: State


def save(uri: str, snapshot: Snapshot) -> str:
    """Write a snapshot into the folder `uri`; returns the file's name."""
    header = {"state": json.dumps(snapshot.state)}
    data = safetensors.torch.save(snapshot.tensors, metadata=header)
    digest = hashlib.sha256(data).hexdigest()[:16]
    name = f"{snapshot.kind}-{snapshot.step:09d}-{digest}.safetensors"
    storage.write_bytes(storage.join(uri, name), data)
    return name


def load(uri: str, name: str) -> tuple[Tensors, State]:
    """Read a file that `save` wrote.

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


def newest(uri: str, warn: Callable[[str], None]) -> tuple[Tensors, State] | None:
    """The newest whole checkpoint in `uri`, or None; each one passed over is named to `warn`."""
    for name in reversed(_names(uri, "step")):
        try:
            tensors, state = load(uri, name)
            if state["best"]:
                load_best(uri, state["best"]["step"])
        except (ValueError, FileNotFoundError) as error:
            warn(f"{error}: going on from the checkpoint before it")
            continue
        return tensors, state
    return None


def load_best(uri: str, step: int) -> Tensors:
    """The weights that the evaluation after `step` steps found best.

    Raises:
        ValueError: they are not there, or damaged.
    """
    for name in _names(uri, "best"):
        if _step(name) == step:
            return load(uri, name)[0]
    raise ValueError(f"the best weights, of step {step}, are not in {uri}")


def any_in(uri: str) -> bool:
    """Whether there is a checkpoint."""
    return bool(_names(uri, "step"))


def clear(uri: str) -> None:
    """Delete every checkpoint in `uri`."""
    for name in storage.files(uri):
        if _NAME.fullmatch(name.removesuffix(".partial")):
            storage.delete(storage.join(uri, name))


class Writer:
    """Writes snapshots one after the other beside the training, and keeps the last ones."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._under_way: Future[None] | None = None

    def submit(self, snapshot: Snapshot, best: Snapshot | None = None) -> None:
        """Write `best`, if there is a new one, then `snapshot`, which refers to it.

        Waits for the one before; raises UserError when that could not be written.
        """
        self.wait()
        self._under_way = self._thread.submit(self._write, snapshot, best)

    def check(self) -> None:
        """Raise UserError when the last one could not be written."""
        if self._under_way is not None and self._under_way.done():
            self.wait()

    def wait(self) -> None:
        """Return when everything is written; raises UserError when it could not be."""
        if self._under_way is not None:
            pending, self._under_way = self._under_way, None
            pending.result()

    def _write(self, snapshot: Snapshot, best: Snapshot | None) -> None:
        try:
            for part in (best, snapshot):
                if part is not None:
                    save(self._uri, part)
        except OSError as error:
            last = _names(self._uri, "step")
            good = (
                f"the last good one is of step {_step(last[-1])}" if last else "there is no other"
            )
            raise UserError(
                f"the checkpoint of step {snapshot.step} cannot be written to {self._uri}: "
                f"{storage.cause(error)}; {good}; make room, then run the same command with "
                "--resume"
            ) from error
        self._prune(snapshot.state)

    def _prune(self, state: State) -> None:
        steps = _names(self._uri, "step")[:-_KEPT]
        # The checkpoint before this one may refer to the best before.
        own = state["best"] and state["best"]["step"]
        bests = [name for name in _names(self._uri, "best") if _step(name) != own][: 1 - _KEPT]
        for name in (*steps, *bests):
            storage.delete(storage.join(self._uri, name))


def _names(uri: str, kind: Kind) -> list[str]:
    """Names of the checkpoints of a kind, oldest first."""
    return [name for name in storage.files(uri) if (m := _NAME.fullmatch(name)) and m[1] == kind]


def _step(name: str) -> int:
    return int(name.split("-")[1])
