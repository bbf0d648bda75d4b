"""Store to batches: Ray Data reads, augments and orders; a worker iterates its own share.

Each worker streams Ray Datasets of row numbers, which tasks anywhere on the cluster turn into
augmented pixels straight from the mapped shards, a window of some thousand rows at a time; the
next one is made while the worker consumes this one. The order is a permutation of the whole split
that every worker computes for itself from (seed, epoch); of each global batch a worker takes its
slice. So N workers see in every step the records one worker would, each record once an epoch, and
no barrier is needed between them.
"""

import functools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pyarrow as pa
import ray.data

from ctray.config import AugmentConfig, PreprocessSpec
from ctray.data.augment import Augmenter, record_key
from ctray.data.preprocess import apply_tone, stored_to_input
from ctray.data.store import Store, read_image
from ctray.errors import UserError

# A task costs some milliseconds of overhead; this many images make that small and still let the
# first batch come soon.
_ROWS_A_TASK = 128
# Windows bound the memory, and keep Ray Data's scheduling loop from running all the time: beside
# a consumer slower than the tasks it spins, and took two thirds of a training worker's speed
# (docs/decisions/stream.md). The first is small, so that the first batch comes soon.
_WINDOW_ROWS, _FIRST_WINDOW_ROWS = 2048, 256
# Augmenting is light beside training: reserve little, so that the tasks fit beside the workers.
TASK_CPUS = 0.1


@dataclass(frozen=True)
class Batch:
    """One step's share of a worker.

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
    """The batches of one split of a store, for one worker of `world`."""

    store: Store
    split: str
    spec: PreprocessSpec
    rank: int
    world: int

    @functools.cached_property
    def records(self) -> pd.DataFrame:
        """The split's rows, the same on every worker."""
        return self.store.records(self.split)

    def training(
        self, augment: AugmentConfig, seed: int, epoch: int, batch_size: int
    ) -> Iterator[Batch]:
        """Augmented batches of one epoch, `batch_size` records over all workers each.

        The records that do not fill a last batch wait for another epoch's order.
        """
        order = np.random.default_rng([seed, epoch]).permutation(len(self.records))
        steps = steps_per_epoch(len(order), batch_size)
        share = batch_size // self.world
        rows = order[: steps * batch_size].reshape(steps, self.world, share)[:, self.rank].ravel()
        ids = self.records["id"].to_numpy()[rows]
        keys = np.array([record_key(seed, epoch, record) for record in ids], np.uint64)
        return self._batches(rows, keys, augment, share)

    def evaluation(self, batch_size: int) -> Iterator[Batch]:
        """This worker's part of the split, unchanged, in order; all workers' parts add up to it."""
        rows = np.arange(self.rank, len(self.records), self.world)
        return self._batches(rows, np.zeros(len(rows), np.uint64), None, batch_size)

    def _batches(
        self, rows: np.ndarray, keys: np.ndarray, augment: AugmentConfig | None, batch_size: int
    ) -> Iterator[Batch]:
        records = self.records.iloc[rows]
        labels = self.store.labels(records)
        table = pa.table(
            {
                "position": rows,
                "label": labels,
                "shard": records["shard"].to_numpy(),
                "row": records["row"].to_numpy(),
                "key": keys,
            }
        )
        make = functools.partial(
            _make_window, root=str(self.store.root), spec=self.spec, augment=augment
        )
        windows = list(_windows(table, batch_size))
        if not windows:  # more workers than records
            return
        with ThreadPoolExecutor(1) as ahead:
            pending = ahead.submit(make, windows[0])
            for following in [*windows[1:], None]:
                window = pending.result()
                if following is not None:
                    pending = ahead.submit(make, following)
                for batch in window.iter_batches(batch_size=batch_size):
                    yield Batch(*(np.asarray(batch[key]) for key in ("image", "label", "position")))


def steps_per_epoch(records: int, batch_size: int) -> int:
    """Full batches in an epoch.

    Raises:
        UserError: there are fewer records than one batch.
    """
    if records < batch_size:
        raise UserError(
            f"batch_size={batch_size} is larger than the {records} training records: "
            f"--set batch_size={max(1, records // 2)}"
        )
    return records // batch_size


def _windows(table: pa.Table, batch_size: int) -> Iterator[pa.Table]:
    """Cut the rows into windows of whole batches."""
    start, rows = 0, _FIRST_WINDOW_ROWS
    while start < table.num_rows:
        length = max(1, rows // batch_size) * batch_size
        yield table.slice(start, length)
        start, rows = start + length, _WINDOW_ROWS


def _make_window(
    table: pa.Table, root: str, spec: PreprocessSpec, augment: AugmentConfig | None
) -> ray.data.Dataset:
    """Run Ray Data over one window: row numbers in, pixels in the object store, order kept."""
    pieces = [table.slice(start, _ROWS_A_TASK) for start in range(0, table.num_rows, _ROWS_A_TASK)]
    # `from_arrow` would first run a task of one whole CPU, which beside the training workers may
    # never come free.
    dataset = ray.data.from_blocks(pieces).map_batches(
        _load,
        batch_size=None,
        num_cpus=TASK_CPUS,
        fn_kwargs={"root": root, "spec": spec, "augment": augment},
    )
    # Without it batches come in the order tasks finish, and runs could not be repeated.
    dataset.context.execution_options.preserve_order = True
    dataset.context.enable_progress_bars = False
    return dataset.materialize()


def _load(
    rows: dict[str, np.ndarray], root: str, spec: PreprocessSpec, augment: AugmentConfig | None
) -> dict[str, Any]:
    cv2.setNumThreads(1)
    if augment is None:
        images = [
            stored_to_input(read_image(root, shard, row), spec)
            for shard, row in zip(rows["shard"], rows["row"], strict=True)
        ]
    else:
        augmenter = _augmenter(augment, spec.image_size)
        images = [
            augmenter(apply_tone(read_image(root, shard, row), spec.tone), int(key))
            for shard, row, key in zip(rows["shard"], rows["row"], rows["key"], strict=True)
        ]
    return {"image": np.stack(images), "label": rows["label"], "position": rows["position"]}


@functools.lru_cache(maxsize=4)
def _augmenter(config: AugmentConfig, image_size: int) -> Augmenter:
    return Augmenter(config, image_size)
