"""Files to a store: decode, check, tie together, split, write; resumable and repeatable.

Decoding runs as Ray tasks, one shard each, into a folder beside the store's place. A shard that is
there is not made again, so a run that was killed is resumed where it was. Everything that needs all
records at once (duplicates, groups, splits) follows from the finished shards and is the same for
any number of workers. The folder is renamed when it is complete: what has no `store.json` is not a
store.
"""

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ctray import __version__
from ctray.data.image.dispatch import decode
from ctray.data.image.picture import ImageError
from ctray.data.image.preprocess import resize
from ctray.data.ingest.checks import check_classes, check_records, refuse_faults
from ctray.data.ingest.confound import Confounds, find_confounds
from ctray.data.ingest.earlier import Base, join, read_stores
from ctray.data.ingest.groups import assign_splits, check_leaks, group_records, lacking_splits
from ctray.data.ingest.listing import Listing, StoreInput, check_spelling, read_bytes
from ctray.data.ingest.report import write_report
from ctray.data.ingest.shards import (
    DIGEST,
    ROWS,
    Progress,
    decode_files,
    digest_inputs,
    left_out_rows,
    open_partial,
)
from ctray.data.manifest import MANIFEST_COLUMNS, META
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
    StoreInfo,
    read_images,
    version_stamp,
)
from ctray.errors import UserError
from ctray.provenance import now
from ctray.storage import check_empty
from ctray.words import printable


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
    decoded in `out`.partial, and the same call resumes from there. What cannot be read is kept in
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
    stores = list(listing.stores)
    if append:
        listing = _to_append(listing, Store.open(out), options)
        stores = [StoreInput(out, "", "", {}), *stores]
    else:
        check_empty(out)
    if options.strict and listing.unmatched:
        raise UserError(f"{listing.unmatched[0]}: leave strict out to do without them", "strict")
    partial = out.with_name(out.name + ".partial")
    base = read_stores(
        stores,
        options.size,
        append=append,
        # Fractions asked for divide anew what a new store is made of.
        keep_splits=append or not options.fractions,
    )
    classes = tuple(sorted({*listing.classes, *base.classes}))
    _check_count(classes, listing)
    wanted = [file for file in listing.files if file.status == "ok"]
    open_partial(partial, base, digest_inputs(wanted, base, options.size))
    decoded = decode_files(wanted, partial, base.shards, options.size, progress)
    decoded = _with_left_out(decoded, listing)
    manifest, pairs = _checked(join(base, decoded), base, classes, partial, options.strict)
    fractions = options.fractions or base.fractions
    manifest, lent = _assign(manifest, pairs, fractions, given=options.fractions is None)
    confounds = find_confounds(manifest, classes)
    notices = (*listing.warnings, *lent, *lacking_splits(manifest, classes))
    info = _info(listing, base, options.size, fractions, classes, manifest, confounds, notices)
    _write(partial, manifest, pairs, confounds, info, listing.notes)
    _put_in_place(partial, out, base, append)
    return Store.open(out)


def read_fractions(text: str | None) -> tuple[float, float, float] | None:
    """Shares of train, val and test from a text such as `0.7,0.15,0.15`; None stays None.

    Raises:
        UserError: not three shares that add up to 1, or none for training.
    """
    if text is None:
        return None
    try:
        train, val, test = (float(part) for part in text.split(","))
    except ValueError as error:
        raise UserError(
            f"the fractions {text!r} are not of the form 0.7,0.15,0.15", "fractions"
        ) from error
    if min(train, val, test) < 0 or train == 0 or abs(train + val + test - 1) > 1e-6:
        raise UserError(
            f"the fractions {text!r} must add up to 1, with some of it for training", "fractions"
        )
    return train, val, test


def fingerprint(manifest: pd.DataFrame, size: int) -> str:
    """sha256 (hex) over size, ids, labels, groups and splits of the usable records."""
    usable = manifest[manifest["status"] == "ok"]
    lines = sorted("\t".join(row) for row in usable[["id", "label", "group", "split"]].to_numpy())
    return hashlib.sha256("\n".join([str(size), *lines]).encode()).hexdigest()


# ── what is to be read ───────────────────────────────────────────────────────────────────────────


def _to_append(listing: Listing, store: Store, options: Options) -> Listing:
    """A listing without the files the store has read already."""
    if options.fractions:
        raise UserError(
            "a store that is appended to keeps its fractions: leave them out", "fractions", "append"
        )
    if any(given.root == store.root for given in listing.stores):
        raise UserError(f"the store {store.root} cannot be appended to itself")
    # What could not be read then is read again, unless it is as long as it was.
    known = {
        uri
        for uri, row, size in store.manifest[["uri", "row", "bytes"]].itertuples(index=False)
        if row >= 0 or (os.path.isfile(uri) and os.path.getsize(uri) == size)
    }
    files = tuple(file for file in listing.files if file.uri not in known)
    if not files and not listing.stores:
        raise UserError(f"nothing to append: {store.root} has every file of {listing.roots[0]}")
    return dataclasses.replace(listing, files=files)


