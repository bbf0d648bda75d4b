"""Images as scanners, phones and converters write them: the picture, or a sentence that says why.

The inputs that went wrong when people used them come first, then their neighbours, made here.
"""

import io
import itertools
import re
import struct
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import RLELossless

from ctray.data.image.dispatch import decode, format_of
from ctray.data.image.picture import ImageError, Picture

pytestmark = [pytest.mark.fast, pytest.mark.filterwarnings("ignore::UserWarning")]

EXPLICIT, JPEG_BASELINE = b"1.2.840.10008.1.2.1", b"1.2.840.10008.1.2.4.50"
# Tag and value representation of what the headers here hold.
TAGS = {
    "SpecificCharacterSet": (0x0008, 0x0005, "CS"),
    "ImageType": (0x0008, 0x0008, "CS"),
    "SOPClassUID": (0x0008, 0x0016, "UI"),
    "Modality": (0x0008, 0x0060, "CS"),
    "PresentationIntentType": (0x0008, 0x0068, "CS"),
    "Manufacturer": (0x0008, 0x0070, "LO"),
    "PatientID": (0x0010, 0x0020, "LO"),
    "PatientSex": (0x0010, 0x0040, "CS"),
    "PatientAge": (0x0010, 0x1010, "AS"),
    "ViewPosition": (0x0018, 0x5101, "CS"),
    "StudyInstanceUID": (0x0020, 0x000D, "UI"),
    "SeriesInstanceUID": (0x0020, 0x000E, "UI"),
    "InstanceNumber": (0x0020, 0x0013, "IS"),
    "ImagePositionPatient": (0x0020, 0x0032, "DS"),
    "ImageOrientationPatient": (0x0020, 0x0037, "DS"),
    "SamplesPerPixel": (0x0028, 0x0002, "US"),
    "PhotometricInterpretation": (0x0028, 0x0004, "CS"),
    "PlanarConfiguration": (0x0028, 0x0006, "US"),
    "NumberOfFrames": (0x0028, 0x0008, "IS"),
    "Rows": (0x0028, 0x0010, "US"),
    "Columns": (0x0028, 0x0011, "US"),
    "BitsAllocated": (0x0028, 0x0100, "US"),
    "BitsStored": (0x0028, 0x0101, "US"),
    "HighBit": (0x0028, 0x0102, "US"),
    "PixelRepresentation": (0x0028, 0x0103, "US"),
    "SmallestImagePixelValue": (0x0028, 0x0106, "US"),
    "PixelPaddingValue": (0x0028, 0x0120, "US"),
    "PixelPaddingRangeLimit": (0x0028, 0x0121, "US"),
    "WindowCenter": (0x0028, 0x1050, "DS"),
    "WindowWidth": (0x0028, 0x1051, "DS"),
    "RescaleIntercept": (0x0028, 0x1052, "DS"),
    "RescaleSlope": (0x0028, 0x1053, "DS"),
    "RescaleType": (0x0028, 0x1054, "LO"),
    "VOILUTFunction": (0x0028, 0x1056, "CS"),
    "OverlayBitPosition": (0x6000, 0x0102, "US"),
    "ExtendedOffsetTable": (0x7FE0, 0x0001, "OV"),
}
LONG = ("OB", "OW", "OF", "OV", "SQ", "UN")


def element(group: int, number: int, kind: str, value: bytes, length: int | None = None) -> bytes:
    """One data element, explicit VR little endian."""
    value += b"\0" * (len(value) % 2)
    head = struct.pack("<HH", group, number) + kind.encode()
    size = len(value) if length is None else length
    return (
        head + struct.pack("<HI" if kind in LONG else "<H", *([0] * (kind in LONG)), size) + value
    )


def written(value: object) -> bytes:
    """A value as bytes of its element."""
    if isinstance(value, bytes):
        return value
    return struct.pack("<H", value) if isinstance(value, int) else str(value).encode()


