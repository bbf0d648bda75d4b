"""The stream: the same pixels at any number of workers, each record once; and its preview."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from ctray import cli
from ctray.config import AugmentConfig, PreprocessSpec
from ctray.data.augment import Augmenter, record_key
from ctray.data.image.dispatch import decode_image
from ctray.data.image.preprocess import apply_tone, to_input
from ctray.data.ingest.listing import list_folder
from ctray.data.ingest.prepare import Options, prepare
from ctray.data.preview import YOURS, preview_configs, preview_records, preview_tiles
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


@pytest.mark.parametrize("world", [2, 3])
def test_a_resumed_stream_goes_on_where_it_was(store: Store, world: int) -> None:
    for rank in range(world):
        stream = Stream(store, "train", SPEC, rank, world)
        whole = list(stream.training(AUGMENT, 1, range(2), 16))
        steps = len(whole) // 2
        rest = list(stream.training(AUGMENT, 1, range(1, 2), 16, skip=3))
        assert len(rest) == steps - 3
        for batch, again in zip(whole[steps + 3 :], rest, strict=True):
            assert np.array_equal(batch.images, again.images)
            assert np.array_equal(batch.positions, again.positions)


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


@pytest.fixture(scope="module")
def unbalanced(cluster: None, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store of some of the images: five times as many of one class as of another."""
    root = tmp_path_factory.mktemp("unbalanced")
    wanted = {"COVID": 60, "Lung_Opacity": 12, "Normal": 40, "Viral Pneumonia": 24}
    for name, count in wanted.items():
        folder = root / "images" / name / "images"
        folder.mkdir(parents=True)
        for file in sorted((images / name / "images").iterdir())[:count]:
            shutil.copy(file, folder)
    return prepare(list_folder(root / "images"), root / "store", Options(size=96))


def balanced(store: Store, world: int, batch_size: int, number: int = 0) -> list[list[Batch]]:
    return [
        list(
            Stream(store, "train", SPEC, rank, world).training(
                AUGMENT, 1, range(number, number + 1), batch_size, "balanced"
            )
        )
        for rank in range(world)
    ]


def test_balanced_sampling_draws_classes_equally_often(unbalanced: Store) -> None:
    records = unbalanced.records("train")
    own = records["label"].value_counts()
    assert own.max() > 2 * own.min(), "the split kept the imbalance"
    # One batch holds the whole epoch: no record waits for a next one.
    ((batch,),) = balanced(unbalanced, 1, len(records))
    drawn = np.bincount(batch.labels, minlength=len(unbalanced.classes))
    assert drawn.max() - drawn.min() <= 1
    names = [unbalanced.classes[label] for label in batch.labels]
    assert names == records["label"].to_numpy()[batch.positions].tolist()
    # Nobody comes again before all of the class have come.
    for label in range(len(unbalanced.classes)):
        times = pd.Series(batch.positions[batch.labels == label]).value_counts()
        if len(times) < own[unbalanced.classes[label]]:
            assert times.max() == 1
        else:
            assert times.max() - times.min() <= 1
    ((natural,),) = [
        list(Stream(unbalanced, "train", SPEC, 0, 1).training(AUGMENT, 1, range(1), len(records)))
    ]
    assert sorted(natural.positions) == list(range(len(records)))
    ((second,),) = balanced(unbalanced, 1, len(records), number=1)
    assert not np.array_equal(batch.positions, second.positions)


def test_a_record_drawn_again_looks_different(unbalanced: Store) -> None:
    ((batch,),) = balanced(unbalanced, 1, len(unbalanced.records("train")))
    seen: dict[int, list[bytes]] = {}
    for position, pixels in zip(batch.positions, batch.images, strict=True):
        seen.setdefault(int(position), []).append(pixels.tobytes())
    repeated = [made for made in seen.values() if len(made) > 1]
    assert len(repeated) > 5
    for made in repeated:
        assert len(set(made)) == len(made)


def test_two_workers_see_balanced_what_one_sees(unbalanced: Store) -> None:
    (alone,), pair = balanced(unbalanced, 1, 16), balanced(unbalanced, 2, 16)
    assert len(alone) == len(pair[0]) == len(pair[1]) == len(unbalanced.records("train")) // 16
    for step, batch in enumerate(alone):
        for name in ("images", "labels", "positions"):
            both = np.concatenate([getattr(worker[step], name) for worker in pair])
            assert np.array_equal(getattr(batch, name), both)


