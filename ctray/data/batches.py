"""How the records of an epoch make batches, and how workers share a batch."""

from ctray.errors import UserError


def batch_that_fits(records: int) -> int:
    """The batch for a training split that is smaller than the one wanted.

    Half of the records, so that an epoch has two steps; an even number, for mixing takes pairs.
    """
    return max(records // 4 * 2, min(records, 2), 1)


def steps_per_epoch(records: int, batch_size: int) -> int:
    """Full batches in an epoch.

    Raises:
        UserError: there are fewer records than one batch.
    """
    if records < batch_size:
        raise UserError(
            f"batch_size={batch_size} is larger than the {records} training records: "
            f"choose batch_size={batch_that_fits(records)}",
            "batch_size",
        )
    return records // batch_size


def share_of(batch_size: int, rank: int, world: int) -> slice:
    """The places of a global batch that a worker takes.

    Shares differ by two records at most, and neighbours (places 0 and 1, 2 and 3 …) stay together:
    mixing takes them in pairs.
    """
    pairs = (batch_size + 1) // 2
    start, stop = (2 * (pairs * edge // world) for edge in (rank, rank + 1))
    return slice(start, min(stop, batch_size))


def smallest_share(batch_size: int, world: int) -> int:
    """Records of a global batch that a worker takes at least."""
    shares = (share_of(batch_size, rank, world) for rank in range(world))
    return min(share.stop - share.start for share in shares)
