"""Which trials continue: Tune's ASHA, over trials that are done and the restart of a search."""

from typing import Any

import pytest

from ctray.training.history import HistoryRow
from tuning.judge import Judge
from tuning.names import Pruner
from tuning.objectives import OBJECTIVES
from tuning.trials import Trial

pytestmark = pytest.mark.fast

EPOCHS = 9


class Ledger:
    def __init__(
        self, *earlier: Trial, pruner: Pruner = "asha", objective: str = "macro_f1"
    ) -> None:
        self.pruned: dict[int, str] = {}
        self.judge = Judge(
            pruner=pruner,
            objective=OBJECTIVES[objective],
            epochs=EPOCHS,
            classes=4,
            largest=0.48,
            earlier=earlier,
        )

    def run(
        self,
        number: int,
        scores: list[float],
        first: int = 1,
        accuracy: float = 0.9,
        val_records: int = 400,
    ) -> int:
        """Epochs that a trial with these scores is let train."""
        self.judge.add(number)
        for epoch, score in enumerate(scores, first):
            reason = self.judge.reason_to_end(number, row(epoch, score, accuracy, val_records))
            if reason:
                self.pruned[number] = reason
                return epoch
        return first + len(scores) - 1


def row(epoch: int, score: float, accuracy: float = 0.9, val_records: int = 400) -> HistoryRow:
    return {
        "epoch": float(epoch),
        "val_macro_f1": score,
        "image_size": 64,
        "train_accuracy": accuracy,
        "val_loss": 1 - score,
        "val_records": val_records,
    }


def earlier(number: int, scores: list[float], state: Any = "finished") -> Trial:
    rows = tuple(row(epoch, score) for epoch, score in enumerate(scores, 1))
    return Trial(number, state, "", {}, rows, 0.0, 1.0)


def test_a_trial_behind_is_pruned_with_the_reason_and_a_better_one_is_not() -> None:
    ledger = Ledger()
    assert ledger.run(0, [0.5] * EPOCHS) == EPOCHS
    assert ledger.run(1, [0.4] * EPOCHS) == 1
    assert ledger.run(2, [0.6] * EPOCHS) == EPOCHS
    assert ledger.pruned == {1: "behind the better third of the trials at epoch 1"}


def test_a_trial_is_not_pruned_for_what_may_be_chance() -> None:
    """0.88 of 400 records has a standard error of 0.016, of 4,000 one of 0.005."""
    ledger = Ledger()
    ledger.run(0, [0.89] * EPOCHS)
    assert ledger.run(1, [0.88] * EPOCHS) == EPOCHS
    assert ledger.run(2, [0.88] * EPOCHS, val_records=4000) == 1
    assert ledger.run(3, [0.86] * EPOCHS) == 1
    # A loss that is higher is higher.
    loss = Ledger(objective="loss")
    loss.run(0, [0.89] * EPOCHS)
    assert loss.run(1, [0.88] * EPOCHS) == 1


def test_a_trial_in_its_last_epoch_is_never_pruned() -> None:
    ledger = Ledger()
    ledger.run(0, [0.5] * EPOCHS)
    assert ledger.run(1, [0.6] * (EPOCHS - 1) + [0.1]) == EPOCHS
    assert ledger.pruned == {}


def test_loss_is_to_be_small() -> None:
    ledger = Ledger(objective="loss")
    ledger.run(0, [0.5] * EPOCHS)
    assert ledger.run(1, [0.6] * EPOCHS) == EPOCHS
    assert ledger.run(2, [0.4] * EPOCHS) == 1


def test_a_trial_that_is_resumed_keeps_its_place_for_those_after_it() -> None:
    ledger = Ledger(earlier(0, [0.7], "stopped"))
    ledger.run(0, [0.8] * (EPOCHS - 1), first=2)
    assert ledger.run(1, [0.5] * EPOCHS) == 1


def test_a_resumed_search_judges_by_what_was_before() -> None:
    ledger = Ledger(earlier(0, [0.5] * EPOCHS), earlier(1, [0.7, 0.8], "stopped"))
    # Trial 1 has its place at epoch 1 already.
    assert ledger.run(1, [0.8] * (EPOCHS - 2), first=3) == EPOCHS
    assert ledger.run(2, [0.4] * EPOCHS) == 1


def test_guessing_halfway_is_stopped_whoever_else_runs() -> None:
    ledger = Ledger(pruner="none")
    # Always the largest class, of which 48 % are: macro-F1 2 · 0.48 / 1.48 / 4.
    assert ledger.run(0, [0.16] * EPOCHS, accuracy=0.48) == 5
    assert "no better than guessing at epoch 5" in ledger.pruned[0]
    # Its averaged weights have yet to follow.
    assert ledger.run(1, [0.16] * EPOCHS, accuracy=0.6) == EPOCHS
    # It gives all classes the same weight.
    assert ledger.run(2, [0.5] * EPOCHS, accuracy=0.45) == EPOCHS


def test_without_a_pruner_all_go_to_the_end() -> None:
    ledger = Ledger(pruner="none")
    assert [ledger.run(number, [0.9 - number / 10] * EPOCHS) for number in range(3)] == [EPOCHS] * 3


def test_hyperband_begins_some_trials_later() -> None:
    ledger = Ledger(pruner="hyperband")
    ends = [ledger.run(number, [0.9 - number / 100] * EPOCHS) for number in range(40)]
    assert {1, 3} <= set(ends)
