"""Encoded bytes to canonical images: one function for preparing, predicting and serving.

OpenCV decodes PNG, Pillow the other pictures (it says when data are missing, where OpenCV's JPEG
fills the rest with grey), pydicom and its plugins DICOM. Every size is checked in the header,
before anything is decoded, and every way in which a file can be bad is an `ImageError`.
"""

import functools
import io
import itertools
import logging
import re
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Literal, TypeVar

import cv2
import numpy as np
import pydicom
from PIL import Image, ImageChops, ImageOps
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.filereader import read_dataset
from pydicom.multival import MultiValue
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_windowing, iter_pixels
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEGBaseline8Bit, RLELossless

from ctray.errors import UserError

Fault = Literal[
    "unreadable", "truncated", "wrong type", "too large", "too small", "blank", "no pixels"
]

MAX_PIXELS = 100_000_000
MIN_SIDE = 32
# The window a radiologist reads lungs in, in HU: https://radiopaedia.org/articles/windowing-ct
LUNG_CENTRE, LUNG_WIDTH = -600.0, 1500.0

_Image = TypeVar("_Image", bound=ImageFile)

_SUFFIXES = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
    ".dcm": "DICOM",
    ".dicom": "DICOM",
}
EXTENSIONS = frozenset(_SUFFIXES)
# Lengths of the second header: two letters alone also start a text.
_BMP_HEADERS = (12, 40, 52, 56, 64, 108, 124)
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

# 16 of 255 levels between two channels of a mid grey is a CIELAB chroma of 9, which anyone sees
# and which neither JPEG nor WebP adds to grey; 0.1 % of the pixels is an arrow or a letter.
_CHROMA_LEVELS = 16
_COLOURED_SHARE = 0.001

_AS_STORED = cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH
# What makes up the picture. Transparency is left out: nobody knows the colour behind it.
_PNG_CHUNKS = frozenset({b"IHDR", b"PLTE", b"IDAT", b"eXIf", b"IEND"})
# How Pillow, pydicom and libjpeg say that data are missing.
_CUT = re.compile(
    "truncated|end of file|less than expected|fewer fragments|run out of data", re.IGNORECASE
)
# Tags of TIFF 6.0.
_WIDTH, _HEIGHT, _BITS_PER_SAMPLE, _PHOTOMETRIC, _MIN_IS_WHITE = 256, 257, 258, 262, 0
_STRIP_OFFSETS, _STRIP_COUNTS = 273, 279
_TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_COUNTS = 322, 323, 324, 325
# Deflated DICOM is inflated as a whole: a 16-bit picture of MAX_PIXELS and its tags.
_MAX_INFLATED = 2 * MAX_PIXELS + 16_000_000
# SOF0 to SOF3 and SOF55: the kinds of JPEG that DICOM allows.
_JPEG_SIZE_MARKERS = frozenset({0xC0, 0xC1, 0xC2, 0xC3, 0xF7})
_PIXEL_DATA_TAG, _UNDEFINED_LENGTH = b"\xe0\x7f\x10\x00", 0xFFFFFFFF
_RGB_ONCE_DECODED = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_JPEG2000_START = b"\xff\x4f\xff\x51"
# Named, so that a plugin someone else installed does not change pixels.
_PLUGINS = {JPEGBaseline8Bit: "pillow", RLELossless: "pydicom"}
_TAGS = {
    "patient": "PatientID",
    "study": "StudyInstanceUID",
    "series": "SeriesInstanceUID",
    "modality": "Modality",
    "sex": "PatientSex",
    "view": "ViewPosition",
}
_AGE_UNITS = {"": 1, "Y": 1, "M": 12, "W": 52, "D": 365}


