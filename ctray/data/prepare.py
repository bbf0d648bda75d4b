"""Files to a store: decode, check, tie together, split, write; resumable and repeatable.

Decoding runs as Ray tasks, one shard each, into a folder beside the store's place. A shard that is
there is not made again, so a run that was killed goes on where it was. Everything that needs all
records at once (duplicates, groups, splits) follows from the finished shards and is the same for
any number of workers. The folder is renamed when it is complete: what has no `store.json` is not a
store.
"""

import dataclasses
import datetime
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import ray

from ctray import __version__
from ctray.data.decode import ImageError, Picture, decode
from ctray.data.duplicates import near_duplicates, perceptual_hash
from ctray.data.groups import assign_splits, check_leaks, group_records
from ctray.data.layouts import FileRecord
from ctray.data.preprocess import resize, to_store
from ctray.data.records import (
    Listing,
    StoreInput,
    check_spelling,
    list_folder,
    read_bytes,
)
from ctray.data.report import write_report
from ctray.data.split import FRACTIONS
from ctray.data.store import (
    DEFAULT_SIZE,
    DUPLICATES,
    INFO,
    MANIFEST,
    SCHEMA,
    SHARDS,
    STAMP_KEY,
    VERSIONS,
    Store,
    is_store,
    read_images,
    record_id,
    shard_path,
    version_stamp,
)
from ctray.errors import UserError
from ctray.storage import check_empty

# Small enough that two workers share a small set, large enough that a task is not all start-up;
# fewer of large images, because a task holds its shard in memory.
_MOST_A_SHARD, _LEAST_A_SHARD, _SHARD_BYTES = 256, 16, 2**25
_TASK_CPUS = 0.9
_PENDING_TASKS = 64
_ROWS, _PLAN = "rows", "plan.json"
_FROM_TABLES = ("modality", "scanner", "age", "sex", "view")
_TAGS = ("study", "series", *_FROM_TABLES)

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Options:
    """How a store is made.

    Attributes:
        size: side of the stored images in px.
        fractions: shares of train, val and test; None: as given by folders or tables, where they
            say it, and 70, 15 and 15 % elsewhere.
        strict: whether a record that would be left out, or warned about, is an error.
    """

    size: int = DEFAULT_SIZE
    fractions: tuple[float, float, float] | None = None
    strict: bool = False


