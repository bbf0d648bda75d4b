"""DICOM to frames, as a viewer would first show them (PS3.3 C.11).

`dicom_pixels` gives each frame's words, `dicom_samples` their numbers, and this module turns them
to grey levels. A tag that only says how bright the picture is shown is tried, and where it is
impossible or shows nothing the next source of grey levels is taken, with a warning.
"""

import io
import re
import zlib
from collections.abc import Iterator

import numpy as np
import pydicom
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.pixels import apply_color_lut, apply_windowing
from pydicom.uid import DeflatedExplicitVRLittleEndian

from ctray.data.image.dicom_pixels import (
    Layout,
    float_frames,
    has_float_pixels,
    read_layout,
    read_photometric,
    stored_frames,
)
from ctray.data.image.dicom_samples import read_samples
from ctray.data.image.dicom_tags import Tags, Warnings, as_number, first
from ctray.data.image.picture import (
    MAX_PIXELS,
    Frame,
    ImageError,
    not_finite,
    stretch,
    too_large,
    truncated,
)

# The window a radiologist reads lungs in, in HU: https://radiopaedia.org/articles/windowing-ct
LUNG_CENTRE, LUNG_WIDTH = -600.0, 1500.0

# Deflated DICOM is inflated as a whole: a 16-bit picture of MAX_PIXELS and its tags.
_MAX_INFLATED = 2 * MAX_PIXELS + 16_000_000
_PIXEL_DATA = 0x7FE00010
_PIXEL_DATA_TAG, _UNDEFINED_LENGTH = b"\xe0\x7f\x10\x00", 0xFFFFFFFF
_CHARACTER_SET, _NO_TAG = b"\x08\0\x05\0", b"\x08\0\x04\0"
_PREAMBLE, _MAGIC = 128, b"DICM"
_VALUE_REPRESENTATION = re.compile(rb"[A-Z]{2}")
_FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_MOST = 1e12  # of a slope or intercept: beyond it the samples drown
_AIR_HU = -300.0  # some of a chest's pixels are darker than that
_SEEN_SHARE = 0.01  # of a window that the pixels must cover: a level or two of 255 are no picture
_SEEN = 200_000  # pixels that are enough to tell whether a window shows anything
_TAGS = {
    "patient": "PatientID",
    "study": "StudyInstanceUID",
    "series": "SeriesInstanceUID",
    "modality": "Modality",
    "sex": "PatientSex",
    "view": "ViewPosition",
}
_AGE_UNITS = {"": 1, "Y": 1, "M": 12, "W": 52, "D": 365}


def begins_without_preamble(data: bytes) -> bool:
    """Whether a file begins with a data element of DICOM's first groups, as old exports do."""
    group, element = data[:2], int.from_bytes(data[2:4], "little")
    if group not in (b"\x02\0", b"\x08\0") or element > 0x1000:
        return False
    length = int.from_bytes(data[4:8], "little")
    return bool(_VALUE_REPRESENTATION.match(data, 4)) or (length % 2 == 0 and length <= 1024)


def read_dicom(data: bytes) -> list[Frame]:
    """The frames of a DICOM file, with what it says of patient and machine."""
    warnings = Warnings()
    dataset = _parse(data, warnings)
    with np.errstate(all="ignore"):
        if has_float_pixels(dataset):
            tags = Tags([dataset], warnings)
            frames = [_float_frame(dataset, tags, n, v) for n, v in _numbered(dataset, tags)]
        else:
            _check_complete(dataset, data)
            tags = Tags([dataset], warnings)
            layout = read_layout(dataset, tags)
            stored = stored_frames(dataset, layout, tags)
            frames = [_frame(dataset, layout, n, w, warnings) for n, w in enumerate(stored)]
    return frames


def _parse(data: bytes, warnings: Warnings) -> Dataset:
    start = _PREAMBLE + len(_MAGIC) if data[_PREAMBLE : _PREAMBLE + len(_MAGIC)] == _MAGIC else 0
    _check_inflated_size(data, start)
    try:
        return pydicom.dcmread(io.BytesIO(data), force=start == 0)
    except ValueError:
        # The one tag that pydicom looks at while it reads. Texts are then taken as ASCII.
        if _CHARACTER_SET not in data:
            raise
        warnings.add("the tag SpecificCharacterSet cannot be read and was passed over")
        without = data.replace(_CHARACTER_SET, _NO_TAG, 1)
        return pydicom.dcmread(io.BytesIO(without), force=start == 0)


