"""The plots of the study's page."""

import math
from collections.abc import Sequence
from typing import Any, Literal

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from tuning.axes import (
    Scale,
    cost_axis,
    flipped,
    is_numeric,
    number_axis,
    number_scale,
    scale_of,
    short,
    wrapped,
)
from tuning.objectives import Objective
from tuning.summary import (
    STATES,
    Bar,
    Curve,
    Dot,
    ParallelLine,
    Pareto,
    ScoresOverTime,
    Slice,
    Timeline,
)
from tuning.svg import BAD, GOOD, HOLD, INK, SOFT, draw
from tuning.trials import TrialState

NUMBERED_DOTS = 40
TIMELINE_LABELS = 60
PARALLEL_PARAMETERS = 10

_COLOURS: dict[TrialState, str] = {"finished": GOOD, "pruned": SOFT, "stopped": HOLD, "failed": BAD}
_MARKERS: dict[TrialState, str] = {"finished": "o", "pruned": "v", "stopped": "s", "failed": "X"}
_DASHES: dict[TrialState, Literal["-", "--", "-.", ":"]] = {
    "finished": "-",
    "pruned": "--",
    "stopped": "-.",
    "failed": ":",
}
# Where a trial without the parameter crosses its axis, which goes from 0 to 1.
_LACKING = -0.14


# ── scores over time and epochs ──────────────────────────────────────────────────────────────────


def progress(data: ScoresOverTime, measure: str, limits: tuple[float, float]) -> Markup:
    """Each trial as a dot where it ended, and the best score until then as a line.

    Args:
        data: what to draw.
        measure: name of the score, for people.
        limits: ends of the score axis.
    """

    def paint(axes: Axes) -> None:
        axes.step(
            [*(dot.x for dot in data.dots), data.end],
            [*data.best, data.best[-1]],
            where="post",
            color=GOOD,
            linewidth=1.5,
            gid="records",
        )
        _draw_dots(axes, [(dot, dot.x) for dot in data.dots])
        for state, x in data.unscored:
            place = axes.get_xaxis_transform()
            axes.plot(x, 0.02, marker="x", color=_COLOURS[state], transform=place)
        if len(data.dots) + len(data.unscored) <= NUMBERED_DOTS:
            for dot in data.dots:
                _number(axes, str(dot.number), (dot.x, dot.score), (7, -9))
        axes.set(xlabel=data.unit, ylabel=f"validation {measure}", ylim=limits)
        axes.set_xlim(left=0)
        _legend(axes, _progress_marks(data))

    return draw("progress", f"Best validation {measure} so far over time", (9.6, 3.4), paint)


def _progress_marks(data: ScoresOverTime) -> list[Line2D]:
    present = {dot.state for dot in data.dots}
    marks = [
        Line2D([], [], color=_COLOURS[state], marker=_MARKERS[state], linestyle="", label=state)
        for state in STATES
        if state in present
    ]
    marks.append(Line2D([], [], color=GOOD, linewidth=1.5, label="best so far"))
    if data.unscored:
        label = "ended without a score"
        marks.append(Line2D([], [], color=SOFT, marker="x", linestyle="", label=label))
    return [*marks, _ring_mark()]


def curves(
    others: Sequence[Curve], chosen: Curve, number: int, max_epochs: int, measure: str
) -> Markup:
    """The measure over epochs, the chosen trial on top and bold.

    Args:
        others: of all other trials.
        chosen: of the chosen trial.
        number: of the chosen trial.
        max_epochs: of a whole trial.
        measure: name of the score, for people.
    """

    def paint(axes: Axes) -> None:
        for curve in others:
            _draw_curve(axes, curve, color=_grey_unless_finished(curve.state), linewidth=1)
        _draw_curve(axes, chosen, color=GOOD, linewidth=3, gid="chosen")
        axes.set(xlabel="epoch", ylabel=f"validation {measure}", xlim=(0, 1.02 * max_epochs))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        label = f"trial {number}, the chosen one"
        marks = [Line2D([], [], color=GOOD, linewidth=3, label=label)]
        present = {curve.state for curve in others}
        for state in STATES:
            if state in present:
                colour = _grey_unless_finished(state)
                marks.append(Line2D([], [], color=colour, linestyle=_DASHES[state], label=state))
        _legend(axes, marks)

    label = f"Validation {measure} over epochs, a line a trial"
    return draw("curves", label, (9.6, 3.4), paint)


