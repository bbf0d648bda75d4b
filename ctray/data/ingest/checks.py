"""What needs all records at once: copies, conflicting labels, missing ones and odd ones out."""

from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path

import pandas as pd

from ctray.data.ingest.duplicates import near_duplicates
from ctray.data.ingest.earlier import Base
from ctray.data.manifest import OTHER_VIEW, CandidateRow, DuplicateRow, column_types, text_columns
from ctray.data.store import read_images
from ctray.errors import UserError

# Leaving records out takes more than keeping them together: look-alikes of drawn patients reach
# 0.70, re-encoded, rescaled, shifted, flipped or cropped copies of radiographs 0.80 and more.
_CERTAIN = 0.75


def check_records(
    manifest: pd.DataFrame, base: Base, partial: Path
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Mark duplicates, conflicts, missing labels and odd ones out.

    Args:
        manifest: one row a record, decoded or not.
        base: what came from earlier stores.
        partial: folder with the shards.

    Returns:
        The manifest with status, reason and warning; one row a pair of duplicates.
    """
    text = text_columns(CandidateRow, manifest.columns[manifest.isna().any()].tolist())
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
        before = manifest.loc[coloured, "warning"]
        manifest.loc[coloured, "warning"] = "a colour picture among grey ones" + before.where(
            before == "", "; " + before
        )
    exact = _mark_exact(manifest)
    near = _find_near(manifest, base, partial)
    return manifest, pd.concat([exact, near], ignore_index=True).astype(column_types(DuplicateRow))


def _near_pair(
    manifest: pd.DataFrame, first: int, second: int, similarity: float, flipped: bool
) -> DuplicateRow:
    """A pair of near-duplicates by their place in the manifest."""
    (path, other), (label, other_label) = (
        manifest[column].iloc[[first, second]] for column in ("path", "label")
    )
    differ = label != other_label and bool(label and other_label)
    conflict = differ and similarity >= _CERTAIN
    return DuplicateRow(path, other, "near", similarity, flipped, conflict)


def _one_a_picture(manifest: pd.DataFrame) -> pd.DataFrame:
    """The record that stays of those with the same pixels: the first, a labelled one if any."""
    stored = manifest[manifest["row"] >= 0]
    first = stored.sort_values(by="label", key=lambda label: label == "", kind="stable")
    return stored.loc[first.drop_duplicates("id").index.sort_values()]


def _mark_exact(manifest: pd.DataFrame) -> pd.DataFrame:
    stored = manifest[manifest["row"] >= 0]
    same = stored[stored["id"].duplicated(keep=False)]
    if same.empty:
        return pd.DataFrame(columns=list(column_types(DuplicateRow)))
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


def _find_near(manifest: pd.DataFrame, base: Base, partial: Path) -> pd.DataFrame:
    single = _one_a_picture(manifest)
    found = near_duplicates(
        [bytes.fromhex(text) for text in single["phash"]],
        lambda rows: read_images(partial, single.iloc[rows]),
        # The earlier ones come first, and were compared with each other then.
        int(single["compared"].sum()),
    )
    at = single.index.to_numpy()
    pairs = [
        _near_pair(manifest, at[pair.first], at[pair.second], pair.similarity, pair.flipped)
        for pair in found
    ]
    place = pd.Series(manifest.index, index=manifest["path"])
    pairs += [
        _near_pair(
            manifest, place[row["first"]], place[row["second"]], row["similarity"], row["flipped"]
        )
        for row in base.near.to_dict("records")
    ]
    torn = {
        path: f"the same picture under different labels: {pair.first}, {pair.second}"
        for pair in pairs
        if pair.conflict
        for path in (pair.first, pair.second)
    }
    rows = place.loc[list(torn)]
    manifest.loc[rows, "status"] = "conflict"
    manifest.loc[rows, "reason"] = list(torn.values())
    return pd.DataFrame(map(astuple, pairs), columns=list(column_types(DuplicateRow)))


def _and_more(paths: pd.Series) -> str:
    shown = ", ".join(paths[:3])
    return f"{shown} and {len(paths) - 3} more" if len(paths) > 3 else shown


def check_classes(classes: Sequence[str], manifest: pd.DataFrame) -> None:
    """Raise UserError where a class has no usable image."""
    left = manifest[manifest["status"] == "ok"]["label"].value_counts()
    for name in classes:
        if left.get(name, 0) == 0:
            lost = manifest[manifest["label"] == name].iloc[0]
            raise UserError(
                f"class {name!r} has no usable image; the first, {lost['path']}: {lost['reason']}"
            )


def refuse_faults(manifest: pd.DataFrame) -> None:
    """Raise UserError where a record is left out that was asked for, or is warned about."""
    at_fault = ~manifest["status"].isin(["ok", OTHER_VIEW])
    faults = manifest[at_fault | (manifest["warning"] != "")]
    if len(faults):
        first = faults.iloc[0]
        raise UserError(
            f"{len(faults)} of {len(manifest)} records are at fault, the first "
            f"{first['path']}: {first['reason'] or first['warning']}; "
            "leave strict out, and the store's report lists them",
            "strict",
        )
