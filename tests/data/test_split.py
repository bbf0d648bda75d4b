"""Splits hold whole groups, keep their shares, and do not move."""

from collections import Counter

import pytest

from ctray.data.ingest.split import split_groups

pytestmark = pytest.mark.fast


def test_shares_are_seventy_fifteen_fifteen() -> None:
    groups = [f"g{i}" for i in range(4000)]
    counts = Counter(split_groups(groups, ["a"] * 4000).values())
    assert counts["train"] / 4000 == pytest.approx(0.70, abs=0.03)
    assert counts["val"] / 4000 == pytest.approx(0.15, abs=0.03)


def test_new_groups_move_none_of_the_old() -> None:
    old = [f"g{i}" for i in range(300)]
    new = [f"h{i}" for i in range(700)]
    before = split_groups(old, ["a"] * 300)
    after = split_groups(old + new, ["a"] * 1000)
    assert {group: after[group] for group in old} == before


def test_every_split_gets_a_group_of_every_class_that_has_three() -> None:
    for trial in range(50):
        groups = [f"{trial}-{i}" for i in range(6)]
        splits = split_groups(groups, ["a"] * 3 + ["b"] * 3)
        assert {splits[g] for g in groups[:3]} == {"train", "val", "test"}
        assert {splits[g] for g in groups[3:]} == {"train", "val", "test"}
