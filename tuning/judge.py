"""Which trials continue: Tune's schedulers over everything that the study remembers."""

import math
from collections import defaultdict
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler

from ctray.training import history
from ctray.training.history import HistoryRow
from tuning.names import Pruner
from tuning.objectives import Objective
from tuning.trials import Trial

# A trial continues past a rung when it is in this part of those that reached it.
_REDUCTION = 3
_BRACKETS = {"asha": 1, "hyperband": 3}
_BEHIND = "behind the better third of the trials at epoch {epoch:g}"
_GUESSING = "no better than guessing at epoch {epoch:g}"


class Judge:
    """Says which trials are to end before their last epoch (the field's word: a pruner).

    ASHA or Hyperband are Tune's, by the epoch. A search that is resumed replays what it remembers
    into them; Hyperband draws the brackets of its trials anew then. A trial that they would end
    continues while what it lacks is within the error of a score on so few records.
    """

    def __init__(
        self,
        pruner: Pruner,
        objective: Objective,
        epochs: int,
        classes: int,
        largest: float,
        earlier: Iterable[Trial],
    ) -> None:
        """Judge trials of a study.

        Args:
            pruner: how.
            objective: by what; a key of the evaluations.
            epochs: a trial that reaches the last is never pruned.
            classes: as many as the data has.
            largest: share of the training records that who always answers the largest has right.
            earlier: the study's trials so far.
        """
        self._objective, self._epochs = objective, epochs
        self._classes, self._largest = classes, largest
        self._inner: AsyncHyperBandScheduler | None = None
        # Of trials that were cut, until they join again.
        self._rows: dict[int, tuple[HistoryRow, ...]] = {}
        # By epoch what every trial scored that came so far.
        self._scores: dict[float, list[float]] = defaultdict(list)
        if pruner != "none" and epochs > 1:
            self._inner = AsyncHyperBandScheduler(
                time_attr="epoch",
                metric=objective.row_key,
                mode="max" if objective.direction == "maximize" else "min",
                # It would stop a trial that reaches it, before its end is told.
                max_t=epochs + 1,
                grace_period=1,
                reduction_factor=_REDUCTION,
                brackets=min(_BRACKETS[pruner], _rungs(epochs)),
            )
        for trial in earlier:
            if trial.state == "stopped":
                self._rows[trial.number] = trial.rows
            else:
                self._replay(trial.number, trial.rows)

    def add(self, number: int) -> None:
        """Let a trial join; one that is resumed brings the evaluations that it has."""
        self._replay(number, self._rows.pop(number, ()))

    def reason_to_end(self, number: int, row: HistoryRow) -> str:
        """Judge an evaluation; returns why the trial is to end with it, or nothing."""
        if row["epoch"] >= self._epochs:
            return ""
        reason = ""
        if self._is_guessing(row):
            reason = _GUESSING
        elif self._inner is not None:
            decision = _tell(self._inner, number, row)
            if decision == TrialScheduler.STOP and not self._may_be_chance(row):
                reason = _BEHIND
            self._scores[row["epoch"]].append(history.value(row, self._objective.row_key))
        return reason.format(epoch=row["epoch"])

    def _is_guessing(self, row: HistoryRow) -> bool:
        """Whether a trial is halfway and has learned nothing: broken, whatever the others do.

        Who always answers the largest class has its share right, and a macro-F1 below that of
        blind guesses. By both: averaged weights lag behind the training on few images, and with
        balanced weights a good model has fewer right than that share.
        """
        halfway = row["epoch"] >= max(2, self._epochs / 2)
        is_blind = row["val_macro_f1"] <= 1 / self._classes
        return halfway and is_blind and row["train_accuracy"] <= self._largest

    def _may_be_chance(self, row: HistoryRow) -> bool:
        """Whether the better third is within a standard error of a trial's share of right answers.

        Binomial, as if macro-F1 were an accuracy. A loss has no such error: it is what it is.
        """
        score, others = history.value(row, self._objective.row_key), self._scores[row["epoch"]]
        if self._objective.direction == "minimize" or not others:
            return False
        error = math.sqrt(score * (1 - score) / row["val_records"])
        return bool(score + error >= np.percentile(others, 100 * (1 - 1 / _REDUCTION)))

    def _replay(self, number: int, rows: Iterable[HistoryRow]) -> None:
        if self._inner is None:
            return
        self._inner.on_trial_add(cast(Any, None), _as_tune(number))
        for row in rows:
            if row["epoch"] < self._epochs:
                _tell(self._inner, number, row)
                self._scores[row["epoch"]].append(history.value(row, self._objective.row_key))


def _tell(scheduler: AsyncHyperBandScheduler, number: int, row: HistoryRow) -> str:
    """Show an evaluation to Tune's scheduler; returns what it decides."""
    return scheduler.on_trial_result(cast(Any, None), _as_tune(number), dict(row))


def _as_tune(number: int) -> TuneTrial:
    """As much of a trial as Tune's scheduler looks at."""
    return cast(TuneTrial, SimpleNamespace(trial_id=str(number)))


def _rungs(epochs: int) -> int:
    """How often Hyperband can begin one step later with these epochs."""
    count = 1
    while _REDUCTION**count <= epochs:
        count += 1
    return count
