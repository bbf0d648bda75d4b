"""The pixels of a DICOM file as they are stored: how they are laid out, and each frame's words.

What the file says of its pixels is checked against the pixels themselves: compressed ones name
their size and depth, and plain ones have a length.
"""

import itertools
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import generate_frames
from pydicom.pixels import iter_pixels
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from ctray.data.image.dicom_samples import Bits
from ctray.data.image.dicom_tags import Tags
from ctray.data.image.jpeg import START, jpeg_end
from ctray.data.image.picture import ImageError, check_size, truncated

# SOF0 to SOF3 and SOF55: the kinds of JPEG that DICOM allows, and what each is.
_JPEG_KINDS = {
    0xC0: JPEGBaseline8Bit,
    0xC1: JPEGExtended12Bit,
    0xC2: JPEGExtended12Bit,
    0xC3: JPEGLosslessSV1,
    0xF7: JPEGLSLossless,
}
_JPEG2000_START = b"\xff\x4f\xff\x51"
_JP2_START = b"\0\0\0\x0cjP  "
# Named, so that a plugin someone else installed does not change pixels.
_PLUGINS = {JPEGBaseline8Bit: "pillow", RLELossless: "pydicom"}
_ALLOCATED = (8, 16, 32)
_SUBSAMPLED = 2
_FLOATS = {"FloatPixelData": 32, "DoubleFloatPixelData": 64}
_COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "YBR_PARTIAL_420")


@dataclass(frozen=True)
class Codestream:
    """What a compressed frame says of itself.

    Attributes:
        width: px.
        height: px.
        samples: of a pixel.
        bits: of a sample.
        signed: whether samples have a sign; JPEG cannot say so.
        syntax: the transfer syntax that it fits.
    """

    width: int
    height: int
    samples: int
    bits: int
    signed: bool
    syntax: UID


@dataclass(frozen=True)
class Layout:
    """How the pixels of a file are laid out.

    Attributes:
        width: px.
        height: px.
        frames: how many.
        samples: of a pixel, 1 or 3.
        bits: of a sample.
        photometric: MONOCHROME1, MONOCHROME2, PALETTE COLOR or one of the colours.
        syntax: the transfer syntax.
        decoded_signed: whether decoded samples have their sign already.
        word_bits: of a word that are asked for: all, or as many as a codestream has.
    """

    width: int
    height: int
    frames: int
    samples: int
    bits: Bits
    photometric: str
    syntax: UID
    decoded_signed: bool
    word_bits: int


def read_layout(dataset: Dataset, tags: Tags) -> Layout:
    """How the pixels are laid out.

    Raises:
        ImageError: a tag without which they cannot be read is missing or wrong, they are too
            small or too large, or some are missing.
    """
    data = dataset["PixelData"].value
    encapsulated = bool(dataset["PixelData"].is_undefined_length)
    streams = _codestreams(dataset, tags) if encapsulated else []
    first = streams[0] if streams else None
    syntax = _syntax(dataset, tags, encapsulated, first)
    frames = _frames(tags)
    width, height = _size(tags, first)
    check_size(width, height, frames)
    if first is not None:
        _check_streams(streams, width, height, frames)
        samples, allocated = first.samples, 8 if first.bits <= 8 else 16
        if tags.whole("SamplesPerPixel") != samples:
            tags.doubt("SamplesPerPixel", f"does not fit the pixels, which have {samples}")
    else:
        exact = None if encapsulated else len(data)
        samples, allocated = _words(tags, width * height * frames, exact)
        shares = _SUBSAMPLED if samples == 3 and _is_subsampled(tags) else samples
        words = width * height * frames * shares
        left = 0 if exact is None else exact - words * allocated // 8
        if left > 1:
            tags.warnings.add(
                f"the pixels are {left} bytes longer than the tags Rows, Columns and "
                "NumberOfFrames say"
            )
    bits = _bits(tags, allocated, first)
    signed = bool(first and first.signed)
    if signed and not bits.signed:
        tags.doubt("PixelRepresentation", "says unsigned, the compressed pixels are signed")
    photometric = read_photometric(tags, samples)
    # These are ways of JPEG 2000.
    if photometric in ("YBR_ICT", "YBR_RCT") and first and first.syntax != JPEG2000Lossless:
        photometric = "YBR_FULL_422"
    word_bits = first.bits if first else allocated
    return Layout(width, height, frames, samples, bits, photometric, syntax, signed, word_bits)


