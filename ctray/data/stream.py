"""Store to batches: Ray Data reads, augments and orders; a worker iterates its own share.

A worker runs one Ray Data execution over many epochs. Its source names pieces of the order (epoch,
first and last place), a few hundred records each; tasks anywhere on the cluster work out which
records those are, map the shards and augment; the blocks come back in order and are cut into
batches as views. The order is a permutation of the split that everyone computes alike from (seed,
epoch); of each global batch a worker takes its slice. So N workers see in every step the records
one worker would, each record once an epoch, and no barrier is needed between them. What was tried
and measured is in docs/decisions/stream.md.
"""

import functools
import math
import os
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, TypeVar

import cv2
import numpy as np
import pandas as pd
import pyarrow as pa
import ray
import ray.data
from ray.data import ExecutionResources, TaskPoolStrategy

from ctray import ray_internals
from ctray.config import AugmentConfig, PreprocessSpec, Sampling
from ctray.data.augment import Augmenter, record_key
from ctray.data.batches import share_of, steps_per_epoch
from ctray.data.image.preprocess import prepared, stored_to_input
from ctray.data.manifest import manifest_columns
from ctray.data.store import Store, read_image, release_shards
from ctray.errors import UserError
from ctray.ray_internals import ExecutionCallback
from ctray.session import NO_DASHBOARD

Block = TypeVar("Block")

# A block costs some milliseconds of Ray's bookkeeping; this size makes that small.
_BLOCK_BYTES = 16 * 2**20
# The first blocks are small, so that the first batch comes soon.
_FIRST_ROWS = 64
# Pieces one execution is given: their references are made before the first batch.
_PIECES_AN_EXECUTION = 256
# Blocks that may wait in the object store for a worker that is slower than the tasks.
_WAITING_BLOCKS = 4
# Sleep of the scheduling loop between two steps: while a consumer waits, and while none does.
_SHORT_S, _LONG_S = 0.005, 0.1
# Augmenting is light beside training: reserve little, so that the tasks fit beside the workers.
TASK_CPUS = 0.1


@dataclass(frozen=True)
class Batch:
    """One step's share of a worker; the arrays are read-only.

    Attributes:
        images: uint8 (n, image_size, image_size).
        labels: int64 (n,).
        positions: int64 (n,), row numbers in the split's records.
    """

    images: np.ndarray
    labels: np.ndarray
    positions: np.ndarray


