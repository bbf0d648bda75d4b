"""Walking local folders: every file once, however folders are linked to each other."""

import os
from collections.abc import Iterator
from typing import NamedTuple

from ctray.errors import UserError

# What operating systems and network drives put beside people's files, in lower case.
_SYSTEM = frozenset(
    {
        "__macosx",
        "@eadir",
        "@tmp",
        "@recycle",
        "@recently-snapshot",
        "#recycle",
        "#snapshot",
        "$recycle.bin",
        "recycler",
        "lost+found",
        "found.000",
        "system volume information",
        "network trash folder",
        "temporary items",
    }
)


class Walked(NamedTuple):
    """What lies below a folder, as sorted relative paths with `/`.

    Attributes:
        files: regular files, and links that lead nowhere.
        folders: those the files lie in, and empty ones.
        passed: what was not looked into, and why: a clause such as `is no regular file`.
    """

    files: list[str]
    folders: list[str]
    passed: list[tuple[str, str]]


def cause(error: OSError) -> str:
    """What the system says, in one line."""
    return error.strerror or str(error).partition("\n")[0]


def is_left_out(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or a folder of the system's own."""
    return name.startswith(".") or name.casefold() in _SYSTEM


def walk_local(root: str) -> Walked:
    """Files and folders at any depth below a local folder; links are followed.

    A folder that a link reaches a second time is passed over. The place where it really is comes
    first, then the links by their paths.

    Raises:
        UserError: a folder cannot be listed, or a link leads to a folder around the root.
    """
    walk = _Walk(root.rstrip("/") or "/")
    walk.run()
    return Walked(sorted(walk.files), sorted(walk.folders), sorted(walk.passed))


class _Walk:
    def __init__(self, root: str) -> None:
        self._root = root
        self._seen = {_identity(root)}
        self._links: list[str] = []
        self.files: list[str] = []
        self.folders: list[str] = []
        self.passed: list[tuple[str, str]] = []

    def run(self) -> None:
        self._descend([""], by_link=False)
        while self._links:
            self._links.sort(reverse=True)
            link = self._links.pop()
            if self._is_new(link):
                self._refuse_way_out(link)
                self._seen.add(_identity(self._place(link)))
                self.folders.append(link)
                self._descend([link], by_link=True)

    def _place(self, folder: str) -> str:
        return os.path.join(self._root, folder) if folder else self._root

    def _descend(self, folders: list[str], by_link: bool) -> None:
        """List folders and all in them, but for links to folders, which wait for their turn."""
        while folders:
            folder = folders.pop()
            for entry in self._entries(folder):
                path = f"{folder}/{entry.name}" if folder else entry.name
                if is_left_out(entry.name):
                    continue
                if entry.is_symlink() and os.path.isdir(entry.path):
                    self._links.append(path)
                elif entry.is_dir(follow_symlinks=False):
                    # Without a link on the way nothing comes twice: some network drives give many
                    # folders one number.
                    if by_link and not self._is_new(path):
                        continue
                    self._seen.add(_identity(entry.path))
                    self.folders.append(path)
                    folders.append(path)
                elif os.path.isfile(entry.path) or not os.path.exists(entry.path):
                    self.files.append(path)
                else:
                    self.passed.append((path, "is no regular file"))

    def _entries(self, folder: str) -> Iterator[os.DirEntry[str]]:
        place = self._place(folder)
        try:
            with os.scandir(place) as entries:
                yield from list(entries)
        except OSError as error:
            raise UserError(f"{place} cannot be listed: {cause(error)}") from error

    def _is_new(self, folder: str) -> bool:
        if _identity(self._place(folder)) not in self._seen:
            return True
        self.passed.append((folder, "leads to a folder that is listed already"))
        return False

    def _refuse_way_out(self, link: str) -> None:
        place = self._place(link)
        lies_in = os.path.realpath(os.path.dirname(place))
        if f"{lies_in}/".startswith(f"{os.path.realpath(place).rstrip('/')}/"):
            raise UserError(f"the link {place} leads back to a folder it lies in: remove it")


def _identity(folder: str) -> tuple[int, int] | str:
    try:
        status = os.stat(folder)
    except OSError:  # it is listed next, and refused with the reason
        return folder
    # Where there are no numbers, the place tells one folder from another.
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(folder)
