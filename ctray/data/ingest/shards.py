"""Decoding, shard by shard: Ray tasks that turn files into pixels and what is known of them.

Each task writes one shard and then the table of its records, both whole or not at all, into a
folder beside the store's place. What is there is not made again: a run that was killed is resumed.
"""

import hashlib
import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pyarrow as pa
import ray

from ctray import storage
from ctray.data.image.dispatch import decode
from ctray.data.image.picture import ImageError, Picture
from ctray.data.image.preprocess import to_store
from ctray.data.ingest.duplicates import perceptual_hash
from ctray.data.ingest.earlier import Base
from ctray.data.ingest.listing import read_bytes
from ctray.data.ingest.records import FileRecord
from ctray.data.manifest import META, ManifestRow, column_types
from ctray.data.store import SCHEMA, SHARDS, record_id, shard_path

# Small enough that two workers share a small set, large enough that a task is not all start-up;
# fewer of large images, because a task holds its shard in memory.
_MOST_A_SHARD, _LEAST_A_SHARD, _SHARD_BYTES = 256, 16, 2**25
_TASK_CPUS = 0.9
_PENDING_TASKS = 64
# In the partial folder: the tables of the records, and the digest of what they were made from.
ROWS, DIGEST = "rows", "inputs.sha256"
_FROM_TABLES = ("modality", "scanner", "age", "sex", "view")

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class DecodedRow(ManifestRow):
    """A row of the manifest as decoding leaves it, with what only the next step asks.

    Attributes:
        file: place of the file in its task.
        frame: place of the frame in its file, from 0.
        frames: how many frames the file holds.
        position: where the frame lies in its series: mm along the axis, or its number, as text.
    """

    file: int
    frame: int = 0
    frames: int = 1
    position: str = ""


def digest_inputs(files: Sequence[FileRecord], base: Base, size: int) -> str:
    """What the shards depend on: the files and stores as they are now, not their labels."""
    digest = hashlib.sha256(f"{SCHEMA} {size} {base.fingerprints}".encode())
    for file in files:
        for place in (file.uri, file.mask):
            stamp = ""
            if place and "://" not in place and os.path.exists(place):
                status = os.stat(place)
                stamp = f"{status.st_size} {status.st_mtime_ns}"
            digest.update(f"{place}\0{stamp}\0".encode())
    return digest.hexdigest()


def open_partial(partial: Path, base: Base, digest: str) -> None:
    """Keep the shards of an interrupted run over the same files, forget any others."""
    note = partial / DIGEST
    if not note.exists() or note.read_text() != digest:
        shutil.rmtree(partial, ignore_errors=True)
        (partial / SHARDS).mkdir(parents=True)
        (partial / ROWS).mkdir()
        note.write_text(digest)
    for shard, earlier in base.links.items():
        target = shard_path(partial, shard)
        if not target.exists():
            _link(earlier, target)


def _link(shard: Path, target: Path) -> None:
    """Shards never change: another name for the file costs no space."""
    try:
        os.link(shard, target)
    except OSError:  # another file system
        part = target.with_suffix(".part")
        shutil.copyfile(shard, part)
        part.rename(target)