@pytest.mark.parametrize("policy", ["none", "light", "standard", "strong"])
def test_the_preview_shows_the_pixels_of_training(store: Store, policy: str) -> None:
    seed, number = 3, 2
    spec = PreprocessSpec(store_size=96, image_size=64, tone="percentile")
    config = AugmentConfig(policy=policy, strength=0.6)
    stream = Stream(store, "train", spec, 0, 1)
    whole = len(stream.records)
    (batch,) = stream.training(config, seed, range(number, number + 1), whole)
    records = preview_records(store, seed)
    tiles = preview_tiles(store, records, config, spec, seed, number)
    assert list(tiles) == ["none", "light", "standard", "strong"]
    place = {int(position): i for i, position in enumerate(batch.positions)}
    trained = batch.images[[place[row] for row in records.index]]
    assert np.array_equal(tiles[policy], trained)
    assert not np.array_equal(tiles["strong"], tiles["light"])


def test_the_preview_has_all_classes_and_is_the_same_for_the_same_seed(
    store: Store, unbalanced: Store
) -> None:
    for any_store in (store, unbalanced):
        records = preview_records(any_store, 0)
        assert records["label"].value_counts().to_dict() == dict.fromkeys(any_store.classes, 2)
        assert records["label"].is_monotonic_increasing
        assert set(records["split"]) == {"train"}
        assert records.equals(preview_records(any_store, 0))
        assert set(records["id"]) != set(preview_records(any_store, 1)["id"])
        assert records["id"].equals(any_store.records("train")["id"].loc[records.index])


def test_the_preview_adds_a_row_for_what_is_set(store: Store) -> None:
    plain = AugmentConfig(policy="light", strength=0.3)
    config = AugmentConfig(policy="light", strength=0.3, noise={"p": 1})
    # What the policy does anyway needs no row of its own.
    same = AugmentConfig(policy="light", strength=0.3, crop={"p": 1})
    assert YOURS not in preview_configs(plain)
    assert YOURS not in preview_configs(same)
    assert preview_configs(config)[YOURS] == config
    records = preview_records(store, 0)
    tiles = preview_tiles(store, records, config, SPEC, 0, 0)[YOURS]
    for image, id_, tile in zip(store.images(records), records["id"], tiles, strict=True):
        made = Augmenter(config, 64)(apply_tone(image, SPEC.tone), record_key(0, 0, id_))
        assert np.array_equal(made, tile)


def test_the_verb_draws_every_tile_pixel_by_pixel(store: Store, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("image_size: 64\ntone: none\nseed: 5\naugment: {policy: light}\n")
    out = tmp_path / "new" / "preview.png"
    command = ["augment", store.root, "--preview", out, "--config", recipe, "--epoch", "1"]
    command += ["--set", "augment.strength=0.8", "--set", "augment.noise.p=1"]
    # No Ray: with such an address it would not start.
    environment = os.environ | {"RAY_ADDRESS": "nowhere:1"}
    done = subprocess.run(
        [sys.executable, "-m", "ctray", *map(str, command)],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    assert done.stdout == f"preview: {out}\n"
    config = AugmentConfig(policy="light", strength=0.8, noise={"p": 1})
    spec = PreprocessSpec(store_size=96, image_size=64, tone="none")
    tiles = preview_tiles(store, preview_records(store, 5), config, spec, 5, 1)
    assert len(tiles) == 5
    # Tiles of 64 px are drawn at twice their size.
    picture = np.ascontiguousarray(cv2.imread(str(out))[..., 0])
    drawn = {name: row.repeat(2, axis=1).repeat(2, axis=2) for name, row in tiles.items()}
    # Some changes do not fire: the tiles of two rows can be the same, but not all of them.
    corners = [
        cv2.minMaxLoc(cv2.matchTemplate(picture, tile, cv2.TM_SQDIFF))[2]
        for row in drawn.values()
        for tile in row
    ]
    columns, rows = (sorted({corner[axis] for corner in corners}) for axis in (0, 1))
    assert (len(rows), len(columns)) == (5, 8)
    for y, row in zip(rows, drawn.values(), strict=True):
        for x, tile in zip(columns, row, strict=True):
            assert np.array_equal(picture[y : y + 128, x : x + 128], tile)


def test_mistakes_of_the_preview_are_one_sentence(
    store: Store, images: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"--preview .*x\.jpg: the name must end in \.png"):
        cli.augment(store.root, tmp_path / "new" / "x.jpg")
    with pytest.raises(UserError, match="is not a store"):
        cli.augment(images, tmp_path / "new" / "x.png")
    with pytest.raises(UserError, match=r"augment\.noise\.p=2"):
        cli.augment(store.root, tmp_path / "x.png", set_=["augment.noise.p=2"])
    assert list(tmp_path.iterdir()) == []


def test_a_store_without_training_records_has_no_preview(store: Store) -> None:
    manifest = store.manifest.assign(split="test")
    with pytest.raises(UserError, match="no training records to preview"):
        preview_records(replace(store, manifest=manifest), 0)
