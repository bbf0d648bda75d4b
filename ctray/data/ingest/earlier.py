"""What earlier stores bring along: their records, their splits, their shards as they are."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ctray.data.ingest.listing import StoreInput
from ctray.data.ingest.split import FRACTIONS
from ctray.data.store import Store, shard_path
from ctray.errors import UserError


@dataclass(frozen=True)
class Base:
    """What comes from earlier stores.

    Attributes:
        manifest: their records, as `CandidateRow` describes them; those marked `compared` come
            first and are of one store.
        near: near-duplicates among those, as `DuplicateRow` describes them.
        links: their shards, by the number in the new store.
        shards: how many numbers of shards they take.
        version: of the store to append to; 0 where there is none.
        fractions: shares of train, val and test for new groups.
        fingerprints: place, version and fingerprint of each store.
        classes: sorted labels of the records.
        inputs: where their images came from.
        ignored: files that nothing was made of.
        synthetic: whether any of their images were drawn.
    """

    manifest: pd.DataFrame
    near: pd.DataFrame
    links: dict[int, Path]
    shards: int
    version: int
    fractions: tuple[float, float, float]
    fingerprints: tuple[str, ...]
    classes: tuple[str, ...]
    inputs: tuple[str, ...]
    ignored: tuple[str, ...]
    synthetic: bool


def read_stores(
    stores: Sequence[StoreInput], size: int, *, append: bool, keep_splits: bool
) -> Base:
    """The records of earlier stores, with paths of their own.

    Args:
        stores: the first is the one to append to, if any is.
        size: side of the stored images in px.
        append: whether the first store is added to.
        keep_splits: whether records stay in the splits they are in.

    Raises:
        UserError: a store of another size.
    """
    manifests, near = [pd.DataFrame()], pd.DataFrame()
    opened: list[Store] = []
    links: dict[int, Path] = {}
    shards, taken = 0, set[str]()
    for given in stores:
        store = Store.open(given.root)
        if store.size != size:
            raise UserError(
                f"the store {given.root} holds {store.size} px images: prepare the new store "
                f"at that size, {store.size}",
                "size",
            )
        prefix = given.prefix + _distinction(given.prefix + store.manifest["path"], taken)
        rows = _candidates(store, given, prefix, keep_splits).assign(compared=not opened)
        taken |= set(rows["path"])
        # A shard whose files were all at fault was not written.
        for shard in rows.loc[rows["row"] >= 0, "shard"].unique():
            links[shards + int(shard)] = shard_path(store.root, int(shard))
        rows["shard"] += shards
        shards += int(rows["shard"].max()) - shards + 1
        manifests.append(rows)
        if not opened:
            pairs = store.duplicates[store.duplicates["kind"] == "near"]
            near = pairs.assign(first=prefix + pairs["first"], second=prefix + pairs["second"])
        opened.append(store)
    return Base(
        manifest=pd.concat(manifests[1:] if opened else manifests, ignore_index=True),
        near=near,
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


def _candidates(store: Store, given: StoreInput, prefix: str, keep_splits: bool) -> pd.DataFrame:
    """The records of one store as candidates for a new one."""
    rows = store.manifest.copy()
    rows["earlier"] = rows["group"]
    rows["earlier_split"] = rows["split"] if keep_splits else ""
    rows["label"] = rows["label"].replace(dict(given.mapping))
    rows["path"] = prefix + rows["path"]
    if given.source:
        rows["source"] = given.source
    return rows


def _distinction(paths: pd.Series, taken: set[str]) -> str:
    """What to put before these paths so that none of them is taken: nothing, `2/`, `3/` …"""
    number, prefix = 1, ""
    while any(prefix + path in taken for path in paths):
        number += 1
        prefix = f"{number}/"
    return prefix


def join(base: Base, decoded: pd.DataFrame) -> pd.DataFrame:
    """The records of the stores, then the new ones under paths of their own."""
    earlier = base.manifest
    if len(earlier) and len(decoded):
        # A file that could not be read then and was read again now has its new record only.
        again = (earlier["row"] < 0) & earlier["uri"].isin(decoded["uri"])
        earlier = earlier[~again]
        distinction = _distinction(decoded["path"], set(earlier["path"]))
        decoded = decoded.assign(path=distinction + decoded["path"])
    # An empty frame would turn the numbers of the other into fractions.
    parts = [earlier.assign(new=False), decoded.assign(new=True, compared=False)]
    return pd.concat([part for part in parts if len(part)], ignore_index=True)
