"""The plots of the study's page, drawn by matplotlib as SVG elements in the page's own colours."""

import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, Literal, get_args

import matplotlib
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, Locator, LogLocator, MaxNLocator, NullLocator

from tuning.objectives import Objective, front
from tuning.trials import Trial
from tuning.trials import TrialState as State

LOG_SPAN = 10
TICKED_VALUES = 5
TICKED_NAMES = 8
LABEL_CHARACTERS = 16
LINE_CHARACTERS = 13
LINES = 5
NUMBERED_DOTS = 40
TIMELINE_LABELS = 60
PARALLEL_PARAMETERS = 10

STATES: tuple[State, ...] = get_args(State)

# matplotlib wants fixed colours: these stand in for the page's own until _embed puts those in.
_INK, _SOFT, _LINE = "#0000a1", "#0000a2", "#0000a3"
_GOOD, _HOLD, _BAD = "#0000a4", "#0000a5", "#0000a6"
_PAGE_COLOURS = {
    _INK: "var(--ink)",
    _SOFT: "var(--soft)",
    _LINE: "var(--line)",
    _GOOD: "rgb(var(--good))",
    _HOLD: "rgb(var(--hold))",
    _BAD: "rgb(var(--bad))",
}
_COLOURS: dict[State, str] = {"finished": _GOOD, "pruned": _SOFT, "stopped": _HOLD, "failed": _BAD}
_MARKERS: dict[State, str] = {"finished": "o", "pruned": "v", "stopped": "s", "failed": "X"}
_DASHES: dict[State, Literal["-", "--", "-.", ":"]] = {
    "finished": "-",
    "pruned": "--",
    "stopped": "-.",
    "failed": ":",
}
# Where a trial without the parameter crosses its axis, which goes from 0 to 1.
_LACKING = -0.14

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "ctray",
    # A dollar sign in a parameter is a dollar sign, not mathematics.
    "text.parse_math": False,
    "font.size": 8.5,
    "text.color": _SOFT,
    "axes.edgecolor": _LINE,
    "axes.labelcolor": _SOFT,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": _LINE,
    "grid.linewidth": 0.6,
    "xtick.color": _SOFT,
    "ytick.color": _SOFT,
    "legend.frameon": False,
}


@dataclass(frozen=True)
class View:
    """What every plot is about.

    Attributes:
        trials: all of them.
        chosen: the one that is deployed.
        primary: the measure that they are compared by.
    """

    trials: Sequence[Trial]
    chosen: Trial
    primary: Objective

    @property
    def name(self) -> str:
        """Of the measure, for people."""
        return self.primary.title

    @property
    def scored(self) -> list[Trial]:
        """The trials that have a score."""
        return [trial for trial in self.trials if math.isfinite(self.score(trial))]

    @property
    def lanes(self) -> set[int]:
        """The lanes that trained them."""
        return {trial.lane for trial in self.trials if trial.lane is not None}

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
        """Those of them that no other one beats in score and cost, the cheapest first."""
        unbeaten = front(self.measured(cost), (self.primary, cost))
        return sorted(unbeaten, key=cost.value)


def searched(trials: Sequence[Trial]) -> list[str]:
    """Every parameter that some trial was given, in the order of appearance."""
    return list(dict.fromkeys(key for trial in trials for key in trial.params))


# ── scores over time and epochs ──────────────────────────────────────────────────────────────────


