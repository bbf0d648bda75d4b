"""Which split a group belongs to: a stable hash, so that new images move none of the old ones."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence

SPLITS = ("train", "val", "test")
_VAL_SHARE, _TEST_SHARE = 0.15, 0.15


def split_groups(groups: Sequence[str], labels: Sequence[str]) -> dict[str, str]:
    """Give every group one of train (70 %), val (15 %) and test (15 %), class by class.

    A group with several labels counts as its most frequent one. A class too small for the hash to
    reach every split lends val and test its nearest group, as long as it has three groups.

    Args:
        groups: group of each record.
        labels: label of each record, aligned.

    Returns:
        Split by group.
    """
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for group, label in zip(groups, labels, strict=True):
        counts[group][label] += 1
    by_class: dict[str, list[str]] = defaultdict(list)
    for group, seen in counts.items():
        by_class[min(seen, key=lambda label: (-seen[label], label))].append(group)
    splits: dict[str, str] = {}
    for members in by_class.values():
        # Hash first, name second: the order is total and does not depend on the input's.
        members.sort(key=lambda group: (_position(group), group))
        chosen = [_split_of(_position(group)) for group in members]
        if len(members) >= len(SPLITS):
            chosen[0], chosen[-1] = "test", "train"
            if "val" not in chosen:
                chosen[min(chosen.count("test"), len(chosen) - 2)] = "val"
        splits.update(zip(members, chosen, strict=True))
    return splits


def _position(group: str) -> float:
    return int.from_bytes(hashlib.sha256(group.encode()).digest()[:8]) / 2**64


def _split_of(position: float) -> str:
    if position < _TEST_SHARE:
        return "test"
    return "val" if position < _TEST_SHARE + _VAL_SHARE else "train"
