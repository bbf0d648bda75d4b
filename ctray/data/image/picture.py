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

# A marker or dead pixels are few, and apart from the others: in between is next to nothing over so
# many times the range of the others, for a speck more. Smooth tails, as of bones or of raw data,
# are no outliers (docs/decisions/decoding.md).
_TAIL = 0.05
_GAP, _SPECKS_GAP = 0.5, 1.5
_SPECK = 1e-3
_IN_BETWEEN = 0.1  # of the outliers: the edge of a marker is smoothed
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
    """The smallest and the largest number that are not far outside of the others.

    Args:
        values: any shape, all finite.
        low: the smallest.
        high: the largest.
    """
    flat = values.ravel()
    few = np.sort(flat[:: max(1, flat.size // _SEEN)].astype(np.float64))
    reach = float(few[int((1 - _TAIL) * (len(few) - 1))] - few[int(_TAIL * (len(few) - 1))])
    # Of two levels one may be rare, and is no outlier for that. Without room there is no gap.
    if reach <= 0 or high - low < (1 + _GAP) * reach:
        return low, high
    above = _edge(np.concatenate([few, [high]]), reach)
    below = -_edge(-np.concatenate([[low], few])[::-1], reach)
    if above < high:
        high = float(values[values <= above].max())
    if below > low:
        low = float(values[values >= below].min())
    return low, high


def _edge(ordered: np.ndarray, reach: float) -> float:
    """The last number before the outliers at the upper end of some, sorted; the last without any.

    Args:
        ordered: float64 (N,), rising.
        reach: the range of most of them.
    """
    tail = ordered[int((1 - _TAIL) * (len(ordered) - 1)) :]
    up_to = np.arange(1, len(tail) + 1)
    few = max(1, int(_SPECK * len(ordered)))
    for gap, is_speck in ((_GAP, False), (_SPECKS_GAP, True)):
        reached = np.searchsorted(tail, tail + gap * reach, side="right")
        between, beyond = reached - up_to, len(tail) - reached
        apart = (beyond > 0) & (between <= _IN_BETWEEN * beyond) & ((beyond <= few) == is_speck)
        if apart.any():
            return float(tail[np.argmax(apart)])
    return float(ordered[-1])


def _scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    scale = 255.0 / (high - low) if high > low else 0.0
    return np.rint((np.clip(values, low, high).astype(np.float32) - low) * scale).astype(np.uint8)
