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
from ctray.data.decode import MAX_PIXELS, ImageError, Picture, decode
from ctray.data.duplicates import near_duplicates, perceptual_hash
from ctray.data.groups import assign_splits, group_records
from ctray.data.layouts import FileRecord
from ctray.data.preprocess import resize, to_store
from ctray.data.records import Listing, StoreInput, list_folder, read_bytes
from ctray.data.report import write_report
from ctray.data.split import FRACTIONS
from ctray.data.store import (
    DEFAULT_SIZE,
    DUPLICATES,
    FINGERPRINT_KEY,
    INFO,
    MANIFEST,
    SCHEMA,
    SHARDS,
    VERSIONS,
    Store,
    is_store,
    read_images,
    record_id,
    shard_path,
)
from ctray.errors import UserError
from ctray.storage import check_empty

# Small enough that two workers share a small set, large enough that a task is not all start-up.
_FILES_A_SHARD = 256
_TASK_CPUS = 0.9
_PENDING_TASKS = 64
_ROWS, _PLAN = "rows", "plan.json"
_TAGS = ("study", "series", "modality", "scanner", "age", "sex", "view")

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

    Needs a running Ray. What cannot be read is kept in the manifest with its reason. Of records
    with the same pixels the first stays; records that show one picture under different labels are
    all left out; near-duplicates stay together in one group.

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
        listing, earlier = _without_known(listing, Store.open(out)), [StoreInput(out, "", "", {})]
    else:
        check_empty(out)
        earlier = []
    partial = out.with_name(out.name + ".partial")
    try:
        base = _take_over([*earlier, *listing.stores], partial, options.size)
        classes = tuple(sorted({*listing.classes, *base.classes}))
        if len(classes) < 2:
            raise UserError(
                f"{listing.roots[0]} has one class, {classes[0]!r}; a classifier needs at least two"
                if classes
                else f"{listing.roots[0]} has no labels: a classifier needs at least two classes"
            )
        decoded = _decode_all(listing.files, partial, base.shards, options.size, progress or _quiet)
        manifest = pd.concat([base.manifest, decoded], ignore_index=True)
        manifest, pairs = _check(manifest, base, partial)
        _check_classes(classes, manifest)
        if options.strict:
            _refuse_faults(manifest)
        manifest = _assign(manifest, pairs, options)
        info = {
            "schema_version": SCHEMA,
            "ctray": __version__,
            "version": base.version + 1 if append else 1,
            "classes": list(classes),
            "size": options.size,
            "fingerprint": fingerprint(manifest, options.size),
            "synthetic": listing.synthetic or base.synthetic,
            "ignored_files": [*base.ignored, *listing.ignored],
            "inputs": [*base.inputs, *listing.roots],
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        _write(partial, manifest, pairs, info)
        if append:
            _add_version(partial, out, base)
        else:
            if out.exists():
                out.rmdir()
            partial.rename(out)
    except UserError:
        # A mistake leaves nothing behind; what was interrupted stays, to go on from.
        shutil.rmtree(partial, ignore_errors=True)
        raise
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


# ── what earlier stores bring along ──────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class _Base:
    """Records that come from earlier stores; their shards lie in the partial folder already.

    The first `compared` records are of one store: near-duplicates among them are known.
    """

    manifest: pd.DataFrame
    near: pd.DataFrame
    compared: int
    shards: int
    version: int
    classes: tuple[str, ...]
    inputs: tuple[str, ...]
    ignored: tuple[str, ...]
    synthetic: bool


def _without_known(listing: Listing, store: Store) -> Listing:
    """A listing to append: without the files the store has, and with paths it does not have."""
    known, taken = set(store.manifest["uri"]), set(store.manifest["path"])
    files = [file for file in listing.files if file.uri not in known]
    if not files and not listing.stores:
        raise UserError(f"nothing to append: {store.root} has every file of {listing.roots[0]}")
    if any(file.path in taken for file in files):
        prefix = f"v{store.version + 1}/"
        files = [dataclasses.replace(file, path=prefix + file.path) for file in files]
    return dataclasses.replace(listing, files=tuple(files))


def _take_over(stores: Sequence[StoreInput], partial: Path, size: int) -> _Base:
    (partial / SHARDS).mkdir(parents=True, exist_ok=True)
    manifests, near, shards, opened = [pd.DataFrame()], [pd.DataFrame()], 0, []
    for given in stores:
        store = Store.open(given.root)
        if store.size != size:
            raise UserError(
                f"the store {given.root} holds {store.size} px images: add --size {store.size}"
            )
        rows = store.manifest.copy()
        rows["earlier"], rows["earlier_split"] = rows["group"], rows["split"]
        rows["label"] = rows["label"].replace(dict(given.mapping))
        rows["path"] = given.prefix + rows["path"]
        if given.source:
            rows["source"] = given.source
        count = int(rows["shard"].max()) + 1
        for shard in range(count):
            _link(shard_path(store.root, shard), shard_path(partial, shards + shard))
        rows["shard"] += shards
        manifests.append(rows)
        pairs = store.duplicates[store.duplicates["kind"] == "near"].copy()
        pairs["first"], pairs["second"] = (given.prefix + pairs[k] for k in ("first", "second"))
        near.append(pairs)
        shards += count
        opened.append(store)
    labels = {label for rows in manifests[1:] for label in rows["label"] if label}
    return _Base(
        manifest=pd.concat(manifests, ignore_index=True),
        near=pd.concat(near, ignore_index=True),
        compared=len(opened[0].manifest) if opened else 0,
        shards=shards,
        version=opened[0].version if opened else 0,
        classes=tuple(sorted(labels)),
        inputs=tuple(place for store in opened for place in store.inputs),
        ignored=tuple(name for store in opened for name in store.ignored),
        synthetic=any(store.synthetic for store in opened),
    )


def _link(source: Path, target: Path) -> None:
    """Shards never change: another name for the file costs no space."""
    if target.exists():
        return
    try:
        os.link(source, target)
    except OSError:  # another file system
        part = target.with_suffix(".part")
        shutil.copyfile(source, part)
        part.rename(target)


# ── decoding, shard by shard ─────────────────────────────────────────────────────────────────────


def _decode_all(
    files: Sequence[FileRecord], partial: Path, first_shard: int, size: int, progress: Progress
) -> pd.DataFrame:
    chunks = [files[i : i + _FILES_A_SHARD] for i in range(0, len(files), _FILES_A_SHARD)]
    _keep_what_fits(partial, _plan(files, first_shard, size), first_shard)
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


def _plan(files: Sequence[FileRecord], first_shard: int, size: int) -> str:
    """What the shards depend on: the files as they are now, not their labels."""
    digest = hashlib.sha256(f"{SCHEMA} {first_shard} {size} {_FILES_A_SHARD}".encode())
    for file in files:
        for place in (file.uri, file.mask):
            stamp = ""
            if place and "://" not in place and os.path.exists(place):
                status = os.stat(place)
                stamp = f"{status.st_size} {status.st_mtime_ns}"
            digest.update(f"{place}\0{stamp}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _keep_what_fits(partial: Path, plan: str, first_shard: int) -> None:
    """Forget the shards of an interrupted run over other files or in another size."""
    note = partial / _PLAN
    if not note.exists() or note.read_text() != plan:
        shutil.rmtree(partial / _ROWS, ignore_errors=True)
        for path in (partial / SHARDS).iterdir():
            if not path.stem.isdigit() or int(path.stem) >= first_shard:
                path.unlink()
        note.write_text(plan)
    (partial / _ROWS).mkdir(exist_ok=True)


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
    masks: list[np.ndarray] = []
    for place, (uri, mask_uri) in enumerate(files):
        known: dict[str, Any] = {"file": place, "shard": shard, "row": -1, "uri": uri}
        try:
            data = read_bytes(uri)
            known["bytes"] = len(data)
            pictures = decode(data, uri.rpartition("/")[2].partition("?")[0])
        except ImageError as error:
            rows.append(known | {"status": error.fault, "reason": str(error)})
            continue
        mask = _read_mask(mask_uri, size) if mask_uri else None
        for picture in pictures:
            row = known | _describe(picture) | {"row": len(images), "mask": mask is not None}
            if mask_uri and mask is None:
                row["warning"] = "its mask cannot be read"
            rows.append(row)
            images.append(to_store(picture.pixels, size))
            masks.append(np.zeros((size, size), np.uint8) if mask is None else mask)
    if images:
        columns = {"image": _tensor(images)}
        if any(row.get("mask") for row in rows):
            columns["mask"] = _tensor(masks)
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
    **{"phash": "", "tagged": "", "slice": "", "mask": False, "status": "ok", "reason": ""},
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
        "tagged": picture.tags.get("patient", ""),
    }


def _read_mask(uri: str, size: int) -> np.ndarray | None:
    """A mask, uint8 (size, size), nearest pixels; None where it cannot be read."""
    try:
        data = read_bytes(uri)
    except ImageError:
        return None
    mask = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE) if data else None
    if mask is None:
        return None
    return cv2.resize(mask, (size, size), interpolation=cv2.INTER_NEAREST)


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
        # A table may know what the file does not say.
        tag = name.lower()
        if tag in _TAGS:
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
    for column in ("earlier", "earlier_split", "given_split", "tagged"):
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