def dicom(
    words: np.ndarray,
    syntax: bytes = EXPLICIT,
    coded: bytes | None = None,
    sequences: bytes = b"",
    **tags: object,
) -> bytes:
    """A file with these words, (height, width), and tags; one that is None is left out."""
    given = {
        "Modality": "DX",
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": words.shape[0],
        "Columns": words.shape[1],
        "BitsAllocated": 8 * words.itemsize,
        "BitsStored": 12 if words.itemsize == 2 else 8,
        "HighBit": 11 if words.itemsize == 2 else 7,
        "PixelRepresentation": 0,
        **tags,
    }
    values = {TAGS[key]: written(value) for key, value in given.items() if value is not None}
    meta = element(2, 16, "UI", syntax)
    header = element(2, 0, "UL", struct.pack("<I", len(meta))) + meta
    parts = [element(*tag, value) for tag, value in sorted(values.items())]
    if coded is not None:
        pixels = element(0x7FE0, 0x0010, "OB", encapsulate([coded]), 0xFFFFFFFF)
        pixels += struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    else:
        pixels = element(0x7FE0, 0x0010, "OW", words.tobytes())
    return b"\0" * 128 + b"DICM" + header + b"".join(parts) + sequences + pixels


def film() -> np.ndarray:
    """Something like a radiograph: smooth, 12 bits, 96×96, from 16 to 4,080."""
    noise = np.random.default_rng(4).random((12, 12))
    smooth = cv2.resize(noise, (96, 96), interpolation=cv2.INTER_CUBIC)
    scaled = (smooth - smooth.min()) / np.ptp(smooth)
    return (16 + scaled * 4064).astype(np.uint16)


FILM = film()
EIGHT = (FILM >> 4).astype(np.uint8)


def likeness(got: np.ndarray, truth: np.ndarray = FILM) -> float:
    """Correlation of two pictures."""
    return float(np.corrcoef(got.ravel(), truth.ravel())[0, 1])


def only(data: bytes, name: str | None = None) -> Picture:
    (picture,) = decode(data, name)
    return picture


def assert_like(picture: Picture, truth: np.ndarray = FILM, warning: str | None = "") -> None:
    """It shows the truth over the whole range of grey levels, with one such warning or none."""
    assert likeness(picture.pixels, truth) > 0.99
    assert np.ptp(picture.pixels) > 200
    if warning is None:
        assert picture.warnings == ()
    else:
        assert any(warning in sentence for sentence in picture.warnings), picture.warnings


# What people met, at 160 px; the one whose tags are only descriptive is the picture itself.


@pytest.fixture(scope="module")
def truth(wild: Path) -> np.ndarray:
    return only((wild / "dicom" / "08_orientation_five.dcm").read_bytes()).pixels


@pytest.mark.parametrize(
    ("name", "warning"),
    [
        ("dicom/03_window_zero.dcm", "WindowWidth is '0.0'"),
        ("dicom/03c_window_below_1.dcm", "WindowWidth is '0.9'"),
        ("dicom/05_voi_function_unknown.dcm", "VOILUTFunction is 'LINEAR_FOO'"),
        ("dicom/05_rescale_empty.dcm", "RescaleSlope is empty"),
        ("dicom/26c_voilut_empty_seq.dcm", "VOILUTSequence has no items"),
        ("dicom/26e_voilut_no_data.dcm", "LUTData is no table"),
        ("dicom/06_window_off_range.dcm", "show nothing of this picture"),
        ("dicom/08b_orientation_text.dcm", None),
        ("dicom/10_photometric_lower.dcm", "PhotometricInterpretation is 'monochrome2'"),
        ("dicom/20e_jpeg_grey_says_ybr.dcm", "PhotometricInterpretation is 'YBR_FULL_422'"),
        ("dicom/24d_rgb_no_planar.dcm", "PlanarConfiguration is missing"),
        ("dicom/10b_no_transfer_syntax_implicit.dcm", "TransferSyntaxUID is missing"),
        ("dicom/11_no_preamble_implicit.dcm", "TransferSyntaxUID is missing"),
        ("dicom/15_left_aligned.dcm", None),
        ("dicom/16_bits_lie_12_of_14.dcm", "read as 14 bits, unsigned"),
        ("dicom/18c_j2k_signed_says_unsigned.dcm", "the compressed pixels are signed"),
        ("dicom/21b_dead_pixel.dcm", "a marker or dead ones"),
        ("dicom/32_hot_pixel_16.dcm", "a marker or dead ones"),
        ("dicom/30d_ct_scout.dcm", "a localizer"),
        ("image/01b_trailing_ffda.jpg", None),
        ("image/01d_noeoi.jpg", "no end mark"),
        ("image/07c_12in16_marker.png", "a marker or dead ones"),
        ("image/14_png_named.jpg", "the bytes are PNG"),
        ("image/14b_webp_named.png", "the bytes are WEBP"),
        ("image/17m_f64.tif", None),
        ("image/17t_reduced_thumb.tif", None),
        ("image/17u_reduced_pyr.tif", None),
        ("image/21b.jfif", None),
        ("names/I00001", None),
    ],
)
def test_what_people_met_is_the_picture(
    wild: Path, truth: np.ndarray, name: str, warning: str | None
) -> None:
    assert_like(only((wild / name).read_bytes(), name), truth, warning)