def _check_inflated_size(data: bytes, start: int) -> None:
    stream = io.BytesIO(data)
    stream.seek(start)
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
    # What follows the pixels is not needed.
    raw = [
        element
        for element in dataset.elements()
        if isinstance(element, RawDataElement) and element.tag <= _PIXEL_DATA
    ]
    measured = [(e.value, e.length) for e in raw if e.length != _UNDEFINED_LENGTH]
    if any(value is not None and len(value) < length for value, length in measured):
        raise truncated("DICOM")
    if "PixelData" not in dataset or not dataset["PixelData"].value:
        if "PixelData" not in dataset and _PIXEL_DATA_TAG in data:
            raise truncated("DICOM")
        raise ImageError("no pixels", "the DICOM file has no pixel data: leave it out")


def _numbered(dataset: Dataset, tags: Tags) -> Iterator[tuple[int, np.ndarray]]:
    return enumerate(float_frames(dataset, tags))


def _float_frame(dataset: Dataset, tags: Tags, place: int, values: np.ndarray) -> Frame:
    frame_tags = Tags(_scopes(dataset, place), tags.warnings)
    photometric = read_photometric(frame_tags, 1)
    pixels = _levels(values, values, 8 * values.itemsize, photometric, frame_tags)
    return Frame(
        pixels, min(32, 8 * values.itemsize), _described(frame_tags, place), tags.warnings.all()
    )


def _frame(
    dataset: Dataset, layout: Layout, place: int, words: np.ndarray, warnings: Warnings
) -> Frame:
    tags = Tags(_scopes(dataset, place), warnings)
    if layout.photometric == "PALETTE COLOR" and words.ndim == 2:
        coloured = _looked_up(words, dataset, tags)
        pixels = words if coloured is None else coloured
    elif words.ndim == 2:
        samples = words
        # Compressed samples come with their sign.
        if not layout.decoded_signed and words.dtype.kind == "u":
            words = _without_overlays(words, tags)
            samples = read_samples(words, layout.bits, warnings)
        pixels = _levels(samples, words, layout.bits.stored, layout.photometric, tags)
    else:
        pixels = words
    if pixels.dtype != np.uint8:
        pixels, found = stretch(pixels)
        for sentence in found:
            warnings.add(sentence)
    return Frame(pixels, layout.bits.stored, _described(tags, place), warnings.all())


def _without_overlays(words: np.ndarray, tags: Tags) -> np.ndarray:
    """Words without the bits in which an overlay is said to lie (PS3.3 C.9.2, retired)."""
    dataset = tags.scopes[-1]
    for group in range(0x6000, 0x6020, 2):
        if (group, 0x0102) in dataset and (group, 0x3000) not in dataset:
            place = as_number(first(dataset[group, 0x0102].value))
            if place is not None and 0 < place < 8 * words.itemsize:
                words = words & ~np.array(1 << int(place), words.dtype)
    return words


def _looked_up(words: np.ndarray, dataset: Dataset, tags: Tags) -> np.ndarray | None:
    """Colours of a palette; None, with a warning, where it is missing or broken."""
    try:
        return apply_color_lut(words, dataset)
    # pydicom raises a dozen types for tables that break the rules.
    except Exception:
        tags.pass_over("RedPaletteColorLookupTableData", "or another part of the palette is broken")
        return None


def _scopes(dataset: Dataset, place: int) -> list[Dataset]:
    """Where an attribute of one frame may stand: its functional groups, the shared ones, the top.

    Multi-frame files keep windows and positions in such groups (PS3.3 C.7.6.16).
    """
    own = Tags([dataset], Warnings())
    groups = own.items("PerFrameFunctionalGroupsSequence")[place : place + 1]
    groups += own.items("SharedFunctionalGroupsSequence")
    sequences = [
        element.value for group in groups for element in group.scopes[0] if element.VR == "SQ"
    ]
    return [*(items[0] for items in sequences if items), dataset]


def _levels(
    samples: np.ndarray, words: np.ndarray, bits: int, photometric: str, tags: Tags
) -> np.ndarray:
    """Samples, (height, width), to what a viewer shows first, uint8 with padding black."""
    padding = _padding(samples, words, tags)
    is_padded = bool(padding.any()) and not padding.all()
    if is_padded and samples.dtype.kind == "f":
        # What pads it may be no number.
        samples = np.where(padding, samples[~padding].min(), samples)
    values, has_table, slope = _modality_values(samples, tags)
    if not np.isfinite(values).all():
        raise not_finite()
    counted = values[~padding] if is_padded else values
    if tags.text("PresentationIntentType").upper() == "FOR PROCESSING":
        tags.warnings.add("raw data of a detector (FOR PROCESSING), not the picture people read")
    image = _shown(values, counted, bits, slope is not None, tags)
    as_stored = samples.dtype == np.uint8 and bits == 8 and not has_table
    if image is None and as_stored and (slope is None or slope > 0):
        image = samples
    if image is None:
        image, found = stretch(values, ~padding)
        for sentence in found:
            tags.warnings.add(sentence)
    if photometric == "MONOCHROME1":
        image = 255 - image
    return np.where(padding, np.uint8(0), image) if is_padded else image


