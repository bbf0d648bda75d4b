"""Which records belong together, and whether a given split tears them apart.

A group is everything tied together by a patient, a study, a series or the same picture: the hard
unit that never straddles two splits.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ctray.data.ingest.split import position, split_groups, split_of
from ctray.data.manifest import SPLITS
from ctray.errors import UserError

# Names of one patient may stand in the table and in the DICOM file: they are one space of names.
_TIES = {
    "patient": "patient",
    "dicom_patient": "patient",
    "study": "study",
    "series": "series",
    "uri": "file",  # the frames of one file
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
) -> pd.Series:
    """Split of each record.

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
    if given and "val" not in set(splits.values()) and fractions[1] > 0:
        # Ready-made sets often have train and test only: what chooses the checkpoint must not be
        # the test split, so a part of train does.
        share = (1 - fractions[1], fractions[1], 0.0)
        earlier = set(records.loc[records["earlier_split"] != "", "group"])
        for group in splits.keys() - earlier:
            if splits[group] == "train":
                splits[group] = split_of(position(group), share)
    assigned = split_groups(
        records["group"].tolist(), records["label"].tolist(), fractions, fixed=splits
    )
    return records["group"].map(assigned)


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
