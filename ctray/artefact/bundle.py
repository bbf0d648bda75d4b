"""THE artefact: weights, classes, preprocessing, metrics and provenance in one folder.

A bundle is `bundle.json`, `records.json`, `weights.safetensors` and `SHA256SUMS`, which covers the
other three in the format of `sha256sum -c` and is written last: a folder without it is not a
bundle. Loading verifies every byte and never unpickles.
"""

import hashlib
import re
from dataclasses import dataclass
from typing import Self

import safetensors.torch
import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError

from ctray import storage
from ctray.artefact.parts import SUMS
from ctray.config import PreprocessSpec, Recipe, Strict
from ctray.errors import UserError

SCHEMA = 1
REGISTERED = "registered.json"
_INFO, _RECORDS, _WEIGHTS = "bundle.json", "records.json", "weights.safetensors"
_SUM_LINE = re.compile(r"([0-9a-f]{64})  ([a-z.]+)")


class BundleInfo(Strict):
    """What `bundle.json` holds."""

    schema_version: int = Field(SCHEMA, description="of this file")
    backbone: str = Field(description="name the model is rebuilt by")
    classes: tuple[str, ...] = Field(
        min_length=2, description="in the order of the model's outputs"
    )
    preprocess: PreprocessSpec = Field(description="how a canonical image becomes model input")
    metrics: dict[str, float] = Field(
        description="of the chosen checkpoint on validation data, before a refit of the recipe's"
    )
    fingerprint: str = Field(description="of the store it was trained from")
    synthetic: bool = Field(description="whether that data was drawn, not taken from patients")
    recipe: Recipe = Field(description="what the run was made from")
    versions: dict[str, str] = Field(description="of Python and the packages that matter")
    created: str = Field(description="ISO 8601, UTC")
    study: str = Field("", description="id of the search that found it; empty without one")


class SeenRecords(Strict):
    """Ids of the records that shaped the model, so that nobody scores it on them."""

    trained_on: tuple[str, ...] = Field(
        description="the training split; after a refit validation, too"
    )
    chosen_on: tuple[str, ...] = Field(
        description="the validation split, which chose the checkpoint; empty after a refit"
    )


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


@dataclass(frozen=True)
class Bundle:
    """A verified bundle in memory.

    Attributes:
        info: the contents of bundle.json.
        seen: ids of the records it was trained and chosen on.
        weights: state dict of the model, on the CPU.
        digest: 64 hex digits that change with any byte of the bundle.
        name: name in the registry, or `unregistered`.
        version: version in the registry, or the first 12 digits of the digest.
    """

    info: BundleInfo
    seen: SeenRecords
    weights: dict[str, torch.Tensor]
    digest: str
    name: str
    version: str

    @classmethod
    def load(cls, uri: str) -> Self:
        """Read and verify a bundle from a path or filesystem URI.

        Raises:
            UserError: there is no bundle, or a byte of it is not what was written.
        """
        files = _verified_files(uri)
        digest = hashlib.sha256(files.pop(SUMS)).hexdigest()
        try:
            info = BundleInfo.model_validate_json(files[_INFO])
            seen = SeenRecords.model_validate_json(files[_RECORDS])
            weights = safetensors.torch.load(files[_WEIGHTS])
        except (ValidationError, SafetensorError, KeyError) as error:
            raise UserError(
                f"the bundle {uri} was written by another version of ctray; export it again"
            ) from error
        name, version = _registration(uri, digest)
        return cls(info, seen, weights, digest, name, version)


def write_bundle(
    uri: str, info: BundleInfo, seen: SeenRecords, weights: dict[str, torch.Tensor]
) -> None:
    """Write a bundle; its checksums go last, so that a half-written one cannot be loaded."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    files = {
        _INFO: info.model_dump_json(indent=2).encode(),
        _RECORDS: seen.model_dump_json().encode(),
        _WEIGHTS: safetensors.torch.save(contiguous),
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
    sums_uri = storage.join(uri, SUMS)
    if not storage.exists(sums_uri):
        raise UserError(f"{uri} is not a bundle: it has no {SUMS}")
    sums = storage.read_bytes(sums_uri)
    files = {SUMS: sums}
    text = sums.decode("ascii", errors="replace")
    lines = text.split("\n")
    if lines.pop() != "" or len(lines) != 3:
        raise UserError(_damaged(uri, SUMS))
    for line in lines:
        match = _SUM_LINE.fullmatch(line)
        if match is None or not storage.exists(storage.join(uri, match[2])):
            raise UserError(_damaged(uri, SUMS))
        data = storage.read_bytes(storage.join(uri, match[2]))
        if hashlib.sha256(data).hexdigest() != match[1]:
            raise UserError(_damaged(uri, match[2]))
        files[match[2]] = data
    return files


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