def _draw_curve(
    axes: Axes, curve: Curve, color: str, linewidth: float, gid: str | None = None
) -> None:
    axes.plot(
        curve.epochs,
        curve.scores,
        color=color,
        linewidth=linewidth,
        linestyle=_DASHES[curve.state],
        marker="o",
        # A trial with a single evaluation has no line, only this.
        markersize=2 + linewidth if len(curve.epochs) > 1 else 5 + linewidth,
        gid=gid,
    )


def _grey_unless_finished(state: TrialState) -> str:
    return GOOD if state == "finished" else SOFT


def timeline(data: Timeline) -> Markup:
    """When each trial ran, a bar a trial, lane by lane, the first on top."""
    bars = data.bars
    labels = [_bar_label(bar, with_lane=data.lanes > 1) for bar in bars]
    step = math.ceil(len(bars) / TIMELINE_LABELS)

    def paint(axes: Axes) -> None:
        axes.barh(
            range(len(bars)),
            [bar.length for bar in bars],
            left=[bar.start for bar in bars],
            height=0.7,
            color=[_COLOURS[bar.state] for bar in bars],
        )
        axes.set_yticks(range(0, len(bars), step), labels[::step])
        axes.set_ylim(len(bars) - 0.4, -0.6)
        axes.set_xlim(left=0)
        axes.set_xlabel(data.unit)
        axes.grid(axis="y", visible=False)

    rows = min(len(bars), TIMELINE_LABELS)
    return draw("timeline", "When each trial ran", (9.6, 0.7 + 0.21 * rows), paint)


def _bar_label(bar: Bar, with_lane: bool) -> str:
    parts = [f"{bar.number} {bar.state}"]
    if bar.chosen:
        parts.append("chosen")
    if with_lane and bar.lane is not None:
        parts.append(f"lane {bar.lane}")
    return ", ".join(parts)


# ── score against cost ───────────────────────────────────────────────────────────────────────────


def pareto(
    data: Pareto, primary: Objective, budget: float | None, inches: tuple[float, float]
) -> Markup:
    """Score against cost: what no finished trial beats as a line, the others grey.

    Args:
        data: what to draw.
        primary: the measure behind the scores.
        budget: the most that the cost may be; None without one.
        inches: width and height; a narrow plot has no legend.
    """
    measured = [*data.front, *data.beaten]
    is_narrow = inches[0] < 4

    def paint(axes: Axes) -> None:
        axes.plot(
            [dot.x for dot in data.beaten],
            [dot.score for dot in data.beaten],
            "o",
            color=SOFT,
            alpha=0.55,
            gid="beaten",
        )
        axes.step(
            [dot.x for dot in data.front],
            [dot.score for dot in data.front],
            where="post",
            color=GOOD,
            linewidth=1.5,
            marker="o",
            gid="front",
        )
        _number_pareto(axes, data, is_maximum=primary.direction == "maximize")
        if budget is not None:
            axes.axvline(budget, color=HOLD, linestyle="--", linewidth=1.5, gid="budget")
        cost_axis(axes, [dot.x for dot in measured], budget)
        axes.set(xlabel=data.cost.title, ylabel=f"validation {primary.title}")
        axes.margins(x=0.08, y=0.14)
        if not is_narrow:
            _legend(axes, _pareto_marks(data, budget))

    label = f"Validation {primary.title} against {data.cost.title}"
    return draw(f"pareto-{data.cost.name}", label, inches, paint)


