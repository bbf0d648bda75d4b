"""Files on any filesystem URI, through pyarrow's filesystems."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from ctray.errors import UserError

# The last file of a bundle to be written: where it is, a bundle is whole.
SUMS = "SHA256SUMS"


def join(uri: str, *names: str) -> str:
    """Append path segments to a URI or path."""
    return "/".join((uri.rstrip("/"), *names))


def exists(uri: str) -> bool:
    """Whether a file or folder is there."""
    filesystem, path = _open(uri)
    return filesystem.get_file_info(path).type != fs.FileType.NotFound


def read_bytes(uri: str) -> bytes:
    """Read a whole file; FileNotFoundError where there is none."""
    filesystem, path = _open(uri)
    with filesystem.open_input_stream(path) as stream:
        return stream.read()


def write_bytes(uri: str, data: bytes) -> None:
    """Write a whole file, making its folder; a reader sees the old file or the new one."""
    filesystem, path = _open(uri)
    filesystem.create_dir(path.rpartition("/")[0], recursive=True)
    # Object stores publish on close; a local file needs the rename.
    local = isinstance(filesystem, fs.LocalFileSystem)
    target = f"{path}.partial" if local else path
    with filesystem.open_output_stream(target) as stream:
        stream.write(data)
    if local:
        filesystem.move(target, path)


def folders(uri: str) -> list[str]:
    """Names of the sub-folders, sorted; empty where the folder is missing."""
    filesystem, path = _open(uri)
    selector = fs.FileSelector(path, allow_not_found=True)
    return sorted(
        info.base_name
        for info in filesystem.get_file_info(selector)
        if info.type == fs.FileType.Directory
    )


def absolute(uri: str) -> str:
    """The same place, independent of the working folder."""
    return uri if "://" in uri else str(Path(uri).expanduser().resolve())


def check_empty(out: Path) -> None:
    """Raise UserError when a local folder to write already holds something."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out} is not empty: choose another folder or remove it")


@contextlib.contextmanager
def new_folder(out: Path) -> Iterator[None]:
    """Make a local folder for a block's results; if the block fails, nothing half-made is left.

    A finished bundle is kept: what fails after it must not cost hours of training.

    Raises:
        UserError: there already is something in it.
    """
    check_empty(out)
    existed = out.exists()
    out.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        if not any(out.rglob(SUMS)):
            for path in out.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            if not existed:
                out.rmdir()
        raise


def _open(uri: str) -> tuple[fs.FileSystem, str]:
    try:
        return fs.FileSystem.from_uri(absolute(uri))
    except (pa.ArrowInvalid, ValueError) as error:
        raise UserError(f"{uri!r} is not a path or a filesystem URI pyarrow can open") from error