def _pair(first: pd.Series, second: pd.Series, similarity: float, flipped: bool) -> dict[str, Any]:
    labels = {first["label"], second["label"]} - {""}
    return {
        "first": first["path"],
        "second": second["path"],
        "kind": "exact" if first["id"] == second["id"] else "near",
        "similarity": similarity,
        "flipped": flipped,
        "conflict": len(labels) > 1,
    }


def _mark_exact(manifest: pd.DataFrame) -> pd.DataFrame:
    pairs = []
    stored = manifest[manifest["row"] >= 0]
    for _, same in stored[stored["id"].duplicated(keep=False)].groupby("id", sort=False):
        labelled = same[same["label"] != ""]
        first = (labelled if len(labelled) else same).iloc[0]
        others = same.drop(index=first.name)
        pairs += [_pair(first, other, 1.0, False) for _, other in others.iterrows()]
        if labelled["label"].nunique() > 1:
            manifest.loc[same.index, "status"] = "conflict"
            manifest.loc[same.index, "reason"] = (
                "the same pixels under different labels: " + _and_more(same["path"])
            )
        else:
            manifest.loc[others.index, "status"] = "duplicate"
            manifest.loc[others.index, "reason"] = f"the same pixels as {first['path']}"
    return pd.DataFrame(pairs, columns=list(_PAIR_TYPES))


