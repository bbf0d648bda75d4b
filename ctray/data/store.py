"""The store: every image decoded once, resized once, uint8, sharded, with a manifest.

A store is a folder with `store.json`, `manifest.parquet` (one row a record, also the ones left out,
with the reason), `duplicates.parquet`, `report.html`, `report.json` and `shards/*.arrow`:
uncompressed Arrow files of fixed-shape uint8 tensors, so that a worker maps them and reads any row
without copying the rest. A shard is never written again. Appending adds shards and a new manifest;
the earlier manifests stay in `versions/`, so that what a run was trained on can be read again.
`ctray.data.ingest.prepare` writes it.
"""

import hashlib
import json
import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ctray.data.manifest import SPLITS
from ctray.errors import UserError

SCHEMA = 2
DEFAULT_SIZE = 256
INFO = "store.json"
MANIFEST = "manifest.parquet"
DUPLICATES = "duplicates.parquet"
SHARDS = "shards"
VERSIONS = "versions"
# In the manifest's own header: tells a manifest from the one of another version.
STAMP_KEY = b"ctray.version"


@dataclass(frozen=True, kw_only=True)
class StoreInfo:
    """What `store.json` holds: one version of a store.

    Attributes:
        schema_version: of the store's format; `SCHEMA` when it is written.
        ctray: the version of ctray that wrote it.
        version: 1 when first prepared, one more with every append.
        classes: sorted class names.
        size: side of the stored images in px.
        fractions: shares of train, val and test that new groups get.
        fingerprint: 64 hex digits over ids, labels, groups, splits and size.
        synthetic: whether the images were drawn, not taken from patients.
        ignored_files: files beside the records that nothing was made of.
        inputs: where the images came from, paths or URIs.
        date: when it was written, ISO 8601 in UTC.
        confounds: a sentence for each factor that could give a class away, the gravest first.
        notices: sentences on how tables and files matched, and on what a split lacks.
    """

    schema_version: int
    ctray: str
    version: int
    classes: tuple[str, ...]
    size: int
    fractions: tuple[float, float, float]
    fingerprint: str
    synthetic: bool
    ignored_files: tuple[str, ...]
    inputs: tuple[str, ...]
    date: str
    # Stores of earlier versions of ctray have none on record.
    confounds: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the `store.json` of a folder.

        Raises:
            UserError: it is of another format.
        """
        found = json.loads((folder / INFO).read_text())
        if found["schema_version"] != SCHEMA:
            raise UserError(
                f"the store {folder} has format {found['schema_version']}, this ctray reads "
                f"{SCHEMA}: prepare it again"
            )
        known: dict[str, Any] = {
            # JSON knows no tuples.
            field.name: tuple(value) if isinstance(value, list) else value
            for field in fields(cls)
            for value in [found.get(field.name)]
            if field.name in found
        }
        return cls(**known)


@dataclass(frozen=True)
class Store:
    """An opened store.

    Attributes:
        root: its folder, absolute.
        manifest: one row a record, as `ManifestRow` describes it.
        duplicates: one row a pair, as `DuplicateRow` describes it.
        classes: sorted class names.
        size: side of the stored images in px.
        fractions: shares of train, val and test that new groups get.
        fingerprint: 64 hex digits over ids, labels, groups, splits and size.
        version: 1 when first prepared, one more with every append.
        synthetic: whether the images were drawn, not taken from patients.
        ignored: files beside the records that nothing was made of.
        inputs: where the images came from, paths or URIs.
        confounds: a sentence for each factor that could give a class away, the gravest first; empty
            also where an earlier version of ctray prepared the store.
        notices: sentences on how tables and files matched, and on what a split lacks.
    """

    root: Path
    manifest: pd.DataFrame
    duplicates: pd.DataFrame
    classes: tuple[str, ...]
    size: int
    fractions: tuple[float, float, float]
    fingerprint: str
    version: int
    synthetic: bool
    ignored: tuple[str, ...]
    inputs: tuple[str, ...]
    confounds: tuple[str, ...]
    notices: tuple[str, ...] = ()

    @classmethod
    def open(
        cls, root: Path, version: int | None = None, columns: Sequence[str] | None = None
    ) -> Self:
        """Open a finished store.

        Args:
            root: its folder.
            version: the newest unless told which.
            columns: the columns of the manifest to read; all unless told which.

        Raises:
            UserError: not a store, no such version, or one written in another format.
        """
        folder, info = _find(root, version)
        return cls(
            root=root.resolve(),
            manifest=pd.read_parquet(folder / MANIFEST, columns=list(columns) if columns else None),
            duplicates=pd.read_parquet(folder / DUPLICATES),
            classes=info.classes,
            size=info.size,
            fractions=info.fractions,
            fingerprint=info.fingerprint,
            version=info.version,
            synthetic=info.synthetic,
            ignored=info.ignored_files,
            inputs=info.inputs,
            confounds=info.confounds,
            notices=info.notices,
        )

    @property
    def place(self) -> tuple[str, int]:
        """Folder and version: what another process needs to open the same."""
        return str(self.root), self.version

    def records(self, split: str) -> pd.DataFrame:
        """Usable rows of a split, of several (`train+val`) or `all`; fixed order, index 0..n-1."""
        usable = self.manifest[self.manifest["status"] == "ok"]
        if split != "all":
            usable = usable[usable["split"].isin(split.split("+"))]
        return usable.reset_index(drop=True)

    def labels(self, records: pd.DataFrame) -> np.ndarray:
        """Class index (int64) of each of these records."""
        return pd.Categorical(records["label"], categories=list(self.classes)).codes.astype(
            np.int64
        )

    def images(self, records: pd.DataFrame) -> np.ndarray:
        """Stored pixels of these records: uint8 (len(records), size, size), a copy."""
        return read_images(self.root, records)

    def masks(self, records: pd.DataFrame) -> np.ndarray:
        """Masks of these records: uint8 (len(records), size, size), zero where `mask` is False."""
        blank = np.zeros((self.size, self.size), np.uint8)
        places = zip(records["shard"], records["row"], records["mask"], strict=True)
        return np.stack(
            [
                read_image(str(self.root), shard, row, "mask") if known else blank
                for shard, row, known in places
            ]
        )


def is_store(root: Path) -> bool:
    """Whether a folder is a finished store."""
    return (root / INFO).is_file()


def record_id(image: np.ndarray) -> str:
    """sha256 (hex) of a canonical image: its shape and its decoded pixels."""
    digest = hashlib.sha256(repr(image.shape).encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


def read_image(root: str, shard: int, row: int, column: str = "image") -> np.ndarray:
    """One stored image (or mask), uint8 (size, size): a read-only view into the mapped shard."""
    return _map_shard(root, shard).columns[column][row]


def release_shards() -> None:
    """Give back the memory of what was read: it stays in the system's cache, not in this process.

    Without it a process that has read all of a large store counts as large as the store.
    """
    for mapped in _MAPPED.values():
        mapped.memory.madvise(mmap.MADV_DONTNEED)


def read_images(root: Path, rows: pd.DataFrame) -> np.ndarray:
    """Stored pixels of manifest rows: uint8 (len(rows), size, size), a copy."""
    places = zip(rows["shard"], rows["row"], strict=True)
    return np.stack([read_image(str(root), shard, row) for shard, row in places])


def version_stamp(version: int, fingerprint: str) -> str:
    """What a manifest carries in its header."""
    return f"{version} {fingerprint}"


def shard_path(root: Path, shard: int) -> Path:
    """Where a shard lies in a store."""
    return root / SHARDS / f"{shard:05d}.arrow"


def counts(store: Store) -> pd.DataFrame:
    """Usable records: one row a class, one column a split and `all`."""
    usable = store.records("all")
    table = pd.crosstab(usable["label"], usable["split"]).reindex(
        columns=list(SPLITS), fill_value=0
    )
    return table.assign(all=table.sum(axis=1))


def _find(root: Path, version: int | None) -> tuple[Path, StoreInfo]:
    """The folder that holds a version's manifest, and what its store.json says."""
    if not is_store(root):
        raise UserError(f"{root} is not a store: make one with `ctray prepare DATA`")
    info = StoreInfo.read(root)
    if version not in (None, info.version):
        earlier = root / VERSIONS / str(version)
        if not is_store(earlier):
            raise UserError(f"the store {root} has no version {version}, only {info.version}")
        return earlier, StoreInfo.read(earlier)
    # An append that was interrupted has put its manifest in place and not yet its store.json.
    header = pq.read_schema(root / MANIFEST).metadata or {}
    if header.get(STAMP_KEY, b"").decode() != version_stamp(info.version, info.fingerprint):
        return root / VERSIONS / str(info.version), info
    return root, info


@dataclass(frozen=True)
class _Shard:
    memory: mmap.mmap
    columns: dict[str, np.ndarray]


# By path and inode: a store that was removed and made anew at the same place is another one.
# Each holds a file open: a process may have a thousand.
_MOST_MAPPED = 512
_MAPPED: dict[tuple[str, int, int], _Shard] = {}


def _map_shard(root: str, shard: int) -> _Shard:
    path = f"{root}/{SHARDS}/{shard:05d}.arrow"
    status = os.stat(path)
    key = (path, status.st_ino, status.st_mtime_ns)
    known = _MAPPED.get(key)
    if known is None:
        with open(path, "rb") as file:
            memory = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        table = pa.ipc.open_file(pa.py_buffer(memory)).read_all()
        columns = {name: table[name].chunk(0).to_numpy_ndarray() for name in table.column_names}
        while len(_MAPPED) >= _MOST_MAPPED:
            del _MAPPED[next(iter(_MAPPED))]
        known = _MAPPED[key] = _Shard(memory, columns)
    return known
