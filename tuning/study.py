"""What a study is: what it looks through, for what, how much of it, and who follows it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ctray.config import Recipe
from ctray.data.store import Store
from ctray.training.history import HistoryRow
from ctray.training.plan import Plan
from tuning.memory import Memory
from tuning.names import Pruner
from tuning.objectives import Objective
from tuning.space import Space
from tuning.trials import Trial


class StudyListener(Protocol):
    """Who follows a study while it runs; called from the main thread of the command."""

    def begin(self, number: int, params: dict[str, Any]) -> None:
        """A trial begins, or is to be resumed."""
        ...

    def resume(self, number: int, step: int) -> None:
        """A trial that was cut, or whose process died, is resumed after so many steps."""
        ...

    def row(self, number: int, row: HistoryRow) -> None:
        """An evaluation of a trial."""
        ...

    def end(self, trial: Trial) -> None:
        """What became of a trial."""
        ...


@dataclass(frozen=True)
class Study:
    """A search: what it looks through, for what, and where it is kept.

    Attributes:
        id: goes into the bundle.
        memory: its trials.
        space: what they choose from.
        base: what they do not; its epochs are the most a trial trains.
        objectives: what for; the first is what trials are compared by.
        store: what they are trained on.
        out: its folder, absolute.
        plan: from `make_plan`.
        latency_budget_ms: a model that is slower is not trained; None: no limit.
    """

    id: str
    memory: Memory
    space: Space
    base: Recipe
    objectives: Sequence[Objective]
    store: Store
    out: Path
    plan: Plan
    latency_budget_ms: float | None = None

    def folder(self, number: int) -> Path:
        """Where a trial keeps its checkpoints and, when it has finished, its bundle."""
        return self.out / "trials" / f"{number:04d}"

    def bundle(self, number: int) -> Path:
        """Where the bundle of a finished trial lies."""
        return self.folder(number) / "bundle"


@dataclass(frozen=True)
class Limits:
    """How much is searched.

    Attributes:
        trials: in the whole study, those of earlier commands included. None: no limit.
        time_budget_s: of this command; then nothing is begun or resumed. None: no limit.
        pruner: who ends trials that are behind.
    """

    trials: int | None
    time_budget_s: float | None = None
    pruner: Pruner = "asha"

    def allow_another(self, begun: int) -> bool:
        """Whether a new trial may follow when so many were begun."""
        return self.trials is None or begun < self.trials


def recipe_of(base: Recipe, params: dict[str, Any]) -> Recipe:
    """The recipe of a trial; without a refit, for a trial is judged on the validation records.

    Raises:
        UserError: the values do not go together.
    """
    return Recipe.load(None, base.model_dump() | {"refit_epochs": 0} | params)
