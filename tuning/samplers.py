"""How the next point of the space is chosen."""

import importlib.util
import warnings
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.samplers import BaseSampler

from ctray.errors import UserError
from tuning.names import SamplerName

# Points drawn at random before TPE has something to go by; Optuna's ten are a whole short study.
_RANDOM_STARTS = 5
# Up to so many combinations a model of them has little to tell, and would draw the best again.
_FEW = 64


def choose_sampler(name: SamplerName, combinations: int | None) -> SamplerName:
    """What `auto` means for a space of so many combinations (None: a range is continuous).

    Raises:
        UserError: `grid` for a space that has no end.
    """
    if name == "grid" and combinations is None:
        raise UserError(
            "the sampler grid needs lists and whole numbers only: this space has a range",
            "sampler",
            "space",
        )
    if name == "auto":
        return "grid" if combinations is not None and combinations <= _FEW else "tpe"
    return name


class _Grid(optuna.samplers.BruteForceSampler):
    """Every combination once, in random order."""

    def after_trial(self, *_: Any, **__: Any) -> None:
        """Do nothing: who asks counts, and there is no loop of Optuna's to stop."""


def make_sampler(name: SamplerName, seed: int, objectives: Sequence[str]) -> BaseSampler:
    """The sampler of a study.

    TPE with `multivariate` and `group` is the default: it takes conditional spaces and several
    objectives. The others are Optuna's Gaussian process, CMA-ES (numbers only: lists are drawn at
    random; one objective), random draws, and every combination of a finite space once.

    Args:
        name: which, but `auto`.
        seed: of its draws.
        objectives: names.

    Raises:
        UserError: it cannot do this, or its package is not installed.
    """
    if name == "cmaes":
        if len(objectives) > 1:
            raise UserError(
                "the sampler cmaes takes one objective: use tpe or gp for several",
                "sampler",
                "objective",
            )
        if importlib.util.find_spec("cmaes") is None:
            raise UserError(
                "the sampler cmaes needs the package cmaes: pip install cmaes", "sampler"
            )
    with warnings.catch_warnings():
        # That Optuna may still change group and its Gaussian process.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if name == "tpe":
            return optuna.samplers.TPESampler(
                n_startup_trials=_RANDOM_STARTS, multivariate=True, group=True, seed=seed
            )
        if name == "gp":
            return optuna.samplers.GPSampler(n_startup_trials=_RANDOM_STARTS, seed=seed)
        if name == "cmaes":
            return optuna.samplers.CmaEsSampler(n_startup_trials=_RANDOM_STARTS, seed=seed)
        if name == "grid":
            return _Grid(seed=seed)
        return optuna.samplers.RandomSampler(seed=seed)
