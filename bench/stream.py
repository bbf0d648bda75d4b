"""Feeding: the store's stream against the loaders one would pick instead.

All sides make the same batches: 224 px, one grey channel, 32 images, the policy `standard`
(crop, affine, flip, brightness and contrast, gamma) in new order every epoch. The peers run the
albumentations pipeline as people write it; images a second from the second epoch on.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations as A
import cv2
import numpy as np
import ray
import spdl.pipeline
import torch
from kit import alternate, arguments, emit, images, note
from torch.utils.data import DataLoader, Dataset, default_collate

from ctray.config import AugmentConfig, PreprocessSpec
from ctray.data.augment import Augmenter, record_key
from ctray.data.ingest.listing import list_folder
from ctray.data.ingest.prepare import prepare
from ctray.data.store import Store, read_image
from ctray.data.stream import Stream
from ctray.session import ray_session

SIZE, BATCH, CORES = 224, 32, 2
CONFIG = AugmentConfig(policy="standard", strength=0.5)
SPEC = PreprocessSpec(image_size=SIZE, tone="none")


def pipeline() -> A.Compose:
    """The policy as one writes it with albumentations."""
    s = CONFIG.strength
    return A.Compose(
        [
            A.RandomResizedCrop(
                size=(SIZE, SIZE), scale=(1 - 0.5 * s, 1), ratio=(1 - 0.2 * s, 1 / (1 - 0.2 * s))
            ),
            A.Affine(
                rotate=(-20 * s, 20 * s),
                translate_percent=(-0.1 * s, 0.1 * s),
                scale=(1 - 0.1 * s, 1 + 0.1 * s),
                keep_ratio=True,
                shear=(-6 * s, 6 * s),
                p=0.7,
            ),
            A.HorizontalFlip(p=0.5),
            A.RandomBrightnessContrast(0.4 * s, 0.4 * s, p=0.5),
            A.RandomGamma((100 - 40 * s, 100 + 60 * s), p=0.3),
        ]
    )


class Images(Dataset[tuple[torch.Tensor, int]]):
    """What a DataLoader reads: files, or an array that was decoded before."""

    def __init__(self, source: list[str] | np.ndarray) -> None:
        self.source, self.transform = source, pipeline()

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        item = self.source[index]
        image = cv2.imread(item, cv2.IMREAD_GRAYSCALE) if isinstance(item, str) else item
        return torch.from_numpy(self.transform(image=image)["image"]), 0


def dataloader(source: list[str] | np.ndarray, epochs: int) -> float:
    """Images a second of a DataLoader with one worker a core."""
    loader = DataLoader(
        Images(source),
        BATCH,
        shuffle=True,
        drop_last=True,
        num_workers=CORES,
        persistent_workers=True,
        # Forked beside Ray's threads, the workers would hang.
        multiprocessing_context="spawn",
        worker_init_fn=_one_thread,
    )
    return rate(lambda _: (images for images, _ in loader), epochs)


def _one_thread(worker: int) -> None:
    del worker
    cv2.setNumThreads(1)


def spdl_threads(files: list[str], epochs: int) -> float:
    """Images a second of SPDL: decode and augment in threads, collate in another."""
    dataset = Images(files)
    cv2.setNumThreads(1)

    def epoch(number: int) -> Iterator[torch.Tensor]:
        order = np.random.default_rng(number).permutation(len(files)).tolist()
        built = (
            spdl.pipeline.PipelineBuilder()
            .add_source(order)
            .pipe(dataset.__getitem__, concurrency=CORES)
            .aggregate(BATCH, drop_last=True)
            .pipe(default_collate)
            .add_sink(4)
            .build(num_threads=CORES + 1)  # one more to collate
        )
        with built.auto_stop():
            for batch, _ in built.get_iterator():
                yield batch

    return rate(epoch, epochs)


def rate(epoch: Callable[[int], Iterator[Any]], epochs: int) -> float:
    """Images a second over all epochs but the first."""
    sum(len(batch) for batch in epoch(0))
    start, count = time.perf_counter(), 0
    for number in range(1, epochs + 1):
        count += sum(len(batch) for batch in epoch(number))
    return count / (time.perf_counter() - start)


def stream(store: Store, epochs: int, waits: list[list[float]]) -> float:
    """Images a second of ours; appends the seconds to the first batch of every epoch."""
    source = Stream(store, "all", SPEC, 0, 1)
    steps = len(source.records) // BATCH
    mark, waited, count, start = time.perf_counter(), [], 0, 0.0
    for step, batch in enumerate(source.training(CONFIG, 0, range(epochs + 1), BATCH)):
        now = time.perf_counter()
        if step % steps == 0:
            waited.append(now - mark)
            start = start or (mark if step else 0.0)
        if step >= steps:
            count += len(batch.images)
        mark = now
    waits.append(waited)
    return count / (time.perf_counter() - start)


def where(store: Store, per_image: float) -> None:
    """Core-microseconds an image of each part; what is left is Ray's and waiting."""
    records = store.records("all")
    keys = np.array([record_key(0, 0, r) for r in records["id"]], np.uint64)
    places = list(zip(records["shard"], records["row"], strict=True))
    augmenter, block = Augmenter(CONFIG, SIZE), 256
    seconds = {"read": 0.0, "augment": 0.0, "copy": 0.0}
    cv2.setNumThreads(1)
    for start in range(0, len(records), block):
        mark = time.perf_counter()
        stored = [read_image(str(store.root), s, r) for s, r in places[start : start + block]]
        seconds["read"] += time.perf_counter() - mark
        mark = time.perf_counter()
        made = augmenter.batch(stored, keys[start : start + block])
        seconds["augment"] += time.perf_counter() - mark
        mark = time.perf_counter()
        ray.get(ray.put(made))
        seconds["copy"] += time.perf_counter() - mark
    parts = {name: 1e6 * value / len(records) for name, value in seconds.items()}
    parts["the rest: Ray, waiting"] = max(0.0, CORES * 1e6 / per_image - sum(parts.values()))
    for name, value in parts.items():
        emit("stream", f"where the time goes: {name}", "core-µs/image", value, len(records))


def main() -> None:
    """Run the bench."""
    options = arguments(__doc__ or "")
    epochs, rounds = (1, 1) if options.quick else (5, 3)
    with images(options) as folder, tempfile.TemporaryDirectory() as place, ray_session():
        note(f"images: {folder}")
        store = prepare(list_folder(folder), Path(place) / "store")
        records = store.records("all")
        files = records["uri"].tolist()
        decoded = store.images(records)
        waits: list[list[float]] = []
        ours, peers = alternate(
            lambda: stream(store, epochs, waits),
            {
                "DataLoader, 2 workers, PNG": lambda: dataloader(files, epochs),
                "DataLoader, 2 workers, array in memory": lambda: dataloader(decoded, epochs),
                "SPDL, 2 threads, PNG": lambda: spdl_threads(files, epochs),
            },
            rounds,
        )
        bars = dict(zip(peers, (3.0, 1.0, 2.0), strict=True))
        for name, peer in peers.items():
            emit("stream", "images a second", "1/s", ours, len(files), peer, name, bars[name])
        first = max(waited[0] for waited in waits)
        emit("stream", "first batch, first epoch", "s", first, len(files), bar=3.0, at_most=True)
        later = max(wait for waited in waits for wait in waited[1:])
        emit("stream", "first batch, later epochs", "s", later, len(files), bar=1.0, at_most=True)
        where(store, ours)


if __name__ == "__main__":
    main()