def progress(view: View) -> Markup:
    """Each trial as a dot where it ended, and the best score until then as a line."""
    divisor, unit = _clock(view.trials)

    def better(score: float, other: float) -> float:
        return other if view.primary.is_better(other, score) else score

    def paint(axes: Axes) -> None:
        points = [(trial, _end(trial) / divisor) for trial in sorted(view.scored, key=_end)]
        records = list(accumulate((view.score(trial) for trial, _ in points), better))
        last = max(map(_end, view.trials)) / divisor
        axes.step(
            [*(end for _, end in points), last],
            [*records, records[-1]],
            where="post",
            color=_GOOD,
            linewidth=1.5,
            gid="records",
        )
        _dots(axes, view, points)
        unscored = [trial for trial in view.trials if not math.isfinite(view.score(trial))]
        for trial in unscored:
            axes.plot(
                _end(trial) / divisor,
                0.02,
                marker="x",
                color=_COLOURS[trial.state],
                transform=axes.get_xaxis_transform(),
            )
        if len(view.trials) <= NUMBERED_DOTS:
            for trial, x in points:
                _number(axes, str(trial.number), (x, view.score(trial)), (7, -9))
        axes.set(xlabel=unit, ylabel=f"validation {view.name}", ylim=_score_range(view))
        axes.set_xlim(left=0)
        extra = [Line2D([], [], color=_GOOD, linewidth=1.5, label="best so far")]
        if unscored:
            extra.append(
                Line2D([], [], color=_SOFT, marker="x", linestyle="", label="ended without a score")
            )
        _legend(axes, [*_state_marks(view.scored), *extra, _ring_mark()])

    return _draw("progress", f"Best validation {view.name} so far over time", (9.6, 3.4), paint)


def curves(view: View, max_epochs: int) -> Markup:
    """The measure over epochs, the chosen trial on top and bold."""
    drawn = [trial for trial in view.trials if trial.rows and not view.is_chosen(trial)]

    def paint(axes: Axes) -> None:
        for trial in drawn:
            _curve(axes, view, trial, color=_grey_unless_finished(trial), linewidth=1)
        _curve(axes, view, view.chosen, color=_GOOD, linewidth=3, gid="chosen")
        axes.set(xlabel="epoch", ylabel=f"validation {view.name}", xlim=(0, 1.02 * max_epochs))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        label = f"trial {view.chosen.number}, the chosen one"
        lines = [Line2D([], [], color=_GOOD, linewidth=3, label=label)]
        for state in STATES:
            of_state = [trial for trial in drawn if trial.state == state]
            if of_state:
                colour = _grey_unless_finished(of_state[0])
                lines.append(Line2D([], [], color=colour, linestyle=_DASHES[state], label=state))
        _legend(axes, lines)

    label = f"Validation {view.name} over epochs, a line a trial"
    return _draw("curves", label, (9.6, 3.4), paint)


def _curve(
    axes: Axes, view: View, trial: Trial, color: str, linewidth: float, gid: str | None = None
) -> None:
    axes.plot(
        [row["epoch"] for row in trial.rows],
        [row[view.primary.row_key] for row in trial.rows],
        color=color,
        linewidth=linewidth,
        linestyle=_DASHES[trial.state],
        marker="o",
        # A trial with a single evaluation has no line, only this.
        markersize=2 + linewidth,
        gid=gid,
    )


def _grey_unless_finished(trial: Trial) -> str:
    return _GOOD if trial.state == "finished" else _SOFT


def timeline(view: View) -> Markup:
    """When each trial ran, a bar a trial, lane by lane, the first on top."""
    lanes = view.lanes
    # Those that no lane trained come last.
    trials = sorted(view.trials, key=lambda one: math.inf if one.lane is None else one.lane)
    divisor, unit = _clock(trials)
    labels = [
        f"{trial.number} {trial.state}{', chosen' if view.is_chosen(trial) else ''}"
        f"{f', lane {trial.lane}' if trial.lane is not None and len(lanes) > 1 else ''}"
        for trial in trials
    ]
    step = math.ceil(len(trials) / TIMELINE_LABELS)

    def paint(axes: Axes) -> None:
        axes.barh(
            range(len(trials)),
            [trial.seconds / divisor for trial in trials],
            left=[trial.started / divisor for trial in trials],
            height=0.7,
            color=[_COLOURS[trial.state] for trial in trials],
        )
        axes.set_yticks(range(0, len(trials), step), labels[::step])
        axes.set_ylim(len(trials) - 0.4, -0.6)
        axes.set_xlim(left=0)
        axes.set_xlabel(unit)
        axes.grid(axis="y", visible=False)

    rows = min(len(trials), TIMELINE_LABELS)
    return _draw("timeline", "When each trial ran", (9.6, 0.7 + 0.21 * rows), paint)


