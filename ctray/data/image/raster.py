"""PNG, JPEG, BMP, WebP and TIFF to frames.

OpenCV decodes PNG, Pillow the others: it says when data are missing, where OpenCV's JPEG fills the
rest with grey.
"""

import io
import itertools
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TypeVar

import cv2
import numpy as np
from PIL import Image, ImageChops, ImageOps
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from ctray.data.image.jpeg import END, has_every_scan, jpeg_end
from ctray.data.image.picture import (
    MAX_PIXELS,
    MIN_SIDE,
    Frame,
    ImageError,
    check_size,
    stretch,
    too_large,
    truncated,
)

_Image = TypeVar("_Image", bound=ImageFile)

_AS_STORED = cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH
# What makes up the picture. Transparency is left out: nobody knows the colour behind it.
_PNG_CHUNKS = frozenset({b"IHDR", b"PLTE", b"IDAT", b"eXIf", b"IEND"})
_ALIKE = 0.9  # correlation of a page and its reduced copy
# Coded data that are not the ones that are missing.
_OTHER_DATA = b"\x5a\xa5\x3c" * 24
# Types and tags of TIFF 6.0.
_SHORT, _LONG = 3, 4
_WIDTH, _HEIGHT, _BITS_PER_SAMPLE, _PHOTOMETRIC, _MIN_IS_WHITE = 256, 257, 258, 262, 0
_STRIP_OFFSETS, _STRIP_COUNTS = 273, 279
_SAMPLE_FORMAT, _UNSIGNED, _SIGNED = 339, 1, 2
# Bits and sample format that Pillow takes for others.
_SIGNS = {(8, _SIGNED): "i1", (32, _UNSIGNED): "u4"}
_SUBFILE_TYPE, _REDUCED_OR_MASK = 254, 1 | 4
_OLD_SUBFILE_TYPE, _OLD_REDUCED = 255, 2
_TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_COUNTS = 322, 323, 324, 325


def read_png(data: bytes) -> list[Frame]:
    """The one frame of a PNG file."""
    data = _png_essence(data)
    width, height, bits = struct.unpack_from(">IIB", data, 16)
    check_size(width, height)
    return [_from_opencv(cv2.imdecode(_buffer(data), _AS_STORED), bits)]


def _png_essence(data: bytes) -> bytes:
    """The chunks of the picture alone, checked; libpng complains of others on standard error."""
    kept, start, kind = [data[:8]], 8, b""
    while kind != b"IEND":
        end = start + 12 + int.from_bytes(data[start : start + 4], "big")
        if end > len(data):
            raise truncated("PNG")
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


def _from_opencv(pixels: np.ndarray | None, bits: int) -> Frame:
    if pixels is None:
        raise ImageError("unreadable", "the compressed data are damaged: copy the file again")
    warnings: tuple[str, ...] = ()
    if pixels.dtype != np.uint8:
        pixels, warnings = stretch(pixels)
    colour = pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
    return Frame(colour, bits, warnings=warnings)


def read_jpeg(data: bytes) -> list[Frame]:
    """The one frame of a JPEG file, also of one that lacks no more than its end mark."""
    if jpeg_end(data) is not None:
        return [_decode_jpeg(data)]
    whole = data.removesuffix(END[:1])
    if not has_every_scan(whole):
        raise truncated("JPEG")
    try:
        frame, other = (_decode_jpeg(whole + more + END) for more in (b"", _OTHER_DATA))
    except (OSError, SyntaxError, ValueError) as error:
        raise truncated("JPEG") from error
    # Where coded data are missing, others in their place make another picture.
    if not np.array_equal(frame.pixels, other.pixels):
        raise truncated("JPEG")
    return [replace(frame, warnings=("the JPEG file has no end mark, but its picture is whole",))]


def _decode_jpeg(data: bytes) -> Frame:
    with JpegImageFile(io.BytesIO(data)) as image:
        check_size(*image.size)
        return _from_pillow(image, 8)