@dataclass(frozen=True)
class Stream:
    """The batches of one split of a store, for one worker of `world`.

    Attributes:
        tasks: that make blocks at the same time; unset: one a CPU of the cluster and one more.
    """

    store: Store
    split: str
    spec: PreprocessSpec
    rank: int
    world: int
    tasks: int | None = None

    @functools.cached_property
    def records(self) -> pd.DataFrame:
        """The split's rows, the same on every worker."""
        return self.store.records(self.split)

    def training(
        self,
        augment: AugmentConfig,
        seed: int,
        epochs: range,
        batch_size: int,
        sampling: Sampling = "natural",
        skip: int = 0,
    ) -> Iterator[Batch]:
        """Augmented batches of these epochs, `batch_size` records over all workers each.

        Every epoch has `steps_per_epoch` batches; the records that do not fill a last batch wait
        for another epoch's order. `balanced` draws every class equally often. The first `skip`
        batches of the first epoch are left out: a resumed run continues where it was.
        """
        steps = steps_per_epoch(len(self.records), batch_size)
        mine = share_of(batch_size, self.rank, self.world)
        share = mine.stop - mine.start
        order = _Order(self.split, self.rank, self.world, steps, batch_size, seed, sampling)
        pieces = [
            (epoch, start, stop)
            for epoch in epochs
            for start, stop in _cut(
                skip * share if epoch == epochs[0] else 0,
                steps * share,
                share,
                self._rows_a_block,
                epoch == epochs[0],
            )
        ]
        return self._batches(order, augment, pieces, share)

    def evaluation(self, batch_size: int) -> Iterator[Batch]:
        """This worker's part of the split, unchanged, in order; all workers' parts add up to it."""
        order = _Order(self.split, self.rank, self.world, 0, 0, 0, "natural")
        rows = len(range(self.rank, len(self.records), self.world))
        pieces = [(-1, *piece) for piece in _cut(0, rows, batch_size, self._rows_a_block, True)]
        return self._batches(order, None, pieces, batch_size)

    @property
    def _rows_a_block(self) -> int:
        return max(1, _BLOCK_BYTES // self.spec.image_size**2)

    def _batches(
        self,
        order: "_Order",
        augment: AugmentConfig | None,
        pieces: list[tuple[int, int, int]],
        batch_size: int,
    ) -> Iterator[Batch]:
        work = _Work(*self.store.place, self.store.fingerprint, self.spec, augment, order)
        for start in range(0, len(pieces), _PIECES_AN_EXECUTION):
            dataset = self._dataset(work, pieces[start : start + _PIECES_AN_EXECUTION])
            # Whole blocks come as views into the object store; so do the batches cut from them.
            for block in _fetched(dataset.iter_batches(batch_size=None)):
                arrays = [np.asarray(block[name]) for name in ("image", "label", "position")]
                for first in range(0, len(arrays[0]), batch_size):
                    yield Batch(*(array[first : first + batch_size] for array in arrays))

    def _dataset(self, work: "_Work", pieces: list[tuple[int, int, int]]) -> ray.data.Dataset:
        if os.environ.get(NO_DASHBOARD):
            # The actor would start beside the first batch (docs/decisions/session.md).
            ray_internals.keep_no_data_statistics()
        # `from_arrow` would first run a task of one whole CPU, which beside the training workers
        # may never come free.
        source = ray.data.from_blocks(
            [
                pa.table({"epoch": [epoch], "start": [start], "stop": [stop]})
                for epoch, start, stop in pieces
            ]
        )
        source.context.enable_progress_bars = False
        source.context.custom_execution_callback_classes = [_Pause]
        options = source.context.execution_options
        # Without it blocks come in the order tasks finish, and runs could not be repeated.
        options.preserve_order = True
        options.resource_limits = ExecutionResources(
            object_store_memory=_WAITING_BLOCKS * self._rows_a_block * self.spec.image_size**2
        )
        cpus = ray.cluster_resources().get("CPU", 1)
        tasks = self.tasks or math.ceil(cpus / self.world) + 1
        return source.map_batches(
            _load,
            batch_size=None,
            num_cpus=TASK_CPUS,
            compute=TaskPoolStrategy(min(tasks, len(pieces))),
            fn_args=(work,),
        )


class _Pause(ExecutionCallback):
    """Let the scheduling loop sleep between its steps.

    It runs in the consumer's process. When the consumer is slower than the tasks, which training on
    a CPU always is, it has nothing to wait for, spins and takes the interpreter: two thirds of the
    training speed were lost to it. It sleeps longer while the consumer has blocks to work on.
    """

    # Whether a consumer waits for a block. Shared by the streams of a process, each of which takes
    # a step at least every `_LONG_S`: one that clears it while another waits delays that a little.
    hungry: ClassVar[threading.Event] = threading.Event()

    def on_execution_step(self, executor: object) -> None:
        if self.hungry.wait(_LONG_S):
            time.sleep(_SHORT_S)


def _fetched(blocks: Iterable[Block]) -> Iterator[Block]:
    """The blocks, each of them waited for with the scheduling loop at its quickest."""
    iterator = iter(blocks)
    while True:
        _Pause.hungry.set()
        try:
            block = next(iterator, None)
        finally:
            _Pause.hungry.clear()
        if block is None:
            return
        yield block


@dataclass(frozen=True)
class _Order:
    """Which records a worker sees in an epoch, worked out alike by everyone who asks.

    `steps` is 0 for the worker's part of the split in its own order.
    """

    split: str
    rank: int
    world: int
    steps: int
    batch_size: int
    seed: int
    sampling: Sampling

    def rows(self, store: Store, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Row numbers (int64) and keys (uint64) of this worker's records in order."""
        records = _records(store, self.split)
        if self.steps == 0:
            rows = np.arange(self.rank, len(records), self.world)
            return rows, np.zeros(len(rows), np.uint64)
        generator = np.random.default_rng([self.seed, epoch])
        if self.sampling == "balanced":
            drawn, turns = _balanced(store.labels(records), generator)
        else:
            drawn, turns = generator.permutation(len(records)), np.zeros(len(records), int)
        places = np.arange(self.steps * self.batch_size).reshape(self.steps, self.batch_size)
        mine = places[:, share_of(self.batch_size, self.rank, self.world)].ravel()
        rows, turns = drawn[mine], turns[mine]
        ids = records["id"].to_numpy()[rows]
        # A record drawn again in the same epoch looks different.
        names = [f"{id_}/{turn}" if turn else id_ for id_, turn in zip(ids, turns, strict=True)]
        return rows, np.array([record_key(self.seed, epoch, name) for name in names], np.uint64)


def _balanced(labels: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """As many draws as records, every class equally often: rows, and which turn of theirs."""
    classes = np.unique(labels)
    rows, turns = [], []
    for label in classes:
        members = np.flatnonzero(labels == label)
        rounds = math.ceil(math.ceil(len(labels) / len(classes)) / len(members))
        rows.append(np.concatenate([generator.permutation(members) for _ in range(rounds)]))
        turns.append(np.repeat(np.arange(rounds), len(members)))
    # The k-th draw of every class, then the next of every class: any length is balanced.
    count = math.ceil(len(labels) / len(classes))
    all_rows = np.stack([row[:count] for row in rows], axis=1).ravel()[: len(labels)]
    all_turns = np.stack([turn[:count] for turn in turns], axis=1).ravel()[: len(labels)]
    shuffled = generator.permutation(len(labels))
    return all_rows[shuffled], all_turns[shuffled]


@dataclass(frozen=True)
class _Work:
    """What a task needs to know to make any block of a stream."""

    root: str
    version: int
    fingerprint: str
    spec: PreprocessSpec
    augment: AugmentConfig | None
    order: _Order


def _cut(
    start: int, rows: int, batch_size: int, rows_a_block: int, first: bool
) -> Iterator[tuple[int, int]]:
    """Places in the order from block to block: whole batches, the first ones small if asked."""
    target = _FIRST_ROWS if first else rows_a_block
    while start < rows:
        whole = max(1, min(target, rows_a_block) // batch_size) * batch_size
        yield start, min(start + whole, rows)
        start, target = start + whole, target * 2


def _load(piece: dict[str, np.ndarray], work: _Work) -> dict[str, np.ndarray]:
    """One block: read the mapped shards, prepare, augment."""
    cv2.setNumThreads(1)
    store = _store(work.root, work.version, work.fingerprint)
    rows, keys = _rows(work, int(piece["epoch"][0]))
    cut = slice(int(piece["start"][0]), int(piece["stop"][0]))
    rows, keys = rows[cut], keys[cut]
    records = _records(store, work.order.split).iloc[rows]
    stored = [
        read_image(work.root, shard, row)
        for shard, row in zip(records["shard"], records["row"], strict=True)
    ]
    if work.augment is None:
        images = np.stack([stored_to_input(image, work.spec) for image in stored])
    else:
        ready = [prepared(image, work.spec) for image in stored]
        images = _augmenter(work.augment, work.spec.image_size).batch(ready, keys)
    release_shards()
    return {"image": images, "label": store.labels(records), "position": rows}


# What a task needs of the manifest; a large one is as large as some blocks, in every process.
_COLUMNS = manifest_columns("id", "label", "split", "status", "shard", "row")

# Kept in the task's process from block to block.


@functools.lru_cache(maxsize=2)
def _store(root: str, version: int, fingerprint: str) -> Store:
    store = Store.open(Path(root), version, _COLUMNS)
    if store.fingerprint != fingerprint:
        raise UserError(f"the store {root} was replaced while it was read: start again")
    return store


@functools.lru_cache(maxsize=4)
def _records_of(root: str, version: int, fingerprint: str, split: str) -> pd.DataFrame:
    return _store(root, version, fingerprint).records(split)


def _records(store: Store, split: str) -> pd.DataFrame:
    return _records_of(*store.place, store.fingerprint, split)


@functools.lru_cache(maxsize=4)
def _rows(work: _Work, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    return work.order.rows(_store(work.root, work.version, work.fingerprint), epoch)


@functools.lru_cache(maxsize=4)
def _augmenter(config: AugmentConfig, image_size: int) -> Augmenter:
    return Augmenter(config, image_size)
