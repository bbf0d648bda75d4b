"""What a search may optimise, and which trial it deploys."""

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ctray.errors import UserError
from ctray.training import history
from tuning.trials import Trial


@dataclass(frozen=True)
class Objective:
    """A figure of a trial that is to be large or small.

    Attributes:
        name: as a search is given it.
        title: for people.
        direction: `maximize` or `minimize`.
        row_key: of the evaluation it is read from; empty for a figure of the model itself.
    """

    name: str
    title: str
    direction: Literal["maximize", "minimize"]
    row_key: str = ""

    def value(self, trial: Trial) -> float:
        """Of the weights that a trial keeps; nan while unknown."""
        if not self.row_key:
            known = getattr(trial, self.name)
            return math.nan if known is None else float(known)
        return math.nan if trial.best is None else history.value(trial.best, self.row_key)

    def is_better(self, value: float, other: float) -> bool:
        """Whether a value is better than another one."""
        return value > other if self.direction == "maximize" else value < other


_ALL = (
    Objective("macro_f1", "macro-F1", "maximize", "val_macro_f1"),
    Objective("accuracy", "accuracy", "maximize", "val_accuracy"),
    Objective("loss", "loss", "minimize", "val_loss"),
    Objective("latency_ms", "p50 latency, ms", "minimize"),
    Objective("size_mb", "weights, MB", "minimize"),
)
OBJECTIVES = {objective.name: objective for objective in _ALL}


def parse_objectives(names: Sequence[str]) -> tuple[Objective, ...]:
    """The objectives of these names; the first must be a measure of the predictions.

    Raises:
        UserError: an unknown name, the same twice, or none that says how good a model is.
    """
    for name in names:
        if name not in OBJECTIVES:
            near = difflib.get_close_matches(name, OBJECTIVES, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "known: " + ", ".join(OBJECTIVES)
            raise UserError(f"unknown objective {name!r}; {hint}", "objective")
        if list(names).count(name) > 1:
            raise UserError(f"the objective {name} is given twice: give each once", "objective")
    if not OBJECTIVES[names[0]].row_key:
        raise UserError(
            f"the objective {names[0]} comes first: trials are compared by a measure of their "
            "predictions, so put macro_f1, accuracy or loss before it",
            "objective",
        )
    return tuple(OBJECTIVES[name] for name in names)


def front(trials: Sequence[Trial], objectives: Sequence[Objective]) -> list[Trial]:
    """The finished trials that no other one beats: as good in all objectives, better in one.

    Only trials that trained to the end count, and of which all values are known: what a pruned one
    would have reached is not.
    """
    finished = [trial for trial in trials if trial.state == "finished"]
    values = {trial.number: [one.value(trial) for one in objectives] for trial in finished}
    done = [trial for trial in finished if not any(map(math.isnan, values[trial.number]))]

    def beats(mine: list[float], theirs: list[float]) -> bool:
        pairs = list(zip(objectives, mine, theirs, strict=True))
        no_worse = not any(one.is_better(b, a) for one, a, b in pairs)
        return no_worse and any(one.is_better(a, b) for one, a, b in pairs)

    return [
        trial
        for trial in done
        if not any(beats(values[other.number], values[trial.number]) for other in done)
    ]


def best_of(trials: Sequence[Trial], objective: Objective) -> Trial | None:
    """The finished trial that is best in one objective, the first of those; None without one."""
    found: Trial | None = None
    for trial in trials:
        if trial.state != "finished" or math.isnan(objective.value(trial)):
            continue
        if found is None or objective.is_better(objective.value(trial), objective.value(found)):
            found = trial
    return found