def _modality_values(samples: np.ndarray, tags: Tags) -> tuple[np.ndarray, bool, float | None]:
    """Values through the modality's table or line (PS3.3 C.11.1).

    Returns:
        The values, whether there was a table, and the slope of the line if there was one.
    """
    if nearest := tags.with_all("ModalityLUTSequence"):
        for item in nearest.items("ModalityLUTSequence"):
            table = _table(item, float(samples.min()))
            if table is not None:
                entries, start = table
                places = np.clip(samples.astype(np.int64) - start, 0, len(entries) - 1)
                return entries[places], True, None
    nearest = tags.with_all("RescaleSlope", "RescaleIntercept") or tags
    slope, intercept = nearest.number("RescaleSlope"), nearest.number("RescaleIntercept")
    if slope is not None and not 0.0 < abs(slope) < _MOST:
        nearest.pass_over("RescaleSlope")
        slope = None
    if intercept is not None and abs(intercept) > _MOST:
        nearest.pass_over("RescaleIntercept")
        intercept = None
    if slope is None and intercept is None:
        return samples, False, None
    slope = 1.0 if slope is None else slope
    return samples * slope + (intercept or 0.0), False, slope


def _table(item: Tags, lowest: float) -> tuple[np.ndarray, int] | None:
    """Entries and the first value that is mapped, of a table (PS3.3 C.11.1.1); None: impossible.

    Args:
        item: of the table's sequence.
        lowest: of the values to map; below 0 the first value has a sign, too.
    """
    data = item.value("LUTData")
    descriptor = [*item.numbers("LUTDescriptor"), None, None]
    if isinstance(data, bytes):
        # Of 0 entries there are 65,536. Entries of 8 bits may be packed.
        count = int(descriptor[0] or 65_536)
        packed = len(data) in (count, count + 1)
        entries = np.frombuffer(data, "u1")[:count] if packed else _words_of(data)
    else:
        numbers = data if isinstance(data, list | tuple | pydicom.multival.MultiValue) else [data]
        entries = np.array([as_number(number) or 0 for number in numbers if number is not None])
    if len(entries) < 2 or entries.min() == entries.max() or descriptor[1] is None:
        item.pass_over("LUTData" if len(entries) < 2 else "LUTDescriptor", "is no table")
        return None
    start = int(descriptor[1])
    if lowest < 0 and start >= 1 << 15:
        start -= 1 << 16
    return entries.astype(np.float64), start


