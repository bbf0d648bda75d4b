"""Canonical image to model input: the only place where it is written.

This is the host half, on uint8 images (geometry and tone, OpenCV); the device half, which turns
a uint8 batch into floats, is `ctray.models.normalise`. Training, evaluation, batch prediction and
the service call the same functions with the same spec, which travels in the bundle. Data tasks
import this module and not torch, whose import takes longer than their work.
"""

import cv2
import numpy as np

from ctray.config import PreprocessSpec, Tone


def to_store(image: np.ndarray, size: int) -> np.ndarray:
    """Squash a canonical image (uint8, H×W) to a square of `size` px, as the store keeps it."""
    return resize(image, size)


def apply_tone(image: np.ndarray, tone: Tone) -> np.ndarray:
    """Bring the grey scale (uint8, H×W) of any scanner to a common one; returns uint8, H×W."""
    if tone == "equalise":
        return cv2.equalizeHist(image)
    if tone == "percentile":
        low, high = np.percentile(image, (1, 99))
        scale = 255.0 / max(high - low, 1.0)
        return cv2.convertScaleAbs(np.clip(image, low, high) - low, alpha=scale)
    return image


def to_input(image: np.ndarray, spec: PreprocessSpec) -> np.ndarray:
    """Host half: canonical image (uint8, H×W) to uint8 (image_size, image_size)."""
    stored = to_store(image, spec.store_size)
    return stored_to_input(stored, spec)


def prepared(stored: np.ndarray, spec: PreprocessSpec) -> np.ndarray:
    """All that happens to a stored image (uint8, S×S) before augmentation or resize; same shape.

    Augmented training, its preview, evaluation and serving all call it, so that a step added here
    reaches every one of them.
    """
    return apply_tone(stored, spec.tone)


def stored_to_input(stored: np.ndarray, spec: PreprocessSpec) -> np.ndarray:
    """The rest of the host half for an image that comes from a store of the same store_size."""
    return resize(prepared(stored, spec), spec.image_size)


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """Squash uint8 (H, W) to (size, size): area averages when shrinking, linear otherwise."""
    if image.shape == (size, size):
        return image
    shrinking = min(image.shape) > size
    return cv2.resize(
        image, (size, size), interpolation=cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR
    )