class ImageError(UserError):
    """These bytes are not an image that can be scored.

    Attributes:
        fault: the kind of mistake; the text says what it is in this file.
    """

    def __init__(self, fault: Fault, message: str) -> None:
        # Both are arguments, so that the error survives the way from one process to another.
        super().__init__(fault, message)
        self.fault = fault

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
    """

    pixels: np.ndarray
    format: str
    bits: int
    colour: bool
    frame: int
    frames: int
    tags: dict[str, str]


@dataclass(frozen=True, eq=False)
class _Frame:
    # uint8, (height, width) grey or (height, width, 3) RGB
    pixels: np.ndarray
    bits: int
    tags: dict[str, str] = field(default_factory=dict)


def read_file(path: Path) -> bytes:
    """The bytes of an image file; ImageError if it cannot be opened."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImageError("unreadable", f"the file cannot be opened: {error.strerror}") from error


def decode(data: bytes, name: str | None = None) -> list[Picture]:
    """Decode every page or frame of a PNG, JPEG, BMP, TIFF, WebP or DICOM file.

    EXIF orientation is applied, transparency ignored, colour turned to grey (ITU-R BT.601). More
    than 8 bits go linearly from the darkest to the brightest pixel, without padding. DICOM goes
    through its modality table and its first VOI table or window (PS3.3 C.11), CT in Hounsfield
    units through the lung window instead; MONOCHROME1 is inverted.

    Args:
        data: the file.
        name: its name or path; a suffix that belongs to another format is an error.

    Returns:
        The pictures in the order of the file, at least one.

    Raises:
        ImageError: with the fault and a sentence; one bad frame makes the file bad.
    """
    _silence_libraries()
    if not data:
        raise ImageError("unreadable", "the file is empty")
    kind = _format(data)
    if name is not None:
        _check_name(PurePath(name), kind)
    if kind is None:
        raise ImageError(
            "unreadable", "not an image: no PNG, JPEG, BMP, TIFF, WebP or DICOM header"
        )
    try:
        frames = _READERS[kind](data)
    except ImageError:
        raise
    # The libraries raise whatever they stumble over: each is this file's fault.
    except Exception as error:
        if isinstance(error, EOFError) or _CUT.search(str(error)):
            raise _truncated(kind) from error
        raise ImageError(
            "unreadable",
            f"the {kind} data cannot be decoded ({type(error).__name__}): export the image again",
        ) from error
    return [_picture(frame, kind, place, len(frames)) for place, frame in enumerate(frames)]


def decode_image(data: bytes) -> np.ndarray:
    """Decode a file of exactly one picture, as `decode` does.

    Returns:
        The canonical image: uint8, shape (height, width), both at least 32.

    Raises:
        ImageError: as `decode`, and for a file of several pages or frames.
    """
    pictures = decode(data)
    if len(pictures) != 1:
        raise ImageError(
            "unreadable",
            f"the {pictures[0].format} file has {len(pictures)} frames: send one frame a file",
        )
    return pictures[0].pixels


@functools.cache
def _silence_libraries() -> None:
    # What they print about a broken file is in its ImageError. Once for the process and not around
    # each decode, because neither warning filters nor log levels belong to one thread.
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module=r"(pydicom|PIL)\.")


def _format(data: bytes) -> str | None:
    if data[128:132] == b"DICM":
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


def _check_name(name: PurePath, kind: str | None) -> None:
    named = _SUFFIXES.get(name.suffix.lower())
    if named in (None, kind):
        return
    if kind is not None:
        suffix = next(suffix for suffix, owner in _SUFFIXES.items() if owner == kind)
        raise ImageError(
            "wrong type", f"{name.name} holds {kind} data: rename it to {name.stem}{suffix}"
        )
    if named == "DICOM":
        raise ImageError(
            "wrong type",
            f"{name.name} is not a DICOM file, 'DICM' does not follow its first 128 bytes: "
            "export it again, or rename it to what it is",
        )