def read_bmp(data: bytes) -> list[Frame]:
    """The one frame of a BMP file."""
    with BmpImageFile(io.BytesIO(data)) as image:
        check_size(*image.size)
        return [_from_pillow(image, 8)]


def read_webp(data: bytes) -> list[Frame]:
    """The frames of a WebP file."""
    if len(data) < 8 + int.from_bytes(data[4:8], "little"):
        raise truncated("WEBP")
    with WebPImageFile(io.BytesIO(data)) as image:
        check_size(*image.size, image.n_frames)
        return [_from_pillow(page, 8) for page in _pages(image)]


def read_tiff(data: bytes) -> list[Frame]:
    """The pages of a TIFF file, without the reduced copies that some have of a page."""
    _check_tiff_directories(data)
    if (double := _double_precision(data)) is not None:
        return [double]
    with TiffImageFile(io.BytesIO(data)) as image:
        wanted, copies = _full_pages(image)
        pixels = 0
        for page in _pages(image, wanted):
            pixels += _check_tiff_page(page, len(data))
            if pixels > MAX_PIXELS:
                raise too_large(f"{page.width}×{page.height} px on page {page.tell() + 1}")
        frames = {page.tell(): _tiff_frame(page, data) for page in _pages(image, wanted)}
    large = max(frames.values(), key=lambda frame: frame.pixels.size).pixels
    return [
        frame
        for number, frame in frames.items()
        if number not in copies or not _shows_the_same(frame.pixels, large)
    ]


def _shows_the_same(small: np.ndarray, large: np.ndarray) -> bool:
    """Whether a small page is a large one, reduced."""
    if small.ndim != large.ndim:
        return False
    height, width = small.shape[:2]
    reduced = cv2.resize(large, (width, height), interpolation=cv2.INTER_AREA)
    return float(np.corrcoef(small.ravel(), reduced.ravel())[0, 1]) > _ALIKE


def _double_precision(data: bytes) -> Frame | None:
    """The first page, if its samples have 64 bits, which Pillow does not read."""
    order = "<" if data.startswith(b"II") else ">"
    numbers = _first_directory(data, order) if data[2:4] in (b"*\0", b"\0*") else {}
    if numbers.get(_BITS_PER_SAMPLE) != 64:
        return None
    check_size(numbers.get(_WIDTH, 0), numbers.get(_HEIGHT, 0))
    frame = _from_opencv(cv2.imdecode(_buffer(data), _AS_STORED), 64)
    inverted = numbers.get(_PHOTOMETRIC) == _MIN_IS_WHITE
    return replace(frame, pixels=255 - frame.pixels) if inverted else frame


def _first_directory(data: bytes, order: str) -> dict[int, int]:
    """Tags of the first page that are one short or long number."""
    (start,) = struct.unpack_from(order + "I", data, 4)
    (entries,) = struct.unpack_from(order + "H", data, start)
    numbers = {}
    for place in range(start + 2, start + 2 + 12 * entries, 12):
        tag, kind, count = struct.unpack_from(order + "HHI", data, place)
        if count == 1 and kind in (_SHORT, _LONG):
            width = "H" if kind == _SHORT else "I"
            (numbers[tag],) = struct.unpack_from(order + width, data, place + 8)
    return numbers


def _full_pages(image: TiffImageFile) -> tuple[list[int], set[int]]:
    """The pages that are not marked as thumbnail, mask or level of a pyramid.

    Returns:
        Their numbers, and those of them that may be copies by their size. What is too small for a
        picture is left out where it may be a copy.
    """
    pages: dict[int, tuple[int, int]] = {}
    reduced: set[int] = set()
    for number, page in enumerate(_pages(image)):
        pages[number] = page.size
        old = page.tag_v2.get(_OLD_SUBFILE_TYPE) == _OLD_REDUCED
        if old or page.tag_v2.get(_SUBFILE_TYPE, 0) & _REDUCED_OR_MASK:
            reduced.add(number)
    sizes = {number: size for number, size in pages.items() if number not in reduced} or pages
    width, height = max(sizes.values(), key=lambda size: size[0] * size[1])
    # Some say nothing: a small copy has the sides' ratio of the large page, up to a pixel.
    copies = {
        number
        for number, (w, h) in sizes.items()
        if 2 * w <= width and 2 * h <= height and abs(w * height - h * width) <= width + height
    }
    tiny = {number for number in copies if min(sizes[number]) < MIN_SIDE}
    return [number for number in sizes if number not in tiny], copies - tiny


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
        raise truncated("TIFF")