def _number_pareto(axes: Axes, data: Pareto, is_maximum: bool) -> None:
    """Ring the chosen trial, and number it and those on the front."""
    for dot in (*data.front, *data.beaten):
        if dot.chosen:
            _ring(axes, dot.x, dot.score)
    # Nothing lies on the front's outer side: no trial beats it.
    outside = 5 if is_maximum else -11
    for point in dict.fromkeys((dot.x, dot.score) for dot in data.front):
        same = [dot for dot in data.front if (dot.x, dot.score) == point]
        _number(axes, ", ".join(str(dot.number) for dot in same), point, (-5, outside), ha="right")
    for dot in data.beaten:
        if dot.chosen:
            _number(axes, str(dot.number), (dot.x, dot.score), (8, -3))


def _pareto_marks(data: Pareto, budget: float | None) -> list[Line2D]:
    marks = [Line2D([], [], color=GOOD, marker="o", linewidth=1.5, label="front")]
    if data.beaten:
        style: dict[str, Any] = {"marker": "o", "linestyle": "", "alpha": 0.55}
        marks.append(Line2D([], [], color=SOFT, label="beaten", **style))
    if any(dot.chosen for dot in (*data.front, *data.beaten)):
        marks.append(_ring_mark())
    if budget is not None:
        label = f"latency budget, {budget:g} ms"
        marks.append(Line2D([], [], color=HOLD, linestyle="--", linewidth=1.5, label=label))
    return marks


# ── parameters ───────────────────────────────────────────────────────────────────────────────────


def slice_plot(name: str, data: Slice, measure: str, limits: tuple[float, float]) -> Markup:
    """Scores against one parameter.

    Args:
        name: keeps the plot's ids apart from those of the other plots.
        data: what to draw.
        measure: name of the score, for people.
        limits: ends of the score axis.
    """
    values = [dot.x for dot in data.dots]

    def paint(axes: Axes) -> None:
        if is_numeric(values):
            _draw_dots(axes, [(dot, dot.x) for dot in data.dots])
            number_axis(axes, values)
        else:
            names = sorted({str(value) for value in values})
            _draw_dots(axes, [(dot, names.index(str(dot.x))) for dot in data.dots])
            _name_axis(axes, [short(name) for name in names])
        axes.set(ylabel=measure, ylim=limits)

    return draw(name, f"Validation {measure} against {data.key}", (3.3, 2.4), paint)


def _name_axis(axes: Axes, labels: Sequence[str]) -> None:
    """Ticks of a horizontal axis of names, slanted where they would run into each other."""
    places = range(len(labels))
    if sum(map(len, labels)) > 30:
        axes.set_xticks(places, labels, rotation=25, ha="right")
    else:
        axes.set_xticks(places, labels, rotation=0, ha="center")
    axes.set_xlim(-0.5, len(labels) - 0.5)


def importance_bars(shares: dict[str, float]) -> Markup:
    """A bar a parameter, the first of `shares` on top."""
    names = list(reversed(shares))

    def paint(axes: Axes) -> None:
        bars = axes.barh(names, [100 * shares[name] for name in names], height=0.6, color=GOOD)
        axes.bar_label(bars, fmt="%.0f %%", padding=4)
        axes.set(xlabel="share of the score's variance, %", xlim=(0, 108))
        axes.grid(axis="y", visible=False)

    return draw("importances", "Importance by parameter", (9.6, 0.7 + 0.26 * len(names)), paint)


# ── parallel coordinates ─────────────────────────────────────────────────────────────────────────


