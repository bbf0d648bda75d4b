"""Every kind of bytes becomes the right picture, or says why not."""

import base64
import io
import pickle
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from ctray.data.image.dispatch import EXTENSIONS, decode, decode_image, read_file
from ctray.data.image.picture import ImageError

# pytest lifts the filter that `decode` sets, at every test anew.
pytestmark = [pytest.mark.fast, pytest.mark.filterwarnings("ignore::UserWarning")]

REPOSITORY = Path(__file__).parents[2]
# Frames of `coded_pixels()` that pydicom cannot write, made with imagecodecs 2026.3.6 (CharLS and
# libjpeg-turbo; jpegls_encode, jpeg_encode with 12 bits, lossless by predictor 4 and 1).
CODED = {
    "JPEGLSLossless": (
        "/9j/6AAgU1BJRkYAAgAAAQAAACAAAAAoChAGAQAAASwAAAEs/+gACAAAAAH/2P/3AAsQACAAKAEBEQD/+AANAf//"
        "ABIAQwEUAED/2gAIAQEAAAAA/Fd4AQBAEAgEAgAAe8CgUCgUCgoIAPWCQSCQkJCQgAecNDQ0NDQ0N1ADMAXAFwDx"
        "ALgFwC4DpATgJwE4DhAPATgJwOEB4E4E4HCA8CcCcDhAeBOBOBwgPAnAnBwgeCcE4OEDwTgnBwgeCcE4OEDwTgnB"
        "wgeCcE4OEDwTgnBwgeCcE4MMrw0NCQkJCQAyxCQkJCQkJAGVoSEhISEhIAypBQoUKFCgCUoUKFChQoUDzgnBOCcO"
        "EHhOE4cIPCcJw4QeE4Thwg8JwnDhB4ThOHCDwnCcOEHhOE4cIPCcJxwh4nE44Q8TiccIeJxOOEPE4nHCHicTjhDx"
        "OJxg/9k="
    ),
    "JPEGLSNearLossless": (
        "/9j/6AAgU1BJRkYAAgAAAQAAACAAAAAoChAGAQAAASwAAAEs/+gACAAAAAH/2P/3AAsQACAAKAEBEQD/+AANAf//"
        "ABgATQEiAED/2gAIAQEAAgAA/EXgEBAQIECAA3gQIoIIIADWCCKCKCAA1giigigi6gGYC4C4EA8QLgXBcEB0gnBO"
        "CcEBwg8JwnCBwg8JwnCBwg8JwnCBwg8TicQcIeJxOIOEPE4nEHCHicTiDhDxOJxBwh4nE4g4Q8TichwjycnIcI8n"
        "JyGF3iggigigF4gihKEIC8ShCUJQHxCEoQhAvEAhCEoQgZyAQgIOQqXOkgIQIOQqXOkgQgQchUudJBCCHIqXOkgi"
        "CHIqXOkgiCHIqu6UIhDoqu6UIhDoqu6UIhDoqu6UIhDoqu6UIhDoqu6UIhDoqu6UJEdKrulEiOlb9MSI8rfA/9k="
    ),
    "JPEGLossless": (
        "/9j/4AAQSkZJRgABAQAAAQABAAD/wwALDAAgACgBAREA/8QAFwABAQEBAAAAAAAAAAAAAAAAAAoJDP/aAAgBAQAE"
        "AADn/wABV4Aq8AVeAKvAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAGlgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA//Z"
    ),
    "JPEGLosslessSV1": (
        "/9j/4AAQSkZJRgABAQAAAQABAAD/wwALDAAgACgBAREA/8QAFwABAQEBAAAAAAAAAAAAAAAAAAoJDP/aAAgBAQAB"
        "AADn/wABV4Aq8AVeAKvAABV4Aq8AVeAKvAABV4Aq8AVeAKvAABV4Aq8AVeAKvAABV4Aq8AVeAKvAABV4Aq8AVeAK"
        "vAABV4Aq8AVeAKvAABV4Aq8AVeAKvAABV4Aq8AVeAKvAABV4Aq8AVeAKvAABV4Aq8AVeAKvAABV4Aq8AVeAKvAAB"
        "V4Aq8AVeAKvAABV4Aq8AVeAKvAABV4Aq8AVeAKvAABV4Aq8AVeAKvAGlgCrwBV4Aq8AVeAACrwBV4Aq8AVeAACrw"
        "BV4Aq8AVeAACrwBV4Aq8AVeAACrwBV4Aq8AVeAACrwBV4Aq8AVeAACrwBV4Aq8AVeAACrwBV4Aq8AVeAACrwBV4A"
        "q8AVeAACrwBV4Aq8AVeAACrwBV4Aq8AVeAACrwBV4Aq8AVeAACrwBV4Aq8AVeAACrwBV4Aq8AVeAACrwBV4Aq8AV"
        "eAACrwBV4Aq8AVeAP//Z"
    ),
    "JPEGExtended12Bit": (
        "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAIBAQEBAQIBAQECAgICAgQDAgICAgUEBAMEBgUGBgYFBgYGBwkIBgcJ"
        "BwYGCAsICQoKCgoKBggLDAsKDAkKCgr/wQALDAAgACgBAREA/8QAFQABAQAAAAAAAAAAAAAAAAAADA7/xAAUEAEA"
        "AAAAAAAAAAAAAAAAAAAA/9oACAEBAAA/AJ//ACvArwK8CvBKH5XgV4FeBXgmO8rwK8CvArwSh+V4FeBXgV4P/9k="
    ),
}


