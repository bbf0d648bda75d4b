"""Which split a group belongs to: a stable hash, so that new images move none of the old ones."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from ctray.data.manifest import SPLITS

FRACTIONS = (0.70, 0.15, 0.15)


def split_groups(
    groups: Sequence[str],
    labels: Sequence[str],
    fractions: tuple[float, float, float] = FRACTIONS,
    fixed: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Give every group one of train, val and test, class by class.

    The hash of its name decides for each group alone, so every class and every source is divided
    alike up to chance, and no group moves when others come. A group with several labels counts as
    its most frequent one. A class too small for the hash to reach every split lends the missing
    ones its nearest group; if it has not one for each, training comes first.

    Args:
        groups: group of each record.
        labels: label of each record, aligned.
        fractions: shares of train, val and test; they add up to 1.
        fixed: split of the groups that have one already.

    Returns:
        Split by group.
    """
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for group, label in zip(groups, labels, strict=True):
        counts[group][label] += 1
    by_class: dict[str, list[str]] = defaultdict(list)
    for group, seen in counts.items():
        by_class[min(seen, key=lambda label: (-seen[label], label))].append(group)
    known = dict(fixed or {})
    splits: dict[str, str] = {}
    for members in by_class.values():
        # Hash first, name second: the order is total and does not depend on the input's.
        members.sort(key=lambda group: (position(group), group))
        chosen = [known.get(group) or split_of(position(group), fractions) for group in members]
        if not any(group in known for group in members):
            _lend(chosen, {name for name, share in zip(SPLITS, fractions, strict=True) if share})
        splits.update(zip(members, chosen, strict=True))
    return splits


def position(group: str) -> float:
    """Where a group stands between 0 and 1, from its name alone."""
    return int.from_bytes(hashlib.sha256(group.encode()).digest()[:8]) / 2**64


def split_of(place: float, fractions: tuple[float, float, float]) -> str:
    """The split at a place between 0 and 1: test first, then val, then train."""
    _, val, test = fractions
    if place < test:
        return "test"
    return "val" if place < test + val else "train"


def _lend(chosen: list[str], wanted: set[str]) -> None:
    """Fill the splits that a small class does not reach; `chosen` is in the order of the hash."""
    if len(chosen) < len(wanted):
        chosen[-1] = "train"
        return
    if "test" in wanted:
        chosen[0] = "test"
    if "train" in wanted:
        chosen[-1] = "train"
    if "val" in wanted and "val" not in chosen:
        chosen[min(chosen.count("test"), len(chosen) - 2)] = "val"
