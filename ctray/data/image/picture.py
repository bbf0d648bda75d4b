"""What every reader of images shares: the picture, its limits, and how a file can be bad."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from ctray.errors import UserError

Fault = Literal[
    "unreadable", "truncated", "wrong type", "too large", "too small", "blank", "no pixels"
]

MAX_PIXELS = 100_000_000
MIN_SIDE = 32

# What is darker or brighter than all but this share of the pixels may be a marker or a dead pixel,
# and is one when it lies further out than so many times the range of the others. Of 12,024 films
# and slices none has one (docs/decisions/decoding.md).
_TAIL = 0.02
_REACH = 1.5
_SEEN = 200_000  # pixels that are enough to tell
_FAR_OUTSIDE = (
    "some pixels, a marker or dead ones, are far brighter or darker than all others: the grey "
    "levels were scaled without them"
)


class ImageError(UserError):
    """These bytes are not an image that can be scored.

    Attributes:
        fault: the kind of mistake; the text says what it is in this file.
    """

    def __init__(self, fault: Fault, message: str) -> None:
        # Both are arguments, so that the error survives the way from one process to another.
        super().__init__(fault, message)
        self.fault = fault
        self.arguments = ()

    def __str__(self) -> str:
        return str(self.args[1])


@dataclass(frozen=True, eq=False)
class Picture:
    """One decoded page or frame.

    Attributes:
        pixels: the canonical image: uint8, shape (height, width), both at least 32, not blank.
        format: PNG, JPEG, BMP, TIFF, WEBP or DICOM.
        bits: stored bits a sample, 1 to 32.
        colour: whether it is visibly coloured; three equal channels are not.
        frame: its place in the file, from 0.
        frames: how many the file holds.
        tags: of DICOM what is known of patient, study, series, slice, modality, scanner, age
            (years), sex and view; empty for other formats.
        warnings: what was passed over or guessed when it was read, as sentences.
    """

    pixels: np.ndarray
    format: str
    bits: int
    colour: bool
    frame: int
    frames: int
    tags: dict[str, str]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Frame:
    """What a reader gives for one page or frame, before it is checked and turned to grey.

    Attributes:
        pixels: uint8, (height, width) grey or (height, width, 3) RGB.
        bits: stored bits a sample.
        tags: as in `Picture`.
        warnings: as in `Picture`.
    """

    pixels: np.ndarray
    bits: int
    tags: dict[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def check_size(width: int, height: int, frames: int = 1) -> None:
    """Raise ImageError for a picture (sides in px) that is too small, or a file too large."""
    if min(width, height) < MIN_SIDE:
        raise ImageError(
            "too small", f"the image is {width}×{height} px; the shorter side must be ≥ {MIN_SIDE}"
        )
    if width * height * frames > MAX_PIXELS:
        more = f" in {frames} frames" if frames > 1 else ""
        raise too_large(f"{width}×{height} px{more}")


def too_large(size: str) -> ImageError:
    """The error for a file over the limit; `size` says how large it is."""
    limit = f"{MAX_PIXELS // 1_000_000} megapixels"
    return ImageError("too large", f"the image is {size}; the limit is {limit} a file")


def truncated(kind: str) -> ImageError:
    """The error for a file of this format that ends early."""
    return ImageError("truncated", f"the {kind} file is truncated: copy or export it again")


def not_finite() -> ImageError:
    """The error for pixels that are NaN or infinite."""
    return ImageError("unreadable", "the image has pixels that are not finite numbers")


def stretch(
    values: np.ndarray, used: np.ndarray | None = None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Numbers to uint8, linearly from the smallest to the largest.

    A marker or a dead pixel that lies far outside of all others does not count: it would set the
    scale, and leave the picture black or white.

    Args:
        values: any shape, any number type.
        used: bool, the same shape: which of them count; all unless told which.

    Returns:
        The picture, of the same shape, and a warning where something did not count.

    Raises:
        ImageError: the smallest or the largest is not finite.
    """
    counted = values if used is None or not used.any() else values[used]
    limits = float(counted.min()), float(counted.max())
    if not np.isfinite(limits).all():
        raise not_finite()
    low, high = bulk(counted, *limits)
    warnings = () if (low, high) == limits else (_FAR_OUTSIDE,)
    return _scaled(values, low, high), warnings


def bulk(values: np.ndarray, low: float, high: float) -> tuple[float, float]:
    """The smallest and the largest number that do not lie far outside of the others.

    Args:
        values: any shape, all finite.
        low: the smallest.
        high: the largest.
    """
    few = values.ravel()[:: max(1, values.size // _SEEN)]
    most_low, most_high = (float(edge) for edge in np.quantile(few, (_TAIL, 1 - _TAIL)))
    reach = _REACH * (most_high - most_low)
    # Of two levels one may be rare, and is no outlier for that.
    if reach > 0 and high - most_high > reach:
        high = float(values[values <= most_high + reach].max())
    if reach > 0 and most_low - low > reach:
        low = float(values[values >= most_low - reach].min())
    return low, high


def _scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    scale = 255.0 / (high - low) if high > low else 0.0
    return np.rint((np.clip(values, low, high).astype(np.float32) - low) * scale).astype(np.uint8)