def picture() -> np.ndarray:
    ramp = np.linspace(0, 255, 64 * 48).reshape(48, 64).astype(np.uint8)
    return np.ascontiguousarray(ramp)


def coded_pixels() -> np.ndarray:
    """What `CODED` holds: 12 bits, 32×40, steps to the right and one down."""
    y, x = np.mgrid[:32, :40]
    return (x // 8 * 700 + (y >= 16) * 300).astype(np.uint16)


def stretched(values: np.ndarray) -> np.ndarray:
    low, high = float(values.min()), float(values.max())
    return np.rint((values - low) * (255 / (high - low))).astype(np.uint8)


def encode(image: np.ndarray | Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def dicom(
    pixels: np.ndarray,
    photometric: str = "MONOCHROME2",
    syntax: str = ExplicitVRLittleEndian,
    coded: list[bytes] | None = None,
    **tags: object,
) -> bytes:
    """A DICOM file of pixels (…, rows, columns) or, for colour, (rows, columns, 3)."""
    colour = photometric in ("RGB", "YBR_FULL", "YBR_FULL_422")
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    meta.TransferSyntaxUID = syntax if coded else ExplicitVRLittleEndian
    dataset = FileDataset("x", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID = meta.MediaStorageSOPClassUID
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    dataset.Rows, dataset.Columns = pixels.shape[:2] if colour else pixels.shape[-2:]
    dataset.SamplesPerPixel = 3 if colour else 1
    if colour:
        dataset.PlanarConfiguration = 0
    dataset.PhotometricInterpretation = photometric
    dataset.BitsAllocated = pixels.dtype.itemsize * 8
    dataset.BitsStored = tags.pop("BitsStored", dataset.BitsAllocated)
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    for name, value in tags.items():
        setattr(dataset, name, value)
    dataset.PixelData = encapsulate(coded) if coded else pixels.tobytes()
    if coded:
        dataset["PixelData"].VR = "OB"
    elif syntax in (RLELossless, JPEG2000Lossless):
        dataset.compress(syntax, generate_instance_uid=False)
    else:
        meta.TransferSyntaxUID = syntax
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset)
    return buffer.getvalue()


def hounsfield() -> np.ndarray:
    """A disc of soft tissue with two lungs in air, HU, 96×128."""
    y, x = np.mgrid[:96, :128]
    body = ((x - 64) / 55) ** 2 + ((y - 48) / 42) ** 2 < 1
    lungs = ((np.abs(x - 64) - 26) / 18) ** 2 + ((y - 48) / 30) ** 2 < 1
    return np.where(lungs, -800, np.where(body, 40, -1000)).astype(np.int16)


def item(**tags: object) -> Dataset:
    dataset = Dataset()
    for name, value in tags.items():
        setattr(dataset, name, value)
    return dataset


def fault_of(data: bytes, name: str | None = None) -> str:
    with pytest.raises(ImageError) as error:
        decode(data, name)
    assert "\n" not in str(error.value)
    return error.value.fault


def outcome(data: bytes) -> tuple[str, list[np.ndarray]]:
    try:
        return "", [decoded.pixels for decoded in decode(data)]
    except ImageError as error:
        return error.fault, []


def png_of_chunks(*chunks: tuple[bytes, bytes]) -> bytes:
    made = b"\x89PNG\r\n\x1a\n"
    for kind, body in chunks:
        made += struct.pack(">I", len(body)) + kind + body
        made += struct.pack(">I", zlib.crc32(kind + body))
    return made


def png_header(width: int, height: int, bits: int = 8, kind: int = 0) -> tuple[bytes, bytes]:
    return b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)


def jpeg_with_thumbnail() -> bytes:
    """A JPEG whose EXIF block holds another, complete JPEG."""
    exif = b"Exif\0\0" + encode(picture()[:32, :32], "JPEG")
    whole = encode(picture(), "JPEG", quality=95)
    return whole[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + whole[2:]


WHOLE = {
    "png": encode(picture(), "PNG"),
    "png colour": encode(np.dstack([picture()] * 3), "PNG"),
    "jpeg": encode(picture(), "JPEG"),
    "jpeg progressive": encode(picture(), "JPEG", progressive=True),
    "jpeg thumbnail": jpeg_with_thumbnail(),
    "bmp": encode(picture(), "BMP"),
    "tiff": encode(picture(), "TIFF"),
    "tiff lzw": encode(picture(), "TIFF", compression="tiff_lzw"),
    "tiff pages": encode(
        picture(), "TIFF", save_all=True, append_images=[Image.fromarray(picture()[::-1])]
    ),
    "tiff libtiff": cv2.imencode(".tiff", picture().astype(np.uint16) * 9)[1].tobytes(),
    "webp": encode(picture(), "WEBP"),
    "webp lossless": encode(picture(), "WEBP", lossless=True),
    "dicom": dicom(picture(), "MONOCHROME1", WindowCenter=100, WindowWidth=50),
    "dicom implicit": dicom(picture(), syntax=ImplicitVRLittleEndian),
    "dicom deflated": dicom(picture(), syntax=DeflatedExplicitVRLittleEndian),
    "dicom rle": dicom(picture(), syntax=RLELossless),
    "dicom jpeg": dicom(picture(), syntax=JPEGBaseline8Bit, coded=[encode(picture(), "JPEG")]),
}


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_lossless_formats_keep_every_pixel(kind: str) -> None:
    [decoded] = decode(encode(picture(), kind))
    assert np.array_equal(decoded.pixels, picture())
    assert (decoded.format, decoded.bits, decoded.colour) == (kind, 8, False)
    assert (decoded.frame, decoded.frames, decoded.tags) == (0, 1, {})


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_lossy_formats_stay_close(kind: str, progressive: bool, channels: int) -> None:
    image = picture() if channels == 1 else np.dstack([picture()] * 3)
    [decoded] = decode(encode(image, kind, quality=95, progressive=progressive))
    assert np.abs(decoded.pixels.astype(int) - picture()).mean() < 3
    assert not decoded.colour


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("mode", ["LA", "P", "RGB", "RGBA"])
def test_every_layout_of_grey_is_the_same_grey(kind: str, mode: str) -> None:
    image = Image.fromarray(picture())
    image = image.convert("RGB").quantize(256) if mode == "P" else image.convert(mode)
    expected = np.array(image.convert("RGB"))[..., 0]
    [decoded] = decode(encode(image, kind))
    assert np.array_equal(decoded.pixels, expected)
    assert not decoded.colour


def test_transparency_is_ignored() -> None:
    clear = np.dstack([picture(), np.zeros_like(picture())])
    assert np.array_equal(decode_image(encode(clear, "PNG")), picture())


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_colour_becomes_the_same_grey_in_every_format(kind: str) -> None:
    colour = np.dstack([picture(), picture()[::-1], picture()[:, ::-1]])
    [decoded] = decode(encode(colour, kind))
    assert np.array_equal(decoded.pixels, cv2.cvtColor(colour, cv2.COLOR_RGB2GRAY))
    assert decoded.colour
    [from_dicom] = decode(dicom(colour, "RGB"))
    assert np.array_equal(from_dicom.pixels, decoded.pixels)
    assert from_dicom.colour


@pytest.mark.parametrize(
    ("tint", "size", "coloured"),
    [(200, 0, False), (200, 5, True), (200, 64, True), (10, 64, False)],
)
def test_colour_is_what_one_sees(tint: int, size: int, coloured: bool) -> None:
    image = np.dstack([np.full((64, 64), 30, np.uint8) + np.arange(64, dtype=np.uint8)] * 3)
    image[:size, :size, 0] += np.uint8(tint - 100 * (tint > 100))
    assert decode(encode(image, "PNG"))[0].colour == coloured


@pytest.mark.parametrize("kind", [".png", ".tiff"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bits_are_scaled_to_eight(kind: str, channels: int) -> None:
    deep = picture().astype(np.uint16) * 16 + 1000
    layers = deep if channels == 1 else cv2.merge([deep, deep, deep, deep][:channels])
    [decoded] = decode(cv2.imencode(kind, layers)[1].tobytes())
    assert np.array_equal(decoded.pixels, picture())
    assert (decoded.bits, decoded.colour) == (16, False)


def test_float_tiff_is_scaled() -> None:
    depth = picture().astype(np.float32) / 100 - 1
    [decoded] = decode(encode(depth, "TIFF"))
    assert np.array_equal(decoded.pixels, picture())
    assert decoded.bits == 32
    depth[3, 4] = np.nan
    assert fault_of(encode(depth, "TIFF")) == "unreadable"


def test_deep_white_is_zero_tiff_is_inverted() -> None:
    deep = picture().astype(np.uint16) * 16
    plain = encode(deep, "TIFF")
    entry = struct.pack("<HHI", 262, 3, 1)
    assert plain.count(entry + b"\1") == 1
    assert np.array_equal(
        decode_image(plain.replace(entry + b"\1", entry + b"\0")), 255 - picture()
    )


def test_every_page_of_a_tiff_is_a_picture() -> None:
    pictures = decode(WHOLE["tiff pages"])
    assert [(p.frame, p.frames) for p in pictures] == [(0, 2), (1, 2)]
    assert np.array_equal(pictures[0].pixels, picture())
    assert np.array_equal(pictures[1].pixels, picture()[::-1])
    with pytest.raises(ImageError, match="2 frames"):
        decode_image(WHOLE["tiff pages"])


def test_every_deep_colour_page_is_its_own() -> None:
    pages = [np.dstack([picture()[::way].astype(np.uint16) * 16] * 3) for way in (1, -1)]
    data = cv2.imencodemulti(".tiff", pages)[1].tobytes()
    first, second = decode(data)
    assert np.array_equal(first.pixels, picture())
    assert np.array_equal(second.pixels, picture()[::-1])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_exif_orientation_is_applied(kind: str, mode: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned a quarter to the right
    options: dict[str, object] = {"quality": 95, "exif": exif}
    if kind == "TIFF":
        options = {"tiffinfo": {0x0112: 6}}
    decoded = decode_image(encode(Image.fromarray(picture()).convert(mode), kind, **options))
    assert decoded.shape == (64, 48)
    assert np.abs(decoded.astype(int) - np.rot90(picture(), -1)).mean() < 3


def cmyk_jpeg(*inks: int | np.ndarray) -> tuple[bytes, int, int]:
    """An Adobe CMYK JPEG of four inks, and where its Adobe segment starts and ends."""
    layers = [Image.fromarray(np.broadcast_to(np.uint8(ink), (48, 64)).copy()) for ink in inks]
    data = encode(Image.merge("CMYK", layers), "JPEG", quality=95)
    start = data.index(b"\xff\xee")
    return data, start, start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")


def assert_close(data: bytes) -> None:
    assert np.abs(decode_image(data).astype(int) - picture()).mean() < 3


def test_cmyk_jpeg_is_inverted_only_where_adobe_says_so() -> None:
    adobe, _, _ = cmyk_jpeg(0, 0, 0, 255 - picture())
    assert_close(adobe)
    # Without the segment the stored numbers, which Pillow inverted, are inks.
    data, start, end = cmyk_jpeg(255, 255, 255, picture())
    assert_close(data[:start] + data[end:])
    # The last byte of the segment turns the first three layers into luma and chroma.
    data, _, end = cmyk_jpeg(255, 127, 127, 255 - picture())
    assert_close(data[: end - 1] + b"\2" + data[end:])


def test_bytes_after_the_end_do_no_harm() -> None:
    for kind in ("PNG", "JPEG"):
        whole = encode(picture(), kind)
        junk = b"\0" * 5000 + b"appended by a phone"
        assert np.array_equal(decode_image(whole + junk), decode_image(whole))


def test_a_png_needs_only_the_chunks_of_its_picture(capfd: pytest.CaptureFixture[str]) -> None:
    rows = b"".join(b"\0" + bytes(row) for row in picture())
    odd = [(b"iCCP", b"broken"), (b"cHRM", b"12"), (b"tEXt", b"")]
    body = [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    assert np.array_equal(decode_image(png_of_chunks(png_header(64, 48), *odd, *body)), picture())
    assert capfd.readouterr().err == ""


def test_a_flipped_bit_in_a_png_is_noticed(capfd: pytest.CaptureFixture[str]) -> None:
    data = bytearray(WHOLE["png"])
    data[len(data) // 2] ^= 1
    with pytest.raises(ImageError, match="a checksum is wrong"):
        decode(bytes(data))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", WHOLE)
def test_what_is_cut_off_is_missed(name: str) -> None:
    whole = WHOLE[name]
    expected = [p.pixels for p in decode(whole)]
    faults = set()
    for length in [
        *range(0, len(whole), 1 + len(whole) // 150),
        *range(len(whole) - 8, len(whole)),
    ]:
        fault, got = outcome(whole[:length])
        faults.add(fault)
        # The picture may be complete where the last bytes are missing.
        whole_picture = len(got) == len(expected) and all(map(np.array_equal, got, expected))
        in_header = length < len(whole) // 2
        assert fault == "truncated" or in_header or whole_picture, (length, len(whole), fault)
        assert fault or length > 0.9 * len(whole)
    assert "truncated" in faults


def test_a_jpeg_that_lacks_its_end_mark_only_is_read_with_a_warning() -> None:
    for name in ("jpeg", "jpeg progressive", "jpeg thumbnail"):
        whole = WHOLE[name]
        for missing in (1, 2):
            (got,) = decode(whole[:-missing])
            assert np.array_equal(got.pixels, decode(whole)[0].pixels)
            assert "no end mark" in got.warnings[0]
        assert fault_of(whole[:-6]) == "truncated"


def test_a_dicom_cut_before_its_pixels_is_not_one_without() -> None:
    data = dicom(picture(), PatientID="somebody")
    assert fault_of(data[: data.index(b"somebody") + 4]) == "truncated"


@pytest.mark.parametrize("frames", [2, 3])
@pytest.mark.parametrize("table", [False, True])
def test_a_compressed_dicom_with_fewer_frames_than_it_says_is_truncated(
    frames: int, table: bool
) -> None:
    coded = [encode(picture(), "JPEG")] * (frames - 1)
    whole = dicom(picture(), syntax=JPEGBaseline8Bit, coded=coded, NumberOfFrames=frames)
    dataset = pydicom.dcmread(io.BytesIO(whole))
    dataset.PixelData = encapsulate(coded, has_bot=table)
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset)
    assert fault_of(buffer.getvalue()) == "truncated"


def test_a_tiff_with_fewer_rows_than_it_says_is_truncated() -> None:
    height = struct.pack("<HHI", 257, 4, 1)
    data = WHOLE["tiff"].replace(height + b"\x30\0", height + b"\x40\0")
    assert data != WHOLE["tiff"]
    assert fault_of(data) == "truncated"


def test_dicom_monochrome1_is_inverted() -> None:
    assert np.array_equal(decode_image(dicom(picture())), picture())
    assert np.array_equal(decode_image(dicom(picture(), "MONOCHROME1")), 255 - picture())


def test_dicom_window_is_applied() -> None:
    deep = picture().astype(np.uint16) * 16
    narrow = decode_image(dicom(deep, WindowCenter=[1024, 2000], WindowWidth=[512, 4000]))
    assert (narrow[deep < 700] == 0).all()
    assert (narrow[deep > 1400] == 255).all()


def test_a_window_wider_than_the_values_is_not_stretched() -> None:
    deep = picture().astype(np.uint16) * 4
    wide = decode_image(dicom(deep, WindowCenter=2048, WindowWidth=4096, BitsStored=12))
    assert wide.max() == pytest.approx(255 * int(deep.max()) / 4095, abs=1)


def test_dicom_voi_table_of_many_entries_is_applied() -> None:
    deep = np.arange(64 * 48, dtype=np.uint16).reshape(48, 64)
    curve = np.linspace(255, 0, deep.size).astype(int).tolist()
    table = item(LUTDescriptor=[deep.size, 0, 8], LUTData=curve)
    table["LUTDescriptor"].VR = table["LUTData"].VR = "US"
    decoded = decode_image(dicom(deep, VOILUTSequence=[table]))
    assert np.array_equal(decoded.ravel(), np.array(curve, np.uint8))


def test_dicom_modality_table_is_applied() -> None:
    curve = np.linspace(1000, 0, 256).astype(int).tolist()
    table = item(LUTDescriptor=[256, 0, 16], ModalityLUTType="US", LUTData=curve)
    table["LUTDescriptor"].VR = table["LUTData"].VR = "US"
    decoded = decode_image(dicom(picture(), ModalityLUTSequence=[table]))
    assert np.array_equal(decoded, stretched(np.array(curve)[picture()]))


def test_ct_goes_through_the_lung_window_whatever_its_own() -> None:
    expected = np.clip((hounsfield() + 600.5) / 1499 + 0.5, 0, 1) * 255
    signed = dicom(hounsfield(), Modality="CT", RescaleSlope=1, RescaleIntercept=0)
    shifted = dicom(
        (hounsfield() + 1024).astype(np.uint16),
        Modality="CT",
        RescaleSlope=1,
        RescaleIntercept=-1024,
        RescaleType="HU",
        WindowCenter=40,
        WindowWidth=400,
        BitsStored=12,
    )
    halved = dicom(
        (hounsfield() // 2).astype(np.int16), Modality="CT", RescaleSlope=2, RescaleIntercept=0
    )
    for data in (signed, shifted, halved):
        assert np.abs(decode_image(data) - expected).max() <= 0.5 + 1e-6


@pytest.mark.parametrize(
    "tags",
    [
        {"Modality": "MR", "RescaleSlope": 1, "RescaleIntercept": 0},
        {"Modality": "CT"},
        {"Modality": "CT", "RescaleSlope": 1, "RescaleIntercept": 0, "RescaleType": "US"},
    ],
)
def test_other_values_keep_the_window_of_their_file(tags: dict[str, object]) -> None:
    decoded = decode_image(dicom(hounsfield(), WindowCenter=40, WindowWidth=400, **tags))
    assert (decoded[hounsfield() == -800] == 0).all()
    assert (decoded[hounsfield() == 40] == 128).all()


def test_an_eight_bit_ct_keeps_its_grey_levels() -> None:
    data = dicom(picture(), Modality="CT", RescaleSlope=1, RescaleIntercept=0)
    assert np.array_equal(decode_image(data), picture())


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_does_not_stretch_and_is_black(photometric: str) -> None:
    deep = picture().astype(np.int16) * 4 + 100
    padded = deep.copy()
    padded[:, :5], padded[:, 5:8] = -2000, -1990
    plain = stretched(deep[:, 8:])
    decoded = decode_image(
        dicom(padded, photometric, PixelPaddingValue=-2000, PixelPaddingRangeLimit=-1990)
    )
    assert (decoded[:, :8] == 0).all()
    expected = 255 - plain if photometric == "MONOCHROME1" else plain
    assert np.array_equal(decoded[:, 8:], expected)


@pytest.mark.parametrize("kind", [np.uint16, np.int16])
@pytest.mark.parametrize("bits", [12, 16])
@pytest.mark.parametrize(
    "syntax",
    [
        ImplicitVRLittleEndian,
        ExplicitVRLittleEndian,
        DeflatedExplicitVRLittleEndian,
        RLELossless,
        JPEG2000Lossless,
    ],
)
def test_dicom_of_every_depth_and_syntax(kind: type, bits: int, syntax: str) -> None:
    deep = (picture().astype(int) * 13 - (1500 if kind is np.int16 else 0)).astype(kind)
    [decoded] = decode(dicom(deep, syntax=syntax, BitsStored=bits))
    assert np.array_equal(decoded.pixels, stretched(deep))
    assert decoded.bits == bits


@pytest.mark.parametrize(
    ("syntax", "name", "tolerance"),
    [
        (JPEGLossless, "JPEGLossless", 0),
        (JPEGLosslessSV1, "JPEGLosslessSV1", 0),
        (JPEGLSLossless, "JPEGLSLossless", 0),
        (JPEGLSNearLossless, "JPEGLSNearLossless", 1),
        (JPEGExtended12Bit, "JPEGExtended12Bit", 1),
    ],
)
def test_dicom_of_every_kind_of_jpeg(syntax: str, name: str, tolerance: int) -> None:
    coded = base64.b64decode(CODED[name])
    deep = coded_pixels()
    decoded = decode_image(dicom(deep, syntax=syntax, coded=[coded], BitsStored=12))
    assert np.abs(decoded.astype(int) - stretched(deep)).max() <= tolerance
    # A frame that ends early inside a file that does not.
    cut = coded[: len(coded) // 2]
    assert fault_of(dicom(deep, syntax=syntax, coded=[cut], BitsStored=12)) == "truncated"


def test_dicom_of_baseline_jpeg() -> None:
    grey, colour = (encode(i, "JPEG", quality=95) for i in (picture(), np.dstack([picture()] * 3)))
    for photometric, coded, pixels in (
        ("MONOCHROME2", grey, picture()),
        ("YBR_FULL_422", colour, np.dstack([picture()] * 3)),
    ):
        data = dicom(pixels, photometric, syntax=JPEGBaseline8Bit, coded=[coded])
        assert np.array_equal(decode_image(data), decode_image(coded))


def test_palette_dicom_is_read_as_colour() -> None:
    palette = {}
    for name, scale in (("Red", 255), ("Green", 100), ("Blue", 0)):
        palette[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, 8]
        palette[f"{name}PaletteColorLookupTableData"] = bytes(i * scale // 255 for i in range(256))
    [decoded] = decode(dicom(picture(), "PALETTE COLOR", **palette))
    assert decoded.colour
    assert decoded.pixels[-1, -1] == round(0.299 * 255 + 0.587 * 100)


def enhanced_ct(modality: str = "CT") -> bytes:
    """Two frames, the second upside down, whose attributes stand in functional groups."""
    frames = np.stack([hounsfield(), hounsfield()[::-1]])
    shared = item(
        PlaneOrientationSequence=[item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
        PixelValueTransformationSequence=[
            item(RescaleSlope=1, RescaleIntercept=0, RescaleType="HU")
        ],
    )
    each = [
        item(
            PlanePositionSequence=[item(ImagePositionPatient=[0, 0, z])],
            FrameVOILUTSequence=[item(WindowCenter=40, WindowWidth=400)],
        )
        for z in (-10.5, 7)
    ]
    return dicom(
        frames,
        Modality=modality,
        NumberOfFrames=2,
        SharedFunctionalGroupsSequence=[shared],
        PerFrameFunctionalGroupsSequence=each,
    )


def test_every_frame_of_a_dicom_is_a_picture_with_its_own_window_and_place() -> None:
    single = decode_image(dicom(hounsfield(), Modality="CT", RescaleSlope=1, RescaleIntercept=0))
    pictures = decode(enhanced_ct())
    assert [p.tags["slice"] for p in pictures] == ["-10.50", "7.00"]
    assert np.array_equal(pictures[0].pixels, single)
    assert np.array_equal(pictures[1].pixels, single[::-1])
    assert set(np.unique(decode(enhanced_ct("MR"))[0].pixels)) == {0, 128}


def test_dicom_tags() -> None:
    data = dicom(
        picture(),
        PatientID=" P 7 ",
        StudyInstanceUID="1.2.3",
        SeriesInstanceUID="1.2.4",
        Modality="CT",
        Manufacturer="ACME",
        ManufacturerModelName="Ring 64",
        PatientAge="067Y",
        PatientSex="F",
        ViewPosition="AP",
        InstanceNumber=12,
    )
    assert decode(data)[0].tags == {
        "patient": "P 7",
        "study": "1.2.3",
        "series": "1.2.4",
        "modality": "CT",
        "scanner": "ACME Ring 64",
        "age": "67",
        "sex": "F",
        "view": "AP",
        "slice": "12",
    }
    assert decode(dicom(picture()))[0].tags == {}


@pytest.mark.parametrize(
    ("age", "years"), [("018M", "1"), ("011M", "0"), ("099W", "1"), ("034", "34"), ("old", None)]
)
def test_ages_are_whole_years(age: str, years: str | None) -> None:
    assert decode(dicom(picture(), PatientAge=age))[0].tags.get("age") == years


def test_the_slice_is_a_place_along_the_normal() -> None:
    coronal = {"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}
    data = dicom(picture(), ImagePositionPatient=[5, 20.25, -3], InstanceNumber=4, **coronal)
    assert float(decode(data)[0].tags["slice"]) == 20.25


@pytest.mark.parametrize(
    ("data", "fault", "reason"),
    [
        (b"", "unreadable", "empty"),
        (b"hello, this is a text file", "unreadable", "not an image"),
        (b"BM, this is a text file, longer than a header", "unreadable", "not an image"),
        (encode(picture(), "PNG")[:-40], "truncated", "PNG file is truncated"),
        (encode(np.full((64, 64), 7, np.uint8), "PNG"), "blank", "blank"),
        (encode(np.full((64, 64, 3), 7, np.uint8), "JPEG"), "blank", "blank"),
        (dicom(np.full((64, 64), 700, np.uint16)), "blank", "blank"),
        (encode(picture()[:10], "PNG"), "too small", "64×10"),
        (png_of_chunks(png_header(0, 64), (b"IEND", b"")), "too small", "0×64"),
        (dicom(picture()[:, :31]), "too small", "31×48"),
        (dicom(picture(), Rows=0), "unreadable", "tag Rows is missing or no size"),
        (dicom(picture())[:-100], "truncated", "DICOM file is truncated"),
        (dicom(picture(), Rows=60), "truncated", "truncated"),
        (dicom(picture(), NumberOfFrames=2), "truncated", "truncated"),
        (
            dicom(np.stack([picture(), np.zeros_like(picture())]), NumberOfFrames=2),
            "blank",
            "frame 2 of 2",
        ),
    ],
)
def test_what_is_no_image_says_why(data: bytes, fault: str, reason: str) -> None:
    with pytest.raises(ImageError, match=reason) as error:
        decode(data)
    assert error.value.fault == fault


def test_a_dicom_of_many_frames_is_not_one_image() -> None:
    with pytest.raises(ImageError, match="3 frames"):
        decode_image(dicom(np.stack([picture()] * 3), NumberOfFrames=3))


def test_a_dicom_without_pixels_says_so() -> None:
    whole = pydicom.dcmread(io.BytesIO(dicom(picture())))
    del whole.PixelData
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, whole)
    assert fault_of(buffer.getvalue()) == "no pixels"


def test_a_dicom_without_its_size_is_an_error() -> None:
    whole = pydicom.dcmread(io.BytesIO(dicom(picture())))
    del whole.Rows
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, whole)
    with pytest.raises(ImageError, match="tag Rows is missing"):
        decode_image(buffer.getvalue())


@pytest.mark.parametrize(
    "data",
    [
        encode(np.zeros((20_000, 20_000), np.uint8), "PNG"),
        png_of_chunks(png_header(2**31 - 1, 2**31 - 1), (b"IEND", b"")),
        encode(picture(), "JPEG").replace(
            struct.pack(">HH", 48, 64), struct.pack(">HH", 60_000, 60_000)
        ),
        encode(picture(), "BMP").replace(
            struct.pack("<II", 64, 48), struct.pack("<II", 10**6, 10**6)
        ),
        encode(picture(), "TIFF")
        .replace(struct.pack("<HHIH", 256, 4, 1, 64), struct.pack("<HHIH", 256, 4, 1, 60_000))
        .replace(struct.pack("<HHIH", 257, 4, 1, 48), struct.pack("<HHIH", 257, 4, 1, 60_000)),
        dicom(picture(), Rows=60_000, Columns=60_000),
        dicom(picture(), NumberOfFrames=10**9),
    ],
    ids=["png", "png header", "jpeg", "bmp", "tiff", "dicom", "dicom frames"],
)
def test_a_decompression_bomb_is_refused_by_its_header(data: bytes) -> None:
    with pytest.raises(ImageError, match="100 megapixels") as error:
        decode_image(data)
    assert error.value.fault == "too large"


def test_a_deflated_dicom_bomb_is_refused() -> None:
    plain = dicom(picture(), syntax=DeflatedExplicitVRLittleEndian)
    meta = plain.index(DeflatedExplicitVRLittleEndian.encode())
    start = meta + len(DeflatedExplicitVRLittleEndian)
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = b"".join(deflate.compress(b"\0" * 1_000_000) for _ in range(300)) + deflate.flush()
    assert fault_of(plain[:start] + bomb) == "too large"


def test_a_frame_larger_than_its_dicom_says_is_not_decoded() -> None:
    huge = encode(np.zeros((9000, 9000), np.uint8), "JPEG")
    data = dicom(picture(), syntax=JPEGBaseline8Bit, coded=[huge])
    with pytest.raises(ImageError, match="64×48"):
        decode_image(data)


@pytest.mark.parametrize(
    ("data", "name", "sentence"),
    [
        (WHOLE["jpeg"], "scan/x.png", "the name ends in .png, the bytes are JPEG"),
        (WHOLE["png"], "x.y.DCM", "the name ends in .DCM, the bytes are PNG"),
        (WHOLE["dicom"], "x.jpeg", "the name ends in .jpeg, the bytes are DICOM"),
    ],
)
def test_a_name_that_lies_is_a_warning(data: bytes, name: str, sentence: str) -> None:
    (got,) = decode(data, name)
    assert np.array_equal(got.pixels, decode(data)[0].pixels)
    assert got.warnings[0].startswith(sentence)


def test_what_is_called_dicom_and_is_none_is_an_error() -> None:
    with pytest.raises(ImageError, match=r"x\.dcm is not a DICOM file") as error:
        decode(b"\0" * 500, "x.dcm")
    assert error.value.fault == "wrong type"


def test_names_that_say_nothing_or_the_truth_are_fine() -> None:
    for name in (None, "x", "IM000001", "1.2.840.113", "x.JPG", "x.jpeg"):
        assert decode(WHOLE["jpeg"], name)
    assert fault_of(b"no image", "x.png") == "unreadable"
    assert all(suffix == suffix.lower() and suffix[0] == "." for suffix in EXTENSIONS)


def test_an_error_survives_the_way_between_processes() -> None:
    error = pickle.loads(pickle.dumps(ImageError("blank", "the image is blank")))
    assert (error.fault, str(error)) == ("blank", "the image is blank")


def test_a_file_that_cannot_be_opened_says_so(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="No such file") as error:
        read_file(tmp_path / "x.png")
    assert error.value.fault == "unreadable"


def test_pixels_are_the_callers_own() -> None:
    for data in WHOLE.values():
        assert decode(data)[0].pixels.flags.writeable


def test_real_dicoms(dicoms: Path) -> None:
    files = sorted(dicoms.glob("*.dcm"))
    assert files
    for path in files:
        [decoded] = decode(path.read_bytes(), path.name)
        assert min(decoded.pixels.shape) >= 256
        assert decoded.tags["modality"] in ("CR", "DX", "CT")
        assert decoded.tags["patient"]
        assert 40 < decoded.pixels.mean() < 215
