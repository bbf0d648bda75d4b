"""Random changes for training images, keyed by (seed, epoch, record).

The same triple gives the same pixels in any process, at any number of workers and after a resume.
No policy flips: the heart has a side, and nobody is filmed upside down.
"""

import hashlib
import os
import random

import cv2
import numpy as np

from ctray.config import AugmentConfig

# albumentations asks the network for its newest version when it is imported.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
import albumentations as A


class Augmenter:
    """One policy at one strength for one output size.

    Call it with an image (uint8, H×W, tone applied) and a key; it returns uint8
    (image_size, image_size).
    """

    def __init__(self, config: AugmentConfig, image_size: int) -> None:
        self._transform = A.Compose(_transforms(config, image_size))

    def __call__(self, image: np.ndarray, key: int) -> np.ndarray:
        """Change one image; the same key gives the same pixels."""
        # `set_random_seed` would give every transform the same stream, and all those with equal
        # probability would fire together; one shared state is what Compose sets up by itself.
        self._transform.set_random_state(np.random.default_rng(key), random.Random(key))
        return self._transform(image=image[..., None])["image"][..., 0]


def record_key(seed: int, epoch: int, record_id: str) -> int:
    """The 64-bit key of one record in one epoch of one run."""
    text = f"{seed}/{epoch}/{record_id}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest())


def _transforms(config: AugmentConfig, size: int) -> list[A.BasicTransform]:
    s = config.strength
    if config.policy == "none" or s == 0.0:
        return [A.Resize(size, size, interpolation=cv2.INTER_AREA)]
    crop = A.RandomResizedCrop(
        size=(size, size), scale=(1 - 0.5 * s, 1.0), ratio=(1 - 0.2 * s, 1 / (1 - 0.2 * s))
    )
    contrast = A.RandomBrightnessContrast(0.4 * s, 0.4 * s, p=0.5)
    if config.policy == "light":
        return [crop, contrast]
    affine = A.Affine(
        rotate=(-20 * s, 20 * s),
        translate_percent=(-0.1 * s, 0.1 * s),
        shear=(-6 * s, 6 * s),
        p=0.7,
    )
    gamma = A.RandomGamma((100 - int(40 * s), 100 + int(60 * s)), p=0.3)
    if config.policy == "standard":
        return [crop, affine, contrast, gamma]
    return [
        crop,
        affine,
        contrast,
        gamma,
        A.CLAHE(clip_limit=(1.0, 1.0 + 4 * s), p=0.2),
        A.GaussianBlur(blur_limit=0, sigma_limit=(0.1, 0.1 + 2 * s), p=0.2),
        A.GaussNoise(std_range=(0.01, 0.01 + 0.1 * s), p=0.2),
        A.CoarseDropout(
            num_holes_range=(1, 1 + int(6 * s)),
            hole_height_range=(0.05, 0.2),
            hole_width_range=(0.05, 0.2),
            p=0.5,
        ),
    ]