def _words_of(data: bytes) -> np.ndarray:
    return np.frombuffer(data[: len(data) // 2 * 2], "<u2")


def _shown(
    values: np.ndarray,
    counted: np.ndarray,
    bits: int,
    has_rescale: bool,
    tags: Tags,
) -> np.ndarray | None:
    """Values through the first table or window that shows something; None if none does."""
    few = counted.ravel()[:: max(1, counted.size // _SEEN)]
    dark, bright = (float(edge) for edge in np.quantile(few, (0.01, 0.99)))
    if has_rescale and _is_hounsfield(bits, dark, tags):
        low = LUNG_CENTRE - LUNG_WIDTH / 2
        if dark < low + LUNG_WIDTH and bright > low:
            return _window(values, LUNG_CENTRE, LUNG_WIDTH)
        tags.warnings.add("the lung window shows nothing of this CT slice and was passed over")
    if nearest := tags.with_all("VOILUTSequence"):
        for item in nearest.items("VOILUTSequence"):
            image = _voi_table(values, item)
            if image is not None:
                return image
    if nearest := tags.with_all("WindowCenter", "WindowWidth"):
        return _first_window(values, (dark, bright), nearest)
    return None


def _voi_table(values: np.ndarray, item: Tags) -> np.ndarray | None:
    """Values to uint8 through a VOI table (PS3.3 C.11.2.1.1), whose range is black to white.

    Not by pydicom: with more than 256 entries of 8 bits its index overflows (3.0.2).
    """
    table = _table(item, float(values.min()))
    if table is None:
        return None
    entries, start = table
    low, high = float(entries.min()), float(entries.max())
    levels = np.rint((entries - low) * (255.0 / (high - low))).astype(np.uint8)
    places = np.clip(np.rint(values.astype(np.float64)) - start, 0, len(levels) - 1)
    image = levels[places.astype(np.intp)]
    if image.min() == image.max():
        item.pass_over("VOILUTSequence", "shows nothing of this picture")
        return None
    return image


def _first_window(values: np.ndarray, edges: tuple[float, float], tags: Tags) -> np.ndarray | None:
    """Values through the first window that is possible and shows some of the picture."""
    function = tags.text("VOILUTFunction").upper() or "LINEAR"
    if function not in _FUNCTIONS:
        tags.pass_over("VOILUTFunction")
        function = "LINEAR"
    centres, widths = tags.numbers("WindowCenter"), tags.numbers("WindowWidth")
    dark, bright = edges
    for centre, width in zip(centres, widths, strict=False):
        if centre is None or width is None or width < (1.0 if function == "LINEAR" else 1e-6):
            tags.pass_over("WindowWidth" if centre is not None else "WindowCenter")
            continue
        outside = bright <= centre - width / 2 or dark >= centre + width / 2
        if outside or bright - dark < _SEEN_SHARE * width:
            tags.warnings.add(
                f"the tags WindowCenter {centre:g} and WindowWidth {width:g} show nothing of this "
                "picture and were passed over"
            )
            continue
        return _window(values, centre, width, function)
    return None


def _is_hounsfield(bits: int, dark: float, tags: Tags) -> bool:
    # Without a type a CT's rescaled values are HU (PS3.3 C.8.2.1); 8 bits cannot hold them.
    if tags.text("Modality") != "CT" or bits <= 8 or tags.text("RescaleType") not in ("", "HU"):
        return False
    kinds = {str(kind).strip().upper() for kind in _all_of(tags.value("ImageType"))}
    if "LOCALIZER" in kinds:
        tags.warnings.add("a localizer of a CT series, not a slice")
        return False
    captured = tags.text("SOPClassUID").startswith(_SECONDARY_CAPTURE)
    if captured or {"DERIVED", "SECONDARY"} <= kinds:
        tags.warnings.add(
            "a derived or captured CT picture, whose values may be no Hounsfield units"
        )
        return dark < _AIR_HU and not captured
    return True


def _all_of(value: object) -> list[object]:
    if value is None:
        return []
    return [value] if isinstance(value, str) else list(value)  # type: ignore[call-overload]


def _window(
    values: np.ndarray, centre: float, width: float, function: str = "LINEAR"
) -> np.ndarray:
    """Values to uint8 through a window (PS3.3 C.11.2.1.2), black to white whatever the file."""
    window = Dataset()
    window.WindowCenter, window.WindowWidth, window.VOILUTFunction = centre, width, function
    # These make pydicom's output run from 0 to 255.
    window.PhotometricInterpretation = "MONOCHROME2"
    window.BitsStored, window.PixelRepresentation = 8, 0
    return np.rint(apply_windowing(values, window)).astype(np.uint8)


def _padding(samples: np.ndarray, words: np.ndarray, tags: Tags) -> np.ndarray:
    """Which pixels are no measurement but fill the picture up; bool, (height, width)."""
    is_float = samples.dtype.kind == "f"
    keyword = "FloatPixelPaddingValue" if is_float else "PixelPaddingValue"
    numbers = [number for number in tags.numbers(keyword) if number is not None]
    filled = ~np.isfinite(samples) if is_float else np.zeros(samples.shape, bool)
    if not numbers:
        if tags.numbers(keyword) and not is_float:
            tags.pass_over(keyword)
        return filled
    limit = tags.number(f"{keyword.removesuffix('Value')}RangeLimit")
    for number in numbers:
        found = samples == number
        # It may be written without the sign that the samples have, or with bits beside them.
        filled |= found if found.any() else words == number
    if limit is not None:
        low, high = sorted((numbers[0], limit))
        filled |= (samples >= low) & (samples <= high)
    return filled


def _described(tags: Tags, place: int) -> dict[str, str]:
    """What the file says of patient and machine. Tags that only describe are not warned about."""
    tags = Tags(tags.scopes, Warnings())
    own = tags.file
    found = {name: own.text(keyword) for name, keyword in _TAGS.items()}
    found["scanner"] = f"{own.text('Manufacturer')} {own.text('ManufacturerModelName')}"
    found["age"] = _age(own.text("PatientAge"))
    found["slice"] = _slice(tags, place)
    return {name: value.strip() for name, value in found.items() if value.strip()}


def _age(text: str) -> str:
    """A DICOM age such as 067Y or 018M in whole years."""
    match = re.fullmatch(r"(\d{1,3})([YMWD]?)", text)
    return str(int(match[1]) // _AGE_UNITS[match[2]]) if match else ""


def _slice(tags: Tags, place: int) -> str:
    """Where the frame lies along the axis of its series, in mm; else its number."""
    position, axes = (
        [number for number in tags.numbers(keyword) if number is not None]
        for keyword in ("ImagePositionPatient", "ImageOrientationPatient")
    )
    if len(position) == 3 and len(axes) == 6:
        return f"{np.cross(*np.array(axes).reshape(2, 3)) @ np.array(position):.2f}"
    return str(place + 1) if len(tags.scopes) > 1 or place else tags.file.text("InstanceNumber")
