"""What a training is told, and what it tells: the words that driver, worker and loop share.

The driver imports this module: there is no torch in it.
"""

from typing import TYPE_CHECKING, Any, Literal, Protocol, TypedDict, final

from ctray.training.history import HistoryRow

if TYPE_CHECKING:
    from ctray.config import Recipe
    from ctray.data.store import Store
    from ctray.training.plan import Plan

# How a training ended: after its last step or its patience; because the reporter wanted no more;
# or because it was over, and then the checkpoints are of the last step.
End = Literal["finished", "stopped", "cut"]


class Job(TypedDict):
    """One training, in plain values, the same for every worker.

    Attributes:
        recipe: what to train, as `Recipe.model_dump` gives it.
        store: the folder or URI of the store.
        version: of the store.
        threads: that torch uses in a worker.
        prefetch: batches that wait for a worker.
        checkpoints: absolute path or URI; the training resumes from the newest one there.
        refit_of: set in a refit: a bundle, or the checkpoints of a run. The refit starts from
            these (the best) weights, and learns from training and validation records to the last
            step, without evaluation.
    """

    recipe: dict[str, Any]
    store: str
    version: int
    threads: int
    prefetch: int
    checkpoints: str
    refit_of: str | None


@final
class Ended(TypedDict):
    """A training that ended as it should; `best` is its best evaluation, if there was one."""

    ended: End
    best: HistoryRow | None


@final
class Failed(TypedDict):
    """A training that a user's mistake ended.

    Attributes:
        error: the sentence of the `UserError`.
        arguments: the names in it.
        is_unsaved: whether a checkpoint could not be written.
    """

    error: str
    arguments: tuple[str, ...]
    is_unsaved: bool


TrainingEnd = Ended | Failed


class Reporter(Protocol):
    """Takes what the first worker of a training tells, and says whether to continue.

    The kinds of messages and their contents: `start` (`step`, `history`, `workers`, `interval`),
    `first` (times of the first step, see `RunListener.first`), `progress` (`step`, `steps`), `row`
    (a `HistoryRow`), `say` (a line).
    """

    def tell(self, kind: str, content: Any) -> None:
        """Take a message; nobody waits for it to arrive."""
        ...

    def wants_more(self) -> bool:
        """Whether the training is to continue after the evaluation that was told last; may wait."""
        ...

    def is_over(self) -> bool:
        """Whether the training is to save and end as soon as it can."""
        ...


def make_job(
    recipe: "Recipe", store: "Store", plan: "Plan", folder: str, refit_of: str | None = None
) -> Job:
    """What the workers are told of a training.

    Args:
        recipe: what to train.
        store: what to train on.
        plan: from `make_plan`.
        folder: absolute path or URI for the checkpoints; a run resumes from what is there.
        refit_of: a bundle, or the checkpoints of a run; set, the training is a refit of it.
    """
    return {
        "recipe": recipe.model_dump(),
        "store": store.place[0],
        "version": store.place[1],
        "threads": plan.threads,
        "prefetch": plan.prefetch,
        "checkpoints": folder,
        "refit_of": refit_of,
    }