# ── score against cost ───────────────────────────────────────────────────────────────────────────


def pareto(
    view: View, cost: Objective, budget: float | None, inches: tuple[float, float]
) -> Markup:
    """Score against cost: what no finished trial beats as a line, the others grey."""
    measured, unbeaten = view.measured(cost), view.front(cost)
    beaten = [trial for trial in measured if trial not in unbeaten]
    is_narrow = inches[0] < 4

    def place(trial: Trial) -> tuple[float, float]:
        return cost.value(trial), view.score(trial)

    def paint(axes: Axes) -> None:
        axes.plot(
            [cost.value(trial) for trial in beaten],
            [view.score(trial) for trial in beaten],
            "o",
            color=_SOFT,
            alpha=0.55,
            gid="beaten",
        )
        axes.step(
            [cost.value(trial) for trial in unbeaten],
            [view.score(trial) for trial in unbeaten],
            where="post",
            color=_GOOD,
            linewidth=1.5,
            marker="o",
            gid="front",
        )
        if view.chosen in measured:
            _ring(axes, *place(view.chosen))
        # Nothing lies on the front's outer side: no trial beats it.
        outside = 5 if view.primary.direction == "maximize" else -11
        for point in dict.fromkeys(map(place, unbeaten)):
            numbers = ", ".join(str(one.number) for one in unbeaten if place(one) == point)
            _number(axes, numbers, point, (-5, outside), ha="right")
        if view.chosen in beaten:
            _number(axes, str(view.chosen.number), place(view.chosen), (8, -3))
        if budget is not None:
            axes.axvline(budget, color=_HOLD, linestyle="--", linewidth=1.5, gid="budget")
        _scale_cost(axes, [cost.value(trial) for trial in measured], budget)
        axes.set(xlabel=cost.title, ylabel=f"validation {view.name}")
        axes.margins(x=0.08, y=0.14)
        if not is_narrow:
            _legend(axes, _pareto_marks(view, beaten, measured, budget))

    label = f"Validation {view.name} against {cost.title}"
    return _draw(f"pareto-{cost.name}", label, inches, paint)


def _pareto_marks(
    view: View, beaten: Sequence[Trial], measured: Sequence[Trial], budget: float | None
) -> list[Line2D]:
    marks = [Line2D([], [], color=_GOOD, marker="o", linewidth=1.5, label="front")]
    if beaten:
        style: dict[str, Any] = {"marker": "o", "linestyle": "", "alpha": 0.55}
        marks.append(Line2D([], [], color=_SOFT, label="beaten", **style))
    if view.chosen in measured:
        marks.append(_ring_mark())
    if budget is not None:
        label = f"latency budget, {budget:g} ms"
        marks.append(Line2D([], [], color=_HOLD, linestyle="--", linewidth=1.5, label=label))
    return marks


def _scale_cost(axes: Axes, costs: Sequence[float], budget: float | None) -> None:
    shown = [*costs, *([] if budget is None else [budget])]
    if spans_decades(shown):
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_locator(_locator(shown))
    axes.xaxis.set_major_formatter(FuncFormatter(_tick))


# ── parameters ───────────────────────────────────────────────────────────────────────────────────


def slices(view: View) -> list[tuple[str, Markup]]:
    """Each parameter and its plot against the score, where a scored trial has it."""
    return [
        (key, _slice(f"slice{index}", view, key)) for index, key in enumerate(searched(view.scored))
    ]


