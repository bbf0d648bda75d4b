"""The study's page: ``study.html``, what was searched, what became of each trial and what won.

One file without scripts or links to anything outside it. Its plots are drawn by matplotlib as SVG
and take their colours from the page, so that they follow light, dark and print. Parameters and
reasons come from whoever wrote the space or the trial that broke, and are escaped throughout.
"""

import io
import math
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal, get_args

import jinja2
import matplotlib
import optuna
import yaml
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from ctray import storage
from tuning.trials import State, Trial

IMPORTANCE_TRIALS = 8
LOG_SPAN = 10
TICKED_VALUES = 5
LABEL_CHARACTERS = 16
NUMBERED_DOTS = 40
TIMELINE_LABELS = 60

_CONTEXT = {
    "data",
    "synthetic",
    "fingerprint",
    "space",
    "seed",
    "max_epochs",
    "seconds",
    "plan",
    "command",
    "created",
    "versions",
    "bundle",
}

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
_STATES: tuple[State, ...] = get_args(State)
_COLOURS: dict[State, str] = {"finished": _GOOD, "pruned": _SOFT, "stopped": _HOLD, "failed": _BAD}
_MARKERS: dict[State, str] = {"finished": "o", "pruned": "v", "stopped": "s", "failed": "X"}
_DASHES: dict[State, Literal["-", "--", "-.", ":"]] = {
    "finished": "-",
    "pruned": "--",
    "stopped": "-.",
    "failed": ":",
}

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
class _Importances:
    """How much each parameter mattered, as an SVG; or ``why_not`` there is none to show."""

    plot: Markup | None = None
    trials: int = 0
    left_out: tuple[str, ...] = ()
    why_not: str = ""


def write_study(path: Path, trials: Sequence[Trial], best: Trial, context: dict[str, Any]) -> None:
    """Write the study's page, whole or not at all.

    Args:
        path: the HTML file; its folder is made where missing.
        trials: every trial, whatever became of it.
        best: the one of ``trials`` whose bundle was kept; it has at least one evaluation.
        context: where the numbers come from, all of: ``data`` (str), ``synthetic`` (bool),
            ``fingerprint`` (str), ``space`` (as in its YAML), ``seed`` (int), ``max_epochs``
            (int), ``seconds`` (float, wall time of the study), ``plan`` (str, the resources),
            ``command`` (str), ``created`` (str, ISO 8601), ``versions`` (name to version) and
            ``bundle`` (str, where the best bundle lies).

    Raises:
        ValueError: the context lacks a key, or ``best`` is not a scored one of the trials.
    """
    missing = _CONTEXT - context.keys()
    if missing:
        raise ValueError(f"the study's context lacks {sorted(missing)}")
    if best.number not in [trial.number for trial in _scored(trials)]:
        raise ValueError(f"trial {best.number} is not a scored trial of this study")
    # A lone surrogate in a reason is no valid text, and UTF-8 cannot hold it.
    page = _page(trials, best, context).encode("utf-8", "backslashreplace")
    storage.write_bytes(str(path), page)


def _page(trials: Sequence[Trial], best: Trial, context: dict[str, Any]) -> str:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"value": _value, "duration": _duration, "shell": shlex.quote}
    source = resources.files("tuning").joinpath("study.html.j2").read_text("utf-8")
    states = [trial.state for trial in trials]
    return environment.from_string(source).render(
        **{key: context[key] for key in _CONTEXT - {"space"}},
        space=yaml.safe_dump(context["space"], sort_keys=False, allow_unicode=True),
        trials=trials,
        best=best,
        scored=len(_scored(trials)),
        counts={state: states.count(state) for state in _STATES if state in states},
        progress=_progress(trials, best),
        curves=_curves(trials, best, context["max_epochs"]),
        slices=_slices(trials, best),
        timeline=_timeline(trials, best),
        importances=_importances(trials),
    )


