"""The validation split as a run reads it again and again: kept in memory where it is small."""

import dataclasses
from collections.abc import Iterator

from ctray.data.stream import Batch, Stream

_BATCH = 64
# A worker's images up to this size are kept from one evaluation to the next.
_KEPT_BYTES = 256 * 2**20


class ValidationShare:
    """One worker's share of the validation split.

    Args:
        stream: of it; its image size does not matter.

    Attributes:
        records: of all workers together.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self.records = stream.records
        # Of one image size.
        self._kept: tuple[int, list[Batch]] | None = None

    def batches(self, size: int) -> Iterator[Batch]:
        """This worker's share, in images of `size` px."""
        if self._kept is not None and self._kept[0] == size:
            yield from self._kept[1]
            return
        stream = self._stream
        spec = stream.spec.model_copy(update={"image_size": size})
        fits = len(self.records) // stream.world * size**2 <= _KEPT_BYTES
        kept: list[Batch] = []
        for batch in dataclasses.replace(stream, spec=spec).evaluation(_BATCH):
            if fits:
                # Copies: the batch is a view into Ray's object store.
                kept.append(Batch(batch.images.copy(), batch.labels.copy(), batch.positions.copy()))
            yield batch
        self._kept = (size, kept) if fits else None
