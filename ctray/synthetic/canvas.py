"""Drawing in unit coordinates: shapes on layers, and smooth random fields."""

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]  # float32 all through
Bytes = NDArray[np.uint8]
Numbers = NDArray[np.float64]
Points = NDArray[np.float64]  # (..., 2): x and y in unit coordinates

BROAD, FINE = 5, 32  # bumps of the smooth random fields across an image
_SUBPIXEL_BITS = 4
_TURN = np.linspace(0, 2 * np.pi, 32, endpoint=False)  # the corners of a round outline


@lru_cache(maxsize=4)
def grid(size: int) -> tuple[Array, Array]:
    """Unit y of every pixel, and the depth of the trunk there (1 at the midline); (size, size)."""
    line = ((np.arange(size) + 0.5) / size).astype(np.float32)
    x, y = np.meshgrid(line, line)
    return y, 1 - np.square((x - 0.5) * 1.7)


@lru_cache(maxsize=8)
def cloud_tile(size: int, cells: int) -> Array:
    """Smooth random field, about standard normal, (2 size, 2 size), `cells` bumps a size."""
    coarse = np.random.default_rng(cells).standard_normal((2 * cells, 2 * cells), np.float32)
    return _resize(coarse, 2 * size, cv2.INTER_CUBIC)


def _resize(field: Array, side: int, kind: int) -> Array:
    return np.asarray(cv2.resize(field, (side, side), interpolation=kind), np.float32)


def blur(field: Array, sigma: float) -> Array:
    """Gaussian blur, `sigma` in pixels."""
    return np.asarray(cv2.GaussianBlur(field, (0, 0), sigma), np.float32)


class Canvas:
    """Draws shapes given in unit coordinates, seen from this image's position of the patient.

    Shapes go on uint8 layers: full ones (size, size) for fine lines, and coarse ones of half the
    side for what is blurred anyway, at a quarter of the time.
    """

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        self.size = size
        angle, scale = np.deg2rad(rng.uniform(-3.0, 3.0)), rng.uniform(0.94, 1.08)
        cos, sin = scale * np.cos(angle), scale * np.sin(angle)
        self._turn = np.array([[cos, sin], [-sin, cos]])
        self._shift = 0.5 + rng.uniform(-0.03, 0.03, 2)

    def full(self) -> Bytes:
        """An empty layer for fine lines."""
        return np.zeros((self.size, self.size), np.uint8)

    def coarse(self) -> Bytes:
        """An empty layer for what is blurred anyway."""
        return np.zeros((self.size // 2, self.size // 2), np.uint8)

    def fill(self, shapes: Sequence[Points], layer: Bytes, value: int = 255) -> Bytes:
        """Fill polygons, each (points, 2), on `layer`."""
        for shape in shapes:
            pixels = self._pixels(shape, layer)
            cv2.fillPoly(layer, [pixels], value, cv2.LINE_8, _SUBPIXEL_BITS)
        return layer

    def stroke(self, lines: Points, width: float, layer: Bytes, value: int = 255) -> Bytes:
        """Draw polylines (lines, points, 2), `width` in unit coordinates, on `layer`."""
        thickness = max(1, round(width * layer.shape[0]))
        pixels = list(self._pixels(lines, layer))
        # Smoothing a wide line costs more than all else here, and every layer is blurred anyway.
        kind = cv2.LINE_AA if thickness == 1 else cv2.LINE_8
        cv2.polylines(layer, pixels, False, value, thickness, kind, _SUBPIXEL_BITS)
        return layer

    def soften(self, layer: Bytes, sigma: float) -> Array:
        """Blur by `sigma` (unit coordinates); float32 0..1 (size, size)."""
        # In floats: OpenCV blurs them in less than half the time that it takes for bytes.
        field = np.multiply(layer, 1 / 255, dtype=np.float32)
        field = blur(field, max(0.5, sigma * layer.shape[0]))
        return field if len(layer) == self.size else _resize(field, self.size, cv2.INTER_LINEAR)

    def cloud(self, rng: np.random.Generator, cells: int) -> Array:
        """A random cut of a smooth random field, about standard normal, (size, size)."""
        top, left = rng.integers(0, self.size, 2)
        return cloud_tile(self.size, cells)[top : top + self.size, left : left + self.size]

    def _pixels(self, points: Points, layer: Bytes) -> NDArray[np.int32]:
        placed = (points - 0.5) @ self._turn + self._shift
        # Pixel centres lie at half a pixel in unit coordinates, at whole numbers in OpenCV.
        scaled = (placed * layer.shape[0] - 0.5) * (1 << _SUBPIXEL_BITS)
        return np.rint(scaled).astype(np.int32)


def curve(x: Numbers, y: Numbers) -> Points:
    """Points (..., 2) from their coordinates, each (...)."""
    return np.stack([x, y], axis=-1)


def ellipse(x: float, y: float, rx: float, ry: float, tilt: float = 0.0) -> Points:
    """Ellipse outline, (32, 2); `tilt` in radians."""
    return _place(x, y, rx * np.cos(_TURN), ry * np.sin(_TURN), tilt)


def random_blob(rng: np.random.Generator, x: float, y: float, rx: float, ry: float) -> Points:
    """Outline of an irregular patch, (32, 2): an ellipse with a radius that swings."""
    waves, phases = rng.normal(0, 0.08, (4, 1)), rng.uniform(0, 2 * np.pi, (4, 1))
    radius = 1 + (waves * np.cos(np.arange(2, 6)[:, None] * _TURN + phases)).sum(axis=0)
    along, across = rx * radius * np.cos(_TURN), ry * radius * np.sin(_TURN)
    return _place(x, y, along, across, rng.uniform(-0.5, 0.5))


def _place(x: float, y: float, along: Numbers, across: Numbers, tilt: float) -> Points:
    cos, sin = np.cos(tilt), np.sin(tilt)
    return curve(x + along * cos - across * sin, y + along * sin + across * cos)