def _value(value: Any) -> str:
    """A parameter or measure for people: floats to 4 digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _scored(trials: Sequence[Trial]) -> list[Trial]:
    return [trial for trial in trials if math.isfinite(trial.score)]


def _searched(trials: Sequence[Trial]) -> list[str]:
    """Every parameter that some trial was given, in the order of appearance."""
    return list(dict.fromkeys(key for trial in trials for key in trial.params))


def _progress(trials: Sequence[Trial], best: Trial) -> Markup:
    """Each trial as a dot where it ended, and the best score until then as a line."""
    divisor, unit = _clock(trials)

    def paint(axes: Axes) -> None:
        points = [(trial, _end(trial) / divisor) for trial in sorted(_scored(trials), key=_end)]
        records = list(accumulate((trial.score for trial, _ in points), max))
        last = max(map(_end, trials)) / divisor
        axes.step(
            [*(end for _, end in points), last],
            [*records, records[-1]],
            where="post",
            color=_GOOD,
            linewidth=1.5,
        )
        _dots(axes, points, best)
        unscored = [trial for trial in trials if not math.isfinite(trial.score)]
        for trial in unscored:
            axes.plot(
                _end(trial) / divisor,
                0.02,
                marker="x",
                color=_COLOURS[trial.state],
                transform=axes.get_xaxis_transform(),
            )
        if len(trials) <= NUMBERED_DOTS:
            _number(axes, points)
        axes.set(xlabel=unit, ylabel="validation macro-F1", ylim=_score_range(trials))
        axes.set_xlim(left=0)
        extra = [Line2D([], [], color=_GOOD, linewidth=1.5, label="best so far")]
        if unscored:
            extra.append(
                Line2D([], [], color=_SOFT, marker="x", linestyle="", label="ended without a score")
            )
        _legend(axes, [*_state_marks(_scored(trials)), *extra])

    return _draw("progress", "Best validation macro-F1 so far over time", (9.6, 3.4), paint)


def _curves(trials: Sequence[Trial], best: Trial, max_epochs: int) -> Markup:
    """Validation macro-F1 over epochs, the best trial on top and bold."""
    drawn = [trial for trial in trials if trial.rows and trial.number != best.number]

    def paint(axes: Axes) -> None:
        for trial in drawn:
            _curve(axes, trial, color=_grey_unless_finished(trial), linewidth=1)
        _curve(axes, best, color=_GOOD, linewidth=3)
        axes.set(xlabel="epoch", ylabel="validation macro-F1", xlim=(0, 1.02 * max_epochs))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        lines = [Line2D([], [], color=_GOOD, linewidth=3, label=f"trial {best.number}, the best")]
        for state in _STATES:
            of_state = [trial for trial in drawn if trial.state == state]
            if of_state:
                colour = _grey_unless_finished(of_state[0])
                lines.append(Line2D([], [], color=colour, linestyle=_DASHES[state], label=state))
        _legend(axes, lines)

    return _draw("curves", "Validation macro-F1 over epochs, a line a trial", (9.6, 3.4), paint)


def _curve(axes: Axes, trial: Trial, color: str, linewidth: float) -> None:
    axes.plot(
        [row["epoch"] for row in trial.rows],
        [row["val_macro_f1"] for row in trial.rows],
        color=color,
        linewidth=linewidth,
        linestyle=_DASHES[trial.state],
        marker="o",
        # A trial with a single evaluation has no line, only this.
        markersize=2 + linewidth,
    )


def _grey_unless_finished(trial: Trial) -> str:
    return _GOOD if trial.state == "finished" else _SOFT


def _slices(trials: Sequence[Trial], best: Trial) -> list[tuple[str, Markup]]:
    """Each parameter and its plot against the score, where a scored trial has it."""
    scored = _scored(trials)
    return [
        (key, _slice(f"slice{index}", scored, best, key))
        for index, key in enumerate(_searched(scored))
    ]


def _slice(name: str, scored: Sequence[Trial], best: Trial, key: str) -> Markup:
    having = [trial for trial in scored if key in trial.params]
    values = [trial.params[key] for trial in having]

    def paint(axes: Axes) -> None:
        if _numeric(values):
            _dots(axes, [(trial, trial.params[key]) for trial in having], best)
            _number_axis(axes, values)
        else:
            names = sorted({str(value) for value in values})
            _dots(axes, [(trial, names.index(str(trial.params[key]))) for trial in having], best)
            labels = [_short(name) for name in names]
            slanted = sum(map(len, labels)) > 30
            axes.set_xticks(
                range(len(names)),
                labels,
                rotation=25 if slanted else 0,
                ha="right" if slanted else "center",
            )
            axes.set_xlim(-0.5, len(names) - 0.5)
        axes.set(ylabel="macro-F1", ylim=_score_range(scored))

    return _draw(name, f"Validation macro-F1 against {key}", (3.3, 2.4), paint)


def _numeric(values: Sequence[Any]) -> bool:
    return all(
        isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        for value in values
    )


def _spans_decades(values: Sequence[float]) -> bool:
    return min(values) > 0 and max(values) >= LOG_SPAN * min(values)


def _number_axis(axes: Axes, values: Sequence[float]) -> None:
    """Scale and ticks: logarithmic where the values span decades, few values named each."""
    axis = axes.xaxis
    if _spans_decades(values):
        axes.set_xscale("log")
        narrow = max(values) < 100 * min(values)
        axis.set_major_locator(LogLocator(subs=(1, 3) if narrow else (1,)))
        axis.set_minor_locator(NullLocator())
    elif len(set(values)) <= TICKED_VALUES:
        axis.set_ticks(sorted(set(values)))
        axes.margins(x=0.15)
    else:
        axis.set_major_locator(MaxNLocator(5))
    axis.set_major_formatter(FuncFormatter(_tick))


def _tick(number: float, _: int | None) -> str:
    """1e-4 rather than 0.0001: neighbours must not run into each other."""
    if 0 < abs(number) < 0.001:
        return f"{number:.0e}".replace("e-0", "e-")
    return f"{number:.3g}"


def _timeline(trials: Sequence[Trial], best: Trial) -> Markup:
    """When each trial ran, a bar a trial, the first on top."""
    divisor, unit = _clock(trials)
    labels = [
        f"{trial.number} {trial.state}{', best' if trial.number == best.number else ''}"
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


def _importances(trials: Sequence[Trial]) -> _Importances:
    """fANOVA's share of the score's variance by parameter, where there is enough to go by."""
    scored = _scored(trials)
    if len(scored) < IMPORTANCE_TRIALS:
        return _Importances(
            why_not=f"Not shown: {len(scored)} scored trial{'' if len(scored) == 1 else 's'} cannot"
            f" tell parameters apart; from {IMPORTANCE_TRIALS} on they are estimated here."
        )
    if len({trial.score for trial in scored}) == 1:
        return _Importances(why_not="Not shown: every scored trial has the same score.")
    searched = _searched(trials)
    # fANOVA needs a value of each parameter from each trial, and more than one value of each.
    usable = [key for key in searched if all(key in trial.params for trial in scored)]
    usable = [key for key in usable if len({str(trial.params[key]) for trial in scored}) > 1]
    if not usable:
        return _Importances(
            why_not="Not shown: no parameter was chosen in every scored trial with differing values"
        )
    shares = _fanova(scored, usable)
    names = sorted(shares, key=lambda key: shares[key])

    def paint(axes: Axes) -> None:
        bars = axes.barh(names, [100 * shares[name] for name in names], height=0.6, color=_GOOD)
        axes.bar_label(bars, fmt="%.0f %%", padding=4)
        axes.set(xlabel="share of the score's variance, %", xlim=(0, 108))
        axes.grid(axis="y", visible=False)

    return _Importances(
        plot=_draw("importances", "Importance by parameter", (9.6, 0.7 + 0.26 * len(names)), paint),
        trials=len(scored),
        left_out=tuple(key for key in searched if key not in usable),
    )


def _fanova(scored: Sequence[Trial], keys: Sequence[str]) -> dict[str, float]:
    """Importance of each key, in total 1, over the region that the trials cover."""
    columns = {key: _column([trial.params[key] for trial in scored]) for key in keys}
    with _quiet_optuna():
        study = optuna.create_study(direction="maximize")
    for row, trial in enumerate(scored):
        study.add_trial(
            optuna.create_trial(
                params={key: values[row] for key, (values, _) in columns.items()},
                distributions={key: distribution for key, (_, distribution) in columns.items()},
                value=trial.score,
            )
        )
    # PED-ANOVA, optuna's default, compares the best tenth with the rest: of 8 trials, one.
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    return optuna.importance.get_param_importances(study, evaluator=evaluator, params=list(keys))


def _column(values: Sequence[Any]) -> tuple[list[Any], optuna.distributions.BaseDistribution]:
    """One parameter's values and their range; logarithms where they span decades."""
    if not _numeric(values):
        names = [str(value) for value in values]
        return names, optuna.distributions.CategoricalDistribution(sorted(set(names)))
    numbers = [math.log10(v) if _spans_decades(values) else float(v) for v in values]
    return numbers, optuna.distributions.FloatDistribution(min(numbers), max(numbers))