def test_a_marker_does_not_set_the_scale(wild: Path, truth: np.ndarray) -> None:
    picture = only((wild / "dicom" / "21_marker_16.dcm").read_bytes())
    besides = picture.pixels < 255
    assert besides.mean() > 0.98
    assert np.abs(picture.pixels[besides].astype(int) - truth[besides]).max() <= 2
    assert "a marker or dead ones" in picture.warnings[0]


def test_padding_is_black_and_the_rest_inverted(wild: Path, truth: np.ndarray) -> None:
    picture = only((wild / "dicom" / "18_m1_padding_window.dcm").read_bytes())
    padding = picture.pixels == 0
    assert 0.2 < padding.mean() < 0.3
    assert np.corrcoef(picture.pixels[~padding], truth[~padding])[0, 1] > 0.99


def test_a_slice_with_a_scanners_name_is_read_by_its_bytes(wild: Path) -> None:
    name = "CT.1.3.12.2.1107.5.1.4.0001.IMA"
    picture = only((wild / "names" / name).read_bytes(), name)
    assert (picture.format, picture.warnings) == ("DICOM", ())


def test_what_shows_in_its_transparency_only_is_refused(wild: Path) -> None:
    with pytest.raises(ImageError, match="in its transparency only") as error:
        decode((wild / "image" / "09_alpha_only.png").read_bytes())
    assert error.value.fault == "blank"


# Their neighbours.


@pytest.mark.parametrize(
    "tags",
    [
        {"WindowCenter": "0\\2048", "WindowWidth": "0\\4096"},
        {"WindowCenter": "nan", "WindowWidth": "4096"},
        {"WindowCenter": "2048", "WindowWidth": "-4096"},
        {"WindowCenter": "2048", "WindowWidth": ""},
        {"WindowCenter": "-90000", "WindowWidth": "100"},
        {"WindowCenter": "2048", "WindowWidth": "900000"},
        {"RescaleSlope": "0", "RescaleIntercept": "0"},
        {"RescaleSlope": "nan", "RescaleIntercept": "-1024"},
        {"RescaleSlope": "one", "RescaleIntercept": "0"},
        {"PixelPaddingValue": struct.pack("<HH", 0, 4095)},
        {"PhotometricInterpretation": "MONOCROME2"},
        {"PhotometricInterpretation": "YBR_FULL"},
        {"PhotometricInterpretation": None},
        {"PixelRepresentation": 7},
        {"PixelRepresentation": None},
        {"BitsStored": None, "HighBit": None},
        {"BitsStored": 12, "HighBit": 3},
        {"BitsAllocated": 12},
        {"BitsAllocated": 8},
        {"SamplesPerPixel": None},
        {"SamplesPerPixel": 3},
        {"NumberOfFrames": "one"},
        {"PlanarConfiguration": 9},
        {"SpecificCharacterSet": b"\0\x80\0\x80"},
        {"ExtendedOffsetTable": b"\1\2"},
    ],
    ids=str,
)
def test_a_bad_tag_is_passed_over(tags: dict[str, object]) -> None:
    picture = only(dicom(FILM, **tags))
    assert likeness(picture.pixels) > 0.99
    assert np.ptp(picture.pixels) > 200