def _picture(frame: _Frame, kind: str, place: int, frames: int) -> Picture:
    pixels, colour = frame.pixels, False
    if pixels.ndim == 3:
        colour = _is_coloured(pixels)
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    if pixels.min() == pixels.max():
        which = f"frame {place + 1} of {frames}" if frames > 1 else "the image"
        raise ImageError("blank", f"{which} is blank: every pixel has the same value")
    if not pixels.flags.writeable:
        pixels = pixels.copy()
    return Picture(pixels, kind, frame.bits, colour, place, frames, frame.tags)


def _is_coloured(pixels: np.ndarray) -> bool:
    # A share of the pixels: every fourth row gives it as well.
    red, green, blue = cv2.split(np.ascontiguousarray(pixels[::4]))
    high, low = cv2.max(cv2.max(red, green), blue), cv2.min(cv2.min(red, green), blue)
    _, visible = cv2.threshold(cv2.subtract(high, low), _CHROMA_LEVELS, 1, cv2.THRESH_BINARY)
    return cv2.countNonZero(visible) > _COLOURED_SHARE * visible.size


def _check_size(width: int, height: int, frames: int = 1) -> None:
    if min(width, height) < MIN_SIDE:
        raise ImageError(
            "too small", f"the image is {width}×{height} px; the shorter side must be ≥ {MIN_SIDE}"
        )
    if width * height * frames > MAX_PIXELS:
        raise _too_large(f"{width}×{height} px" + f" in {frames} frames" * (frames > 1))


def _too_large(size: str) -> ImageError:
    limit = f"{MAX_PIXELS // 1_000_000} megapixels"
    return ImageError("too large", f"the image is {size}; the limit is {limit} a file")


def _truncated(kind: str) -> ImageError:
    return ImageError("truncated", f"the {kind} file is truncated: copy or export it again")


def _not_finite() -> ImageError:
    return ImageError("unreadable", "the image has pixels that are not finite numbers")


def _stretch(values: np.ndarray, used: np.ndarray | None = None) -> np.ndarray:
    """Numbers to uint8, linearly from the smallest to the largest of those that are `used`."""
    counted = values if used is None or not used.any() else values[used]
    low, high = float(counted.min()), float(counted.max())
    if not np.isfinite([low, high]).all():
        raise _not_finite()
    scale = 255.0 / (high - low) if high > low else 0.0
    return np.rint((np.clip(values, low, high).astype(np.float32) - low) * scale).astype(np.uint8)


def _read_png(data: bytes) -> list[_Frame]:
    data = _png_essence(data)
    width, height, bits = struct.unpack_from(">IIB", data, 16)
    _check_size(width, height)
    return [_Frame(_from_opencv(cv2.imdecode(_buffer(data), _AS_STORED)), bits)]


