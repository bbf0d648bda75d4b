"""Damaged files: whatever the bytes, `decode` returns pictures or raises ImageError.

The loop runs in a process of its own, because what it looks for first, a crash inside a native
decoder, would take the tests along.
"""

import importlib.util
import json
import multiprocessing
import os
import random
import resource
import struct
import sys
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from ctray.data.image.dispatch import decode
from ctray.data.image.picture import ImageError

pytestmark = pytest.mark.fast

MUTANTS = 2000
DEADLINE_S = 240
# Room for one picture of the largest size as Pillow holds it, and its copies.
MEMORY = 1536 * 2**20

Mutation = Callable[[bytes, random.Random], bytes]

# Values that overflow, vanish or change sign.
NUMBERS = (0, 1, 2, 7, 31, 32, 255, 256, 4096, 32767, 32768, 65535, 2**31 - 1, 2**31, 2**32 - 1)
# Rows, columns, bits, frames, samples, representation, palettes and pixels, as bytes of the file.
DICOM_TAGS = [
    struct.pack("<HH", group, element)
    for group, element in (
        (0x0028, 0x0002), (0x0028, 0x0004), (0x0028, 0x0006), (0x0028, 0x0008), (0x0028, 0x0010),
        (0x0028, 0x0011), (0x0028, 0x0100), (0x0028, 0x0101), (0x0028, 0x0102), (0x0028, 0x0103),
        (0x0028, 0x0120), (0x0028, 0x1050), (0x0028, 0x1053), (0x0028, 0x3002), (0x0002, 0x0010),
        (0x5200, 0x9229), (0x5200, 0x9230), (0x7FE0, 0x0010), (0xFFFE, 0xE000), (0xFFFE, 0xE0DD),
    )
]  # fmt: skip


def flip_bits(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    # Half of them in the header, where they matter most.
    for _ in range(rng.randint(1, 6)):
        changed[rng.randrange(min(len(data), rng.choice((64, 400, len(data)))))] ^= (
            1 << rng.randrange(8)
        )
    return bytes(changed)


def set_number(data: bytes, rng: random.Random) -> bytes:
    size = rng.choice("BHI")
    code = rng.choice("<>") + size
    number = rng.choice(NUMBERS) % 256 ** struct.calcsize(code)
    place = rng.randrange(max(1, min(len(data), rng.choice((64, 400, len(data)))) - 4))
    return data[:place] + struct.pack(code, number) + data[place + struct.calcsize(code) :]


def cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def drop(data: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(data))
    return data[:place] + data[place + rng.randint(1, 200) :]


def insert(data: bytes, rng: random.Random) -> bytes:
    place, source = rng.randrange(len(data)), rng.randrange(len(data))
    length = rng.randint(1, 64)
    added = rng.choice((rng.randbytes(length), data[source : source + length], b"\xff" * length))
    return data[:place] + added + data[place:]


def swap(data: bytes, rng: random.Random) -> bytes:
    a, b, c = sorted(rng.randrange(len(data)) for _ in range(3))
    return data[:a] + data[b:c] + data[a:b] + data[c:]


def change_chunks(data: bytes, rng: random.Random) -> bytes:
    """Swap, drop, repeat and edit chunks of a PNG; their checksums are right half of the time."""
    chunks, place = [], 8
    while place + 12 <= len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4], "big")
        chunks.append((data[place + 4 : place + 8], data[place + 8 : end - 4], data[end - 4 : end]))
        place = end
    fixed = rng.random() < 0.5
    for _ in range(rng.randint(1, 3)):
        which = rng.randrange(len(chunks))
        kind, body, checksum = chunks[which]
        change = rng.randrange(6)
        if change == 0:
            chunks.insert(rng.randrange(len(chunks)), chunks.pop(which))
        elif change == 1 and len(chunks) > 1:
            del chunks[which]
        elif change == 2:
            chunks.insert(which, chunks[which])
        elif len(body) > 4:
            body = rng.choice((flip_bits, set_number, cut, drop, insert))(body, rng)
            right = struct.pack(">I", zlib.crc32(kind + body))
            chunks[which] = kind, body, right if fixed else checksum
    parts = (struct.pack(">I", len(body)) + kind + body + end for kind, body, end in chunks)
    return data[:8] + b"".join(parts)