def test_a_decimal_comma_is_a_number() -> None:
    got = only(dicom(FILM, WindowCenter="2048,0", WindowWidth="1000,0"))
    assert np.array_equal(
        got.pixels, only(dicom(FILM, WindowCenter="2048", WindowWidth="1000")).pixels
    )


@pytest.mark.parametrize(
    ("words", "tags", "warning"),
    [
        (FILM << 4, {"HighBit": 15}, None),
        (FILM, {"HighBit": 15}, "HighBit"),
        (FILM << 2, {}, "14 bits, unsigned"),
        (FILM, {"PixelRepresentation": 1}, "12 bits, unsigned"),
        (FILM << 4, {"BitsStored": 16, "HighBit": 15, "PixelRepresentation": 1}, "16 bits, unsig"),
        ((FILM - 2000).astype(np.int16), {"BitsStored": 16, "HighBit": 15}, "16 bits, signed"),
        ((FILM - 2000).astype(np.int16), {}, "16 bits, signed"),
        ((FILM - 2000) & 0x0FFF, {"PixelRepresentation": 1}, None),
        ((FILM - 2000).astype(np.int16), {"PixelRepresentation": 1}, None),
        (FILM | (np.arange(96) % 3 == 0).astype(np.uint16) << 13, {"OverlayBitPosition": 13}, None),
        (FILM | np.random.default_rng(0).integers(0, 9, FILM.shape, np.uint16) << 12, {}, None),
        (FILM.astype(np.uint32), {"BitsStored": 12, "HighBit": 11}, None),
    ],
)
def test_the_bits_of_a_sample_are_found(
    words: np.ndarray, tags: dict[str, object], warning: str | None
) -> None:
    assert_like(only(dicom(words, **tags)), warning=warning)


def test_noise_is_warned_about() -> None:
    noise = np.random.default_rng(0).integers(0, 4096, (96, 96), np.uint16)
    assert only(dicom(noise)).warnings == (
        "the picture looks like noise: its bytes may not be what its header says",
    )


def test_a_picture_of_one_colour_but_for_specks_is_warned_about() -> None:
    specks = np.zeros((96, 96), np.uint8)
    specks[40:48, 40:48] = 200
    data = cv2.imencode(".png", specks)[1].tobytes()
    assert only(data).warnings == ("99% of the picture is black",)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("window", [{}, {"WindowCenter": "2048", "WindowWidth": "4096"}])
@pytest.mark.parametrize("value", [0, 4095, 63536])
def test_padding_is_black_whatever_shows_the_rest(
    photometric: str, window: dict[str, object], value: int
) -> None:
    words = FILM.copy()
    words[:20] = value
    tags = {"PhotometricInterpretation": photometric, "PixelPaddingValue": value, **window}
    got = only(dicom(words, **tags)).pixels
    assert (got[:20] == 0).all()
    sign = -1 if photometric == "MONOCHROME1" else 1
    assert sign * likeness(got[20:], FILM[20:]) > 0.99


@pytest.mark.parametrize("outlier", [65535, 0])
@pytest.mark.parametrize("pixels", [1, 100])
def test_few_pixels_far_outside_do_not_set_the_scale(outlier: int, pixels: int) -> None:
    words = FILM + (20_000 if outlier == 0 else 0)
    words.ravel()[:pixels] = outlier
    tags = {"BitsStored": 16, "HighBit": 15}
    for data in (
        dicom(words, **tags),
        cv2.imencode(".png", words)[1].tobytes(),
        cv2.imencode(".tiff", words)[1].tobytes(),
    ):
        picture = only(data)
        assert likeness(picture.pixels[2:], FILM[2:]) > 0.99
        assert np.ptp(picture.pixels[2:]) > 200
        assert "a marker or dead ones" in picture.warnings[0]


