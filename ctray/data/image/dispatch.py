"""Encoded bytes to canonical images: one function for preparing, predicting and serving.

The first bytes say the format, and each format has one reader. Every size is checked in the header,
before anything is decoded, and every way in which a file can be bad is an `ImageError`.
"""

import functools
import logging
import re
import warnings
from collections.abc import Callable
from pathlib import Path, PurePath

import cv2
import numpy as np

from ctray.data.image.dicom import begins_without_preamble, read_dicom
from ctray.data.image.looks import odd_looks
from ctray.data.image.picture import Frame, ImageError, Picture, truncated
from ctray.data.image.raster import (
    read_bmp,
    read_jpeg,
    read_png,
    read_tiff,
    read_webp,
    shows_in_alpha,
)

_READERS: dict[str, Callable[[bytes], list[Frame]]] = {
    "PNG": read_png,
    "JPEG": read_jpeg,
    "BMP": read_bmp,
    "TIFF": read_tiff,
    "WEBP": read_webp,
    "DICOM": read_dicom,
}

_WITH_ALPHA = ("PNG", "WEBP", "TIFF")
_SUFFIXES = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jfif": "JPEG",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
    ".dcm": "DICOM",
    ".dicom": "DICOM",
}
EXTENSIONS = frozenset(_SUFFIXES)
# Bytes of a file that are enough to tell its format.
_START = 4096
# Lengths of the second header: two letters alone also start a text.
_BMP_HEADERS = (12, 40, 52, 56, 64, 108, 124)
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

# 16 of 255 levels between two channels of a mid grey is a CIELAB chroma of 9, which anyone sees
# and which neither JPEG nor WebP adds to grey; 0.1 % of the pixels is an arrow or a letter.
_CHROMA_LEVELS = 16
_COLOURED_SHARE = 0.001

# How Pillow, pydicom and libjpeg say that data are missing.
_CUT = re.compile(
    "truncated|end of file|less than expected|fewer fragments|run out of data", re.IGNORECASE
)


def read_file(path: Path) -> bytes:
    """The bytes of an image file, of any other the first ones.

    Raises:
        ImageError: it cannot be opened.
    """
    try:
        with path.open("rb") as file:
            start = file.read(_START)
            # What else people keep beside images may be larger than the memory.
            return start + file.read() if format_of(start) else start
    except OSError as error:
        raise ImageError("unreadable", f"the file cannot be opened: {error.strerror}") from error


def decode(data: bytes, name: str | None = None) -> list[Picture]:
    """Decode every page or frame of a PNG, JPEG, BMP, TIFF, WebP or DICOM file.

    EXIF orientation is applied, transparency ignored, colour turned to grey (ITU-R BT.601). More
    than 8 bits go linearly from the darkest to the brightest pixel, without padding, and without a
    marker or dead pixels far outside of all others. DICOM goes through its modality table and its
    first VOI table or window that shows something (PS3.3 C.11), CT in Hounsfield units through the
    lung window instead; MONOCHROME1 is inverted. A tag that does not make the pixels unreadable is
    passed over with a warning.

    Args:
        data: the file.
        name: its name or path; a suffix that belongs to another format is a warning.

    Returns:
        The pictures in the order of the file, at least one.

    Raises:
        ImageError: with the fault and a sentence; one bad frame makes the file bad.
    """
    _silence_libraries()
    if not data:
        raise ImageError("unreadable", "the file is empty")
    kind = format_of(data)
    mismatch = () if name is None else _name_mismatch(PurePath(name), kind)
    if kind is None:
        raise ImageError(
            "unreadable", "not an image: no PNG, JPEG, BMP, TIFF, WebP or DICOM header"
        )
    try:
        frames = _READERS[kind](data)
        return [
            _picture(frame, kind, place, len(frames), data, mismatch)
            for place, frame in enumerate(frames)
        ]
    except ImageError:
        raise
    # The libraries raise whatever they stumble over: each is this file's fault.
    except Exception as error:
        if isinstance(error, EOFError) or _CUT.search(str(error)):
            raise truncated(kind) from error
        raise ImageError(
            "unreadable", f"the {kind} data are damaged: copy or export the image again"
        ) from error


def decode_picture(data: bytes, name: str | None = None) -> Picture:
    """Decode a file of exactly one picture, as `decode` does.

    Raises:
        ImageError: as `decode`, and for a file of several pages or frames.
    """
    pictures = decode(data, name)
    if len(pictures) != 1:
        raise ImageError(
            "unreadable",
            f"the {pictures[0].format} file has {len(pictures)} frames: send one frame a file",
        )
    return pictures[0]


def decode_image(data: bytes) -> np.ndarray:
    """The canonical image of a file of one picture, as `decode_picture` decodes it.

    Returns:
        uint8, shape (height, width), both at least 32.
    """
    return decode_picture(data).pixels


@functools.cache
def _silence_libraries() -> None:
    # What they print about a broken file is in its ImageError. Once for the process and not around
    # each decode, because neither warning filters nor log levels belong to one thread.
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module=r"(pydicom|PIL)\.")


def format_of(data: bytes) -> str | None:
    """The format of a file by its first bytes, at least 132 of them; None: none of ours."""
    if data[128:132] == b"DICM" or begins_without_preamble(data):
        return "DICOM"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(_TIFF_STARTS):
        return "TIFF"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WEBP"
    if data.startswith(b"BM") and int.from_bytes(data[14:18], "little") in _BMP_HEADERS:
        return "BMP"
    return None


def _name_mismatch(name: PurePath, kind: str | None) -> tuple[str, ...]:
    """A warning where the suffix of a file belongs to another format than its bytes."""
    named = _SUFFIXES.get(name.suffix.lower())
    if kind is None and named == "DICOM":
        raise ImageError(
            "wrong type",
            f"{name.name} is not a DICOM file: export it again, or rename it to what it is",
        )
    if kind is None or named in (None, kind):
        return ()
    return (f"the name ends in {name.suffix}, the bytes are {kind} and were read as that",)


def _picture(
    frame: Frame, kind: str, place: int, frames: int, data: bytes, mismatch: tuple[str, ...]
) -> Picture:
    pixels, colour = frame.pixels, False
    if pixels.ndim == 3:
        colour = _is_coloured(pixels)
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    if pixels.min() == pixels.max():
        which = f"frame {place + 1} of {frames}" if frames > 1 else "the image"
        if kind in _WITH_ALPHA and frames == 1 and shows_in_alpha(data):
            raise ImageError(
                "blank",
                f"{which} shows something in its transparency only: export it without an alpha "
                "channel",
            )
        raise ImageError("blank", f"{which} is blank: every pixel has the same value")
    if not pixels.flags.writeable:
        pixels = pixels.copy()
    odd = (*mismatch, *frame.warnings, *odd_looks(pixels))
    return Picture(pixels, kind, frame.bits, colour, place, frames, frame.tags, odd)


def _is_coloured(pixels: np.ndarray) -> bool:
    # A share of the pixels: every fourth row gives it as well.
    red, green, blue = cv2.split(np.ascontiguousarray(pixels[::4]))
    high, low = cv2.max(cv2.max(red, green), blue), cv2.min(cv2.min(red, green), blue)
    _, visible = cv2.threshold(cv2.subtract(high, low), _CHROMA_LEVELS, 1, cv2.THRESH_BINARY)
    return cv2.countNonZero(visible) > _COLOURED_SHARE * visible.size