def _slice(name: str, view: View, key: str) -> Markup:
    having = [trial for trial in view.scored if key in trial.params]
    values = [trial.params[key] for trial in having]

    def paint(axes: Axes) -> None:
        if is_numeric(values):
            _dots(axes, view, [(trial, trial.params[key]) for trial in having])
            _number_axis(axes, values)
        else:
            names = sorted({str(value) for value in values})
            _dots(axes, view, [(trial, names.index(str(trial.params[key]))) for trial in having])
            labels = [_short(name) for name in names]
            slanted = sum(map(len, labels)) > 30
            axes.set_xticks(
                range(len(names)),
                labels,
                rotation=25 if slanted else 0,
                ha="right" if slanted else "center",
            )
            axes.set_xlim(-0.5, len(names) - 0.5)
        axes.set(ylabel=view.name, ylim=_score_range(view))

    return _draw(name, f"Validation {view.name} against {key}", (3.3, 2.4), paint)


def is_numeric(values: Sequence[Any]) -> bool:
    """Whether all are finite numbers."""
    return all(
        isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        for value in values
    )


def spans_decades(values: Sequence[float]) -> bool:
    """Whether their logarithms tell more than they do."""
    return min(values) > 0 and max(values) >= LOG_SPAN * min(values)


def _number_axis(axes: Axes, values: Sequence[float]) -> None:
    """Scale and ticks of the horizontal axis."""
    if spans_decades(values):
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_ticks(_ticks(values))
    axes.xaxis.set_major_formatter(FuncFormatter(_tick))
    axes.margins(x=0.15 if len(set(values)) <= TICKED_VALUES else 0.05)


def _ticks(values: Sequence[float]) -> list[float]:
    """The values themselves, where they are as choices are: few, apart and round."""
    named, scale = sorted(set(values)), _scaling(values)
    low, high = named[0], named[-1]
    nearest = min((scale(b) - scale(a) for a, b in pairwise(named)), default=0)
    if (
        len(named) <= TICKED_VALUES
        and nearest >= (scale(high) - scale(low)) / 10
        and all(float(_tick(value)) == value for value in named)
    ):
        return named
    ticks = _locator(values).tick_values(float(low), float(high))
    return [tick for tick in ticks if low <= tick <= high] or [low, high]


def _scaling(values: Sequence[float]) -> Callable[[float], float]:
    return math.log10 if spans_decades(values) else float


def _locator(values: Sequence[float]) -> Locator:
    if not spans_decades(values):
        return MaxNLocator(5)
    return LogLocator(subs=(1, 3) if max(values) < 100 * min(values) else (1,))


def _tick(number: float, _: int | None = None) -> str:
    """1e-4 rather than 0.0001: neighbours must not run into each other."""
    if 0 < abs(number) < 0.001:
        return f"{number:.0e}".replace("e-0", "e-")
    return f"{number:.3g}"


def importance_bars(shares: dict[str, float]) -> Markup:
    """A bar a parameter, the first of `shares` on top."""
    names = list(reversed(shares))

    def paint(axes: Axes) -> None:
        bars = axes.barh(names, [100 * shares[name] for name in names], height=0.6, color=_GOOD)
        axes.bar_label(bars, fmt="%.0f %%", padding=4)
        axes.set(xlabel="share of the score's variance, %", xlim=(0, 108))
        axes.grid(axis="y", visible=False)

    return _draw("importances", "Importance by parameter", (9.6, 0.7 + 0.26 * len(names)), paint)


# ── parallel coordinates ─────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class _Scale:
    """A vertical axis: where on it, from 0 to 1, a value lies, and its ticks."""

    place: Callable[[Any], float]
    ticks: list[tuple[float, str]]


def parallel(view: View, keys: Sequence[str]) -> Markup:
    """A vertical axis for each of these parameters and for the score, a line a scored trial."""
    scored = view.scored
    scales = [_scale([one.params[key] for one in scored if key in one.params]) for key in keys]
    scales.append(_score_scale(view))

    def heights(trial: Trial) -> list[float]:
        values = [
            scale.place(trial.params[key]) if key in trial.params else _LACKING
            for key, scale in zip(keys, scales[:-1], strict=True)
        ]
        return [*values, scales[-1].place(view.score(trial))]

    def paint(axes: Axes) -> None:
        across = range(len(scales))
        for share, trial in sorted(_shares_beaten(view), key=lambda pair: pair[0]):
            if not view.is_chosen(trial):
                axes.plot(across, heights(trial), color=_SOFT, linewidth=1, alpha=0.35)
                axes.plot(across, heights(trial), color=_GOOD, linewidth=1.3, alpha=share)
        axes.plot(across, heights(view.chosen), color=_INK, linewidth=2.8, gid="chosen")
        lacking = [x for x, key in enumerate(keys) if any(key not in one.params for one in scored)]
        _vertical_axes(axes, scales, lacking)
        axes.set_xticks(across, [*map(_wrapped, keys), view.name], fontsize=8)

    return _draw("parallel", "The parameters of each trial, a line a trial", (9.6, 4), paint)