def edit_element(data: bytes, rng: random.Random) -> bytes:
    """Give an element of a DICOM file another length or another number."""
    tags = [tag for tag in DICOM_TAGS if tag in data]
    if not tags:
        return set_number(data, rng)
    place = data.index(rng.choice(tags)) + rng.choice((4, 6, 8, 8, 8, 10, 12))
    code = rng.choice(("<H", "<I"))
    number = rng.choice(NUMBERS) % 256 ** struct.calcsize(code)
    return data[:place] + struct.pack(code, number) + data[place + struct.calcsize(code) :]


ANYWHERE: tuple[Mutation, ...] = (flip_bits, flip_bits, set_number, cut, drop, insert, swap)
OF_FORMAT: dict[str, tuple[Mutation, ...]] = {
    "png": (change_chunks, change_chunks, change_chunks, flip_bits, cut),
    "dicom": (edit_element, edit_element, *ANYWHERE),
}


def mutate(name: str, data: bytes, rng: random.Random) -> bytes:
    mutations = OF_FORMAT.get(name.split()[0], ANYWHERE)
    changed = rng.choice(mutations)(data, rng)
    if rng.random() < 0.3 and name.split()[0] != "png" and changed:
        changed = rng.choice(mutations)(changed, rng)
    return changed


def check(data: bytes) -> str:
    """The outcome in a word; an assertion or any other exception is a fault of `decode`."""
    try:
        pictures = decode(data)
    except ImageError as error:
        sentence, fault = str(error), error.fault
        pictures = []
    else:
        sentence = fault = ""
    if not pictures:
        assert sentence
        assert "\n" not in sentence
        return fault
    for place, decoded in enumerate(pictures):
        assert decoded.pixels.dtype == np.uint8
        assert decoded.pixels.ndim == 2
        assert min(decoded.pixels.shape) >= 32
        assert decoded.pixels.min() < decoded.pixels.max()
        assert (decoded.frame, decoded.frames) == (place, len(pictures))
        assert all(isinstance(value, str) and value for value in decoded.tags.values())
    return "picture"


