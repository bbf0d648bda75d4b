"""DICOM to frames, as a viewer would first show them (PS3.3 C.11).

pydicom and its plugins decode; every size is checked before they do, also the one that the
compressed pixels themselves name.
"""

import io
import itertools
import re
import struct
import zlib
from collections.abc import Iterator

import numpy as np
import pydicom
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.filereader import read_dataset
from pydicom.multival import MultiValue
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_windowing, iter_pixels
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEGBaseline8Bit, RLELossless

from ctray.data.image.picture import (
    MAX_PIXELS,
    Frame,
    ImageError,
    check_jpeg_ends,
    check_size,
    not_finite,
    stretch,
    too_large,
    truncated,
)

# The window a radiologist reads lungs in, in HU: https://radiopaedia.org/articles/windowing-ct
LUNG_CENTRE, LUNG_WIDTH = -600.0, 1500.0

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


def read_dicom(data: bytes) -> list[Frame]:
    """The frames of a DICOM file, with what it says of patient and machine."""
    _check_inflated_size(data)
    dataset = pydicom.dcmread(io.BytesIO(data))
    _check_complete(dataset, data)
    frames = int(dataset.get("NumberOfFrames") or 1)
    check_size(int(dataset.Columns), int(dataset.Rows), frames)
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
        raise too_large(f"more than {_MAX_INFLATED // 1_000_000} MB when inflated")
    if not inflater.eof:
        raise truncated("DICOM")


def _check_complete(dataset: Dataset, data: bytes) -> None:
    # pydicom hands out what it could read of a file that ends early.
    raw = [element for element in dataset.elements() if isinstance(element, RawDataElement)]
    measured = [(e.value, e.length) for e in raw if e.length != _UNDEFINED_LENGTH]
    if any(value is not None and len(value) < length for value, length in measured):
        raise truncated("DICOM")
    if "PixelData" not in dataset:
        if _PIXEL_DATA_TAG in data:
            raise truncated("DICOM")
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
        raise truncated("DICOM")


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
    check_jpeg_ends(stream)
    start = 2
    while start + 10 <= len(stream):
        if stream[start + 1] in _JPEG_SIZE_MARKERS:
            height, width, samples = struct.unpack_from(">HHB", stream, start + 5)
            return width, height, samples
        start += 2 + int.from_bytes(stream[start + 2 : start + 4], "big")
    return None


def _dicom_frame(dataset: Dataset, place: int, stored: np.ndarray) -> Frame:
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
    pixels = pixels if pixels.dtype == np.uint8 else stretch(pixels)
    return Frame(pixels, int(dataset.BitsStored), _tags(scopes, place))


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
        image = stretch(values, ~padding)
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
        raise not_finite()
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
    table = stretch(entries)
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
