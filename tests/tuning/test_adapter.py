"""Tune's words in the coordinator's: numbers out, reports in, each once."""

from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from tuning.adapter import Scheduler, Stopper, TrialSearcher
from tuning.stop import StopSignal

pytestmark = pytest.mark.fast


class Coordinator:
    """Has two trials, and ends a trial at its first evaluation below a half."""

    def __init__(self) -> None:
        self.left = [4, 9]
        self.heard: list[tuple[int, str]] = []
        self.lost: list[int] = []

    def next_trial(self) -> int | None:
        return self.left.pop(0) if self.left else None

    def hear(self, number: int, report: dict[str, Any]) -> bool:
        self.heard.append((number, report["kind"]))
        return report.get("score", 1.0) > 0.5

    def lose(self, number: int) -> None:
        self.lost.append(number)


def test_a_trial_is_a_number_to_tune_and_one_that_lost_its_actor_is_told() -> None:
    coordinator: Any = Coordinator()
    searcher = TrialSearcher(coordinator)
    assert searcher.suggest("a") == {"number": 4}
    assert searcher.suggest("b") == {"number": 9}
    assert searcher.suggest("c") == Searcher.FINISHED
    searcher.on_trial_complete("a", {"kind": "end"})
    searcher.on_trial_complete("b", error=True)
    assert coordinator.lost == [9]


def test_each_report_is_handed_on_once_and_the_answer_is_tunes() -> None:
    coordinator: Any = Coordinator()
    scheduler = Scheduler(coordinator)
    trial: Any = SimpleNamespace(trial_id="a", config={"number": 4})
    for score, decision in ((0.8, TrialScheduler.CONTINUE), (0.2, TrialScheduler.STOP)):
        report = {"kind": "row", "score": score}
        assert scheduler.on_trial_result(None, trial, report) == decision
    # Tune shows the last result again to a trial that it stopped; the end is shown here only.
    scheduler.on_trial_complete(None, trial, {"kind": "row", "score": 0.2})
    assert coordinator.heard == [(4, "row"), (4, "row")]
    scheduler.on_trial_complete(None, trial, {"kind": "end"})
    scheduler.on_trial_complete(None, trial, {})
    assert coordinator.heard == [(4, "row"), (4, "row"), (4, "end")]


def test_a_trial_that_hears_no_end_is_ended_some_seconds_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr("tuning.adapter.time.monotonic", lambda: clock.now)
    # Ray may be running in this process, and then the desk is told.
    stop = StopSignal(SimpleNamespace(close=SimpleNamespace(remote=lambda: None)))
    stopper = Stopper(stop)
    assert not stopper.stop_all()
    stop.set()
    assert not stopper.stop_all()
    clock.now += 11.0
    assert stopper.stop_all()