def _frames(tags: Tags) -> int:
    found = tags.whole("NumberOfFrames", range(1, 2**31))
    return found or 1


def _size(tags: Tags, first: Codestream | None) -> tuple[int, int]:
    sides = {}
    for keyword, coded in (("Columns", first and first.width), ("Rows", first and first.height)):
        side = tags.whole(keyword, range(1, 2**16)) or coded
        if not side:
            raise ImageError(
                "unreadable",
                f"the DICOM tag {keyword} is missing or no size: export the image again",
            )
        sides[keyword] = side
    return sides["Columns"], sides["Rows"]


def _words(tags: Tags, pixels: int, exact: int | None) -> tuple[int, int]:
    """Samples of a pixel and bits of a word, as the tags say; if they do not fit, as the length."""
    samples = tags.whole("SamplesPerPixel", (1, 3))
    allocated = tags.whole("BitsAllocated", (1, *_ALLOCATED))
    colour = tags.text("PhotometricInterpretation").upper().startswith(("RGB", "YBR"))
    likely = samples or (3 if colour else 1)

    def size(samples: int, allocated: int) -> int:
        there = _SUBSAMPLED if samples == 3 and _is_subsampled(tags) else samples
        return -(-pixels * there * allocated // 8)

    if exact is None:
        return likely, allocated or 16
    stored = tags.whole("BitsStored") or 0
    fits = [
        (s, a)
        for s in (1, 3)
        for a in _ALLOCATED
        if a >= stored and exact - size(s, a) in (0, exact % 2 ^ 1)
    ]
    if samples and allocated and (exact >= size(samples, allocated) or not fits):
        deeper = [(s, a) for s, a in fits if s == samples and a > allocated]
        if not deeper or stored <= allocated:
            return samples, allocated
        fits = deeper
    best = [fit for fit in fits if fit[0] == likely] or fits
    if not best:
        raise ImageError(
            "unreadable",
            "the DICOM tag BitsAllocated or SamplesPerPixel is missing or wrong: export the image "
            "again",
        )
    keyword = "BitsAllocated" if best[0][1] != allocated else "SamplesPerPixel"
    tags.doubt(keyword, "does not fit the length of the pixels, which were read by that")
    return best[0]


def _is_subsampled(tags: Tags) -> bool:
    """Whether two of the three samples of a pixel are there (PS3.3 C.7.6.3.1.2)."""
    return tags.text("PhotometricInterpretation").upper() == "YBR_FULL_422"


def _bits(tags: Tags, allocated: int, first: Codestream | None) -> Bits:
    most = min(allocated, first.bits if first else allocated)
    stored = tags.whole("BitsStored", range(1, most + 1)) or most
    high = stored - 1
    # Compressed samples are aligned by their coder.
    if "HighBit" in tags.scopes[-1] and first is None:
        high = tags.whole("HighBit", range(stored - 1, allocated)) or high
    signed = tags.whole("PixelRepresentation", (0, 1))
    return Bits(allocated, stored, high - stored + 1, bool(signed))


def read_photometric(tags: Tags, samples: int) -> str:
    """The photometric interpretation, in the standard's spelling, of so many samples a pixel."""
    text = tags.text("PhotometricInterpretation")
    letters = "".join(letter for letter in text.upper() if letter.isalnum())
    known = {"".join(c for c in name if c.isalnum()): name for name in _COLOURS}
    if samples == 1:
        if letters.startswith("PALETTE"):
            return "PALETTE COLOR"
        guess = "MONOCHROME1" if letters.startswith("MONO") and letters.endswith("1") else ""
        guess = guess or "MONOCHROME2"
    else:
        guess = known.get(letters, "RGB")
    if text != guess:
        tags.doubt("PhotometricInterpretation", f"is {text!r}, the pixels were read as {guess}")
    return guess


def _syntax(dataset: Dataset, tags: Tags, encapsulated: bool, first: Codestream | None) -> UID:
    meta = getattr(dataset, "file_meta", None) or FileMetaDataset()
    named = UID(Tags([meta], tags.warnings).text("TransferSyntaxUID"))
    fits = named.is_transfer_syntax and named.is_encapsulated == encapsulated
    if fits and (first is None or not encapsulated or _same_family(named, first.syntax)):
        return named
    if not encapsulated:
        implicit, little = dataset.original_encoding
        guess = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
        guess = guess if little in (None, True) else ExplicitVRBigEndian
    elif first is not None:
        guess = first.syntax
    else:
        raise ImageError(
            "unreadable",
            f"the DICOM tag TransferSyntaxUID is {str(named)!r}, which does not say how the pixels "
            "are compressed: export the image again",
        )
    fault = f"is {str(named)!r}" if named else "is missing"
    tags.doubt("TransferSyntaxUID", f"{fault}, the pixels were read as {guess.name}")
    return guess


def _same_family(one: UID, other: UID) -> bool:
    """Whether one decoder reads both: JPEG, JPEG-LS or JPEG 2000."""
    return _family(one) == _family(other)


def _family(syntax: UID) -> str:
    # The numbers of the three families: 1.2.840.10008.1.2.4.50 to 70, 80 and 81, 90 to 93.
    last = str(syntax).rpartition(".")[2]
    number = int(last) if last.isdigit() else 0
    if syntax in (JPEGBaseline8Bit, RLELossless):
        return str(syntax)
    return "JPEG" if number < 80 else "JPEG-LS" if number < 90 else "JPEG 2000"


def _codestreams(dataset: Dataset, tags: Tags) -> list[Codestream]:
    """What each compressed frame says of itself; nothing where a frame says nothing, as RLE."""
    frames = _frames(tags)
    offsets = _offsets(tags, frames)
    streams = generate_frames(
        dataset["PixelData"].value, number_of_frames=frames, extended_offsets=offsets
    )
    found = []
    for stream in streams:
        said = _codestream(stream)
        if said is None:
            return []
        found.append(said)
    return found


def _offsets(tags: Tags, frames: int) -> tuple[bytes, bytes] | None:
    """Where each frame begins and how long it is, 8 bytes each; None where that is not said."""
    table, lengths = (tags.value(f"ExtendedOffsetTable{more}") for more in ("", "Lengths"))
    are_bytes = isinstance(table, bytes) and isinstance(lengths, bytes)
    if are_bytes and len(table) == len(lengths) == 8 * frames:
        return table, lengths
    if table is not None or lengths is not None:
        tags.pass_over("ExtendedOffsetTable", "or ExtendedOffsetTableLengths does not fit")
    return None


def _codestream(stream: bytes) -> Codestream | None:
    if not stream.startswith(START):
        boxed = stream.startswith(_JP2_START)
        if not boxed and not stream.startswith(_JPEG2000_START):
            return None
        siz = stream.find(_JPEG2000_START)
        if siz < 0:
            return None
        right, bottom, left, top = struct.unpack_from(">4I", stream, siz + 8)
        samples, depth = struct.unpack_from(">HB", stream, siz + 40)
        signed, bits = bool(depth & 0x80), (depth & 0x7F) + 1
        return Codestream(right - left, bottom - top, samples, bits, signed, JPEG2000Lossless)
    if jpeg_end(stream) is None:
        raise truncated("JPEG")
    start = 2
    while start + 10 <= len(stream):
        if stream[start + 1] in _JPEG_KINDS:
            bits, height, width, samples = struct.unpack_from(">BHHB", stream, start + 4)
            return Codestream(width, height, samples, bits, False, _JPEG_KINDS[stream[start + 1]])
        start += 2 + int.from_bytes(stream[start + 2 : start + 4], "big")
    return None


def _check_streams(streams: list[Codestream], width: int, height: int, frames: int) -> None:
    # The decoders believe the size in a frame's own header, which may be a bomb.
    for stream in streams:
        if (stream.width, stream.height) != (width, height):
            raise ImageError(
                "unreadable",
                f"the compressed pixels of the DICOM file are {stream.width}×{stream.height} px, "
                f"its tags Rows and Columns say {width}×{height}: export it again",
            )
        if stream.samples not in (1, 3) or stream.samples != streams[0].samples:
            raise ImageError(
                "unreadable",
                f"the compressed pixels of the DICOM file have {stream.samples} samples a pixel: "
                "export it as grey",
            )
    if len(streams) < frames:
        raise truncated("DICOM")


def stored_frames(dataset: Dataset, layout: Layout, tags: Tags) -> Iterator[np.ndarray]:
    """Each frame as it is stored: words, (height, width), or RGB, (height, width, 3)."""
    plain = _plain(dataset, layout, tags)
    if layout.samples == 3 and not layout.syntax.is_encapsulated:
        plain.PlanarConfiguration = _planar(plain, tags)
    plugin = ""
    if layout.syntax.is_encapsulated:
        plugin = _PLUGINS.get(layout.syntax, "pylibjpeg")
    found = 0
    for pixels in itertools.islice(iter_pixels(plain, decoding_plugin=plugin), layout.frames):
        found += 1
        yield pixels
    if found < layout.frames:
        raise truncated("DICOM")


def _plain(dataset: Dataset, layout: Layout, tags: Tags) -> Dataset:
    """The pixels, and what pydicom needs to know of them in values that it accepts.

    All bits of a word are asked for, unsigned: which of them are the sample is found out here.
    """
    plain = Dataset()
    plain.file_meta = FileMetaDataset()
    plain.file_meta.TransferSyntaxUID = layout.syntax
    plain.Rows, plain.Columns, plain.NumberOfFrames = layout.height, layout.width, layout.frames
    plain.SamplesPerPixel = layout.samples
    plain.PhotometricInterpretation = layout.photometric
    plain.BitsAllocated = layout.bits.allocated
    plain.BitsStored, plain.HighBit = layout.word_bits, layout.word_bits - 1
    plain.PixelRepresentation = int(layout.decoded_signed)
    if layout.samples == 3:
        plain.PlanarConfiguration = 0
    offsets = _offsets(tags, layout.frames) if layout.syntax.is_encapsulated else None
    if offsets is not None:
        plain.ExtendedOffsetTable, plain.ExtendedOffsetTableLengths = offsets
    plain["PixelData"] = dataset["PixelData"]
    return plain


def _planar(plain: Dataset, tags: Tags) -> int:
    """How colours are laid out, by pixel (0) or by plane (1): the smoother picture's way."""
    named = tags.whole("PlanarConfiguration", (0, 1))
    if _is_subsampled(tags):
        return 0
    height, width = plain.Rows, plain.Columns
    words = np.frombuffer(plain.PixelData, f"u{plain.BitsAllocated // 8}", height * width * 3)
    ways = {0: words.reshape(height, width, 3), 1: words.reshape(3, height, width)}
    roughness = {}
    for way, pixels in ways.items():
        # Each sixteenth row beside the one below it.
        both = pixels if way == 0 else pixels.transpose(1, 2, 0)
        rows, below = (both[start : height - 1 + start : 16].astype(np.int32) for start in (0, 1))
        roughness[way] = float(np.abs(np.diff(rows, axis=1)).mean() + np.abs(rows - below).mean())
    usual = 0 if named is None else named
    other = 1 - usual
    way = other if roughness[other] < roughness[usual] / 2 else usual
    if way != named:
        fault = "is missing" if named is None else "does not fit the pixels"
        tags.doubt("PlanarConfiguration", f"{fault}: the smoother picture was taken")
    return way


def float_frames(dataset: Dataset, tags: Tags) -> Iterator[np.ndarray]:
    """Each frame of a file whose pixels are floating point (PS3.3 C.7.6.24), (height, width)."""
    keyword, bits = next((key, bits) for key, bits in _FLOATS.items() if key in dataset)
    width, height = _size(tags, None)
    frames = _frames(tags)
    check_size(width, height, frames)
    meta = getattr(dataset, "file_meta", None)
    order = ">" if meta and meta.get("TransferSyntaxUID") == ExplicitVRBigEndian else "<"
    values = np.frombuffer(dataset[keyword].value, f"{order}f{bits // 8}")
    if len(values) < width * height * frames:
        raise truncated("DICOM")
    yield from values[: width * height * frames].reshape(frames, height, width)


def has_float_pixels(dataset: Dataset) -> bool:
    """Whether the pixels are floating point."""
    return any(keyword in dataset for keyword in _FLOATS)
