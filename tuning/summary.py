"""What a study's page shows: its trials, and the data of each plot."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, get_args

from ctray.training import history
from tuning.objectives import Objective, front
from tuning.trials import Trial, TrialState

STATES: tuple[TrialState, ...] = get_args(TrialState)


@dataclass(frozen=True)
class View:
    """The trials of a study, as its page compares them.

    Attributes:
        trials: all of them.
        chosen: the one that is deployed.
        primary: the measure that they are compared by.
    """

    trials: Sequence[Trial]
    chosen: Trial
    primary: Objective

    @property
    def scored(self) -> list[Trial]:
        """The trials that have a score."""
        return [trial for trial in self.trials if math.isfinite(self.score(trial))]

    @property
    def lanes(self) -> set[int]:
        """The lanes that trained them."""
        return {trial.lane for trial in self.trials if trial.lane is not None}

    @property
    def score_range(self) -> tuple[float, float]:
        """Of a score axis, the same in every plot, so that they can be compared."""
        scores = [self.score(trial) for trial in self.scored]
        margin = max(0.02, 0.1 * (max(scores) - min(scores)))
        return min(scores) - margin, max(scores) + margin

    def score(self, trial: Trial) -> float:
        """Of the weights that a trial keeps; nan without an evaluation."""
        return self.primary.value(trial)

    def is_chosen(self, trial: Trial) -> bool:
        """Whether it is the deployed one."""
        return trial.number == self.chosen.number

    def measured(self, cost: Objective) -> list[Trial]:
        """The finished trials whose score and cost are known."""
        return [
            trial
            for trial in self.scored
            if trial.state == "finished" and math.isfinite(cost.value(trial))
        ]

    def front(self, cost: Objective) -> list[Trial]:
        """The measured trials that no other one beats in score and cost, the cheapest first."""
        unbeaten = front(self.measured(cost), (self.primary, cost))
        return sorted(unbeaten, key=cost.value)


def searched(trials: Sequence[Trial]) -> list[str]:
    """Every parameter that some trial was given, in the order of appearance."""
    return list(dict.fromkeys(key for trial in trials for key in trial.params))


# ── the data of each plot ────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Dot:
    """A scored trial against a time, a cost or a value of a parameter."""

    number: int
    state: TrialState
    x: Any
    score: float
    chosen: bool


@dataclass(frozen=True)
class ScoresOverTime:
    """Scores over time.

    Attributes:
        dots: the scored trials in the order they ended; `x` is when.
        best: the best score until each of them.
        unscored: state and end of each trial without a score.
        end: of the last trial.
        unit: of the times, for people.
    """

    dots: tuple[Dot, ...]
    best: tuple[float, ...]
    unscored: tuple[tuple[TrialState, float], ...]
    end: float
    unit: str


@dataclass(frozen=True)
class Curve:
    """The score of a trial at each of its evaluations."""

    state: TrialState
    epochs: tuple[float, ...]
    scores: tuple[float, ...]


@dataclass(frozen=True)
class Bar:
    """When a trial ran, in the unit of its timeline; `lane` is None where no lane trained it."""

    number: int
    state: TrialState
    lane: int | None
    chosen: bool
    start: float
    length: float


@dataclass(frozen=True)
class Timeline:
    """When each trial ran, lane by lane; the trials that no lane trained come last."""

    bars: tuple[Bar, ...]
    lanes: int
    unit: str


@dataclass(frozen=True)
class Pareto:
    """Scores of the finished trials against a cost, the `x` of their dots.

    Attributes:
        cost: what it is.
        front: the trials that no other one beats, the cheapest first.
        beaten: the others.
    """

    cost: Objective
    front: tuple[Dot, ...]
    beaten: tuple[Dot, ...]


@dataclass(frozen=True)
class Slice:
    """Scores against one parameter (`x`), of the trials that have it."""

    key: str
    dots: tuple[Dot, ...]


@dataclass(frozen=True)
class ParallelLine:
    """A scored trial across all parameters.

    Attributes:
        params: its values; parameters it lacks are not in there.
        score: its score.
        share: part of the other scored trials that it is better than, 0 to 1. The place tells more
            than the score: one trial that learned nothing would make the rest alike.
        chosen: whether it is deployed.
    """

    params: dict[str, Any]
    score: float
    share: float
    chosen: bool


def progress_of(view: View) -> ScoresOverTime:
    """When each trial ended, and the best score until then."""
    divisor, unit = _clock(view.trials)

    def better(score: float, other: float) -> float:
        return other if view.primary.is_better(other, score) else score

    dots = _dots(view, sorted(view.scored, key=_end), lambda trial: _end(trial) / divisor)
    return ScoresOverTime(
        dots=dots,
        best=tuple(accumulate((dot.score for dot in dots), better)),
        unscored=tuple(
            (trial.state, _end(trial) / divisor)
            for trial in view.trials
            if not math.isfinite(view.score(trial))
        ),
        end=max(map(_end, view.trials)) / divisor,
        unit=unit,
    )


def curve_of(view: View, trial: Trial) -> Curve:
    """The score of a trial over its epochs."""
    return Curve(
        state=trial.state,
        epochs=tuple(row["epoch"] for row in trial.rows),
        scores=tuple(history.value(row, view.primary.row_key) for row in trial.rows),
    )


def other_curves(view: View) -> list[Curve]:
    """The curves of all trials but the chosen one."""
    others = [trial for trial in view.trials if trial.rows and not view.is_chosen(trial)]
    return [curve_of(view, trial) for trial in others]


def timeline_of(view: View) -> Timeline:
    """When each trial ran."""
    trials = sorted(view.trials, key=lambda one: math.inf if one.lane is None else one.lane)
    divisor, unit = _clock(trials)
    bars = [
        Bar(
            number=trial.number,
            state=trial.state,
            lane=trial.lane,
            chosen=view.is_chosen(trial),
            start=trial.started / divisor,
            length=trial.seconds / divisor,
        )
        for trial in trials
    ]
    return Timeline(tuple(bars), len(view.lanes), unit)


def pareto_of(view: View, cost: Objective) -> Pareto:
    """Score against cost."""
    unbeaten = view.front(cost)
    beaten = [trial for trial in view.measured(cost) if trial not in unbeaten]
    return Pareto(cost, _dots(view, unbeaten, cost.value), _dots(view, beaten, cost.value))


def slices_of(view: View) -> list[Slice]:
    """Score against each parameter that a scored trial has."""
    return [_slice(view, key) for key in searched(view.scored)]


def _slice(view: View, key: str) -> Slice:
    having = [trial for trial in view.scored if key in trial.params]
    return Slice(key, _dots(view, having, lambda trial: trial.params[key]))


def parallel_lines(view: View) -> list[ParallelLine]:
    """A line for each scored trial."""
    scored, others = view.scored, max(1, len(view.scored) - 1)
    scores = [view.score(trial) for trial in scored]
    return [
        ParallelLine(
            params=trial.params,
            score=score,
            share=sum(view.primary.is_better(score, other) for other in scores) / others,
            chosen=view.is_chosen(trial),
        )
        for trial, score in zip(scored, scores, strict=True)
    ]


def _dots(view: View, trials: Sequence[Trial], x: Callable[[Trial], Any]) -> tuple[Dot, ...]:
    return tuple(
        Dot(trial.number, trial.state, x(trial), view.score(trial), view.is_chosen(trial))
        for trial in trials
    )


def _end(trial: Trial) -> float:
    return trial.started + trial.seconds


def _clock(trials: Sequence[Trial]) -> tuple[float, str]:
    """Seconds a unit and the axis label, by how long the trials took."""
    last = max(map(_end, trials))
    if last < 180:
        return 1, "seconds after the start"
    return (60, "minutes after the start") if last < 3 * 3600 else (3600, "hours after the start")