def _vertical_axes(axes: Axes, scales: Sequence[_Scale], lacking: Sequence[int]) -> None:
    """In place of the usual axes; those at `lacking` have a mark for trials without a value."""
    for x, scale in enumerate(scales):
        axes.plot([x, x], [0, 1], color=_SOFT, linewidth=0.9, gid=f"axis{x}")
        for height, label in scale.ticks:
            _beside(axes, (x, height), label)
    for x in lacking:
        axes.plot(x, _LACKING, marker="o", markersize=3, color=_SOFT)
        axes.text(x, _LACKING - 0.04, "not set", ha="center", va="top", fontsize=7.5)
    lowest = _LACKING - 0.1 if lacking else -0.05
    axes.set(yticks=[], xlim=(-0.1, len(scales) - 0.55), ylim=(lowest, 1.05))
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.grid(visible=False)


def _beside(axes: Axes, point: tuple[float, float], label: str) -> None:
    axes.plot(*point, marker="_", markersize=5, color=_SOFT)
    axes.annotate(label, point, (4, 0), textcoords="offset points", va="center", fontsize=7.5)


def _shares_beaten(view: View) -> list[tuple[float, Trial]]:
    """Each scored trial, and the part of the others that it is better than.

    The place tells more than the score: one trial that learned nothing would make the rest alike.
    """
    scored, others = view.scored, max(1, len(view.scored) - 1)
    return [
        (sum(view.primary.is_better(view.score(a), view.score(b)) for b in scored) / others, a)
        for a in scored
    ]


def _scale(values: Sequence[Any]) -> _Scale:
    if is_numeric(values):
        return _number_scale(values)
    names = sorted({str(value) for value in values})
    last = max(1, len(names) - 1)
    step = math.ceil(len(names) / TICKED_NAMES)
    ticks = [(names.index(name) / last, _short(name)) for name in names[::step]]
    return _Scale(lambda value: names.index(str(value)) / last, ticks)


def _number_scale(values: Sequence[float]) -> _Scale:
    scale, low, high = _scaling(values), min(values), max(values)

    def place(value: float) -> float:
        return 0.5 if low == high else (scale(value) - scale(low)) / (scale(high) - scale(low))

    return _Scale(place, [(place(value), _tick(value)) for value in _ticks(values)])


def _score_scale(view: View) -> _Scale:
    """Of the score, the best on top."""
    scale = _number_scale([view.score(trial) for trial in view.scored])
    if view.primary.direction == "maximize":
        return scale
    ticks = [(1 - height, label) for height, label in scale.ticks]
    return _Scale(lambda value: 1 - scale.place(value), ticks)


# ── parts of plots ───────────────────────────────────────────────────────────────────────────────


def _end(trial: Trial) -> float:
    return trial.started + trial.seconds


def _clock(trials: Sequence[Trial]) -> tuple[float, str]:
    """Seconds a unit and the axis label, by how long the trials took."""
    last = max(map(_end, trials))
    if last < 180:
        return 1, "seconds after the start"
    return (60, "minutes after the start") if last < 3 * 3600 else (3600, "hours after the start")


def _score_range(view: View) -> tuple[float, float]:
    """Of the score axis, the same over time and in every slice, so that they can be compared."""
    scores = [view.score(trial) for trial in view.scored]
    margin = max(0.02, 0.1 * (max(scores) - min(scores)))
    return min(scores) - margin, max(scores) + margin