def decode_files(
    files: Sequence[FileRecord],
    partial: Path,
    first_shard: int,
    size: int,
    progress: Progress | None,
) -> pd.DataFrame:
    """Decode files into shards of the partial folder, but for those that are there.

    Args:
        files: what to read.
        partial: the folder, made by `open_partial`.
        first_shard: number of the first shard to write.
        size: side of the stored images in px.
        progress: called with the files done and all files now and then.

    Returns:
        One row a record: the pages and frames of a file each, also the files at fault.
    """
    tell = progress or _quiet
    step = max(_LEAST_A_SHARD, min(_MOST_A_SHARD, _SHARD_BYTES // size**2))
    chunks = [files[i : i + step] for i in range(0, len(files), step)]
    task = ray.remote(num_cpus=_TASK_CPUS)(_write_shard)
    running: dict[ray.ObjectRef, int] = {}
    done = 0
    for place, chunk in enumerate(chunks):
        shard = first_shard + place
        if _rows_path(partial, shard).exists():
            done += len(chunk)
            continue
        if len(running) == _PENDING_TASKS:
            done += _finish_one(running)
            tell(done, len(files))
        places = [(file.uri, file.mask) for file in chunk]
        running[task.remote(places, partial, shard, size)] = len(chunk)
    tell(done, len(files))
    while running:
        done += _finish_one(running)
        tell(done, len(files))
    parts = [pd.read_parquet(_rows_path(partial, first_shard + i)) for i in range(len(chunks))]
    return _with_listed(chunks, parts) if parts else pd.DataFrame()


def left_out_rows(files: Sequence[FileRecord]) -> pd.DataFrame:
    """One row a file that is left out unopened, with the columns of `decode_files`."""
    rows = [
        ManifestRow(path=file.path, uri=file.uri, status=file.status, reason=file.reason)
        for file in files
    ]
    types = column_types(ManifestRow)
    table = pd.DataFrame(map(asdict, rows), columns=list(types)).astype(types)
    return _with_tables(table, files)


def _quiet(done: int, total: int) -> None:
    del done, total


def _finish_one(running: dict[ray.ObjectRef, int]) -> int:
    (ready, *_), _ = ray.wait(list(running), num_returns=1)
    ray.get(ready)
    return running.pop(ready)


def _rows_path(partial: Path, shard: int) -> Path:
    return partial / ROWS / f"{shard:05d}.parquet"


def _write_shard(files: list[tuple[str, str]], partial: Path, shard: int, size: int) -> None:
    """One task: a shard of pixels, then a table of its records, each whole or not at all."""
    cv2.setNumThreads(1)
    rows: list[DecodedRow] = []
    images: list[np.ndarray] = []
    masks: list[np.ndarray | None] = []
    for place, (uri, mask_uri) in enumerate(files):
        known = DecodedRow(file=place, shard=shard, uri=uri)
        try:
            data = read_bytes(uri)
            known = replace(known, bytes=len(data))
            pictures = decode(data, storage.plain(uri).rpartition("/")[2])
        except ImageError as error:
            rows.append(replace(known, status=error.fault, reason=str(error)))
            continue
        mask, complaint = _read_mask(mask_uri, size)
        for picture in pictures:
            row = _described(known, picture)
            has_mask = mask is not None
            warning = "; ".join([*picture.warnings, *([complaint] if complaint else ())])
            rows.append(replace(row, row=len(images), mask=has_mask, warning=warning))
            images.append(to_store(picture.pixels, size))
            masks.append(mask)
    if images:
        _write_pixels(shard_path(partial, shard), images, masks)
    types = column_types(DecodedRow)
    part = _rows_path(partial, shard).with_suffix(".part")
    table = pd.DataFrame(map(asdict, rows), columns=list(types)).astype(types)
    table.to_parquet(part)
    part.rename(_rows_path(partial, shard))


def _write_pixels(
    path: Path, images: Sequence[np.ndarray], masks: Sequence[np.ndarray | None]
) -> None:
    """A shard: images, uint8 (size, size), and their masks where any of them has one."""
    columns = {"image": _tensor(images)}
    if any(mask is not None for mask in masks):
        blank = np.zeros_like(images[0])
        columns["mask"] = _tensor([blank if mask is None else mask for mask in masks])
    table = pa.table(columns)
    part = path.with_suffix(".part")
    with pa.OSFile(str(part), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    part.rename(path)


def _tensor(images: Sequence[np.ndarray]) -> pa.Array:
    return pa.FixedShapeTensorArray.from_numpy_ndarray(np.stack(images))


def _described(known: DecodedRow, picture: Picture) -> DecodedRow:
    """A file's row with what one of its pictures shows."""
    height, width = picture.pixels.shape
    mean, std = cv2.meanStdDev(picture.pixels)
    tags = defaultdict(str, picture.tags)
    return replace(
        known,
        frame=picture.frame,
        frames=picture.frames,
        position=tags["slice"],
        id=record_id(picture.pixels),
        width=width,
        height=height,
        bits=picture.bits,
        format=picture.format,
        colour=picture.colour,
        mean=float(mean[0, 0]),
        std=float(std[0, 0]),
        phash=perceptual_hash(picture.pixels).hex(),
        dicom_patient=tags["patient"],
        study=tags["study"],
        series=tags["series"],
        modality=tags["modality"],
        scanner=tags["scanner"],
        age=tags["age"],
        sex=tags["sex"],
        view=tags["view"],
    )


def _read_mask(uri: str, size: int) -> tuple[np.ndarray | None, str]:
    """A mask, uint8 (size, size), nearest pixels; or None and why, if there should be one."""
    if not uri:
        return None, ""
    try:
        mask = decode(read_bytes(uri))[0].pixels
    except ImageError as error:
        if error.fault == "blank":  # nothing is marked
            return np.zeros((size, size), np.uint8), ""
        return None, f"its mask cannot be used: {error}"
    return cv2.resize(mask, (size, size), interpolation=cv2.INTER_NEAREST), ""


def _with_listed(
    chunks: Sequence[Sequence[FileRecord]], parts: Sequence[pd.DataFrame]
) -> pd.DataFrame:
    """The decoded records with what folders and tables say of their files."""
    rows = pd.concat(
        [part.assign(chunk=place) for place, part in enumerate(parts)], ignore_index=True
    )
    files = [chunks[c][f] for c, f in zip(rows["chunk"], rows["file"], strict=True)]
    frames = zip(files, rows["frame"], rows["frames"], strict=True)
    rows["path"] = [f"{file.path}#{n}" if of > 1 else file.path for file, n, of in frames]
    rows = _with_tables(rows, files)
    own = column_types(DecodedRow).keys() - column_types(ManifestRow)
    return _in_slice_order(rows).drop(columns=["chunk", *own])


def _with_tables(rows: pd.DataFrame, files: Sequence[FileRecord]) -> pd.DataFrame:
    """Records with what folders and tables say of the file of each."""
    for name in ("label", "source"):
        rows[name] = [getattr(file, name) for file in files]
    rows["patient"] = [file.group for file in files]
    rows["given_split"] = [file.split for file in files]
    meta = pd.DataFrame([dict(file.meta) for file in files], index=rows.index)
    for name in meta.columns:
        values = meta[name].fillna("").astype(str)
        # A table may know what the file does not say of the patient and the machine. Its study or
        # series may be anything, and would tie records together.
        tag = name.lower()
        if tag in _FROM_TABLES:
            rows[tag] = rows[tag].where(rows[tag] != "", values)
        else:
            rows[META + name] = values
    return rows


def _in_slice_order(rows: pd.DataFrame) -> pd.DataFrame:
    """Number the slices of each series from 0, −1 elsewhere, and bring them into that order."""
    place = pd.to_numeric(rows["position"], errors="coerce").where(rows["series"] != "")
    rows["slice"] = place.groupby(rows["series"]).rank(method="first").fillna(0).astype(int) - 1
    order = np.arange(len(rows))
    for _, members in rows[rows["slice"] >= 0].groupby("series"):
        order[members.index] = members.sort_values("slice").index
    return rows.iloc[order].reset_index(drop=True)
