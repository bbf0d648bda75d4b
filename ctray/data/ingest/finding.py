"""Which files of a folder are images: one answer for every command.

An image is what has an image's suffix, or begins as one: scanners and browsers name files anyhow.
What else lies there is known not to be an image by its name (tables, notes, indexes), or is an
image that nobody can read, and has a reason.
"""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from ctray import storage
from ctray.data.image.dispatch import EXTENSIONS, format_of
from ctray.data.ingest.tables import suffix
from ctray.synthetic.marker import SYNTHETIC_MARKER

IMAGES, MASKS = "images", "masks"
# An index of DICOM files (PS3.10, 8.6), by its class in the first header.
_INDEX_CLASS = b"1.2.840.10008.1.3.10\0"
_START = 512
_TEXTS = (
    ".csv .tsv .tab .txt .xlsx .xls .xlsm .ods .parquet .feather .arrow .json .jsonl .xml .html "
    ".htm .md .rst .pdf .doc .docx .rtf .yaml .yml .toml .ini .cfg .conf .db .sqlite .log .lst "
    ".sh .bat .py .r .m .ipynb .js .css .zip .gz .tgz .tar .bz2 .xz .7z .rar .npy .npz .h5 .hdf5 "
    ".mat .pkl .pt .pth .safetensors .lnk .url .exe .dll .inf .ico .sha256 .md5 .bib .tex .names"
)
_NO_IMAGES = frozenset(_TEXTS.split())
_ABOUT = re.compile(
    r"(readme|licen[cs]e|copying|notice|authors|changelog|citation|data_card|dicomdir|makefile"
    r"|dockerfile|version|manifest|checksums?|sha256sums?|md5sums?|thumbs\.db|desktop\.ini)\b.*",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Found:
    """The files of a folder by what they are.

    Attributes:
        images: what is to be read, also where reading will fail; masks are among them.
        faults: {file: why}: what is neither an image nor known to be something else.
        others: tables, notes, indexes and what else is no image by its name, sorted.
    """

    images: frozenset[str]
    faults: dict[str, str]
    others: tuple[str, ...]


def find_images(root: str, files: Sequence[str]) -> Found:
    """Tell the images among the files of a folder from the rest.

    The first bytes are read of those files only whose suffix is not an image's.

    Args:
        root: absolute path or URI.
        files: relative to it, as `storage.walk` gives them.
    """
    named = {name for name in files if suffix(name) in EXTENSIONS}
    rest = [name for name in files if name not in named]
    starts = storage.read_starts((storage.join(root, name) for name in rest), _START)
    faults: dict[str, str] = {}
    others: list[str] = []
    for name, start in zip(rest, starts, strict=True):
        if _INDEX_CLASS in start:
            others.append(name)
        elif format_of(start) is not None and not _is_index(name):
            named.add(name)
        elif is_no_image(name):
            others.append(name)
        else:
            faults[name] = _fault(storage.join(root, name), start)
    faults |= {name: fault for name in named if (fault := _dangling(storage.join(root, name)))}
    return Found(frozenset(named - faults.keys()), faults, tuple(others))


def is_no_image(name: str) -> bool:
    """Whether a name is one of tables, notes, indexes, programs … and not of an image."""
    base = PurePosixPath(name).name
    return base == SYNTHETIC_MARKER or suffix(name) in _NO_IMAGES or bool(_ABOUT.fullmatch(base))


def masks_among(images: Iterable[str]) -> dict[str, str]:
    """The masks of a folder's images: {mask: the image that it belongs to, without its suffix}.

    A mask lies below a folder `masks`, beside which there are images. The image is called alike; it
    lies beside the folder, or in `images` there.
    """
    split = {name: _at_masks(name) for name in images}
    beside = {parent for name, found in split.items() if not found for parent in _parents(name)}
    return {
        mask: stem
        for mask, found in split.items()
        if found
        for parent, stem in [found]
        if parent in beside
    }


def image_key(name: str, folder: str = IMAGES) -> str:
    """What `masks_among` calls an image: its path without its suffix and this folder."""
    parts = name.split("/")
    place = next((i for i in range(len(parts) - 2, -1, -1) if parts[i].casefold() == folder), None)
    if place is not None:
        del parts[place]
    return _stem("/".join(parts))


def _at_masks(name: str) -> tuple[str, str] | None:
    """The folder that `masks` lies in, and the key of the image; None for what is no mask."""
    parts = name.split("/")
    for place, folder in enumerate(parts[:-1]):
        if folder.casefold() == MASKS:
            return "/".join(parts[:place]), _stem("/".join(parts[:place] + parts[place + 1 :]))
    return None


def _parents(name: str) -> Iterable[str]:
    parts = name.split("/")
    return ("/".join(parts[:depth]) for depth in range(len(parts)))


def _stem(path: str) -> str:
    return path.removesuffix(PurePosixPath(path).suffix)


def _is_index(name: str) -> bool:
    return PurePosixPath(name).name.casefold().startswith("dicomdir")


def _dangling(uri: str) -> str:
    """Why a link leads nowhere; empty for all else."""
    if "://" in uri or not os.path.islink(uri) or os.path.exists(uri):
        return ""
    return f"the link leads to {os.readlink(uri)!r}, which is not there"


def _fault(uri: str, start: bytes) -> str:
    if dangling := _dangling(uri):
        return dangling
    if not start:
        try:
            # Nobody asked yet why there is no first byte.
            start = storage.read_bytes(uri)
        except OSError as error:
            return f"the file cannot be opened: {storage.cause(error)}"
    if not start:
        return "the file is empty"
    return "not an image: no PNG, JPEG, BMP, TIFF, WebP or DICOM header"
