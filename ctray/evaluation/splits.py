"""Which split of a store is scored. Light: a mistake is said before a model is loaded."""

from pathlib import Path

from ctray.data.manifest import SPLITS
from ctray.data.store import is_store
from ctray.errors import UserError

DEFAULT_SPLIT = "test"
SCORABLE = (*SPLITS, "all")


def check_split(data: Path, split: str | None) -> None:
    """Raise UserError for a split that this data cannot have; None is no wish."""
    if split is None:
        return
    if split not in SCORABLE:
        raise UserError(f"split {split!r} must be train, val, test or all", "split")
    if not is_store(data):
        raise UserError(f"split {split!r} needs a store; {data} is not one", "split")
