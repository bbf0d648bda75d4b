"""THE artefact: weights, classes, preprocessing, metrics and provenance in one folder.

`ctray.artefact.parts` has the table of its files. `SHA256SUMS` covers those that are there, in the
format of `sha256sum -c`, and is written last: a folder without it is not a bundle. Loading verifies
every byte and never unpickles. `ctray.artefact.build` makes bundles.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any, Self

from pydantic import Field, ValidationError
from safetensors import SafetensorError

from ctray import storage
from ctray.artefact.parts import INFO, PARTS, SCHEMA, SUMS, BundleInfo, Contents
from ctray.config import Strict
from ctray.errors import UserError

REGISTERED = "registered.json"
_SUM_LINE = re.compile(r"([0-9a-f]{64})  ([a-z][a-z0-9_.-]*)")


class Registration(Strict):
    """What the registry writes beside a bundle, as `registered.json`."""

    name: str = Field(description="in the registry")
    version: str = Field(description="in the registry, counted from 1")
    digest: str = Field(description="of the bundle")
    backbone: str = Field(description="of the bundle")
    macro_f1: float = Field(description="its metric of validation data, before a refit")
    promoted: str = Field(description="ISO 8601, UTC")
    seal: str = Field("", description="sha256 over the other fields")

    def expected_seal(self) -> str:
        """What `seal` must be."""
        return hashlib.sha256(self.model_dump_json(exclude={"seal"}).encode()).hexdigest()

    def sealed(self) -> Self:
        """The same with its seal."""
        return self.model_copy(update={"seal": self.expected_seal()})


@dataclass(frozen=True, kw_only=True)
class Bundle(Contents):
    """A verified bundle in memory.

    Attributes:
        digest: 64 hex digits that change with any byte of the bundle.
        name: name in the registry, or `unregistered`.
        version: version in the registry, or the first 12 digits of the digest.
    """

    digest: str
    name: str
    version: str

    @classmethod
    def load(cls, uri: str) -> Self:
        """Read and verify a bundle from a path or filesystem URI.

        Raises:
            UserError: there is no bundle, a byte of it is not what was written, or it is of
                another version of ctray.
        """
        files = _verified_files(uri)
        digest = hashlib.sha256(files.pop(SUMS)).hexdigest()
        parts = _read_parts(uri, files)
        name, version = _registration(uri, digest)
        return cls(**parts, digest=digest, name=name, version=version)


def read_info(uri: str) -> BundleInfo:
    """What a bundle that was verified says of itself."""
    return BundleInfo.model_validate_json(storage.read_bytes(storage.join(uri, INFO)))


def write_contents(uri: str, contents: Contents) -> None:
    """Write the files of a bundle; what makes one calls `ctray.artefact.build`.

    The checksums go last, so that a half-written bundle cannot be loaded.
    """
    files = {
        part.file: part.dump(value)
        for part in PARTS
        if (value := getattr(contents, part.attribute)) is not None
    }
    for name, data in files.items():
        storage.write_bytes(storage.join(uri, name), data)
    sums = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in files.items())
    storage.write_bytes(storage.join(uri, SUMS), sums.encode())


def copy_bundle(source: str, target: str) -> None:
    """Copy a bundle file by file, verified, checksums last."""
    files = _verified_files(source)
    sums = files.pop(SUMS)
    for name, data in files.items():
        storage.write_bytes(storage.join(target, name), data)
    storage.write_bytes(storage.join(target, SUMS), sums)


def _verified_files(uri: str) -> dict[str, bytes]:
    """The bytes of `SHA256SUMS` and of every file in it."""
    sums_uri = storage.join(uri, SUMS)
    if not storage.exists(sums_uri):
        raise UserError(f"{uri} is not a bundle: it has no {SUMS}")
    sums = storage.read_bytes(sums_uri)
    files = {SUMS: sums}
    lines = sums.decode("ascii", errors="replace").split("\n")
    if lines.pop() != "":
        raise UserError(_damaged(uri, SUMS))
    for line in lines:
        match = _SUM_LINE.fullmatch(line)
        if match is None or match[2] in files or not storage.exists(storage.join(uri, match[2])):
            raise UserError(_damaged(uri, SUMS))
        data = storage.read_bytes(storage.join(uri, match[2]))
        if hashlib.sha256(data).hexdigest() != match[1]:
            raise UserError(_damaged(uri, match[2]))
        files[match[2]] = data
    return files


def _read_parts(uri: str, files: dict[str, bytes]) -> dict[str, Any]:
    """What the files hold, by the attributes of `Contents`; None for an optional part."""
    for part in PARTS:
        if part.required and part.file not in files:
            raise UserError(f"the bundle {uri} lacks {part.file}: copy or export it again")
    _check_schema(uri, files[INFO])
    unknown = sorted(files.keys() - {part.file for part in PARTS})
    if unknown:
        raise UserError(
            f"the bundle {uri} has {unknown[0]}, which is no part of a bundle: export it again"
        )
    try:
        return {
            part.attribute: part.load(files[part.file]) if part.file in files else None
            for part in PARTS
        }
    except (ValueError, SafetensorError, KeyError) as error:
        raise UserError(_of_another_version(uri)) from error


def _check_schema(uri: str, info: bytes) -> None:
    """Raise UserError for a bundle of a newer ctray; an older one has a part less."""
    try:
        version = json.loads(info)["schema_version"]
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(_of_another_version(uri)) from error
    if not isinstance(version, int) or version < 1:
        raise UserError(_of_another_version(uri))
    if version > SCHEMA:
        raise UserError(
            f"the bundle {uri} has schema {version}, this ctray reads up to {SCHEMA}: update ctray"
        )


def _of_another_version(uri: str) -> str:
    return f"the bundle {uri} was written by another version of ctray; export it again"


def _damaged(uri: str, name: str) -> str:
    return f"the bundle {uri} is damaged: {name} does not match its checksum; copy it again"


def _registration(uri: str, digest: str) -> tuple[str, str]:
    path = storage.join(uri, REGISTERED)
    if not storage.exists(path):
        return "unregistered", digest[:12]
    try:
        entry = Registration.model_validate_json(storage.read_bytes(path))
    except ValidationError as error:
        raise UserError(_damaged(uri, REGISTERED)) from error
    if entry.digest != digest or entry.seal != entry.expected_seal():
        raise UserError(_damaged(uri, REGISTERED))
    return entry.name, entry.version
