"""Encoded bytes to the canonical image: one function for preparing, predicting and serving."""

import io
import warnings
from pathlib import Path

import cv2
import numpy as np
import pydicom
from PIL import Image, UnidentifiedImageError
from pydicom.pixels import apply_modality_lut, apply_voi_lut

from ctray.errors import UserError

MAX_PIXELS = 100_000_000
MIN_SIDE = 32
EXTENSIONS = frozenset(
    {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".dcm", ".dicom"}
)
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")


class ImageError(UserError):
    """These bytes are not an image that can be scored; the message is the reason."""


def read_file(path: Path) -> bytes:
    """The bytes of an image file; ImageError if it cannot be opened."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"the file cannot be opened: {error.strerror}") from error


def decode_image(data: bytes) -> np.ndarray:
    """Decode PNG, JPEG, BMP, TIFF, WebP or DICOM bytes.

    Colour becomes grey, EXIF orientation is applied, more than 8 bits are scaled linearly from
    the darkest to the brightest pixel, and DICOM goes through its modality and VOI tables with
    MONOCHROME1 inverted.

    Returns:
        The canonical image: uint8, shape (height, width), both at least 32.

    Raises:
        ImageError: empty, unknown, truncated, too large (over 100 megapixels), too small or blank.
    """
    if not data:
        raise ImageError("the file is empty")
    image = _decode_dicom(data) if data[128:132] == b"DICM" else _decode_picture(data)
    height, width = image.shape
    if min(height, width) < MIN_SIDE:
        raise ImageError(f"the image is {width}×{height} px; the shorter side must be ≥ {MIN_SIDE}")
    if image.min() == image.max():
        raise ImageError("the image is blank: every pixel has the same value")
    return image


def _decode_picture(data: bytes) -> np.ndarray:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=_FORMATS) as header:
                kind, size = header.format, header.size
    except Image.DecompressionBombError as error:
        raise ImageError(_too_large("the image")) from error
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise ImageError("not an image: no PNG, JPEG, BMP, TIFF, WebP or DICOM header") from error
    if size[0] * size[1] > MAX_PIXELS:
        raise ImageError(_too_large(f"the image is {size[0]}×{size[1]} px;"))
    # OpenCV fills what is missing from a cut file with grey and says nothing.
    if (kind == "PNG" and b"IEND" not in data[-64:]) or (
        kind == "JPEG" and b"\xff\xd9" not in data[-1024:]
    ):
        raise ImageError(f"the {kind} file is truncated")
    try:
        image = cv2.imdecode(
            np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH
        )
    except cv2.error as error:
        raise ImageError(f"the {kind} data cannot be decoded") from error
    if image is None:
        raise ImageError(f"the {kind} data cannot be decoded")
    return _to_uint8(image)


def _decode_dicom(data: bytes) -> np.ndarray:
    try:
        dataset = pydicom.dcmread(io.BytesIO(data))
        if "PixelData" not in dataset:
            raise ImageError("the DICOM file has no pixels")
        frames = int(dataset.get("NumberOfFrames") or 1)
        if frames != 1:
            raise ImageError(f"the DICOM file has {frames} frames; send one frame a file")
        if dataset.Rows * dataset.Columns > MAX_PIXELS:
            raise ImageError(_too_large(f"the image is {dataset.Columns}×{dataset.Rows} px;"))
        photometric = str(dataset.get("PhotometricInterpretation", ""))
        if photometric not in ("MONOCHROME1", "MONOCHROME2"):
            raise ImageError(f"DICOM photometric interpretation {photometric!r} is not grey")
        pixels = apply_modality_lut(dataset.pixel_array, dataset)
        pixels = apply_voi_lut(pixels, dataset)
    except ImageError:
        raise
    # pydicom and its plugins raise whatever they stumble over: each is this file's fault.
    except Exception as error:
        raise ImageError(f"the DICOM file cannot be decoded: {type(error).__name__}") from error
    image = _to_uint8(pixels)
    return 255 - image if photometric == "MONOCHROME1" else image


def _to_uint8(pixels: np.ndarray) -> np.ndarray:
    if pixels.dtype == np.uint8:
        return pixels
    low, high = float(pixels.min()), float(pixels.max())
    if not np.isfinite([low, high]).all():
        raise ImageError("the image has pixels that are not finite numbers")
    scale = 255.0 / (high - low) if high > low else 0.0
    return np.rint((pixels.astype(np.float32) - low) * scale).astype(np.uint8)


def _too_large(what: str) -> str:
    return f"{what} larger than the limit of {MAX_PIXELS // 1_000_000} megapixels"
