"""Files on any filesystem URI, through pyarrow's filesystems."""

import contextlib
import functools
import itertools
import os
import posixpath
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from urllib.parse import quote, unquote, unquote_to_bytes, urlsplit, urlunsplit

import pyarrow as pa
from pyarrow import fs

from ctray.errors import UserError
from ctray.storage.local import Walked, cause, is_left_out, walk_local
from ctray.words import printable

_LOCAL = fs.LocalFileSystem()
# An object store answers in tens of milliseconds: many small questions are asked side by side.
_THREADS = 32
_BATCH = 256


def join(uri: str, *names: str) -> str:
    """Append path segments to a URI or path; a URI's query (`?region=…`) stays at its end."""
    if "://" not in uri:
        return "/".join((uri.rstrip("/"), *names))
    parts = urlsplit(uri)
    path = "/".join((parts.path.rstrip("/"), *map(quote, names)))
    return urlunsplit(parts._replace(path=path))


def resolve(folder: str, name: str) -> str:
    """The place a name in a file of `folder` means: relative to it, absolute, or a URI."""
    if "://" in name:
        return absolute(name)
    if "://" not in folder or name.startswith("/"):
        parent, base = os.path.split(os.path.join(folder, name))
        return os.path.join(_real(parent), base)
    parts = urlsplit(join(folder, name))
    return urlunsplit(parts._replace(path=posixpath.normpath(parts.path)))


def folder_of(uri: str) -> str:
    """The folder a file lies in."""
    if "://" not in uri:
        return os.path.dirname(uri)
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(path=posixpath.dirname(parts.path)))


def plain(uri: str) -> str:
    """A place as people write it: a URI without its scheme, query and %-escapes, a path as is."""
    if "://" not in uri:
        return uri
    parts = urlsplit(uri)
    path = printable(os.fsdecode(unquote_to_bytes(parts.path)))
    return (parts.netloc + path).rstrip("/")


def exists(uri: str) -> bool:
    """Whether a file or folder is there."""
    return _kind(uri) != fs.FileType.NotFound


def is_file(uri: str) -> bool:
    """Whether a file is there."""
    return _kind(uri) == fs.FileType.File


def is_folder(uri: str) -> bool:
    """Whether a folder is there."""
    return _kind(uri) == fs.FileType.Directory


def any_exists(uris: Iterable[str]) -> bool:
    """Whether one of these places is there; stops soon after the first that is."""
    remaining = iter(uris)
    with ThreadPoolExecutor(_THREADS) as pool:
        while batch := list(itertools.islice(remaining, _BATCH)):
            if any(pool.map(exists, batch)):
                return True
    return False


def read_bytes(uri: str) -> bytes:
    """Read a whole file; FileNotFoundError where there is none."""
    filesystem, path = _open(uri)
    if filesystem is _LOCAL:
        return Path(path).read_bytes()
    with filesystem.open_input_stream(path) as stream:
        return stream.read()


def read_starts(uris: Iterable[str], size: int) -> list[bytes]:
    """The first `size` bytes of each file; b"" of one that cannot be opened."""

    def read_start(uri: str) -> bytes:
        filesystem, path = _open(uri)
        try:
            # Arrow refuses a name that is not UTF-8.
            if filesystem is _LOCAL:
                with open(path, "rb") as file:
                    return file.read(size)
            with filesystem.open_input_stream(path) as stream:
                return stream.read(size)
        except OSError:
            return b""

    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(read_start, uris))


def walk(uri: str) -> Walked:
    """Files and folders at any depth below a folder, as sorted relative paths with `/`.

    Links are followed, and each folder is listed once. What is hidden (a name that begins with a
    dot) and what the system keeps beside (`@eaDir`, `$RECYCLE.BIN` …) is left out.

    Raises:
        UserError: a folder cannot be listed, or a link leads to a folder around the root.
    """
    filesystem, path = _open(uri)
    if filesystem is _LOCAL:
        return walk_local(path)
    try:
        infos = filesystem.get_file_info(fs.FileSelector(path, recursive=True))
    except OSError as error:
        raise UserError(f"{uri} cannot be listed: {cause(error)}") from error
    names = {info.path[len(path) + 1 :]: info.type for info in infos}
    seen = sorted(name for name in names if not any(map(is_left_out, name.split("/"))))
    files = [name for name in seen if names[name] == fs.FileType.File]
    # Object stores may list their objects only: the folders are what the names go through.
    passed = {str(parent) for name in files for parent in PurePosixPath(name).parents}
    passed |= {name for name in seen if names[name] == fs.FileType.Directory}
    return Walked(files, sorted(passed - {"."}), [])


