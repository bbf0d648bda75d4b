"""Which parameters of a search mattered for the score."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import optuna

from ctray.pages.rendering import plural
from tuning.axes import is_numeric, spans_decades
from tuning.summary import View, searched

IMPORTANCE_TRIALS = 8


@dataclass(frozen=True)
class Importances:
    """How much each parameter mattered, or why that is not known.

    Attributes:
        shares: of the score's variance by parameter, in total 1, the most important first.
        trials: how many trials it is estimated from.
        left_out: the parameters that nothing can be said about.
        why_not: why there are no shares; empty where there are.
    """

    shares: dict[str, float] = field(default_factory=dict)
    trials: int = 0
    left_out: tuple[str, ...] = ()
    why_not: str = ""


def importances_of(view: View) -> Importances:
    """fANOVA's share of the score's variance by parameter, where there is enough to go by."""
    scored = view.scored
    if len(scored) < IMPORTANCE_TRIALS:
        return Importances(
            why_not=f"Not shown: {len(scored)} scored trial{plural(len(scored))} cannot tell "
            f"parameters apart; from {IMPORTANCE_TRIALS} on they are estimated here."
        )
    if len({view.score(trial) for trial in scored}) == 1:
        return Importances(why_not="Not shown: every scored trial has the same score.")
    every = searched(view.trials)
    # fANOVA needs a value of each parameter from each trial, and more than one value of each.
    usable = [key for key in every if all(key in trial.params for trial in scored)]
    usable = [key for key in usable if len({str(trial.params[key]) for trial in scored}) > 1]
    if not usable:
        return Importances(
            why_not="Not shown: no parameter was chosen in every scored trial with differing values"
        )
    shares = _fanova(view, usable)
    return Importances(
        shares={key: shares[key] for key in sorted(shares, key=lambda key: -shares[key])},
        trials=len(scored),
        left_out=tuple(key for key in every if key not in usable),
    )


def _fanova(view: View, keys: Sequence[str]) -> dict[str, float]:
    """Importance of each key, in total 1, over the region that the trials cover."""
    scored = view.scored
    columns = {key: _column([trial.params[key] for trial in scored]) for key in keys}
    with _quiet_optuna():
        study = optuna.create_study(direction=view.primary.direction)
    for row, trial in enumerate(scored):
        study.add_trial(
            optuna.create_trial(
                params={key: values[row] for key, (values, _) in columns.items()},
                distributions={key: distribution for key, (_, distribution) in columns.items()},
                value=view.score(trial),
            )
        )
    # PED-ANOVA, optuna's default, compares the best tenth with the rest: of 8 trials, one.
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    return optuna.importance.get_param_importances(study, evaluator=evaluator, params=list(keys))


def _column(values: Sequence[Any]) -> tuple[list[Any], optuna.distributions.BaseDistribution]:
    """One parameter's values and their range; logarithms where they span decades."""
    if not is_numeric(values):
        names = [str(value) for value in values]
        return names, optuna.distributions.CategoricalDistribution(sorted(set(names)))
    numbers = [math.log10(v) if spans_decades(values) else float(v) for v in values]
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