def peak_memory() -> int:
    """The most this process has ever held, in bytes; getrusage would count its parent's too."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def damage_and_decode(folder: str, seeds: dict[str, bytes]) -> None:
    """In the other process: the loop, its outcomes to a file, its complaints to another."""
    os.dup2(os.open(f"{folder}/stderr", os.O_WRONLY | os.O_CREAT), 2)
    for data in seeds.values():
        assert check(data) == "picture"
    used = peak_memory()
    virtual = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (virtual + MEMORY, virtual + MEMORY))
    rng = random.Random(7)
    names = list(seeds)
    outcomes: Counter[str] = Counter()
    for number in range(MUTANTS):
        name = names[number % len(names)]
        data = mutate(name, seeds[name], rng)
        # What a crash leaves behind to be looked at.
        Path(folder, "mutant").write_bytes(data)
        Path(folder, "name").write_text(f"{number} {name}")
        outcomes[f"{name.split()[0]}: {check(data)}"] += 1
    Path(folder, "outcomes").write_text(json.dumps([outcomes, peak_memory() - used]))


def kit() -> ModuleType:
    """The module of tests beside this one, for its encoders."""
    spec = importlib.util.spec_from_file_location("kit", Path(__file__).with_name("test_decode.py"))
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sound_files() -> dict[str, bytes]:
    """One file of each kind that takes another way through the decoders."""
    k = kit()
    grey = k.picture()
    deep = grey.astype(np.uint16) * 15
    colour = np.dstack([grey, grey[::-1], grey[:, ::-1]])
    exif = Image.Exif()
    exif[0x0112] = 6
    coded = {
        name: k.dicom(
            k.coded_pixels(),
            syntax=getattr(k, name),
            coded=[k.base64.b64decode(text)],
            BitsStored=12,
        )
        for name, text in k.CODED.items()
    }
    voi = k.item(LUTDescriptor=[256, 0, 8], LUTData=list(range(256)))
    voi["LUTDescriptor"].VR = voi["LUTData"].VR = "US"
    return {
        "png": k.encode(grey, "PNG", exif=exif),
        "png colour": k.encode(colour, "PNG"),
        "png deep": k.cv2.imencode(".png", np.dstack([deep] * 3))[1].tobytes(),
        "png palette": k.encode(Image.fromarray(colour).quantize(64), "PNG"),
        "jpeg": k.encode(grey, "JPEG", exif=exif),
        "jpeg progressive": k.encode(colour, "JPEG", progressive=True),
        "jpeg cmyk": k.cmyk_jpeg(0, 9, 99, grey)[0],
        "jpeg thumbnail": k.WHOLE["jpeg thumbnail"],
        "tiff": k.encode(colour, "TIFF", tiffinfo={0x0112: 6}),
        "tiff lzw": k.encode(grey, "TIFF", compression="tiff_lzw"),
        "tiff jpeg": k.encode(grey, "TIFF", compression="jpeg"),
        "tiff deep": k.cv2.imencodemulti(".tiff", [np.dstack([deep] * 3)] * 2)[1].tobytes(),
        "tiff pages": k.WHOLE["tiff pages"],
        "bmp": k.encode(colour, "BMP"),
        "webp": k.encode(colour, "WEBP", exif=exif),
        "webp lossless": k.encode(grey, "WEBP", lossless=True),
        "webp frames": k.encode(
            colour, "WEBP", save_all=True, append_images=[Image.fromarray(colour[::-1])]
        ),
        "dicom": k.dicom(deep, BitsStored=12, WindowCenter=900, WindowWidth=800, PatientAge="067Y"),
        "dicom ct": k.dicom(k.hounsfield(), Modality="CT", RescaleSlope=1, RescaleIntercept=0),
        "dicom voi": k.dicom(grey, VOILUTSequence=[voi]),
        "dicom rgb": k.dicom(colour, "RGB"),
        "dicom frames": k.enhanced_ct(),
        "dicom implicit": k.WHOLE["dicom implicit"],
        "dicom deflated": k.WHOLE["dicom deflated"],
        "dicom rle": k.WHOLE["dicom rle"],
        "dicom jpeg": k.WHOLE["dicom jpeg"],
        "dicom j2k": k.dicom(deep, syntax=k.JPEG2000Lossless, BitsStored=12),
        **{f"dicom {name}": data for name, data in coded.items()},
    }


@pytest.mark.skipif(sys.platform != "linux", reason="limits and measures memory as Linux does")
@pytest.mark.timeout(DEADLINE_S + 60)
def test_damaged_files_are_pictures_or_errors(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(
        target=damage_and_decode, args=(str(tmp_path), sound_files())
    )
    process.start()
    process.join(DEADLINE_S)
    hung = process.is_alive()
    process.kill()
    process.join()
    complaints = (tmp_path / "stderr").read_text(errors="replace")
    at = (tmp_path / "name").read_text() if (tmp_path / "name").exists() else "the sound files"
    assert not hung, f"no end at mutant {at}, kept in {tmp_path}"
    assert process.exitcode == 0, f"mutant {at}, kept in {tmp_path}: {complaints[-2000:]}"
    outcomes, peak = json.loads((tmp_path / "outcomes").read_text())
    assert sum(outcomes.values()) == MUTANTS
    for kind in ("png", "jpeg", "tiff", "bmp", "webp", "dicom"):
        assert outcomes[f"{kind}: unreadable"] + outcomes[f"{kind}: truncated"] > 10
        assert outcomes[f"{kind}: picture"] > 5
    assert peak < MEMORY / 2
    # libpng and Pillow's libtiff print their own line about damaged compressed data, and have no
    # switch for it; nobody else says anything.
    lines = complaints.splitlines()
    assert len(lines) < MUTANTS / 20
    assert not [line for line in lines if "Warning" in line or "[" in line]
