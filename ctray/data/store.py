"""The store: every image decoded once, resized once, uint8, sharded, with a manifest.

A store is a folder with `store.json`, `manifest.parquet` (one row a file, also the ones left out,
with the reason) and `shards/*.arrow`: uncompressed Arrow files of fixed-shape uint8 tensors, so
that a worker maps them and reads any row without copying the rest. It is written beside its final
place and renamed when complete; a folder without `store.json` is not a store.
"""

import functools
import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
import pyarrow as pa
import ray

from ctray import __version__
from ctray.data.decode import ImageError, decode_image, read_file
from ctray.data.preprocess import to_store
from ctray.data.records import FileRecord, Listing, list_folder
from ctray.data.split import SPLITS, split_groups
from ctray.errors import UserError
from ctray.storage import check_empty

SCHEMA = 1
DEFAULT_SIZE = 256
_INFO, _MANIFEST, _SHARDS = "store.json", "manifest.parquet", "shards"
# Small enough that two workers share a small set, large enough that a task is not all start-up.
_FILES_A_SHARD = 256
_TASK_CPUS = 0.9
_PENDING_TASKS = 64


@dataclass(frozen=True)
class Store:
    """An opened store.

    Attributes:
        root: its folder, absolute.
        manifest: one row a file: id, path, label, group, source, split, width, height, bytes,
            status (ok, unreadable, duplicate), reason, shard, row.
        classes: sorted class names.
        size: side of the stored images in px.
        fingerprint: 64 hex digits over ids, labels, groups, splits and size.
        synthetic: whether the images were drawn, not taken from patients.
        ignored: files beside the images that are not images by name.
    """

    root: Path
    manifest: pd.DataFrame
    classes: tuple[str, ...]
    size: int
    fingerprint: str
    synthetic: bool
    ignored: tuple[str, ...]

    @classmethod
    def open(cls, root: Path) -> Self:
        """Open a finished store.

        Raises:
            UserError: not a store, or one written by another version of the format.
        """
        if not is_store(root):
            raise UserError(
                f"{root} is not a store: make one with `ctray prepare DATA --out {root}`"
            )
        info = json.loads((root / _INFO).read_text())
        if info["schema_version"] != SCHEMA:
            raise UserError(
                f"the store {root} has format {info['schema_version']}, this ctray reads {SCHEMA}: "
                "prepare it again"
            )
        return cls(
            root=root.resolve(),
            manifest=pd.read_parquet(root / _MANIFEST),
            classes=tuple(info["classes"]),
            size=info["size"],
            fingerprint=info["fingerprint"],
            synthetic=info["synthetic"],
            ignored=tuple(info["ignored_files"]),
        )

    def records(self, split: str) -> pd.DataFrame:
        """Usable rows of one split (or `all`), in a fixed order, index 0..n-1."""
        usable = self.manifest[self.manifest["status"] == "ok"]
        if split != "all":
            usable = usable[usable["split"] == split]
        return usable.reset_index(drop=True)

    def labels(self, records: pd.DataFrame) -> np.ndarray:
        """Class index (int64) of each of these records."""
        return pd.Categorical(records["label"], categories=list(self.classes)).codes.astype(
            np.int64
        )

    def images(self, records: pd.DataFrame) -> np.ndarray:
        """Stored pixels of these records: uint8 (len(records), size, size), a copy."""
        places = zip(records["shard"], records["row"], strict=True)
        return np.stack([read_image(str(self.root), shard, row) for shard, row in places])


def is_store(root: Path) -> bool:
    """Whether a folder is a finished store."""
    return (root / _INFO).is_file()


def read_image(root: str, shard: int, row: int) -> np.ndarray:
    """One stored image, uint8 (size, size): a read-only view into the mapped shard."""
    return _map_shard(root, shard)[row]


