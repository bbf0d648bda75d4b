"""Small pictures inside a page."""

import base64
from typing import Literal

import cv2
import numpy as np

_JPEG_QUALITY = 80


def thumbnail(image: np.ndarray, side: int, kind: Literal["png", "jpeg"]) -> str:
    """Shrink an image and write it as a data URI, for the `src` of an `img`.

    Args:
        image: uint8 [H, W], or RGB [H, W, 3].
        side: most px that the longer side may have; a smaller image keeps its size.
        kind: PNG keeps each pixel; JPEG is several times smaller.

    Returns:
        `data:image/…;base64,…`.
    """
    scale = side / max(image.shape[:2])
    if scale < 1:
        size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    if image.ndim == 3:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    options = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY] if kind == "jpeg" else []
    _, encoded = cv2.imencode(f".{kind}", image, options)
    return f"data:image/{kind};base64," + base64.b64encode(encoded.tobytes()).decode("ascii")
