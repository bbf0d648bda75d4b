"""What the tests of the service share: small untrained bundles, images, waiting."""

import io
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import httpx
import numpy as np
import pydicom
import torch
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from ctray.artefact.build import TrainingData, build_bundle
from ctray.config import Recipe
from ctray.models.backbones import build_model

STEEPNESS = 100.0
CLASSES = ("alpha", "beta", "gamma")
_SIDE = 64
_DEADLINE_S = 120.0


def write_untrained(folder: Path, seed: int) -> Path:
    """A bundle of a small CNN with random weights that differ by seed.

    Its last layer is made steep, so that different images get clearly different probabilities.
    """
    torch.manual_seed(seed)
    model = build_model("small_cnn", len(CLASSES), _SIDE)
    last = [layer for layer in model.modules() if isinstance(layer, torch.nn.Linear)][-1]
    last.weight.data *= STEEPNESS
    data = TrainingData(
        classes=CLASSES,
        size=_SIDE,
        fingerprint="0" * 64,
        synthetic=True,
        train=(),
        val=(),
        val_labels=np.zeros(0, np.int64),
        val_groups=(),
    )
    recipe = Recipe(backbone="small_cnn", image_size=_SIDE)
    best = {"val_macro_f1": 0.5}
    build_bundle(str(folder), best, recipe, data, model.state_dict(), val_logits=None)
    return folder


def png(seed: int, side: int = 96) -> bytes:
    """A PNG of smooth noise."""
    noise = np.random.default_rng(seed).integers(0, 256, (8, 8), dtype=np.uint8)
    image = cv2.resize(noise, (side, side), interpolation=cv2.INTER_CUBIC)
    return cv2.imencode(".png", image)[1].tobytes()


def dicom(seed: int, height: int = 80, width: int = 80) -> bytes:
    """A 12-bit MONOCHROME1 DICOM file of noise, not compressed."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID = meta.MediaStorageSOPClassUID
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    dataset.Rows, dataset.Columns = height, width
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME1"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    pixels = np.random.default_rng(seed).integers(0, 4096, (height, width), dtype=np.uint16)
    dataset.PixelData = pixels.tobytes()
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset)
    return buffer.getvalue()


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Poll until true; fails after two minutes."""
    deadline = time.monotonic() + _DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {_DEADLINE_S:g} s: {what}"
        time.sleep(0.1)


def answers(url: str) -> bool:
    """Whether a GET is answered with 200."""
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False
