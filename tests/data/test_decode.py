"""Every kind of bytes becomes the right picture, or says why not."""

import io

import cv2
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from ctray.data.decode import ImageError, decode_image

pytestmark = pytest.mark.fast


def picture() -> np.ndarray:
    ramp = np.linspace(0, 255, 64 * 48).reshape(48, 64).astype(np.uint8)
    return np.ascontiguousarray(ramp)


def encode(image: np.ndarray, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, **options)
    return buffer.getvalue()


def dicom(pixels: np.ndarray, photometric: str = "MONOCHROME2", **tags: object) -> bytes:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("x", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.Rows, dataset.Columns = pixels.shape[-2:]
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = photometric
    dataset.BitsAllocated = pixels.dtype.itemsize * 8
    dataset.BitsStored = dataset.BitsAllocated
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = 0
    for name, value in tags.items():
        setattr(dataset, name, value)
    dataset.PixelData = pixels.tobytes()
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_lossless_formats_keep_every_pixel(kind: str) -> None:
    assert np.array_equal(decode_image(encode(picture(), kind)), picture())


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_lossy_formats_stay_close(kind: str) -> None:
    decoded = decode_image(encode(picture(), kind, quality=95)).astype(int)
    assert np.abs(decoded - picture()).mean() < 3


def test_colour_becomes_grey() -> None:
    grey = picture()
    assert np.array_equal(decode_image(encode(np.dstack([grey] * 3), "PNG")), grey)


def test_sixteen_bits_are_scaled_to_eight() -> None:
    deep = picture().astype(np.uint16) * 16
    assert np.array_equal(decode_image(cv2.imencode(".png", deep)[1].tobytes()), picture())


def test_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned a quarter to the right
    decoded = decode_image(encode(picture(), "JPEG", exif=exif, quality=95))
    assert decoded.shape == (64, 48)


def test_dicom_monochrome1_is_inverted() -> None:
    assert np.array_equal(decode_image(dicom(picture())), picture())
    assert np.array_equal(decode_image(dicom(picture(), "MONOCHROME1")), 255 - picture())


def test_dicom_window_is_applied() -> None:
    deep = picture().astype(np.uint16) * 16
    narrow = decode_image(dicom(deep, WindowCenter=1024, WindowWidth=512))
    assert (narrow[deep < 700] == 0).all()
    assert (narrow[deep > 1400] == 255).all()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"hello, this is a text file", "not an image"),
        (encode(picture(), "PNG")[:-40], "truncated"),
        (encode(picture(), "JPEG")[:-40], "truncated"),
        (encode(np.full((64, 64), 7, np.uint8), "PNG"), "blank"),
        (encode(picture()[:10], "PNG"), "64×10"),
        (dicom(picture())[:-100], "cannot be decoded"),
        (dicom(np.stack([picture()] * 3), NumberOfFrames=3), "3 frames"),
    ],
)
def test_what_is_no_image_says_why(data: bytes, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        decode_image(data)


def test_a_decompression_bomb_is_refused_by_its_header() -> None:
    bomb = encode(np.zeros((20_000, 20_000), np.uint8), "PNG")
    with pytest.raises(ImageError, match="100 megapixels"):
        decode_image(bomb)


def test_every_truncation_of_a_dicom_is_an_image_or_an_error() -> None:
    whole = dicom(picture(), "MONOCHROME1", WindowCenter=100, WindowWidth=50)
    for length in range(0, len(whole), 7):
        with pytest.raises(ImageError):
            decode_image(whole[:length])


def test_a_dicom_without_its_size_is_an_error() -> None:
    whole = pydicom.dcmread(io.BytesIO(dicom(picture())))
    del whole.Rows
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, whole)
    with pytest.raises(ImageError, match="cannot be decoded"):
        decode_image(buffer.getvalue())


def test_mutated_files_are_an_image_or_an_error() -> None:
    random = np.random.default_rng(0)
    seeds = [encode(picture(), "PNG"), encode(picture(), "JPEG"), dicom(picture())]
    outcomes = set()
    for step in range(300):
        data = bytearray(seeds[step % len(seeds)])
        for _ in range(random.integers(1, 8)):
            data[random.integers(len(data))] = random.integers(256)
        try:
            outcomes.add(decode_image(bytes(data)).dtype.name)
        except ImageError:
            outcomes.add("error")
    assert outcomes == {"uint8", "error"}