def _pages(image: _Image, numbers: Iterable[int] | None = None) -> Iterator[_Image]:
    for number in itertools.count() if numbers is None else numbers:
        try:
            image.seek(number)
        except EOFError:
            return
        yield image


def _check_tiff_page(page: TiffImageFile, size: int) -> int:
    """The pixels a page asks for, tiles included, if all its data lie within `size` bytes."""
    check_size(*page.size)
    for offsets, counts in ((_STRIP_OFFSETS, _STRIP_COUNTS), (_TILE_OFFSETS, _TILE_COUNTS)):
        parts = zip(page.tag_v2.get(offsets, ()), page.tag_v2.get(counts, ()), strict=False)
        if any(offset + count > size for offset, count in parts):
            raise truncated("TIFF")
    # Pillow leaves black what no strip covers.
    boxes = [tile.extents for tile in page.tile if tile.extents]
    right, bottom = (max(box[edge] for box in boxes) for edge in (2, 3))
    if right < page.tag_v2[_WIDTH] or bottom < page.tag_v2[_HEIGHT]:
        raise truncated("TIFF")
    width = max(page.width, page.tag_v2.get(_TILE_WIDTH, 0))
    return width * max(page.height, page.tag_v2.get(_TILE_HEIGHT, 0))


def _tiff_frame(page: TiffImageFile, data: bytes) -> Frame:
    samples = page.tag_v2.get(_BITS_PER_SAMPLE, (1,))
    bits = max(samples)
    if bits > 8 and len(samples) > 1:
        # Pillow drops the lower byte of deep colour.
        only = (page.tell(), page.tell() + 1)
        _, found = cv2.imdecodemulti(_buffer(data), _AS_STORED, range=only)
        return _from_opencv(found[0] if found else None, bits)
    frame = _from_pillow(page, bits, _SIGNS.get((bits, page.tag_v2.get(_SAMPLE_FORMAT, (1,))[0])))
    # Pillow inverts these up to 8 bits.
    inverted = bits > 8 and page.tag_v2.get(_PHOTOMETRIC) == _MIN_IS_WHITE
    return replace(frame, pixels=255 - frame.pixels) if inverted else frame


def _from_pillow(image: ImageFile, bits: int, stored: str | None = None) -> Frame:
    """A page, upright; `stored` is the type of its samples where Pillow takes another."""
    ImageOps.exif_transpose(image, in_place=True)
    if stored is not None and image.mode in ("L", "I"):
        pixels, warnings = stretch(np.asarray(image).view(stored))
        return Frame(pixels, bits, warnings=warnings)
    if image.mode.startswith("I") or image.mode == "F":
        pixels, warnings = stretch(np.asarray(image))
        return Frame(pixels, bits, warnings=warnings)
    upright: Image.Image = image
    if image.mode == "CMYK" and image.format == "JPEG" and "adobe" not in image.info:
        # Pillow takes every CMYK JPEG for one of Adobe's, which are stored inverted.
        upright = ImageChops.invert(image)
    mode = "L" if image.mode in ("1", "L", "LA") else "RGB"
    return Frame(np.asarray(upright if upright.mode == mode else upright.convert(mode)), bits)


def shows_in_alpha(data: bytes) -> bool:
    """Whether the transparency of a PNG, WebP or TIFF file differs from pixel to pixel."""
    with Image.open(io.BytesIO(data)) as image:
        rgba = image.convert("RGBA")
    low, high = rgba.getchannel("A").getextrema()
    return low != high
