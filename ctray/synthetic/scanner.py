"""The scanner: from attenuation to the 8-bit picture, and what is stamped on it."""

import math
from functools import lru_cache

import cv2
import numpy as np

from ctray.synthetic.canvas import Array, Bytes, blur, cloud_tile

_TONE_LEVELS = 4096  # the scanners digitise to 12 bits before their tone curve


def expose(attenuation: Array, scanner: str, odd_tone: bool, rng: np.random.Generator) -> Bytes:
    """Turn attenuation into the 8-bit picture that a scanner would store.

    A is sharp, contrasty and white-noisy; B is softer and flatter, its noise blurred with the
    picture. `odd_tone` is the planted tone shortcut.
    """
    size = attenuation.shape[0]
    gain, offset = rng.uniform(0.92, 1.08), rng.uniform(-0.03, 0.03)
    noise = _grain(rng, size)
    noise *= rng.uniform(0.008, 0.018) * (1.0 if scanner == "A" else 1.6)
    signal: Array
    if scanner == "A":
        signal = blur(attenuation, 0.0022 * size) + noise
    else:
        signal = blur(attenuation + noise, 0.0042 * size)
    top = _TONE_LEVELS - 1
    level = np.clip(signal * (top * gain / 0.95) + top * (offset + 0.04), 0, top)
    return _tone_curve(scanner, odd_tone).take(level.astype(np.uint16))


def _grain(rng: np.random.Generator, size: int) -> Array:
    """White noise of unit variance, (size, size).

    The sum of two random cuts of a fixed tile: no two images get the same grain, at a tenth of
    the time of as many normal deviates.
    """
    tile = cloud_tile(size, size)
    tops, lefts = rng.integers(0, size, (2, 2))
    cuts = [tile[y : y + size, x : x + size] for y, x in zip(tops, lefts, strict=True)]
    return (cuts[0] + cuts[1]) * math.sqrt(0.5)


@lru_cache(maxsize=4)
def _tone_curve(scanner: str, odd_tone: bool) -> Bytes:
    """Grey level (uint8) of each of the 12-bit levels."""
    signal = np.linspace(0, 1, _TONE_LEVELS)
    if scanner == "A":
        grey = 255 * (0.35 * signal + 0.65 * signal**2 * (3 - 2 * signal))
    else:
        grey = 22 + 205 * signal**0.75
    if odd_tone:
        grey = 8 + 165 * (grey / 255) ** 1.2
    return np.rint(grey).astype(np.uint8)


def stamp_side_letter(image: Bytes, rng: np.random.Generator) -> None:
    """The radiographer's side letter in an upper corner, on about half of all images."""
    if rng.random() < 0.5:
        return
    size = image.shape[0]
    letter, x = ("R", rng.uniform(0.02, 0.06)) if rng.random() < 0.7 else ("L", 0.89)
    spot = (round(x * size), round(rng.uniform(0.08, 0.14) * size))
    thickness = max(1, size // 170)
    font = cv2.FONT_HERSHEY_SIMPLEX
    cv2.putText(image, letter, spot, font, size / 420, 235, thickness, cv2.LINE_AA)


def stamp_marker(image: Bytes) -> None:
    """The planted marker: a bright block with a dark C, lower left."""
    size = image.shape[0]
    left, right, top, bottom = (round(part * size) for part in (0.02, 0.11, 0.88, 0.97))
    image[top:bottom, left:right] = 250
    centre, radius = ((left + right) // 2, (top + bottom) // 2), round(0.026 * size)
    thickness = max(1, size // 85)
    cv2.ellipse(image, centre, (radius, radius), 0, 45, 315, 10, thickness, cv2.LINE_AA)
