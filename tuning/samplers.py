"""How the next point of the space is chosen."""

import importlib.util
import warnings
from collections.abc import Callable, Sequence
from typing import Literal

import optuna
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from ctray.errors import UserError

SamplerName = Literal["tpe", "gp", "cmaes", "random"]
# Points drawn at random before TPE has something to go by; Optuna's ten are a whole short study.
_RANDOM_STARTS = 5


def make_sampler(
    name: SamplerName, seed: int, objectives: Sequence[str], budget_ms: float | None
) -> BaseSampler:
    """The sampler of a study.

    TPE with `multivariate` and `group` is the default: it takes conditional spaces and several
    objectives. The others are Optuna's Gaussian process, CMA-ES (numbers only: lists are drawn at
    random; one objective) and random draws.

    Args:
        name: which.
        seed: of its draws.
        objectives: names.
        budget_ms: latency above which a trial does not count.

    Raises:
        UserError: it cannot do this, or its package is not installed.
    """
    if name == "cmaes":
        if len(objectives) > 1:
            raise UserError("--sampler cmaes takes one --objective: use tpe or gp for several")
        if importlib.util.find_spec("cmaes") is None:
            raise UserError("--sampler cmaes needs the package cmaes: pip install cmaes")
    limit = None if budget_ms is None else _latency_limit(budget_ms)
    with warnings.catch_warnings():
        # That Optuna may still change group, constraints and its Gaussian process.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if name == "tpe":
            return optuna.samplers.TPESampler(
                n_startup_trials=_RANDOM_STARTS,
                multivariate=True,
                group=True,
                seed=seed,
                constraints_func=limit,
            )
        if name == "gp":
            return optuna.samplers.GPSampler(
                n_startup_trials=_RANDOM_STARTS, seed=seed, constraints_func=limit
            )
        if name == "cmaes":
            return optuna.samplers.CmaEsSampler(n_startup_trials=_RANDOM_STARTS, seed=seed)
        return optuna.samplers.RandomSampler(seed=seed)


def _latency_limit(budget_ms: float) -> Callable[[FrozenTrial], tuple[float]]:
    """Positive where a trial is over the budget."""

    def excess(trial: FrozenTrial) -> tuple[float]:
        latency = trial.user_attrs.get("latency_ms")
        return (0.0 if latency is None else latency - budget_ms,)

    return excess