def _find_near(manifest: pd.DataFrame, base: _Base, partial: Path) -> pd.DataFrame:
    # One record a picture, and the earlier ones first: they were compared with each other then.
    single = manifest[(manifest["row"] >= 0) & ~manifest["id"].duplicated()]
    compared = int((single.index < base.compared).sum())
    found = near_duplicates(
        [bytes.fromhex(text) for text in single["phash"]],
        lambda rows: read_images(partial, single.iloc[rows]),
        compared,
    )
    pairs = [
        _pair(single.iloc[pair.first], single.iloc[pair.second], pair.similarity, pair.flipped)
        for pair in found
    ]
    at = pd.Series(manifest.index, index=manifest["path"])
    pairs += [
        _pair(
            manifest.loc[at[row["first"]]],
            manifest.loc[at[row["second"]]],
            row["similarity"],
            row["flipped"],
        )
        for row in base.near.to_dict("records")
    ]
    for pair in pairs:
        if pair["conflict"]:
            both = manifest["path"].isin([pair["first"], pair["second"]])
            manifest.loc[both, "status"] = "conflict"
            manifest.loc[both, "reason"] = (
                f"the same picture under different labels: {pair['first']}, {pair['second']}"
            )
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


def _assign(manifest: pd.DataFrame, pairs: pd.DataFrame, options: Options) -> pd.DataFrame:
    """Groups over everything that was decoded, splits over what is usable."""
    stored = manifest[manifest["row"] >= 0].reset_index(names="at")
    place = pd.Series(stored.index, index=stored["path"])
    tied = list(zip(place[pairs["first"]], place[pairs["second"]], strict=True))
    groups = pd.Series(group_records(stored, tied).to_numpy(), index=stored["at"])
    manifest = manifest.assign(group=groups.reindex(manifest.index).fillna(""), split="")
    usable = manifest["status"] == "ok"
    manifest.loc[usable, "split"] = assign_splits(
        manifest[usable], options.fractions or FRACTIONS, given=options.fractions is None
    )
    manifest["patient"] = manifest["patient"].where(manifest["patient"] != "", manifest["tagged"])
    meta = sorted(column for column in manifest.columns if column.startswith("meta."))
    return manifest[[*_MANIFEST, *meta]]


_MANIFEST = (
    *("id", "path", "uri", "label", "group", "source", "split", "status", "reason", "warning"),
    *("width", "height", "bits", "format", "colour", "bytes", "mean", "std", "phash"),
    *("patient", "study", "series", "slice", "modality", "scanner", "age", "sex", "view"),
    *("mask", "shard", "row"),
)


# ── writing ──────────────────────────────────────────────────────────────────────────────────────


def _write(
    partial: Path, manifest: pd.DataFrame, pairs: pd.DataFrame, info: dict[str, Any]
) -> None:
    """Everything but the shards, into the partial folder; `store.json` is the last."""
    table = pa.Table.from_pandas(manifest, preserve_index=False)
    header = {**(table.schema.metadata or {}), FINGERPRINT_KEY: info["fingerprint"].encode()}
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
    if not is_store(kept):
        kept.mkdir(parents=True, exist_ok=True)
        for name in (MANIFEST, DUPLICATES, INFO):
            shutil.copyfile(out / name, kept / name)
    for path in (partial / SHARDS).iterdir():
        if int(path.stem) >= base.shards:
            os.replace(path, out / SHARDS / path.name)
    for name in (MANIFEST, DUPLICATES, "report.html", "report.json", INFO):
        os.replace(partial / name, out / name)
    shutil.rmtree(partial)


def _picture(row: pd.Series) -> np.ndarray | None:
    """What can be seen of a file that was left out; None where it is nothing."""
    if row["status"] == "too large":
        return None
    try:
        data = read_bytes(row["uri"])
    except ImageError:
        return None
    if not data or len(data) > MAX_PIXELS:
        return None
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    return None if image is None else resize(image, 128)
