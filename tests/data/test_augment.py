"""Augmentation depends on the key and on nothing else."""

import subprocess
import sys

import numpy as np
import pytest

from ctray.config import AugmentConfig
from ctray.data.augment import Augmenter, record_key

pytestmark = pytest.mark.fast


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (96, 96), dtype=np.uint8)


@pytest.mark.parametrize("policy", ["light", "standard", "strong"])
def test_the_key_decides_the_pixels(image: np.ndarray, policy: str) -> None:
    config = AugmentConfig(policy=policy, strength=0.7)
    one, other = Augmenter(config, 64), Augmenter(config, 64)
    key = record_key(1, 2, "abc")
    other(image, key + 1)  # what came before must not matter
    assert np.array_equal(one(image, key), other(image, key))
    assert not np.array_equal(one(image, key), one(image, record_key(1, 3, "abc")))
    assert one(image, key).shape == (64, 64)
    assert one(image, key).dtype == np.uint8


def test_another_process_makes_the_same_pixels(image: np.ndarray) -> None:
    program = (
        "import numpy as np, hashlib\n"
        "from ctray.config import AugmentConfig\n"
        "from ctray.data.augment import Augmenter, record_key\n"
        "image = np.random.default_rng(0).integers(0, 256, (96, 96), dtype=np.uint8)\n"
        "out = Augmenter(AugmentConfig(policy='strong'), 64)(image, record_key(5, 6, 'r'))\n"
        "print(hashlib.sha256(out.tobytes()).hexdigest())"
    )
    command = [sys.executable, "-c", program]
    there = [subprocess.check_output(command, text=True).strip() for _ in range(2)]
    assert there[0] == there[1]


def test_transforms_fire_independently(image: np.ndarray) -> None:
    # With one seed a transform, all of those with p=0.5 would fire for the same keys.
    flat = np.full_like(image, 100)
    flat[40:56, 40:56] = 200
    augment = Augmenter(AugmentConfig(policy="standard", strength=0.5), 96)
    made = [augment(flat, record_key(0, 0, str(i))) for i in range(200)]
    toned = np.array([np.median(out) != 100 for out in made])
    turned = np.array([(out == out.min()).any() and out.min() < 20 for out in made])
    assert 0.2 < toned.mean() < 0.95
    assert 0.2 < turned.mean() < 0.95
    both = (toned & turned).mean()
    assert both == pytest.approx(toned.mean() * turned.mean(), abs=0.12)


@pytest.mark.parametrize("config", [AugmentConfig(policy="none"), AugmentConfig(strength=0.0)])
def test_nothing_is_changed_without_a_policy_or_strength(
    image: np.ndarray, config: AugmentConfig
) -> None:
    assert np.array_equal(Augmenter(config, 96)(image, 7), image)
