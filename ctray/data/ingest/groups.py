"""Which records belong together, and whether a given split tears them apart.

A group is everything tied together by a patient, a study, a series or the same picture: the hard
unit that never straddles two splits.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence, Set

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ctray.data.ingest.split import position, split_groups
from ctray.data.manifest import SPLITS
from ctray.errors import UserError
from ctray.words import counted

# Names of one patient may stand in the table and in the DICOM file: they are one space of names.
_TIES = {
    "patient": "patient",
    "dicom_patient": "patient",
    "study": "study",
    "series": "series",
    "uri": "file",  # the frames of one file
}
# What the lack of a split means.
_MEANS = {
    "train": "nothing can be trained on it",
    "val": "no training can choose its best epoch by it",
    "test": "no figure can be measured on it",
}
_NAMED_AFTER = ("patient", "dicom_patient", "study", "series", "id")


def group_records(records: pd.DataFrame, pairs: Sequence[tuple[int, int]]) -> pd.Series:
    """Group of each record.

    Args:
        records: columns id, uri, patient, dicom_patient, study, series and earlier (its group in an
            earlier version); empty texts where unknown; index 0..n-1.
        pairs: positions of records that show the same picture.

    Returns:
        Names, aligned: the earlier group where there is one, else the first by name of the
        patients, of the studies, of the series or of the ids that are tied together.
    """
    count = len(records)
    left = [first for first, _ in pairs]
    right = [second for _, second in pairs]
    nodes = count
    ties = pd.DataFrame(
        {
            "at": np.tile(np.arange(count), len(_TIES) + 2),
            "space": np.repeat([*_TIES.values(), "earlier", "id"], count),
            "name": pd.concat([records[c] for c in (*_TIES, "earlier", "id")]).to_numpy(),
        }
    )
    ties = ties[ties["name"] != ""]
    if len(ties):
        keys = ties.groupby(["space", "name"], sort=False).ngroup().to_numpy()
        left += ties["at"].tolist()
        right += (count + keys).tolist()
        nodes += int(keys.max()) + 1
    edges = coo_array((np.ones(len(left)), (left, right)), shape=(nodes, nodes))
    component = pd.Series(connected_components(edges, directed=False)[1][:count])
    name = pd.Series("", index=records.index)
    for column in ("earlier", *_NAMED_AFTER):
        known = records[column].where(records[column] != "")
        first = known.groupby(component.to_numpy()).transform("min").fillna("")
        name = name.where(name != "", first)
    return name


def assign_splits(
    records: pd.DataFrame, fractions: tuple[float, float, float], given: bool
) -> tuple[pd.Series, list[str]]:
    """Split of each record, and sentences on what was lent.

    Ready-made sets often have `train` and `test` only, for all classes or for some. What chooses
    the checkpoint must not be the test split, so groups of `train` become `val` there, whole.

    Args:
        records: columns path, label, group, earlier_split (in an earlier version of the store) and
            given_split (by its folder or table); empty texts where there is none.
        fractions: shares of train, val and test for the groups that have no split yet.
        given: whether given splits are kept; `check_leaks` comes first.
    """
    fixed = records["earlier_split"]
    if given:
        fixed = fixed.where(fixed != "", records["given_split"])
    known = records.assign(fixed=fixed)[fixed != ""]
    splits = dict(zip(known["group"], known["fixed"], strict=True))
    assigned = split_groups(
        records["group"].tolist(), records["label"].tolist(), fractions, fixed=splits
    )
    said: list[str] = []
    if given and fractions[1] > 0:
        earlier = set(records.loc[records["earlier_split"] != "", "group"])
        everywhere = "val" not in splits.values()
        said = _lend_val(records, assigned, splits.keys() - earlier, fractions[1], everywhere)
    return records["group"].map(assigned), said


def _lend_val(
    records: pd.DataFrame,
    assigned: dict[str, str],
    given: Set[str],
    share: float,
    everywhere: bool,
) -> list[str]:
    """Turn groups of train into val where the given splits have none, and say where.

    Args:
        records: as for `assign_splits`.
        assigned: split by group; changed here.
        given: groups whose split was given and may still change.
        share: of the groups, 0 to 1.
        everywhere: whether no class has a val split as given.
    """
    members = records[["group", "label"]].drop_duplicates()
    classes_of: dict[str, list[str]] = defaultdict(list)
    for group, label in members.itertuples(index=False):
        classes_of[group].append(label)
    train = Counter(
        label
        for group, labels in classes_of.items()
        if assigned[group] == "train"
        for label in labels
    )
    said: list[str] = []
    total = 0
    for label, rows in members.groupby("label"):
        groups = set(rows["group"])
        lacks = all(assigned[group] != "val" for group in groups)
        if not (lacks or everywhere):
            continue
        moved = 0
        for group in sorted(given & groups, key=lambda group: (position(group), group)):
            # Of a class that is too small for its share the nearest group is lent, as elsewhere.
            wanted = position(group) < share or (lacks and not moved)
            spare = all(train[name] > 1 for name in classes_of[group])
            if assigned[group] == "train" and wanted and spare:
                assigned[group] = "val"
                train.subtract(classes_of[group])
                moved += 1
        total += moved
        if moved and not everywhere:
            said.append(
                f"class {label!r} has no val records as given: {counted(moved, 'group')} of its "
                "train records became val"
            )
    if everywhere and total:
        said.append(f"no val split is given: {counted(total, 'group')} of train became val")
    return said


def lacking_splits(records: pd.DataFrame, classes: Sequence[str]) -> list[str]:
    """Sentences on the splits that have no usable records, at all or of a class.

    Args:
        records: columns label, split and status, one row a record.
        classes: names of the classes in their order.
    """
    usable = records[records["status"] == "ok"]
    there = {name: set(usable["split"][usable["label"] == name]) for name in classes}
    empty = [split for split in SPLITS if not any(split in found for found in there.values())]
    said = [f"the store has no {split} records: {_MEANS[split]}" for split in empty]
    for name, found in there.items():
        missing = [split for split in SPLITS if split not in found and split not in empty]
        if missing:
            said.append(
                f"class {name!r} has no {' and no '.join(missing)} records: put more of its groups "
                "(patients) there, or no figure of that split is about it"
            )
    return said


def check_leaks(records: pd.DataFrame) -> None:
    """Raise UserError where one group has given or earlier splits that differ.

    Args:
        records: as for `assign_splits`; also those that are left out, which tell of a leak, too.
    """
    fixed = records["earlier_split"].where(records["earlier_split"] != "", records["given_split"])
    known = records.assign(fixed=fixed)[fixed != ""]
    torn = known.groupby("group")["fixed"].nunique()
    torn = torn[torn > 1]
    if torn.empty:
        return
    members = known[known["group"] == torn.index[0]]
    named = [
        f"{members.loc[members['fixed'] == split, 'path'].iloc[0]} ({split})"
        for split in SPLITS
        if (members["fixed"] == split).any()
    ]
    more = f", and {len(torn) - 1} more groups" if len(torn) > 1 else ""
    raise UserError(
        f"leak: {' and '.join(named)} show one patient, series or picture (group "
        f"{torn.index[0]!r}){more}: put them into one split, or make a new store whose fractions "
        "you name, which divides all of them anew",
        "fractions",
    )
