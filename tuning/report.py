"""The study's page, `study.html`: what was searched, what became of each trial, what is deployed.

One file without scripts or links to anything outside it, whose colours follow light, dark and
print. Parameters and reasons come from whoever wrote the space or the trial that broke, and are
escaped throughout.
"""

import math
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup

from ctray.pages.rendering import render
from ctray.pages.writing import write_page
from tuning import plots
from tuning.importance import Importances, importances_of
from tuning.objectives import OBJECTIVES, Objective, best_of
from tuning.plots import PARALLEL_PARAMETERS
from tuning.summary import (
    STATES,
    View,
    curve_of,
    other_curves,
    parallel_lines,
    pareto_of,
    progress_of,
    searched,
    slices_of,
    timeline_of,
)
from tuning.trials import Trial

_LATENCY, _SIZE = OBJECTIVES["latency_ms"], OBJECTIVES["size_mb"]


@dataclass(frozen=True)
class Context:
    """Where the numbers of a study's page come from.

    Attributes:
        data: what was trained on.
        synthetic: whether it is made up.
        fingerprint: of the data.
        space: as in its YAML.
        seed: of sampler and trials.
        max_epochs: of a whole trial.
        seconds: wall time over all runs of the command.
        plan: the resources, for people.
        command: as it was typed.
        created: ISO 8601.
        versions: by package.
        bundle: where that of the chosen trial lies.
        objectives: what was searched for, first the measure that trials are compared by.
        rule: how the chosen one was chosen, to follow "Trial 3 is deployed:".
        latency_budget_ms: None without one.
        result: what the bundle scored: `split`, `records`, `accuracy` and `macro_f1`, each with
            `value`, `low` and `high`, and `refitted`. None when it was not evaluated.
    """

    data: str
    synthetic: bool
    fingerprint: str
    space: dict[str, Any]
    seed: int
    max_epochs: int
    seconds: float
    plan: str
    command: str
    created: str
    versions: dict[str, str]
    bundle: str
    objectives: tuple[Objective, ...]
    rule: str
    latency_budget_ms: float | None = None
    result: dict[str, Any] | None = None


@dataclass(frozen=True)
class _Parallel:
    """The plot of parallel coordinates.

    Attributes:
        plot: the plot.
        conditional: whether some of its trials lack one of its parameters.
        left_out: the parameters that found no room in it.
    """

    plot: Markup
    conditional: bool
    left_out: tuple[str, ...]


def write_study(path: Path, trials: Sequence[Trial], chosen: Trial, context: Context) -> None:
    """Write the study's page, whole or not at all.

    Args:
        path: the HTML file; its folder is made where missing.
        trials: every trial, whatever became of it.
        chosen: the one of `trials` that is deployed, not always the one with the best score; it
            has at least one evaluation.
        context: where the numbers come from.

    Raises:
        ValueError: `chosen` is not a scored one of the trials.
    """
    view = View(trials, chosen, context.objectives[0])
    if chosen.number not in [trial.number for trial in view.scored]:
        raise ValueError(f"trial {chosen.number} is not a scored trial of this study")
    write_page(path, _page(view, context))


def _page(view: View, context: Context) -> str:
    states = [trial.state for trial in view.trials]
    importances = importances_of(view)
    measure = view.primary.title
    values = {
        **vars(context),
        "space": yaml.safe_dump(context.space, sort_keys=False, allow_unicode=True),
        "trials": view.trials,
        "chosen": view.chosen,
        "best": best_of(view.scored, view.primary) or view.chosen,
        "primary": view.primary,
        "names": {name: one.title for name, one in OBJECTIVES.items()},
        "measures": _measures(context.objectives),
        "scored": len(view.scored),
        "counts": {state: states.count(state) for state in STATES if state in states},
        "restarted": any(trial.starts > 1 for trial in view.trials),
        "front": view.front(_LATENCY),
        "unmeasured": states.count("finished") - len(view.measured(_LATENCY)),
        "paretos": _paretos(view, _SIZE in context.objectives, context.latency_budget_ms),
        "progress": plots.progress(progress_of(view), measure, view.score_range),
        "curves": plots.curves(
            other_curves(view),
            curve_of(view, view.chosen),
            view.chosen.number,
            context.max_epochs,
            measure,
        ),
        "slices": _slices(view),
        "parallel": _parallel(view, importances),
        "timeline": plots.timeline(timeline_of(view)),
        "lanes": len(view.lanes),
        "importances": importances,
        "importance_bars": (
            plots.importance_bars(importances.shares) if importances.shares else None
        ),
    }
    filters: dict[str, Callable[..., str]] = {
        "value": _value,
        "duration": _duration,
        "shell": shlex.quote,
        "upper_first": lambda text: text[:1].upper() + text[1:],
        "score": lambda number: f"{number:.3f}" if math.isfinite(number) else "–",
        "figure": _figure,
    }
    return render("tuning", "study.html.j2", values, filters)


def _value(value: Any) -> str:
    """A parameter or measure for people: floats to 4 digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _figure(number: float | None) -> str:
    """Milliseconds or megabytes, to three digits or tenths."""
    return "–" if number is None else f"{number:.{2 if number < 10 else 1}f}"


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _measures(objectives: Sequence[Objective]) -> list[Objective]:
    """The measures of the predictions that the page shows: those searched for, then the usual."""
    usual = (OBJECTIVES["macro_f1"], OBJECTIVES["accuracy"])
    return list(dict.fromkeys(one for one in (*objectives, *usual) if one.row_key))


def _paretos(view: View, with_size: bool, budget: float | None) -> list[Markup]:
    """Score against latency, and beside it against size where that is an objective."""
    plotted = []
    if view.measured(_LATENCY):
        inches = (6.3, 3.4) if with_size else (9.6, 3.6)
        plotted.append(plots.pareto(pareto_of(view, _LATENCY), view.primary, budget, inches))
    if with_size and view.measured(_SIZE):
        plotted.append(plots.pareto(pareto_of(view, _SIZE), view.primary, None, (3.15, 3.4)))
    return plotted


def _slices(view: View) -> list[tuple[str, Markup]]:
    """Each parameter and its plot against the score."""
    return [
        (
            data.key,
            plots.slice_plot(f"slice{index}", data, view.primary.title, view.score_range),
        )
        for index, data in enumerate(slices_of(view))
    ]


def _parallel(view: View, importances: Importances) -> _Parallel | None:
    """The most important parameters side by side; None where there are no two trials to compare."""
    keys = list(dict.fromkeys([*importances.shares, *searched(view.scored)]))
    if not keys or len(view.scored) < 2:
        return None
    shown, left_out = keys[:PARALLEL_PARAMETERS], keys[PARALLEL_PARAMETERS:]
    conditional = any(key not in trial.params for trial in view.scored for key in shown)
    plot = plots.parallel(parallel_lines(view), shown, view.primary)
    return _Parallel(plot, conditional, tuple(left_out))