def _png_essence(data: bytes) -> bytes:
    """The chunks of the picture alone, checked; libpng complains of others on standard error."""
    kept, start, kind = [data[:8]], 8, b""
    while kind != b"IEND":
        end = start + 12 + int.from_bytes(data[start : start + 4], "big")
        if end > len(data):
            raise _truncated("PNG")
        kind = data[start + 4 : start + 8]
        if kind in _PNG_CHUNKS:
            if zlib.crc32(data[start + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
                raise ImageError(
                    "unreadable", "the PNG data are damaged: a checksum is wrong; copy it again"
                )
            kept.append(data[start:end])
        start = end
    if kept[1][4:8] != b"IHDR":
        raise ImageError("unreadable", "the PNG data cannot be decoded: no header chunk")
    return b"".join(kept)


def _buffer(data: bytes) -> np.ndarray:
    return np.frombuffer(data, np.uint8)


def _from_opencv(pixels: np.ndarray | None) -> np.ndarray:
    if pixels is None:
        raise ImageError("unreadable", "the compressed data are damaged: copy the file again")
    if pixels.dtype != np.uint8:
        pixels = _stretch(pixels)
    return pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def _read_jpeg(data: bytes) -> list[_Frame]:
    _check_jpeg_ends(data)
    with JpegImageFile(io.BytesIO(data)) as image:
        _check_size(*image.size)
        return [_Frame(_from_pillow(image), 8)]


def _check_jpeg_ends(data: bytes) -> None:
    # The end of a thumbnail comes before the scan of its picture, bytes after the end do not harm.
    if data.rfind(b"\xff\xd9") <= data.rfind(b"\xff\xda"):
        raise _truncated("JPEG")


def _read_bmp(data: bytes) -> list[_Frame]:
    with BmpImageFile(io.BytesIO(data)) as image:
        _check_size(*image.size)
        return [_Frame(_from_pillow(image), 8)]


def _read_webp(data: bytes) -> list[_Frame]:
    if len(data) < 8 + int.from_bytes(data[4:8], "little"):
        raise _truncated("WEBP")
    with WebPImageFile(io.BytesIO(data)) as image:
        _check_size(*image.size, image.n_frames)
        return [_Frame(_from_pillow(page), 8) for page in _pages(image)]


def _read_tiff(data: bytes) -> list[_Frame]:
    _check_tiff_directories(data)
    with TiffImageFile(io.BytesIO(data)) as image:
        pixels = 0
        for count, page in enumerate(_pages(image), start=1):
            pixels += _check_tiff_page(page, len(data))
            if pixels > MAX_PIXELS:
                raise _too_large(f"{page.width}×{page.height} px on page {count}")
        return [_tiff_frame(page, data) for page in _pages(image)]


def _check_tiff_directories(data: bytes) -> None:
    """Each page has a directory, which names the next; Pillow reads what there is of a cut one."""
    if data[2:4] not in (b"*\0", b"\0*"):
        return  # BigTIFF, which is for files larger than any we take
    order = "<" if data.startswith(b"II") else ">"
    seen: set[int] = set()
    end = 8
    while len(data) >= end and (start := struct.unpack_from(order + "I", data, end - 4)[0]):
        if start in seen or len(seen) * MIN_SIDE**2 > MAX_PIXELS:
            raise ImageError("unreadable", "the TIFF data cannot be decoded: too many pages")
        seen.add(start)
        entries = struct.unpack_from(order + "H", data, start)[0] if start + 2 <= len(data) else 0
        end = start + 2 + 12 * entries + 4
    if len(data) < end:
        raise _truncated("TIFF")


def _pages(image: _Image) -> Iterator[_Image]:
    for number in itertools.count():
        try:
            image.seek(number)
        except EOFError:
            return
        yield image


def _check_tiff_page(page: TiffImageFile, size: int) -> int:
    """The pixels a page asks for, tiles included, if all its data lie within `size` bytes."""
    _check_size(*page.size)
    for offsets, counts in ((_STRIP_OFFSETS, _STRIP_COUNTS), (_TILE_OFFSETS, _TILE_COUNTS)):
        parts = zip(page.tag_v2.get(offsets, ()), page.tag_v2.get(counts, ()), strict=False)
        if any(offset + count > size for offset, count in parts):
            raise _truncated("TIFF")
    # Pillow leaves black what no strip covers.
    boxes = [tile.extents for tile in page.tile if tile.extents]
    right, bottom = (max(box[edge] for box in boxes) for edge in (2, 3))
    if right < page.tag_v2[_WIDTH] or bottom < page.tag_v2[_HEIGHT]:
        raise _truncated("TIFF")
    width = max(page.width, page.tag_v2.get(_TILE_WIDTH, 0))
    return width * max(page.height, page.tag_v2.get(_TILE_HEIGHT, 0))


def _tiff_frame(page: TiffImageFile, data: bytes) -> _Frame:
    samples = page.tag_v2.get(_BITS_PER_SAMPLE, (1,))
    bits = max(samples)
    if bits > 8 and len(samples) > 1:
        # Pillow drops the lower byte of deep colour.
        only = (page.tell(), page.tell() + 1)
        _, found = cv2.imdecodemulti(_buffer(data), _AS_STORED, range=only)
        return _Frame(_from_opencv(found[0] if found else None), bits)
    pixels = _from_pillow(page)
    # Pillow inverts these up to 8 bits.
    inverted = bits > 8 and page.tag_v2.get(_PHOTOMETRIC) == _MIN_IS_WHITE
    return _Frame(255 - pixels if inverted else pixels, bits)


def _from_pillow(image: ImageFile) -> np.ndarray:
    """The pixels of a page, upright: uint8, (height, width) or (height, width, 3) RGB."""
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I") or image.mode == "F":
        return _stretch(np.asarray(image))
    upright: Image.Image = image
    if image.mode == "CMYK" and image.format == "JPEG" and "adobe" not in image.info:
        # Pillow takes every CMYK JPEG for one of Adobe's, which are stored inverted.
        upright = ImageChops.invert(image)
    mode = "L" if image.mode in ("1", "L", "LA") else "RGB"
    return np.asarray(upright if upright.mode == mode else upright.convert(mode))


def _read_dicom(data: bytes) -> list[_Frame]:
    _check_inflated_size(data)
    dataset = pydicom.dcmread(io.BytesIO(data))
    _check_complete(dataset, data)
    frames = int(dataset.get("NumberOfFrames") or 1)
    _check_size(int(dataset.Columns), int(dataset.Rows), frames)
    stored = _stored_frames(dataset, frames)
    with np.errstate(all="ignore"):
        return [_dicom_frame(dataset, place, pixels) for place, pixels in enumerate(stored)]


def _check_inflated_size(data: bytes) -> None:
    stream = io.BytesIO(data)
    stream.seek(132)
    meta = read_dataset(stream, False, True, stop_when=lambda *element: element[0].group != 2)
    if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    if len(inflater.decompress(data[stream.tell() :], _MAX_INFLATED)) == _MAX_INFLATED:
        raise _too_large(f"more than {_MAX_INFLATED // 1_000_000} MB when inflated")
    if not inflater.eof:
        raise _truncated("DICOM")


def _check_complete(dataset: Dataset, data: bytes) -> None:
    # pydicom hands out what it could read of a file that ends early.
    raw = [element for element in dataset.elements() if isinstance(element, RawDataElement)]
    measured = [(e.value, e.length) for e in raw if e.length != _UNDEFINED_LENGTH]
    if any(value is not None and len(value) < length for value, length in measured):
        raise _truncated("DICOM")
    if "PixelData" not in dataset:
        if _PIXEL_DATA_TAG in data:
            raise _truncated("DICOM")
        raise ImageError("no pixels", "the DICOM file has no pixel data: leave it out")


def _stored_frames(dataset: Dataset, frames: int) -> Iterator[np.ndarray]:
    """Each frame as it is stored, (height, width) or (height, width, 3) RGB."""
    syntax = dataset.file_meta.TransferSyntaxUID
    plugin = ""
    if syntax.is_encapsulated:
        plugin = _PLUGINS.get(syntax, "pylibjpeg")
        if syntax != RLELossless:
            _check_codestreams(dataset, frames)
    found = 0
    for pixels in itertools.islice(iter_pixels(dataset, decoding_plugin=plugin), frames):
        found += 1
        yield pixels
    if found < frames:
        raise _truncated("DICOM")


def _check_codestreams(dataset: Dataset, frames: int) -> None:
    # The decoders believe the size in a frame's own header, which may be a bomb.
    expected = (dataset.Columns, dataset.Rows, dataset.SamplesPerPixel)
    offsets = None
    if "ExtendedOffsetTable" in dataset:
        offsets = (dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths)
    for stream in generate_frames(
        dataset.PixelData, number_of_frames=frames, extended_offsets=offsets
    ):
        if _codestream_size(stream) != expected:
            raise ImageError(
                "unreadable",
                f"the compressed pixels of the DICOM file are not {expected[0]}×{expected[1]} px, "
                "as its header says: export it again",
            )


def _codestream_size(stream: bytes) -> tuple[int, int, int] | None:
    """Width, height and samples a pixel of a JPEG, JPEG-LS or JPEG 2000 frame."""
    if not stream.startswith(b"\xff\xd8"):
        siz = stream.find(_JPEG2000_START)
        if siz < 0:
            return None
        right, bottom, left, top = struct.unpack_from(">4I", stream, siz + 8)
        return right - left, bottom - top, struct.unpack_from(">H", stream, siz + 40)[0]
    _check_jpeg_ends(stream)
    start = 2
    while start + 10 <= len(stream):
        if stream[start + 1] in _JPEG_SIZE_MARKERS:
            height, width, samples = struct.unpack_from(">HHB", stream, start + 5)
            return width, height, samples
        start += 2 + int.from_bytes(stream[start + 2 : start + 4], "big")
    return None


def _dicom_frame(dataset: Dataset, place: int, stored: np.ndarray) -> _Frame:
    scopes = _scopes(dataset, place)
    photometric = str(dataset.PhotometricInterpretation)
    if photometric in ("MONOCHROME1", "MONOCHROME2") and stored.ndim == 2:
        pixels = _grey_dicom(stored, scopes)
    elif photometric in _RGB_ONCE_DECODED:
        pixels = stored
    elif photometric == "PALETTE COLOR":
        pixels = apply_color_lut(stored, dataset)
    else:
        raise ImageError(
            "unreadable",
            f"the photometric interpretation {photometric!r} is not read: export the image as grey",
        )
    pixels = pixels if pixels.dtype == np.uint8 else _stretch(pixels)
    return _Frame(pixels, int(dataset.BitsStored), _tags(scopes, place))


def _scopes(dataset: Dataset, place: int) -> list[Dataset]:
    """Where an attribute of one frame may stand: its functional groups, the shared ones, the top.

    Multi-frame files keep windows and positions in such groups (PS3.3 C.7.6.16).
    """
    groups = list(dataset.get("PerFrameFunctionalGroupsSequence") or [])[place : place + 1]
    groups += dataset.get("SharedFunctionalGroupsSequence") or []
    macros = [element.value for group in groups for element in group if element.VR == "SQ"]
    return [*(items[0] for items in macros if items), dataset]


def _scope(scopes: list[Dataset], *keywords: str) -> Dataset | None:
    return next((s for s in scopes if all(s.get(k) is not None for k in keywords)), None)


def _grey_dicom(stored: np.ndarray, scopes: list[Dataset]) -> np.ndarray:
    """Stored values, (height, width), to what a viewer shows first, uint8; PS3.3 C.11."""
    dataset = scopes[-1]
    table = _scope(scopes, "ModalityLUTSequence")
    rescale = _scope(scopes, "RescaleSlope", "RescaleIntercept")
    values = apply_modality_lut(stored, table or rescale or dataset)
    padding = None
    if rescale and _is_hounsfield(dataset, rescale):
        image = _window(values, LUNG_CENTRE, LUNG_WIDTH)
    elif voi := _scope(scopes, "VOILUTSequence"):
        image = _look_up(values, voi.VOILUTSequence[0])
    elif voi := _scope(scopes, "WindowCenter", "WindowWidth"):
        centre, width = _first(voi.WindowCenter), _first(voi.WindowWidth)
        image = _window(values, centre, width, str(voi.get("VOILUTFunction") or "LINEAR"))
    elif stored.dtype == np.uint8 and dataset.BitsStored == 8 and not table:
        image = stored
    else:
        padding = _padding(stored, dataset)
        image = _stretch(values, ~padding)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        image = 255 - image
    if padding is not None:
        image[padding] = 0
    return image


def _is_hounsfield(dataset: Dataset, rescale: Dataset) -> bool:
    # Without a type a CT's rescaled values are HU (PS3.3 C.8.2.1); 8 bits cannot hold them.
    is_ct = dataset.get("Modality") == "CT" and int(dataset.BitsStored) > 8
    return is_ct and (rescale.get("RescaleType") or "HU") == "HU"


def _first(value: object) -> float:
    return float(value[0] if isinstance(value, MultiValue) else value)  # type: ignore[arg-type]


def _window(
    values: np.ndarray, centre: float, width: float, function: str = "LINEAR"
) -> np.ndarray:
    """Values to uint8 through a window (PS3.3 C.11.2.1.2), black to white whatever the file."""
    if not np.isfinite(values).all():
        raise _not_finite()
    window = Dataset()
    window.WindowCenter, window.WindowWidth, window.VOILUTFunction = centre, width, function
    # These make pydicom's output run from 0 to 255.
    window.PhotometricInterpretation = "MONOCHROME2"
    window.BitsStored, window.PixelRepresentation = 8, 0
    return np.rint(apply_windowing(values, window)).astype(np.uint8)


def _look_up(values: np.ndarray, item: Dataset) -> np.ndarray:
    """Values to uint8 through a VOI table (PS3.3 C.11.2.1.1), whose range is black to white.

    Not by pydicom: with more than 256 entries of 8 bits its index overflows (3.0.2).
    """
    data = item.LUTData
    entries = np.frombuffer(data, "<u2") if isinstance(data, bytes) else np.array(data)
    table = _stretch(entries)
    return table[np.clip(values - item.LUTDescriptor[1], 0, len(table) - 1).astype(np.intp)]


def _padding(stored: np.ndarray, dataset: Dataset) -> np.ndarray:
    """Which pixels are no measurement but fill the picture up; bool, (height, width)."""
    value = dataset.get("PixelPaddingValue")
    if value is None:
        return np.zeros(stored.shape, bool)
    low, high = sorted((value, dataset.get("PixelPaddingRangeLimit", value)))
    return (stored >= low) & (stored <= high)


def _tags(scopes: list[Dataset], place: int) -> dict[str, str]:
    dataset = scopes[-1]
    tags = {name: _text(dataset, keyword) for name, keyword in _TAGS.items()}
    tags["scanner"] = f"{_text(dataset, 'Manufacturer')} {_text(dataset, 'ManufacturerModelName')}"
    tags["age"] = _age(_text(dataset, "PatientAge"))
    tags["slice"] = _slice(scopes, place)
    return {name: value.strip() for name, value in tags.items() if value.strip()}


def _text(dataset: Dataset, keyword: str) -> str:
    """An attribute in one line, empty if it is missing or breaks its own rules."""
    try:
        value = dataset.get(keyword)
    # Its picture may still be good; pydicom raises a dozen types here.
    except Exception:
        return ""
    value = value[0] if isinstance(value, MultiValue) and value else value
    return "" if value is None else " ".join(str(value).replace("\0", " ").split())


def _age(text: str) -> str:
    """A DICOM age such as 067Y or 018M in whole years."""
    match = re.fullmatch(r"(\d{1,3})([YMWD]?)", text)
    return str(int(match[1]) // _AGE_UNITS[match[2]]) if match else ""


def _slice(scopes: list[Dataset], place: int) -> str:
    """Where the frame lies along the axis of its series, in mm; else its number."""
    position = _scope(scopes, "ImagePositionPatient")
    orientation = _scope(scopes, "ImageOrientationPatient")
    if position and orientation:
        axes = np.array(orientation.ImageOrientationPatient, float).reshape(2, 3)
        return f"{np.cross(*axes) @ np.array(position.ImagePositionPatient, float):.2f}"
    return str(place + 1) if len(scopes) > 1 or place else _text(scopes[-1], "InstanceNumber")


_READERS: dict[str, Callable[[bytes], list[_Frame]]] = {
    "PNG": _read_png,
    "JPEG": _read_jpeg,
    "BMP": _read_bmp,
    "TIFF": _read_tiff,
    "WEBP": _read_webp,
    "DICOM": _read_dicom,
}