def write_bytes(uri: str, data: bytes) -> None:
    """Write a whole file, making its folder; a reader sees the old file or the new one."""
    filesystem, path = _open(uri)
    folder = path.rpartition("/")[0]
    # Object stores publish on close; a local file needs the rename.
    if not isinstance(filesystem, fs.LocalFileSystem):
        filesystem.create_dir(folder, recursive=True)
        with filesystem.open_output_stream(path) as stream:
            stream.write(data)
        return
    # Arrow refuses a name that is not UTF-8.
    os.makedirs(folder or "/", exist_ok=True)
    partial = f"{path}.partial"
    try:
        with open(partial, "wb") as file:
            file.write(data)
            file.flush()
            # Otherwise a machine that loses its power may keep the name and not the bytes.
            os.fsync(file.fileno())
    except OSError:
        # On a full disk the half would take the room that the next try needs.
        with contextlib.suppress(FileNotFoundError):
            os.remove(partial)
        raise
    os.replace(partial, path)


def files(uri: str) -> list[str]:
    """Names of the files in a folder, sorted; empty where the folder is missing."""
    return _names(uri, fs.FileType.File)


def delete(uri: str) -> None:
    """Delete a file; nothing happens where there is none."""
    filesystem, path = _open(uri)
    with contextlib.suppress(FileNotFoundError):
        filesystem.delete_file(path)


def delete_if_empty(uri: str) -> None:
    """Delete a local folder that holds nothing; an object store has no folders."""
    if "://" not in uri:
        with contextlib.suppress(OSError):
            Path(uri).rmdir()


def folders(uri: str) -> list[str]:
    """Names of the sub-folders, sorted; empty where the folder is missing."""
    return _names(uri, fs.FileType.Directory)


def absolute(uri: str) -> str:
    """The same place, independent of the working folder; `file://` becomes a path.

    Raises:
        UserError: a `file://` URI names a machine.
    """
    if not uri.startswith("file://"):
        return uri if "://" in uri else str(Path(uri).expanduser().resolve())
    parts = urlsplit(uri)
    if parts.netloc not in ("", "localhost"):
        raise UserError(f"{uri!r} names the machine {parts.netloc!r}: write file:///path")
    return str(Path(os.fsdecode(unquote_to_bytes(parts.path))).resolve())


def printable_uri(place: str) -> str:
    """The place itself, or its `file://` URI where the path is not UTF-8.

    Such a path can be neither printed nor written into a table.
    """
    return place if printable(place) == place else f"file://{quote(os.fsencode(place))}"


@functools.lru_cache(maxsize=4096)
def _real(folder: str) -> str:
    return os.path.realpath(folder)


def _names(uri: str, kind: fs.FileType) -> list[str]:
    filesystem, path = _open(uri)
    if filesystem is _LOCAL:
        # Arrow refuses a folder in which one name is not UTF-8.
        try:
            with os.scandir(path) as entries:
                wanted_folder = kind == fs.FileType.Directory
                return sorted(
                    entry.name
                    for entry in entries
                    if (entry.is_dir() if wanted_folder else entry.is_file())
                )
        except (FileNotFoundError, NotADirectoryError):
            return []
    selector = fs.FileSelector(path, allow_not_found=True)
    infos = filesystem.get_file_info(selector)
    return sorted(info.base_name for info in infos if info.type == kind)


def _kind(uri: str) -> fs.FileType:
    filesystem, path = _open(uri)
    if filesystem is _LOCAL:
        # Arrow refuses a name that is not UTF-8.
        if os.path.isdir(path):
            return fs.FileType.Directory
        if os.path.isfile(path):
            return fs.FileType.File
        return fs.FileType.Unknown if os.path.exists(path) else fs.FileType.NotFound
    return filesystem.get_file_info(path).type


def _open(uri: str) -> tuple[fs.FileSystem, str]:
    # Resolving links costs more than reading a small file, and reading follows them anyway.
    place = uri if uri.startswith("/") else absolute(uri)
    if "://" not in place:
        return _LOCAL, place
    parts = urlsplit(place)
    # The connection depends on server, bucket and query only: one serves every file of a data set.
    filesystem, root = _connect(urlunsplit(parts._replace(path="", fragment="")))
    return filesystem, (root.rstrip("/") + unquote(parts.path)).rstrip("/")


@functools.lru_cache(maxsize=64)
def _connect(uri: str) -> tuple[fs.FileSystem, str]:
    try:
        return fs.FileSystem.from_uri(uri)
    except (pa.ArrowInvalid, ValueError) as error:
        raise UserError(f"{uri!r} is not a path or a filesystem URI pyarrow can open") from error
    except OSError as error:
        raise UserError(f"{uri!r} cannot be reached: {cause(error)}") from error
