"""Which trials go on: Tune's scheduler over everything that the study remembers."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler

from tuning.objectives import Objective
from tuning.trials import Trial

Pruner = Literal["asha", "hyperband", "none"]
# A trial goes on past an epoch of ours when it is in this part of those that reached it.
_REDUCTION = 3
_BRACKETS = {"asha": 1, "hyperband": 3}
_BEHIND = "behind the better third of the trials at epoch {epoch:g}"
_GUESSING = "no better than guessing at epoch {epoch:g}"


class Judge(FIFOScheduler):
    """Notes what every trial reports, and says which are to end before their last epoch.

    ASHA or Hyperband are Tune's, by the epoch. A search that goes on replays what it remembers
    into them; Hyperband draws the brackets of its trials anew then. A trial that they would end
    goes on all the same while what it lacks is within the error of a score on so few records.
    """

    def __init__(
        self,
        pruner: Pruner,
        objective: Objective,
        epochs: int,
        classes: int,
        largest: float,
        earlier: Iterable[Trial],
        on_event: Callable[[int, dict[str, Any]], None],
        on_prune: Callable[[int, str], None],
    ) -> None:
        """Judge trials of a study.

        Args:
            pruner: how.
            objective: by what; a key of the evaluations.
            epochs: a trial that reaches the last is never pruned.
            classes: as many as the data has.
            largest: share of the training records that who always answers the largest has right.
            earlier: the study's trials so far.
            on_event: called with a trial's number and each of its results.
            on_prune: called with a trial's number and the reason before it is stopped.
        """
        super().__init__()
        self._objective, self._epochs = objective, epochs
        self._classes, self._largest = classes, largest
        self._on_event, self._on_prune = on_event, on_prune
        self._inner: AsyncHyperBandScheduler | None = None
        self._rows: dict[int, tuple[dict[str, Any], ...]] = {}
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
                self._replay(SimpleNamespace(trial_id=f"earlier-{trial.number}"), trial.rows)

    def __getstate__(self) -> dict[str, Any]:
        """Tune writes it down for `Tuner.restore`, which is not how a study goes on."""
        return {}

    def on_trial_add(self, tune_controller: Any, trial: TuneTrial) -> None:
        """A trial joins; one that goes on brings the evaluations that it has."""
        self._replay(trial, self._rows.get(_number(trial), ()))

    def on_trial_result(
        self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]
    ) -> str:
        """Note it, and judge an evaluation."""
        number = _number(trial)
        self._on_event(number, result)
        if result["kind"] != "row" or result["epoch"] >= self._epochs:
            return TrialScheduler.CONTINUE
        reason = ""
        if self._is_guessing(result):
            reason = _GUESSING
        elif self._inner is not None:
            decision = self._inner.on_trial_result(tune_controller, trial, result)
            is_behind = decision == TrialScheduler.STOP and not self._may_be_chance(result)
            reason = _BEHIND if is_behind else ""
            self._scores[result["epoch"]].append(result[self._objective.row_key])
        if not reason:
            return TrialScheduler.CONTINUE
        self._on_prune(number, reason.format(epoch=result["epoch"]))
        return TrialScheduler.STOP

    def on_trial_complete(
        self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]
    ) -> None:
        """Note its end: Tune shows the last result of a trial nowhere else."""
        # One that was stopped before its actor began has none.
        if result.get("kind") == "end":
            self._on_event(_number(trial), result)

    def _is_guessing(self, row: dict[str, Any]) -> bool:
        """Whether a trial is halfway and has learned nothing: broken, whatever the others do.

        Who always answers the largest class has its share right, and a macro-F1 below that of
        blind guesses. By both: averaged weights lag behind the training on few images, and with
        balanced weights a good model has fewer right than that share.
        """
        halfway = row["epoch"] >= max(2, self._epochs / 2)
        is_blind = row["val_macro_f1"] <= 1 / self._classes
        return halfway and is_blind and row["train_accuracy"] <= self._largest

    def _may_be_chance(self, row: dict[str, Any]) -> bool:
        """Whether the better third is within a standard error of a trial's share of right answers.

        Binomial, as if macro-F1 were an accuracy. A loss has no such error: it is what it is.
        """
        score, others = row[self._objective.row_key], self._scores[row["epoch"]]
        if self._objective.direction == "minimize" or not others:
            return False
        error = math.sqrt(score * (1 - score) / row["val_records"])
        return score + error >= np.percentile(others, 100 * (1 - 1 / _REDUCTION))

    def _replay(self, trial: Any, rows: Iterable[dict[str, Any]]) -> None:
        if self._inner is None:
            return
        self._inner.on_trial_add(None, trial)  # type: ignore[arg-type]
        for row in rows:
            if row["epoch"] < self._epochs:
                self._inner.on_trial_result(None, trial, row)  # type: ignore[arg-type]
                self._scores[row["epoch"]].append(row[self._objective.row_key])


def _number(trial: TuneTrial) -> int:
    return trial.config["job"]["number"]


def _rungs(epochs: int) -> int:
    """How often Hyperband can begin one step later with these epochs."""
    count = 1
    while _REDUCTION**count <= epochs:
        count += 1
    return count
