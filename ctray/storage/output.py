"""Folders that a command writes into: new, whole or gone, and one command at a time."""

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from ctray.errors import UserError


def check_empty(out: Path) -> None:
    """Raise UserError when a local folder to write already holds something."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is not empty: choose another folder or remove it", "out")


def check_writable(folder: Path) -> None:
    """Raise UserError when no file can be written into a local folder; it may be missing yet."""
    there = next(one for one in (folder, *folder.parents) if one.exists())
    if not there.is_dir():
        raise UserError(f"{there} is a file, not a folder: choose another place", "out")
    if not os.access(there, os.W_OK):
        raise UserError(f"nothing can be written into {there}: choose another place", "out")


@contextlib.contextmanager
def new_folder(out: Path, is_kept: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Make a local folder for a block's results; if the block fails, nothing half-made is left.

    Args:
        out: the folder.
        is_kept: asked when the block fails; where it is true, everything stays.

    Raises:
        UserError: there already is something in it.
    """
    check_empty(out)
    existed = out.exists()
    out.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        if not is_kept():
            for path in out.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            if not existed:
                out.rmdir()
        raise


@contextlib.contextmanager
def locked(file: Path, taken: str, *arguments: str) -> Iterator[None]:
    """Hold a lock file for a block; a process that dies gives it back.

    A file system without locks, as some that machines share, keeps nobody out.

    Raises:
        UserError: another process holds it; `taken` is the sentence, about these `arguments`.
    """
    with file.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(taken, *arguments) from None
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
                raise
        yield