HU = (FILM.astype(np.int32) // 2 - 1024).astype(np.int16)
CT = {"Modality": "CT", "BitsStored": 16, "HighBit": 15, "PixelRepresentation": 1}
RESCALED = {"RescaleSlope": "1", "RescaleIntercept": "0"}


@pytest.mark.parametrize(
    ("tags", "through_lung_window", "warning"),
    [
        ({"ImageType": "ORIGINAL\\PRIMARY\\AXIAL"}, True, None),
        ({"ImageType": "ORIGINAL\\PRIMARY\\LOCALIZER"}, False, "localizer"),
        ({"ImageType": "DERIVED\\SECONDARY\\AXIAL"}, True, "derived"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, False, "captured"),
    ],
)
def test_only_hounsfield_units_go_through_the_lung_window(
    tags: dict[str, object], through_lung_window: bool, warning: str | None
) -> None:
    got = only(dicom(HU, **CT, **RESCALED, **tags))
    # The window ends at 150 HU, far below the brightest.
    assert ((got.pixels == 255).mean() > 0.1) == through_lung_window
    assert [warning] == [warning for sentence in got.warnings if (warning or "") in sentence] or (
        warning is None and got.warnings == ()
    )


def test_raw_detector_data_are_warned_about() -> None:
    picture = only(dicom(FILM, PresentationIntentType="FOR PROCESSING"))
    assert_like(picture, warning="FOR PROCESSING")


def test_a_grey_jpeg_in_dicom_may_say_it_is_coloured() -> None:
    coded = cv2.imencode(".jpg", EIGHT, [cv2.IMWRITE_JPEG_QUALITY, 98])[1].tobytes()
    tags = {"PhotometricInterpretation": "YBR_FULL_422", "SamplesPerPixel": 3}
    assert_like(only(dicom(EIGHT, JPEG_BASELINE, coded, **tags)), warning="SamplesPerPixel")


@pytest.mark.parametrize("syntax", [b"", b"1.2.3.4", EXPLICIT, b"1.2.840.10008.1.2.4.90"])
def test_the_compression_is_seen_in_the_pixels(syntax: bytes) -> None:
    coded = cv2.imencode(".jpg", EIGHT, [cv2.IMWRITE_JPEG_QUALITY, 98])[1].tobytes()
    assert_like(only(dicom(EIGHT, syntax, coded)), warning="TransferSyntaxUID")


@pytest.mark.parametrize("planar", [0, 1])
@pytest.mark.parametrize("said", [None, 0, 1, 5])
def test_colours_are_found_by_pixel_or_by_plane(planar: int, said: int | None) -> None:
    colour = np.stack([EIGHT, EIGHT // 2, 255 - EIGHT], axis=-1)
    stored = colour.transpose(2, 0, 1) if planar else colour
    words = np.ascontiguousarray(stored).reshape(96, -1)
    tags = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "Columns": 96}
    got = only(dicom(words, **tags, PlanarConfiguration=said)).pixels
    assert np.array_equal(got, cv2.cvtColor(colour, cv2.COLOR_RGB2GRAY))


def test_a_file_may_lack_preamble_and_header() -> None:
    whole = dicom(FILM)
    bare = whole[whole.index(element(0x0008, 0x0060, "CS", b"DX")) :]
    for data in (whole[128 + 4 :], bare):
        assert format_of(data[:132]) == "DICOM"
        assert likeness(only(data, "IM0001").pixels) > 0.99
    assert format_of(b"\x08\0 is how a text might begin, a long one " * 9) is None


def test_floating_point_pixels_are_read() -> None:
    values = element(0x7FE0, 0x0008, "OF", (FILM / 4095.0).astype("<f4").tobytes())
    whole = dicom(FILM, BitsAllocated=32, BitsStored=None, HighBit=None)
    data = whole[: whole.index(struct.pack("<HH", 0x7FE0, 0x0010))] + values
    assert_like(only(data), warning=None)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_bytes_behind_the_end_are_not_the_pictures(kind: str) -> None:
    buffer = io.BytesIO()
    Image.fromarray(EIGHT).save(buffer, kind)
    for tail in (b"\xff\xda", b"\xff\xd8\xff\xda\0", b"\0" * 99, b"\xff\xd9\xff\xd9", b"PK\3\4"):
        assert likeness(only(buffer.getvalue() + tail).pixels) > 0.99


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_may_lack_its_end_mark_and_nothing_else(progressive: bool) -> None:
    buffer = io.BytesIO()
    Image.fromarray(EIGHT).save(buffer, "JPEG", progressive=progressive)
    whole = buffer.getvalue()
    assert_like(only(whole[:-2]), warning="no end mark")
    for length in range(len(whole) // 3, len(whole) - 12, 7):
        with pytest.raises(ImageError, match="truncated"):
            decode(whole[:length])


@pytest.mark.parametrize("first", ["thumbnail", "picture"])
@pytest.mark.parametrize("flagged", [True, False])
def test_a_tiffs_thumbnail_is_no_page(first: str, flagged: bool) -> None:
    small = Image.fromarray(cv2.resize(EIGHT, (20, 20), interpolation=cv2.INTER_AREA))
    if flagged:
        small.encoderinfo = {"tiffinfo": {254: 1}}
    pages = [small, Image.fromarray(EIGHT)]
    pages = pages if first == "thumbnail" else pages[::-1]
    buffer = io.BytesIO()
    info = {"tiffinfo": {254: 1}} if flagged and first == "thumbnail" else {}
    pages[0].save(buffer, "TIFF", save_all=True, append_images=pages[1:], **info)
    assert np.array_equal(only(buffer.getvalue()).pixels, EIGHT)


# Every tag with every bad value.

TEXTS = (b"", b"0", b"-1", b"NaN", b"abc", b"1e999", b"1\\2\\3", b"\xff\xfe", b"   ", b"999999")
NUMBERS = (b"", b"\0\0", b"\1\0", b"\xff\xff", b"\7\0\7\0", b"1\0", b"\xff\xff\xff\xff")
CASES = [
    (keyword, value)
    for keyword, (_, _, kind) in TAGS.items()
    for value in (NUMBERS if kind == "US" else TEXTS)
    # An overlay is where its tag says, and an inverted line is a line.
    if keyword != "OverlayBitPosition" and (keyword, value) != ("RescaleSlope", b"-1")
]


def test_no_bad_tag_is_a_crash_or_noise() -> None:
    assert len(CASES) + len(TAGS) >= 300
    swapped = [(keyword, value, "UN") for keyword, value in CASES[::7]]
    for keyword, value, *kinds in itertools.chain(CASES, swapped):
        data = dicom(FILM, **{"WindowCenter": "2048", "WindowWidth": "4096", keyword: value})
        if kinds:
            tag = struct.pack("<HH", *TAGS[keyword][:2])
            kind = TAGS[keyword][2].encode()
            data = data.replace(tag + kind, tag + b"UT")
        try:
            picture = only(data)
        except ImageError as error:
            sentence = str(error)
            assert not re.search(r"[a-z](Error|Exception)\b", sentence), (keyword, value, sentence)
            named = keyword in sentence or error.fault in ("too large", "truncated", "too small")
            assert named, (keyword, value, sentence)
        else:
            if picture.pixels.shape == FILM.shape:
                # A window that is possible may cut off much, and turns nothing round.
                levels = picture.pixels.ravel()[np.argsort(FILM, axis=None, kind="stable")]
                in_order = bool((np.diff(levels.astype(int)) >= 0).all())
                assert in_order or likeness(picture.pixels) > 0.97, (keyword, value)
            else:
                assert keyword in " ".join(picture.warnings), (keyword, value, picture.warnings)


# What a second reading of the decoder found.


def sequence(group: int, number: int, *elements: bytes) -> bytes:
    """A sequence of one item."""
    content = b"".join(elements)
    item = struct.pack("<HHI", 0xFFFE, 0xE000, len(content)) + content
    return element(group, number, "SQ", item)


def table(first: int, entries: np.ndarray) -> tuple[bytes, bytes]:
    """Descriptor and data of a lookup table; entries of 8 bits are packed."""
    descriptor = struct.pack("<HHH", len(entries), first, 8 * entries.itemsize)
    return element(0x28, 0x3002, "US", descriptor), element(0x28, 0x3006, "OW", entries.tobytes())


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_a_table_maps_from_its_first_value(kind: type) -> None:
    entries = np.linspace(0, np.iinfo(kind).max, 2000).astype(kind)
    got = only(dicom(FILM, sequences=sequence(0x28, 0x3010, *table(1000, entries)))).pixels
    wanted = np.clip((FILM.astype(float) - 1000) / 1999, 0, 1) * 255
    assert np.abs(got - wanted).max() <= 2


def test_a_tables_first_value_has_the_samples_sign() -> None:
    entries = np.linspace(0, 65535, 4096).astype(np.uint16)
    words = (FILM.astype(np.int32) - 2000).astype(np.int16)
    tags = {"PixelRepresentation": 1, "BitsStored": 16, "HighBit": 15}
    lut = sequence(0x28, 0x3010, *table(65536 - 2048, entries))
    assert_like(only(dicom(words, sequences=lut, **tags)), warning=None)


@pytest.mark.parametrize(
    ("words", "warning"),
    [(FILM, "12 bits, unsigned"), ((FILM.astype(np.int32) - 2000).astype(np.int16), "signed")],
)
def test_compressed_words_are_not_cut_to_what_the_header_says(
    words: np.ndarray, warning: str
) -> None:
    whole = pydicom.dcmread(io.BytesIO(dicom(words, BitsStored=16, HighBit=15, SOPClassUID="1.2")))
    whole.SOPInstanceUID = whole.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    whole.file_meta.MediaStorageSOPClassUID = "1.2"
    whole.compress(RLELossless, generate_instance_uid=False)
    whole.BitsStored, whole.HighBit = 10, 9
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, whole)
    assert_like(only(buffer.getvalue()), warning=warning)


def test_a_sign_is_seen_within_the_bits_that_are_stored() -> None:
    masked = (FILM.astype(np.int32) - 2000).astype(np.int16).view(np.uint16) & 0x0FFF
    assert_like(only(dicom(masked)), warning="12 bits, signed")


def test_an_overlay_within_the_sample_is_taken_out() -> None:
    drawn = FILM | (np.arange(96) % 3 == 0).astype(np.uint16) << 13
    tags = {"BitsStored": 16, "HighBit": 15, "OverlayBitPosition": 13}
    assert_like(only(dicom(drawn, **tags)), warning=None)


@pytest.mark.parametrize("spelling", ["MONOCHROME1", "MONOCHROME_1", "Mono1"])
def test_black_is_white_however_it_is_spelt(spelling: str) -> None:
    assert likeness(only(dicom(FILM, PhotometricInterpretation=spelling)).pixels) < -0.99


def test_a_falling_line_turns_eight_bits_round_too() -> None:
    falling = dicom(EIGHT, RescaleSlope="-1", RescaleIntercept="255")
    assert likeness(only(falling).pixels) < -0.99


def test_padding_of_floating_point_pixels_is_black() -> None:
    padded = (FILM / 4095.0).astype("<f4")
    padded[:20], padded[20] = -1e6, np.nan
    values = element(0x28, 0x0122, "FL", struct.pack("<f", -1e6))
    whole = dicom(FILM, BitsAllocated=32, BitsStored=None, HighBit=None)
    head = whole[: whole.index(struct.pack("<HH", 0x7FE0, 0x0010))]
    got = only(head + values + element(0x7FE0, 0x0008, "OF", padded.tobytes())).pixels
    assert (got[:21] == 0).all()
    assert likeness(got[21:], FILM[21:]) > 0.99


@pytest.mark.parametrize("power", [-6.0, -3.0, 3.0, 6.0])
def test_a_long_tail_is_no_marker(power: float) -> None:
    grey = FILM / FILM.max()
    values = np.exp(power * grey)
    words = np.rint((values - values.min()) / np.ptp(values) * 65_535).astype(np.uint16)
    picture = only(cv2.imencode(".png", words)[1].tobytes())
    assert picture.warnings == ()
    assert np.array_equal(picture.pixels, np.rint(words * (255 / 65_535)).astype(np.uint8))


def test_a_small_page_of_something_else_is_a_page() -> None:
    other = cv2.resize(EIGHT[::-1, ::-1].T, (48, 48), interpolation=cv2.INTER_AREA)
    buffer = io.BytesIO()
    Image.fromarray(EIGHT).save(
        buffer, "TIFF", save_all=True, append_images=[Image.fromarray(other)]
    )
    assert len(decode(buffer.getvalue())) == 2