def prepare(
    listing: Listing,
    out: Path,
    options: Options = Options(),
    append: bool = False,
    progress: Progress | None = None,
) -> Store:
    """Decode, check, split and store what is listed, as Ray tasks over the cluster's CPUs.

    Needs a running Ray. Interrupted, or stopped by a mistake in labels or splits, it leaves what it
    decoded in `out`.partial, and the same call goes on from there. What cannot be read is kept in
    the manifest with its reason. Of records with the same pixels the first stays; records that show
    one picture under different labels are all left out; near-duplicates stay in one group.

    Args:
        listing: what to read.
        out: folder for the store; with `append` the store to add to.
        options: see `Options`.
        append: whether to write the next version of the store `out`. Nothing in it moves to
            another split, and files that it has are not read again.
        progress: called with the files done and all files now and then.

    Raises:
        UserError: `out` exists (or, to append, is no store), fewer than two classes, a class that
            ends without any image, a leak, or something left out while `strict`.
    """
    out = out.resolve()
    if append:
        listing = _to_append(listing, Store.open(out), options)
        stores = [StoreInput(out, "", "", {}), *listing.stores]
    else:
        check_empty(out)
        stores = list(listing.stores)
    _check_names(listing)
    partial = out.with_name(out.name + ".partial")
    base = _read_stores(stores, options, append)
    classes = tuple(sorted({*listing.classes, *base.classes}))
    _check_count(classes, listing)
    _start(partial, base, _plan(listing.files, base, options.size))
    decoded = _decode_all(listing.files, partial, base.shards, options.size, progress or _quiet)
    manifest = _together(base, decoded)
    manifest, pairs = _check(manifest, base, partial)
    _check_classes(classes, manifest)
    if options.strict:
        _refuse_faults(manifest[manifest["new"]])
    fractions = options.fractions or base.fractions
    manifest = _assign(manifest, pairs, fractions, given=options.fractions is None)
    info = {
        "schema_version": SCHEMA,
        "ctray": __version__,
        "version": base.version + 1 if append else 1,
        "classes": list(classes),
        "size": options.size,
        "fractions": list(fractions),
        "fingerprint": fingerprint(manifest, options.size),
        "synthetic": listing.synthetic or base.synthetic,
        "ignored_files": [*base.ignored, *listing.ignored],
        "inputs": list(dict.fromkeys([*base.inputs, *listing.roots])),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    _write(partial, manifest, pairs, info)
    if append:
        _add_version(partial, out, base)
    else:
        if out.exists():
            out.rmdir()
        partial.rename(out)
    return Store.open(out)


def read_fractions(text: str | None) -> tuple[float, float, float] | None:
    """`0.7,0.15,0.15` to shares of train, val and test; None stays None.

    Raises:
        UserError: not three shares that add up to 1, or none for training.
    """
    if text is None:
        return None
    try:
        train, val, test = (float(part) for part in text.split(","))
    except ValueError as error:
        raise UserError(f"--fractions {text!r} is not of the form 0.7,0.15,0.15") from error
    if min(train, val, test) < 0 or train == 0 or abs(train + val + test - 1) > 1e-6:
        raise UserError(f"--fractions {text!r} must add up to 1, with some of it for training")
    return train, val, test


def check_data(data: Path) -> None:
    """Raise the mistakes in a store or data folder that show without opening an image."""
    if not is_store(data):
        list_folder(data)


def open_or_prepare(data: Path, place: Path) -> Store:
    """The store at `data`, or one made of the folder `data` in `place`; needs a running Ray."""
    return Store.open(data) if is_store(data) else prepare(list_folder(data), place)


def fingerprint(manifest: pd.DataFrame, size: int) -> str:
    """sha256 (hex) over size, ids, labels, groups and splits of the usable records."""
    usable = manifest[manifest["status"] == "ok"]
    lines = sorted("\t".join(row) for row in usable[["id", "label", "group", "split"]].to_numpy())
    return hashlib.sha256("\n".join([str(size), *lines]).encode()).hexdigest()


# ── what is to be read ───────────────────────────────────────────────────────────────────────────


def _to_append(listing: Listing, store: Store, options: Options) -> Listing:
    """A listing without the files the store has read already."""
    if options.fractions:
        raise UserError("--fractions and --append exclude each other: a store keeps its fractions")
    if any(given.root == store.root for given in listing.stores):
        raise UserError(f"the store {store.root} cannot be appended to itself")
    known = set(store.manifest.loc[store.manifest["row"] >= 0, "uri"])
    files = tuple(file for file in listing.files if file.uri not in known)
    if not files and not listing.stores:
        raise UserError(f"nothing to append: {store.root} has every file of {listing.roots[0]}")
    return dataclasses.replace(listing, files=files)


def _check_names(listing: Listing) -> None:
    for file in listing.files:
        if any(ord(letter) in range(0xD800, 0xE000) for letter in file.uri):
            name = ascii(file.path)
            raise UserError(f"the file name {name} is not UTF-8: rename it")


def _check_count(classes: Sequence[str], listing: Listing) -> None:
    check_spelling(classes)
    if len(classes) < 2:
        has = f"has one class, {classes[0]!r}" if classes else "has no labels"
        raise UserError(f"{listing.roots[0]} {has}; a classifier needs at least two classes")


# ── what earlier stores bring along ──────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class _Base:
    """Records that come from earlier stores.

    The first `compared` records are of one store: near-duplicates among them are known. `links` are
    the shards, by their number in the new store.
    """

    manifest: pd.DataFrame
    near: pd.DataFrame
    compared: int
    links: dict[int, Path]
    shards: int
    version: int
    fractions: tuple[float, float, float]
    fingerprints: tuple[str, ...]
    classes: tuple[str, ...]
    inputs: tuple[str, ...]
    ignored: tuple[str, ...]
    synthetic: bool


def _read_stores(stores: Sequence[StoreInput], options: Options, append: bool) -> _Base:
    manifests, near, opened = [pd.DataFrame()], [pd.DataFrame()], []
    links: dict[int, Path] = {}
    shards, taken = 0, set[str]()
    for given in stores:
        store = Store.open(given.root)
        if store.size != options.size:
            raise UserError(
                f"the store {given.root} holds {store.size} px images: add --size {store.size}"
            )
        rows = store.manifest.copy()
        rows["earlier"] = rows["group"]
        # Fractions asked for divide anew what a new store is made of.
        rows["earlier_split"] = rows["split"] if append or not options.fractions else ""
        rows["label"] = rows["label"].replace(dict(given.mapping))
        prefix = given.prefix + _distinction(given.prefix + rows["path"], taken)
        rows["path"] = prefix + rows["path"]
        taken |= set(rows["path"])
        if given.source:
            rows["source"] = given.source
        # A shard whose files were all at fault was not written.
        for shard in rows.loc[rows["row"] >= 0, "shard"].unique():
            links[shards + int(shard)] = shard_path(store.root, int(shard))
        rows["shard"] += shards
        shards += int(rows["shard"].max()) - shards + 1
        manifests.append(rows)
        pairs = store.duplicates[store.duplicates["kind"] == "near"]
        near.append(pairs.assign(first=prefix + pairs["first"], second=prefix + pairs["second"]))
        opened.append(store)
    return _Base(
        manifest=pd.concat(manifests[bool(opened) :], ignore_index=True),
        near=pd.concat(near[bool(opened) :], ignore_index=True),
        compared=len(opened[0].manifest) if opened else 0,
        links=links,
        shards=shards,
        version=opened[0].version if append else 0,
        fractions=opened[0].fractions if append else FRACTIONS,
        fingerprints=tuple(f"{store.root} {store.version} {store.fingerprint}" for store in opened),
        classes=tuple(sorted({label for rows in manifests[1:] for label in rows["label"]} - {""})),
        inputs=tuple(place for store in opened for place in store.inputs),
        ignored=tuple(name for store in opened for name in store.ignored),
        synthetic=any(store.synthetic for store in opened),
    )


def _distinction(paths: pd.Series, taken: set[str]) -> str:
    """What to put before these paths so that none of them is taken: nothing, `2/`, `3/` …"""
    number, prefix = 1, ""
    while any(prefix + path in taken for path in paths):
        number += 1
        prefix = f"{number}/"
    return prefix


def _together(base: _Base, decoded: pd.DataFrame) -> pd.DataFrame:
    """The records of the stores, then the new ones under paths of their own."""
    earlier = base.manifest
    if len(earlier) and len(decoded):
        # A file that could not be read then and was read again now has its new record only.
        again = (earlier["row"] < 0) & earlier["uri"].isin(decoded["uri"])
        earlier = earlier[~again]
        distinction = _distinction(decoded["path"], set(earlier["path"]))
        decoded = decoded.assign(path=distinction + decoded["path"])
    # An empty frame would turn the numbers of the other into fractions.
    parts = [earlier.assign(new=False), decoded.assign(new=True)]
    return pd.concat([part for part in parts if len(part)], ignore_index=True)


# ── decoding, shard by shard ─────────────────────────────────────────────────────────────────────


def _plan(files: Sequence[FileRecord], base: _Base, size: int) -> str:
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


def _start(partial: Path, base: _Base, plan: str) -> None:
    """Keep the shards of an interrupted run over the same files, forget any others."""
    note = partial / _PLAN
    if not note.exists() or note.read_text() != plan:
        shutil.rmtree(partial, ignore_errors=True)
        (partial / SHARDS).mkdir(parents=True)
        (partial / _ROWS).mkdir()
        note.write_text(plan)
    for shard, source in base.links.items():
        target = shard_path(partial, shard)
        if not target.exists():
            _link(source, target)


def _link(source: Path, target: Path) -> None:
    """Shards never change: another name for the file costs no space."""
    try:
        os.link(source, target)
    except OSError:  # another file system
        part = target.with_suffix(".part")
        shutil.copyfile(source, part)
        part.rename(target)


def _decode_all(
    files: Sequence[FileRecord], partial: Path, first_shard: int, size: int, progress: Progress
) -> pd.DataFrame:
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
            progress(done, len(files))
        places = [(file.uri, file.mask) for file in chunk]
        running[task.remote(places, partial, shard, size)] = len(chunk)
    progress(done, len(files))
    while running:
        done += _finish_one(running)
        progress(done, len(files))
    parts = [pd.read_parquet(_rows_path(partial, first_shard + i)) for i in range(len(chunks))]
    return _with_listed(chunks, parts) if parts else pd.DataFrame()


def _quiet(done: int, total: int) -> None:
    del done, total


def _finish_one(running: dict[ray.ObjectRef, int]) -> int:
    (ready, *_), _ = ray.wait(list(running), num_returns=1)
    ray.get(ready)
    return running.pop(ready)


def _rows_path(partial: Path, shard: int) -> Path:
    return partial / _ROWS / f"{shard:05d}.parquet"


def _write_shard(files: list[tuple[str, str]], partial: Path, shard: int, size: int) -> None:
    """One task: a shard of pixels, then a table of its records, each whole or not at all."""
    cv2.setNumThreads(1)
    rows: list[dict[str, Any]] = []
    images: list[np.ndarray] = []
    masks: list[np.ndarray | None] = []
    for place, (uri, mask_uri) in enumerate(files):
        known: dict[str, Any] = {"file": place, "shard": shard, "row": -1, "uri": uri}
        try:
            data = read_bytes(uri)
            known["bytes"] = len(data)
            pictures = decode(data, uri.rpartition("/")[2].partition("?")[0])
        except ImageError as error:
            rows.append(known | {"status": error.fault, "reason": str(error)})
            continue
        mask, complaint = _read_mask(mask_uri, size)
        for picture in pictures:
            row = known | _describe(picture)
            rows.append(row | {"row": len(images), "mask": mask is not None, "warning": complaint})
            images.append(to_store(picture.pixels, size))
            masks.append(mask)
    if images:
        columns = {"image": _tensor(images)}
        if any(mask is not None for mask in masks):
            blank = np.zeros((size, size), np.uint8)
            columns["mask"] = _tensor([blank if mask is None else mask for mask in masks])
        table = pa.table(columns)
        part = shard_path(partial, shard).with_suffix(".part")
        with pa.OSFile(str(part), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        part.rename(shard_path(partial, shard))
    part = _rows_path(partial, shard).with_suffix(".part")
    pd.DataFrame(rows, columns=list(_COLUMNS)).fillna(_COLUMNS).astype(_TYPES).to_parquet(part)
    part.rename(_rows_path(partial, shard))


# What a decoded record says where it says nothing.
_COLUMNS: dict[str, Any] = {
    **{"file": -1, "frame": 0, "frames": 1, "id": "", "uri": "", "width": 0, "height": 0},
    **{"bits": 0, "format": "", "colour": False, "bytes": 0, "mean": 0.0, "std": 0.0},
    **{"phash": "", "dicom_patient": "", "slice": "", "mask": False, "status": "ok", "reason": ""},
    **{"warning": "", "shard": -1, "row": -1},
    **dict.fromkeys(_TAGS, ""),
}
_TYPES = {name: type(value) for name, value in _COLUMNS.items()}


def _tensor(images: list[np.ndarray]) -> pa.Array:
    return pa.FixedShapeTensorArray.from_numpy_ndarray(np.stack(images))


def _describe(picture: Picture) -> dict[str, Any]:
    height, width = picture.pixels.shape
    mean, std = cv2.meanStdDev(picture.pixels)
    tags = {name: picture.tags.get(name, "") for name in (*_TAGS, "slice")}
    return tags | {
        "frame": picture.frame,
        "frames": picture.frames,
        "id": record_id(picture.pixels),
        "width": width,
        "height": height,
        "bits": picture.bits,
        "format": picture.format,
        "colour": picture.colour,
        "mean": float(mean[0, 0]),
        "std": float(std[0, 0]),
        "phash": perceptual_hash(picture.pixels).hex(),
        "dicom_patient": picture.tags.get("patient", ""),
    }


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
            rows[f"meta.{name}"] = values
    return _in_slice_order(rows.drop(columns=["chunk", "file", "frame", "frames"]))


def _in_slice_order(rows: pd.DataFrame) -> pd.DataFrame:
    """Number the slices of each series from 0, −1 elsewhere, and bring them into that order."""
    place = pd.to_numeric(rows["slice"], errors="coerce").where(rows["series"] != "")
    rows["slice"] = place.groupby(rows["series"]).rank(method="first").fillna(0).astype(int) - 1
    order = np.arange(len(rows))
    for _, members in rows[rows["slice"] >= 0].groupby("series"):
        order[members.index] = members.sort_values("slice").index
    return rows.iloc[order].reset_index(drop=True)


# ── what needs all records at once ───────────────────────────────────────────────────────────────


def _check(manifest: pd.DataFrame, base: _Base, partial: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Mark duplicates, conflicts, missing labels and odd ones out; the pairs found."""
    text = [c for c in manifest.columns if manifest[c].isna().any() and c not in _NUMBERS]
    manifest = manifest.assign(**{column: manifest[column].fillna("") for column in text})
    for column in ("earlier", "earlier_split", "given_split", "dicom_patient"):
        if column not in manifest:
            manifest[column] = ""
    stored = manifest["row"] >= 0
    manifest.loc[stored, "status"], manifest.loc[stored, "reason"] = "ok", ""
    unlabelled = stored & (manifest["label"] == "")
    manifest.loc[unlabelled, "status"] = "unlabelled"
    manifest.loc[unlabelled, "reason"] = "neither a folder nor a table gives it a label"
    if manifest.loc[stored, "colour"].mean() < 0.5:
        coloured = stored & manifest["colour"]
        manifest.loc[coloured, "warning"] = "a colour picture among grey ones"
    exact = _mark_exact(manifest)
    near = _find_near(manifest, base, partial)
    return manifest, pd.concat([exact, near], ignore_index=True).astype(_PAIR_TYPES)


_NUMBERS = frozenset(name for name, kind in _TYPES.items() if kind is not str) - {"slice"}
_PAIR_TYPES = {
    "first": str,
    "second": str,
    "kind": str,
    "similarity": float,
    "flipped": bool,
    "conflict": bool,
}


def _pair(
    manifest: pd.DataFrame, first: int, second: int, similarity: float, flipped: bool
) -> dict[str, Any]:
    """A pair of records by their place in the manifest."""
    (path, other), (id_, other_id), (label, other_label) = (
        manifest[column].iloc[[first, second]] for column in ("path", "id", "label")
    )
    return {
        "first": path,
        "second": other,
        "kind": "exact" if id_ == other_id else "near",
        "similarity": similarity,
        "flipped": flipped,
        "conflict": label != other_label and bool(label and other_label),
    }


def _one_a_picture(manifest: pd.DataFrame) -> pd.DataFrame:
    """The record that stays of those with the same pixels: the first, a labelled one if any."""
    stored = manifest[manifest["row"] >= 0]
    first = stored.sort_values(by="label", key=lambda label: label == "", kind="stable")
    return stored.loc[first.drop_duplicates("id").index.sort_values()]


def _mark_exact(manifest: pd.DataFrame) -> pd.DataFrame:
    stored = manifest[manifest["row"] >= 0]
    same = stored[stored["id"].duplicated(keep=False)]
    if same.empty:
        return pd.DataFrame(columns=list(_PAIR_TYPES))
    kept = _one_a_picture(manifest)
    keeper = pd.Series(kept.index, index=kept["id"]).loc[same["id"]].to_numpy()
    labels = same["label"].where(same["label"] != "").groupby(same["id"]).transform("nunique")
    torn, others = same[labels > 1], same[(labels <= 1) & (same.index != keeper)]
    paths = torn.groupby("id")["path"].agg(_and_more).loc[torn["id"]]
    manifest.loc[torn.index, "status"] = "conflict"
    manifest.loc[torn.index, "reason"] = [
        f"the same pixels under different labels: {p}" for p in paths
    ]
    manifest.loc[others.index, "status"] = "duplicate"
    manifest.loc[others.index, "reason"] = [
        f"the same pixels as {path}" for path in kept.set_index("id")["path"].loc[others["id"]]
    ]
    pairs = pd.DataFrame({"first": keeper, "second": same.index})
    pairs = pairs[pairs["first"] != pairs["second"]]
    first, second = (manifest.loc[pairs[name]].reset_index(drop=True) for name in pairs.columns)
    both = (first["label"] != "") & (second["label"] != "")
    return pd.DataFrame(
        {
            "first": first["path"],
            "second": second["path"],
            "kind": "exact",
            "similarity": 1.0,
            "flipped": False,
            "conflict": both & (first["label"] != second["label"]),
        }
    )


def _find_near(manifest: pd.DataFrame, base: _Base, partial: Path) -> pd.DataFrame:
    single = _one_a_picture(manifest)
    found = near_duplicates(
        [bytes.fromhex(text) for text in single["phash"]],
        lambda rows: read_images(partial, single.iloc[rows]),
        # The earlier ones come first, and were compared with each other then.
        int((single.index < base.compared).sum()),
    )
    at = single.index.to_numpy()
    pairs = [
        _pair(manifest, at[pair.first], at[pair.second], pair.similarity, pair.flipped)
        for pair in found
    ]
    place = pd.Series(manifest.index, index=manifest["path"])
    pairs += [
        _pair(
            manifest, place[row["first"]], place[row["second"]], row["similarity"], row["flipped"]
        )
        for row in base.near.to_dict("records")
    ]
    torn = {
        path: f"the same picture under different labels: {pair['first']}, {pair['second']}"
        for pair in pairs
        if pair["conflict"]
        for path in (pair["first"], pair["second"])
    }
    rows = place.loc[list(torn)]
    manifest.loc[rows, "status"] = "conflict"
    manifest.loc[rows, "reason"] = list(torn.values())
    return pd.DataFrame(pairs, columns=list(_PAIR_TYPES))


def _and_more(paths: pd.Series) -> str:
    shown = ", ".join(paths[:3])
    return f"{shown} and {len(paths) - 3} more" if len(paths) > 3 else shown


def _check_classes(classes: Sequence[str], manifest: pd.DataFrame) -> None:
    left = manifest[manifest["status"] == "ok"]["label"].value_counts()
    for name in classes:
        if left.get(name, 0) == 0:
            lost = manifest[manifest["label"] == name].iloc[0]
            raise UserError(
                f"class {name!r} has no usable image; the first, {lost['path']}: {lost['reason']}"
            )


def _refuse_faults(manifest: pd.DataFrame) -> None:
    faults = manifest[(manifest["status"] != "ok") | (manifest["warning"] != "")]
    if len(faults):
        first = faults.iloc[0]
        raise UserError(
            f"--strict: {len(faults)} of {len(manifest)} records are at fault, the first "
            f"{first['path']}: {first['reason'] or first['warning']}; "
            "without --strict they are listed in the report"
        )


def _assign(
    manifest: pd.DataFrame,
    pairs: pd.DataFrame,
    fractions: tuple[float, float, float],
    given: bool,
) -> pd.DataFrame:
    """Groups over everything that was decoded, splits over what is usable."""
    stored = manifest[manifest["row"] >= 0].reset_index(names="at")
    place = pd.Series(stored.index, index=stored["path"])
    tied = list(zip(place[pairs["first"]], place[pairs["second"]], strict=True))
    groups = pd.Series(group_records(stored, tied).to_numpy(), index=stored["at"])
    manifest = manifest.assign(group=groups.reindex(manifest.index).fillna(""), split="")
    if given:
        # A copy that is left out has told that a given split is torn.
        check_leaks(manifest[manifest["status"].isin(["ok", "duplicate"])])
    usable = manifest["status"] == "ok"
    manifest.loc[usable, "split"] = assign_splits(manifest[usable], fractions, given)
    named = manifest["patient"] != ""
    manifest["patient"] = manifest["patient"].where(named, manifest["dicom_patient"])
    meta = sorted(column for column in manifest.columns if column.startswith("meta."))
    return manifest[[*_MANIFEST, *meta]]


_MANIFEST = (
    *("id", "path", "uri", "label", "group", "source", "split", "status", "reason", "warning"),
    *("width", "height", "bits", "format", "colour", "bytes", "mean", "std", "phash"),
    *(
        "patient",
        "dicom_patient",
        "study",
        "series",
        "slice",
        "modality",
        "scanner",
        "age",
        "sex",
        "view",
    ),
    *("mask", "shard", "row"),
)


# ── writing ──────────────────────────────────────────────────────────────────────────────────────


def _write(
    partial: Path, manifest: pd.DataFrame, pairs: pd.DataFrame, info: dict[str, Any]
) -> None:
    """Everything but the shards, into the partial folder; `store.json` is the last."""
    table = pa.Table.from_pandas(manifest, preserve_index=False)
    stamp = version_stamp(info["version"], info["fingerprint"])
    header = {**(table.schema.metadata or {}), STAMP_KEY: stamp.encode()}
    pq.write_table(table.replace_schema_metadata(header), partial / MANIFEST)
    pairs.to_parquet(partial / DUPLICATES, index=False)
    write_report(
        partial,
        manifest,
        pairs,
        classes=info["classes"],
        size=info["size"],
        fingerprint=info["fingerprint"],
        synthetic=info["synthetic"],
        ignored=info["ignored_files"],
        images=lambda rows: read_images(partial, rows),
        picture=_picture,
        info={
            "name": info["inputs"][0].rstrip("/").rpartition("/")[2],
            "version": f"{info['version']} (ctray {__version__})",
            "inputs": info["inputs"],
            "date": info["date"],
            "fractions": info["fractions"],
        },
    )
    shutil.rmtree(partial / _ROWS, ignore_errors=True)
    (partial / _PLAN).unlink(missing_ok=True)
    (partial / INFO).write_text(json.dumps(info, indent=2))


def _add_version(partial: Path, out: Path, base: _Base) -> None:
    """Move a finished version into the store it was made for.

    What readers have open stays where it is. Until `store.json` is replaced, the earlier version
    is the store's: its files are in `versions` before any of them is.
    """
    kept = out / VERSIONS / str(base.version)
    if not kept.exists():
        part = kept.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        for name in (MANIFEST, DUPLICATES, INFO):
            shutil.copyfile(out / name, part / name)
        part.rename(kept)
    for path in (partial / SHARDS).iterdir():
        if int(path.stem) >= base.shards:
            os.replace(path, out / SHARDS / path.name)
    for name in (MANIFEST, DUPLICATES, "report.html", "report.json", INFO):
        os.replace(partial / name, out / name)
    shutil.rmtree(partial)


def _picture(row: pd.Series) -> np.ndarray | None:
    """What can be seen of a file that was left out: only a wrong name hides a whole picture."""
    if row["status"] != "wrong type":
        return None
    try:
        return resize(decode(read_bytes(row["uri"]))[0].pixels, 128)
    except ImageError:
        return None