@contextmanager
def _quiet_optuna() -> Iterator[None]:
    """Keep "a new study created in memory" out of the search's output."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def _end(trial: Trial) -> float:
    return trial.started + trial.seconds


def _clock(trials: Sequence[Trial]) -> tuple[float, str]:
    """Seconds a unit and the axis label, by how long the trials took."""
    last = max(map(_end, trials))
    if last < 180:
        return 1, "seconds after the start"
    return (60, "minutes after the start") if last < 3 * 3600 else (3600, "hours after the start")


def _score_range(trials: Sequence[Trial]) -> tuple[float, float]:
    """Of the score axis, the same in every plot of scores, so that they can be compared."""
    scores = [trial.score for trial in _scored(trials)]
    margin = max(0.02, 0.1 * (max(scores) - min(scores)))
    return min(scores) - margin, max(scores) + margin


def _dots(axes: Axes, points: Sequence[tuple[Trial, float]], best: Trial) -> None:
    """A dot for each (trial, x) at its score, by state; a ring around the best."""
    for trial, x in points:
        axes.plot(
            x,
            trial.score,
            marker=_MARKERS[trial.state],
            color=_COLOURS[trial.state],
            markersize=6,
            alpha=0.85,
        )
        if trial.number == best.number:
            axes.plot(x, trial.score, marker="o", markersize=11, markerfacecolor="none", color=_INK)


def _number(axes: Axes, points: Sequence[tuple[Trial, float]]) -> None:
    for trial, x in points:
        axes.annotate(
            str(trial.number), (x, trial.score), (7, -9), textcoords="offset points", fontsize=7.5
        )


def _state_marks(trials: Sequence[Trial]) -> list[Line2D]:
    present = {trial.state for trial in trials}
    return [
        Line2D([], [], color=_COLOURS[state], marker=_MARKERS[state], linestyle="", label=state)
        for state in _STATES
        if state in present
    ]


def _legend(axes: Axes, handles: list[Line2D]) -> None:
    axes.figure.legend(handles=handles, loc="outside upper left", ncols=len(handles))


def _short(text: str) -> str:
    return text if len(text) <= LABEL_CHARACTERS else text[: LABEL_CHARACTERS - 1] + "…"


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
