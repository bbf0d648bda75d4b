"""The stream: the same pixels at any number of workers, every record exactly once."""

from pathlib import Path

import numpy as np
import pytest

from ctray.config import AugmentConfig, PreprocessSpec
from ctray.data.decode import decode_image
from ctray.data.preprocess import to_input
from ctray.data.store import Store
from ctray.data.stream import Batch, Stream
from ctray.errors import UserError

SPEC = PreprocessSpec(store_size=96, image_size=64)
AUGMENT = AugmentConfig(policy="strong", strength=0.6)


def epoch(store: Store, world: int, number: int = 0, seed: int = 1) -> list[list[Batch]]:
    return [
        list(
            Stream(store, "train", SPEC, rank, world).training(
                AUGMENT, seed, range(number, number + 1), 16
            )
        )
        for rank in range(world)
    ]


def test_two_workers_see_in_every_step_what_one_sees(store: Store) -> None:
    (alone,), pair = epoch(store, 1), epoch(store, 2)
    assert len(alone) == len(pair[0]) == len(pair[1]) == len(store.records("train")) // 16
    for step, batch in enumerate(alone):
        images = np.concatenate([pair[0][step].images, pair[1][step].images])
        labels = np.concatenate([pair[0][step].labels, pair[1][step].labels])
        assert np.array_equal(batch.images, images)
        assert np.array_equal(batch.labels, labels)


def test_an_epoch_holds_no_record_twice_and_the_next_is_another_order(store: Store) -> None:
    first, again, second = epoch(store, 1), epoch(store, 1), epoch(store, 1, number=1)
    order = [
        np.concatenate([batch.positions for batch in run[0]]) for run in (first, again, second)
    ]
    assert len(set(order[0].tolist())) == len(order[0])
    assert np.array_equal(order[0], order[1])
    assert not np.array_equal(order[0], order[2])
    assert np.array_equal(first[0][0].images, again[0][0].images)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_evaluation_covers_every_record_exactly_once(store: Store, world: int) -> None:
    positions = [
        batch.positions
        for rank in range(world)
        for batch in Stream(store, "val", SPEC, rank, world).evaluation(8)
    ]
    assert sorted(np.concatenate(positions)) == list(range(len(store.records("val"))))


def test_training_and_serving_make_the_same_input_of_the_same_bytes(
    store: Store, images: Path
) -> None:
    stream = Stream(store, "test", SPEC, 0, 1)
    for batch in stream.evaluation(16):
        for position, streamed in zip(batch.positions, batch.images, strict=True):
            data = (images / stream.records["path"][position]).read_bytes()
            assert np.array_equal(streamed, to_input(decode_image(data), SPEC))


def test_labels_are_the_records(store: Store) -> None:
    stream = Stream(store, "val", SPEC, 0, 1)
    for batch in stream.evaluation(16):
        names = [store.classes[label] for label in batch.labels]
        assert names == stream.records["label"][batch.positions].tolist()


def test_a_batch_larger_than_the_data_is_one_sentence(store: Store) -> None:
    with pytest.raises(UserError, match="batch_size=4096 is larger than"):
        next(Stream(store, "train", SPEC, 0, 1).training(AUGMENT, 0, range(1), 4096))