def parallel(lines: Sequence[ParallelLine], keys: Sequence[str], primary: Objective) -> Markup:
    """A vertical axis for each of these parameters and for the score, a line a scored trial.

    Args:
        lines: of all scored trials, the chosen one among them.
        keys: the parameters in the order of their axes; each is set in some trial.
        primary: the measure behind the scores.
    """
    scales = [scale_of([line.params[key] for line in lines if key in line.params]) for key in keys]
    scores = number_scale([line.score for line in lines])
    # The best is on top.
    scales.append(scores if primary.direction == "maximize" else flipped(scores))

    def heights(line: ParallelLine) -> list[float]:
        values = [
            scale.place(line.params[key]) if key in line.params else _LACKING
            for key, scale in zip(keys, scales[:-1], strict=True)
        ]
        return [*values, scales[-1].place(line.score)]

    def paint(axes: Axes) -> None:
        across = range(len(scales))
        for line in sorted(lines, key=lambda line: (line.chosen, line.share)):
            if line.chosen:
                axes.plot(across, heights(line), color=INK, linewidth=2.8, gid="chosen")
            else:
                axes.plot(across, heights(line), color=SOFT, linewidth=1, alpha=0.35)
                axes.plot(across, heights(line), color=GOOD, linewidth=1.3, alpha=line.share)
        lacking = [x for x, key in enumerate(keys) if any(key not in line.params for line in lines)]
        _vertical_axes(axes, scales, lacking)
        axes.set_xticks(across, [*map(wrapped, keys), primary.title], fontsize=8)

    return draw("parallel", "The parameters of each trial, a line a trial", (9.6, 4), paint)


def _vertical_axes(axes: Axes, scales: Sequence[Scale], lacking: Sequence[int]) -> None:
    """In place of the usual axes; those at `lacking` have a mark for trials without a value."""
    for x, scale in enumerate(scales):
        axes.plot([x, x], [0, 1], color=SOFT, linewidth=0.9, gid=f"axis{x}")
        for height, label in scale.ticks:
            _beside(axes, x, height, label)
    for x in lacking:
        axes.plot(x, _LACKING, marker="o", markersize=3, color=SOFT)
        axes.text(x, _LACKING - 0.04, "not set", ha="center", va="top", fontsize=7.5)
    lowest = _LACKING - 0.1 if lacking else -0.05
    axes.set(yticks=[], xlim=(-0.1, len(scales) - 0.55), ylim=(lowest, 1.05))
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.grid(visible=False)


def _beside(axes: Axes, x: float, y: float, label: str) -> None:
    axes.plot(x, y, marker="_", markersize=5, color=SOFT)
    axes.annotate(label, (x, y), (4, 0), textcoords="offset points", va="center", fontsize=7.5)


# ── parts of plots ───────────────────────────────────────────────────────────────────────────────


def _draw_dots(axes: Axes, placed: Sequence[tuple[Dot, float]]) -> None:
    """Each dot at its place on the horizontal axis, by state; a ring around the chosen one."""
    for dot, x in placed:
        axes.plot(
            x,
            dot.score,
            marker=_MARKERS[dot.state],
            color=_COLOURS[dot.state],
            markersize=6,
            alpha=0.85,
        )
        if dot.chosen:
            _ring(axes, x, dot.score)


def _ring(axes: Axes, x: float, y: float) -> None:
    style: dict[str, Any] = {"marker": "o", "markersize": 11, "markerfacecolor": "none"}
    axes.plot(x, y, color=INK, gid="chosen", **style)


def _ring_mark() -> Line2D:
    style: dict[str, Any] = {"marker": "o", "markersize": 9, "markerfacecolor": "none"}
    return Line2D([], [], color=INK, linestyle="", label="chosen", **style)


def _number(
    axes: Axes,
    label: str,
    point: tuple[float, float],
    offset: tuple[float, float],
    ha: Literal["left", "right"] = "left",
) -> None:
    axes.annotate(label, point, offset, textcoords="offset points", ha=ha, fontsize=7.5)


def _legend(axes: Axes, handles: list[Line2D]) -> None:
    axes.figure.legend(handles=handles, loc="outside upper left", ncols=len(handles))
