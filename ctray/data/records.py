"""A folder of images to a list of files with label, group and source."""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ctray.data.decode import EXTENSIONS
from ctray.errors import UserError

# Written beside the class folders by the phantom, so that nobody takes its figures for patients'.
SYNTHETIC_MARKER = "SYNTHETIC"
METADATA = "metadata.csv"
_GROUP_COLUMNS = ("patient_id", "group_id")


@dataclass(frozen=True)
class FileRecord:
    """One image file before it is opened.

    Attributes:
        path: relative to the data folder, with `/`.
        label: name of its class folder.
        group: patient or series, empty where unknown.
        source: where it came from, empty where unknown.
    """

    path: str
    label: str
    group: str
    source: str


@dataclass(frozen=True)
class Listing:
    """What a data folder holds: its image files, and the files that are not images by name."""

    root: Path
    files: tuple[FileRecord, ...]
    classes: tuple[str, ...]
    ignored: tuple[str, ...]
    synthetic: bool


def list_folder(root: Path) -> Listing:
    """List a folder with one sub-folder a class.

    Images lie directly in the class folder, or in its `images` folder (Kaggle layout; `masks`
    beside it is not read). `metadata.csv` beside the class folders, with a column `file` (relative
    path) and any of `patient_id`, `group_id` and `source`, gives groups and sources.

    Raises:
        UserError: no such folder, no class folder, or a class without a single image file.
    """
    if not root.is_dir():
        raise UserError(f"no such folder: {root}")
    class_folders = sorted(
        folder for folder in root.iterdir() if folder.is_dir() and folder.name[0] not in "._"
    )
    if not class_folders:
        raise UserError(
            f"{root} has no class folders: put the images of each class in a sub-folder"
        )
    metadata = _read_metadata(root / METADATA)
    rows = len(metadata)
    files: list[FileRecord] = []
    ignored: list[str] = []
    for folder in class_folders:
        before = len(files)
        for path in _walk(folder / "images" if (folder / "images").is_dir() else folder):
            name = path.relative_to(root).as_posix()
            if path.suffix.lower() in EXTENSIONS:
                group, source = metadata.pop(name, ("", ""))
                files.append(FileRecord(name, folder.name, group, source))
            else:
                ignored.append(name)
        if len(files) == before:
            raise UserError(f"class {folder.name!r} has no image file in {folder}")
    # Patients that match no file would straddle the splits without a word.
    if rows and len(metadata) == rows:
        raise UserError(
            f"{root / METADATA} names no file here: its column 'file' has "
            f"{next(iter(metadata))!r}, the files are called like {files[0].path!r}"
        )
    return Listing(
        root=root,
        files=tuple(files),
        classes=tuple(folder.name for folder in class_folders),
        ignored=tuple(ignored),
        synthetic=(root / SYNTHETIC_MARKER).exists(),
    )


def _walk(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.startswith("."):
            yield path


def _read_metadata(path: Path) -> dict[str, tuple[str, str]]:
    if not path.is_file():
        return {}
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8: save it as UTF-8") from error
    with io.StringIO(text, newline="") as stream:
        reader = csv.DictReader(stream)
        columns = reader.fieldnames or []
        if "file" not in columns:
            raise UserError(f"{path} has no column 'file' (has: {', '.join(columns)})")
        group_column = next((name for name in _GROUP_COLUMNS if name in columns), None)
        return {
            row["file"].replace("\\", "/"): (
                (row[group_column] or "").strip() if group_column else "",
                (row.get("source") or "").strip(),
            )
            for row in reader
        }
