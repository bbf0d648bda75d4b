"""The batches of a run, fetched ahead by a thread."""

import dataclasses
import itertools
import queue
import threading
from collections.abc import Iterator

from ctray.config import Recipe
from ctray.data.batches import steps_per_epoch
from ctray.data.stream import Batch, Stream


class Feed:
    """A worker's share of every batch from a step on; it starts to fetch when it is made.

    `prefetch` batches wait for the training; the blocks they are cut from wait in the stream.

    Attributes:
        records: that it draws from.
        steps: batches in an epoch.
        tasks: that its stream runs at the same time.
    """

    def __init__(self, stream: Stream, recipe: Recipe, step: int, prefetch: int) -> None:
        self._stream, self._recipe, self._step = stream, recipe, step
        self.records, self.tasks = stream.records, stream.tasks
        self.steps = steps_per_epoch(len(self.records), recipe.batch_size)
        self._queue: queue.Queue[Batch | BaseException | None] = queue.Queue(prefetch)
        self._closed = threading.Event()
        threading.Thread(target=self._fill, name="feed", daemon=True).start()

    def __iter__(self) -> Iterator[Batch]:
        """The batches in order."""
        while (item := self._queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    def close(self) -> None:
        """Fetch no more."""
        self._closed.set()

    def _fill(self) -> None:
        try:
            for batch in self._batches():
                if not self._put(batch):
                    return
            self._put(None)
        except BaseException as error:
            self._put(error)

    def _put(self, item: Batch | BaseException | None) -> bool:
        while not self._closed.is_set():
            try:
                self._queue.put(item, timeout=1.0)
            except queue.Full:
                continue
            return True
        return False

    def _batches(self) -> Iterator[Batch]:
        recipe = self._recipe
        first, skip = divmod(self._step, self.steps)
        for epochs, size in _phases(recipe, first):
            spec = self._stream.spec.model_copy(update={"image_size": size})
            yield from dataclasses.replace(self._stream, spec=spec).training(
                augment=recipe.augment,
                seed=recipe.seed,
                epochs=epochs,
                batch_size=recipe.batch_size,
                sampling=recipe.sampling,
                skip=skip if epochs.start == first else 0,
            )


def size_in_epoch(recipe: Recipe, epoch: int) -> int:
    """Side in px of the images of an epoch, counted from 0; the last epoch's are of full size."""
    small = min(round(recipe.epochs * recipe.small_share), recipe.epochs - 1)
    return min(recipe.small_size, recipe.image_size) if epoch < small else recipe.image_size


def _phases(recipe: Recipe, first: int) -> Iterator[tuple[range, int]]:
    """Epochs from `first` on that train at the same image size, and that size."""
    left = range(first, recipe.epochs)
    for pixels, epochs in itertools.groupby(left, lambda epoch: size_in_epoch(recipe, epoch)):
        alike = list(epochs)
        yield range(alike[0], alike[-1] + 1), pixels