def _dots(axes: Axes, view: View, points: Sequence[tuple[Trial, float]]) -> None:
    """A dot for each (trial, x) at its score, by state; a ring around the chosen one."""
    for trial, x in points:
        axes.plot(
            x,
            view.score(trial),
            marker=_MARKERS[trial.state],
            color=_COLOURS[trial.state],
            markersize=6,
            alpha=0.85,
        )
        if view.is_chosen(trial):
            _ring(axes, x, view.score(trial))


def _ring(axes: Axes, x: float, y: float) -> None:
    style: dict[str, Any] = {"marker": "o", "markersize": 11, "markerfacecolor": "none"}
    axes.plot(x, y, color=_INK, gid="chosen", **style)


def _ring_mark() -> Line2D:
    style: dict[str, Any] = {"marker": "o", "markersize": 9, "markerfacecolor": "none"}
    return Line2D([], [], color=_INK, linestyle="", label="chosen", **style)


def _number(
    axes: Axes,
    label: str,
    point: tuple[float, float],
    offset: tuple[float, float],
    ha: Literal["left", "right"] = "left",
) -> None:
    axes.annotate(label, point, offset, textcoords="offset points", ha=ha, fontsize=7.5)


def _state_marks(trials: Sequence[Trial]) -> list[Line2D]:
    present = {trial.state for trial in trials}
    return [
        Line2D([], [], color=_COLOURS[state], marker=_MARKERS[state], linestyle="", label=state)
        for state in STATES
        if state in present
    ]


def _legend(axes: Axes, handles: list[Line2D]) -> None:
    axes.figure.legend(handles=handles, loc="outside upper left", ncols=len(handles))


def _short(text: str) -> str:
    """Names often differ at their ends: what is left out is in the middle."""
    if len(text) <= LABEL_CHARACTERS:
        return text
    end = LABEL_CHARACTERS // 2 - 2
    return f"{text[: LABEL_CHARACTERS - end - 1]}…{text[-end:]}"


def _wrapped(key: str) -> str:
    """A parameter's name in short lines; `lr@small_cnn` is that of one backbone alone."""
    lines = [""]
    for part in re.findall(f"[@._]?[^@._]{{0,{LINE_CHARACTERS - 1}}}", key):
        if part.startswith("@") or len(lines[-1] + part) > LINE_CHARACTERS:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines if len(lines) <= LINES else [*lines[: LINES - 1], "…"])


# ── from matplotlib to the page ──────────────────────────────────────────────────────────────────


def _draw(
    name: str, label: str, inches: tuple[float, float], paint: Callable[[Axes], None]
) -> Markup:
    """An SVG element of the page's colours, ``name`` keeping its ids apart from the other plots."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=inches, layout="constrained")
        paint(figure.add_subplot())
        buffer = io.BytesIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    return _embed(buffer.getvalue().decode("utf-8"), name, label)


def _embed(svg: str, name: str, label: str) -> Markup:
    """Turn matplotlib's SVG file into an element for the page; text between tags stays as it is."""

    def adapt(match: re.Match[str]) -> str:
        tag = re.sub(r' (?:xmlns(?::\w+)?|version)="[^"]*"', "", match[0])
        tag = re.sub(r' id="', f' id="{name}-', tag)
        tag = re.sub(r'(href="#|url\(#)', rf"\1{name}-", tag)
        return re.sub("|".join(_PAGE_COLOURS), lambda hit: _PAGE_COLOURS[hit[0]], tag)

    # The file's own style sheet would reach the whole page; the page has its rule instead.
    body = re.sub(r"<style.*?</style>", "", svg[svg.index("<svg") :], count=1, flags=re.DOTALL)
    body = re.sub(r"<[^>]*>", adapt, body)
    root = re.sub(r' (?:width|height)="[^"]*"', "", body[: body.index(">")])
    described = f'{root} role="img" aria-label="{escape(label)}"'
    return Markup(described + body[body.index(">") :])
