"""Preprocessing: tone brings scanners together, and the device half is what its spec says."""

from pathlib import Path

import numpy as np
import pytest
import torch

import ctray
from ctray.config import AugmentConfig, PreprocessSpec
from ctray.data.augment import Augmenter
from ctray.data.image.preprocess import apply_tone, prepared, stored_to_input, to_input
from ctray.models.normalise import Normalise

pytestmark = pytest.mark.fast


@pytest.fixture
def image() -> np.ndarray:
    random = np.random.default_rng(0)
    return random.integers(60, 140, (120, 100), dtype=np.uint8)


@pytest.mark.parametrize("tone", ["equalise", "percentile"])
def test_tone_undoes_another_scanners_grey_scale(image: np.ndarray, tone: str) -> None:
    other = (image.astype(int) // 2 + 90).astype(np.uint8)
    before = np.abs(image.astype(int) - other).mean()
    after = np.abs(apply_tone(image, tone).astype(int) - apply_tone(other, tone)).mean()
    assert after < before / 5
    assert apply_tone(image, tone).min() <= 2
    assert apply_tone(image, tone).max() >= 253


def test_tone_none_changes_nothing(image: np.ndarray) -> None:
    assert np.array_equal(apply_tone(image, "none"), image)


def test_input_has_the_specs_size(image: np.ndarray) -> None:
    made = to_input(image, PreprocessSpec(store_size=96, image_size=64))
    assert made.shape == (64, 64)
    assert made.dtype == np.uint8


@pytest.mark.parametrize("tone", ["none", "equalise", "percentile"])
def test_training_without_augmentation_sees_what_evaluation_sees(
    image: np.ndarray, tone: str
) -> None:
    spec = PreprocessSpec(store_size=100, tone=tone, image_size=64)
    stored = np.ascontiguousarray(image[:100])
    off = Augmenter(AugmentConfig(policy="none"), spec.image_size)
    made = off.batch([prepared(stored, spec)], np.zeros(1, np.uint64))
    assert np.array_equal(made[0], stored_to_input(stored, spec))


def test_no_caller_goes_round_what_prepares_an_image() -> None:
    # A lung mask added there must reach augmented training as it reaches the service.
    package = Path(ctray.__file__).parent
    users = [file.name for file in package.rglob("*.py") if "apply_tone" in file.read_text()]
    assert users == ["preprocess.py"]


@pytest.mark.parametrize("channels", [1, 3])
def test_the_device_half_scales_each_channel(channels: int) -> None:
    mean, std = (10.0, 20.0, 30.0)[:channels], (2.0, 4.0, 5.0)[:channels]
    normalise = Normalise(PreprocessSpec(channels=channels, mean=mean, std=std))
    images = torch.randint(0, 256, (2, 8, 8), dtype=torch.uint8)
    made = normalise(images)
    assert made.shape == (2, channels, 8, 8)
    for channel in range(channels):
        expected = (images.float() - mean[channel]) / std[channel]
        assert torch.allclose(made[:, channel], expected, atol=1e-5)