def _with_left_out(decoded: pd.DataFrame, listing: Listing) -> pd.DataFrame:
    """The records, and those that the listing leaves out with a reason."""
    left_out = [file for file in listing.files if file.status != "ok"]
    parts = [part for part in (decoded, left_out_rows(left_out)) if len(part)]
    return pd.concat(parts, ignore_index=True) if parts else decoded


def _check_count(classes: Sequence[str], listing: Listing) -> None:
    check_spelling(classes)
    if len(classes) < 2 and listing.hints:
        raise UserError(listing.hints[0])
    if len(classes) < 2:
        has = f"has one class, {classes[0]!r}" if classes else "has no labels"
        raise UserError(f"{listing.roots[0]} {has}; a classifier needs at least two classes")


def _info(
    listing: Listing,
    base: Base,
    size: int,
    fractions: tuple[float, float, float],
    classes: tuple[str, ...],
    manifest: pd.DataFrame,
    confounds: Confounds,
    notices: tuple[str, ...],
) -> StoreInfo:
    """What `store.json` says of this version."""
    return StoreInfo(
        schema_version=SCHEMA,
        ctray=__version__,
        version=base.version + 1,
        classes=classes,
        size=size,
        fractions=fractions,
        fingerprint=fingerprint(manifest, size),
        synthetic=listing.synthetic or base.synthetic,
        ignored_files=_distinct(base.ignored, listing.ignored),
        inputs=_distinct(base.inputs, tuple(map(printable, listing.roots))),
        date=now(),
        confounds=tuple(f.sentences[0] for f in confounds.factors if f.verdict == "strong"),
        notices=notices,
    )


def _distinct(earlier: Sequence[str], new: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys([*earlier, *new]))


def _checked(
    manifest: pd.DataFrame, base: Base, classes: Sequence[str], partial: Path, strict: bool
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The manifest with what is left out, and the pairs of like pictures."""
    manifest, pairs = check_records(manifest, base, partial)
    check_classes(classes, manifest)
    if strict:
        refuse_faults(manifest[manifest["new"]])
    return manifest, pairs


def _assign(
    manifest: pd.DataFrame,
    pairs: pd.DataFrame,
    fractions: tuple[float, float, float],
    given: bool,
) -> tuple[pd.DataFrame, list[str]]:
    """Groups over everything that was decoded, splits over what is usable, and what to say."""
    stored = manifest[manifest["row"] >= 0].reset_index(names="at")
    place = pd.Series(stored.index, index=stored["path"])
    tied = list(zip(place[pairs["first"]], place[pairs["second"]], strict=True))
    groups = pd.Series(group_records(stored, tied).to_numpy(), index=stored["at"])
    manifest = manifest.assign(group=groups.reindex(manifest.index).fillna(""), split="")
    if given:
        # A copy that is left out has told that a given split is torn.
        check_leaks(manifest[manifest["status"].isin(["ok", "duplicate"])])
    usable = manifest["status"] == "ok"
    manifest.loc[usable, "split"], lent = assign_splits(manifest[usable], fractions, given)
    named = manifest["patient"] != ""
    manifest["patient"] = manifest["patient"].where(named, manifest["dicom_patient"])
    meta = sorted(column for column in manifest.columns if column.startswith(META))
    return manifest[[*MANIFEST_COLUMNS, *meta]], lent


# ── writing ──────────────────────────────────────────────────────────────────────────────────────


def _write(
    partial: Path,
    manifest: pd.DataFrame,
    pairs: pd.DataFrame,
    confounds: Confounds,
    info: StoreInfo,
    notes: Sequence[str],
) -> None:
    """Everything but the shards, into the partial folder; `store.json` is the last."""
    table = pa.Table.from_pandas(manifest, preserve_index=False)
    stamp = version_stamp(info.version, info.fingerprint)
    header = {**(table.schema.metadata or {}), STAMP_KEY: stamp.encode()}
    pq.write_table(table.replace_schema_metadata(header), partial / MANIFEST)
    pairs.to_parquet(partial / DUPLICATES, index=False)
    write_report(
        partial,
        manifest,
        pairs,
        classes=info.classes,
        size=info.size,
        fingerprint=info.fingerprint,
        synthetic=info.synthetic,
        ignored=info.ignored_files,
        notices=info.notices,
        images=lambda rows: read_images(partial, rows),
        picture=_picture,
        confounds=confounds,
        info={
            "name": info.inputs[0].rstrip("/").rpartition("/")[2],
            "version": f"{info.version} (ctray {__version__})",
            "inputs": list(info.inputs),
            "date": info.date,
            "fractions": info.fractions,
            **({"read": list(notes)} if notes else {}),
        },
    )
    shutil.rmtree(partial / ROWS, ignore_errors=True)
    (partial / DIGEST).unlink(missing_ok=True)
    (partial / INFO).write_text(json.dumps(dataclasses.asdict(info), indent=2))


def _put_in_place(partial: Path, out: Path, base: Base, append: bool) -> None:
    """Make the finished folder the store `out`, or its next version."""
    if append:
        _add_version(partial, out, base)
        return
    if out.exists():
        out.rmdir()
    partial.rename(out)


def _add_version(partial: Path, out: Path, base: Base) -> None:
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