def prepare(listing: Listing, out: Path, size: int = DEFAULT_SIZE) -> Store:
    """Decode, check, split and store the listed files, as Ray tasks over the cluster's CPUs.

    Needs a running Ray. What cannot be read is kept in the manifest with its reason; of files with
    the same pixels the first stays, and if their labels differ none does.

    Raises:
        UserError: `out` exists, fewer than two classes, or a class that ends without any image.
    """
    if len(listing.classes) < 2:
        raise UserError(
            f"{listing.root} has one class, {listing.classes[0]!r}; a classifier needs at least two"
        )
    out = out.resolve()
    check_empty(out)
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / _SHARDS).mkdir(parents=True)
    try:
        manifest = _mark_duplicates(_decode_all(listing, partial, size))
        _check_classes(listing, manifest)
        manifest = _assign_splits(manifest)
        fingerprint = _fingerprint(manifest, size)
        manifest.to_parquet(partial / _MANIFEST, index=False)
        info = {
            "schema_version": SCHEMA,
            "ctray": __version__,
            "classes": list(listing.classes),
            "size": size,
            "fingerprint": fingerprint,
            "synthetic": listing.synthetic,
            "ignored_files": list(listing.ignored),
        }
        (partial / _INFO).write_text(json.dumps(info, indent=2))
        if out.exists():
            out.rmdir()
        partial.rename(out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return Store.open(out)


def check_data(data: Path) -> None:
    """Raise the mistakes in a store or data folder that show without opening an image."""
    if not is_store(data):
        list_folder(data)


def open_or_prepare(data: Path, place: Path) -> Store:
    """The store at `data`, or one made of the folder `data` in `place`; needs a running Ray."""
    return Store.open(data) if is_store(data) else prepare(list_folder(data), place)


def counts(store: Store) -> pd.DataFrame:
    """Usable records: one row a class, one column a split and `all`."""
    usable = store.records("all")
    table = pd.crosstab(usable["label"], usable["split"]).reindex(
        columns=list(SPLITS), fill_value=0
    )
    return table.assign(all=table.sum(axis=1))


def record_id(image: np.ndarray) -> str:
    """sha256 (hex) of a canonical image: its shape and its decoded pixels."""
    digest = hashlib.sha256(repr(image.shape).encode())
    digest.update(image.tobytes())
    return digest.hexdigest()


def _decode_all(listing: Listing, partial: Path, size: int) -> pd.DataFrame:
    task = ray.remote(num_cpus=_TASK_CPUS)(_write_shard)
    chunks = [
        listing.files[start : start + _FILES_A_SHARD]
        for start in range(0, len(listing.files), _FILES_A_SHARD)
    ]
    frames: dict[int, pd.DataFrame] = {}
    running: dict[ray.ObjectRef, int] = {}
    for shard, chunk in enumerate(chunks):
        if len(running) == _PENDING_TASKS:
            _collect(running, frames)
        reference = task.remote(listing.root.resolve(), chunk, partial.resolve(), shard, size)
        running[reference] = shard
    while running:
        _collect(running, frames)
    return pd.concat([frames[shard] for shard in range(len(chunks))], ignore_index=True)


def _collect(running: dict[ray.ObjectRef, int], frames: dict[int, pd.DataFrame]) -> None:
    (done, *_), _ = ray.wait(list(running), num_returns=1)
    frames[running.pop(done)] = ray.get(done)


def _write_shard(
    root: Path, files: tuple[FileRecord, ...], partial: Path, shard: int, size: int
) -> pd.DataFrame:
    rows: list[dict[str, object]] = []
    stored: list[np.ndarray] = []
    for file in files:
        row: dict[str, object] = {
            "id": "",
            "path": file.path,
            "label": file.label,
            "group": file.group,
            "source": file.source,
            "width": 0,
            "height": 0,
            "bytes": 0,
            "status": "ok",
            "reason": "",
            "shard": shard,
            "row": -1,
        }
        rows.append(row)
        try:
            data = read_file(root / file.path)
            row["bytes"] = len(data)
            image = decode_image(data)
        except ImageError as error:
            row |= {"status": "unreadable", "reason": str(error)}
            continue
        height, width = image.shape
        row |= {"id": record_id(image), "width": width, "height": height, "row": len(stored)}
        stored.append(to_store(image, size))
    if stored:
        column = pa.FixedShapeTensorArray.from_numpy_ndarray(np.stack(stored))
        table = pa.table({"image": column})
        path = str(_shard_path(partial, shard))
        with pa.OSFile(path, "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
    return pd.DataFrame(rows)


def _mark_duplicates(manifest: pd.DataFrame) -> pd.DataFrame:
    readable = manifest[manifest["status"] == "ok"]
    for _, same in readable.groupby("id", sort=False):
        if len(same) == 1:
            continue
        first = same.iloc[0]
        if same["label"].nunique() > 1:
            paths = ", ".join(same["path"])
            manifest.loc[same.index, "status"] = "duplicate"
            manifest.loc[same.index, "reason"] = f"same pixels under different labels: {paths}"
        else:
            manifest.loc[same.index[1:], "status"] = "duplicate"
            manifest.loc[same.index[1:], "reason"] = f"same pixels as {first['path']}"
            known = next((group for group in same["group"] if group), "")
            manifest.loc[first.name, "group"] = known
    return manifest


def _check_classes(listing: Listing, manifest: pd.DataFrame) -> None:
    left = manifest[manifest["status"] == "ok"]["label"].value_counts()
    for name in listing.classes:
        if left.get(name, 0) == 0:
            lost = manifest[manifest["label"] == name].iloc[0]
            raise UserError(
                f"class {name!r} has no usable image; the first, {lost['path']}: {lost['reason']}"
            )


def _assign_splits(manifest: pd.DataFrame) -> pd.DataFrame:
    # A record without a known patient is a group of its own.
    group = manifest["group"].where(manifest["group"] != "", manifest["id"])
    usable = manifest["status"] == "ok"
    splits = split_groups(group[usable].tolist(), manifest["label"][usable].tolist())
    manifest = manifest.assign(group=group)
    return manifest.assign(
        split=[splits[g] if ok else "" for g, ok in zip(group, usable, strict=True)]
    )


def _fingerprint(manifest: pd.DataFrame, size: int) -> str:
    usable = manifest[manifest["status"] == "ok"]
    lines = sorted("\t".join(row) for row in usable[["id", "label", "group", "split"]].to_numpy())
    return hashlib.sha256("\n".join([str(size), *lines]).encode()).hexdigest()


def _shard_path(root: Path, shard: int) -> Path:
    return root / _SHARDS / f"{shard:05d}.arrow"


@functools.lru_cache(maxsize=4096)
def _map_shard(root: str, shard: int) -> np.ndarray:
    source = pa.memory_map(str(_shard_path(Path(root), shard)))
    column = pa.ipc.open_file(source).read_all()["image"]
    return column.chunk(0).to_numpy_ndarray()
