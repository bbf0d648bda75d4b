"""Reports to files, each whole or not at all."""

import json
from pathlib import Path

from ctray import storage


def write_page(path: Path, page: str) -> None:
    """Write a page; its folder is made where missing."""
    _write(path, page)


def write_json(path: Path, content: object) -> None:
    """Write what a report says for programs; its folder is made where missing.

    Raises:
        ValueError: a number is not finite, which JSON cannot hold. Nothing is written.
    """
    _write(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False))


def _write(path: Path, text: str) -> None:
    # A file name that is no valid text carries lone surrogates, which UTF-8 cannot hold.
    storage.write_bytes(str(path), text.encode("utf-8", "backslashreplace"))
