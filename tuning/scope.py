"""What a search is to do, read from its settings before anything starts: mistakes show at once."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from ctray.config import Recipe, recipe_file
from ctray.data.ingest.opening import check_data
from ctray.data.store import Store
from ctray.training.fitting import fitted, with_short_refit
from ctray.words import counted
from tuning.memory import check_storage, warm_points
from tuning.names import SamplerName
from tuning.objectives import Objective, parse_objectives
from tuning.samplers import choose_sampler, make_sampler
from tuning.settings import DEFAULT_TRIALS, SearchSettings
from tuning.space import Space, space_file
from tuning.study import Limits, recipe_of

# A search without data takes some minutes on two cores.
_EMBEDDED_EPOCHS = 4


@dataclass(frozen=True)
class Scope:
    """What is searched.

    Attributes:
        base: the recipe of what is not; its epochs are the most a trial trains.
        space: what is.
        objectives: what for.
        sampler: how the next point is chosen; not `auto`.
        combinations: how many points the space has; None: a range of it is continuous.
        limits: how much.
        subject: what all trials of the study share, as plain values.
        warm: points to try first, from earlier studies.
    """

    base: Recipe
    space: Space
    objectives: tuple[Objective, ...]
    sampler: SamplerName
    combinations: int | None
    limits: Limits
    subject: dict[str, Any]
    warm: list[dict[str, Any]]


def read_scope(settings: SearchSettings) -> Scope:
    """Read what the settings name; nothing is written.

    Raises:
        UserError: a file, a folder, a database or a value cannot be had or used.
    """
    base = _base(settings)
    space = Space.load(space_file(settings.space), base)
    combinations = space.combinations
    sampler = choose_sampler(settings.sampler, combinations)
    # A mistake in it shows now.
    make_sampler(sampler, settings.seed, settings.objective)
    if settings.data is not None:
        check_data(settings.data)
    if settings.storage:
        check_storage(settings.storage)
    return Scope(
        base=base,
        space=space,
        objectives=parse_objectives(settings.objective),
        sampler=sampler,
        combinations=combinations,
        limits=_limits(settings, sampler, combinations),
        subject={
            "data": None if settings.data is None else str(settings.data.resolve()),
            "space": space.source,
            "base": recipe_of(base, {}).model_dump(),
            "objectives": list(settings.objective),
            "pruner": settings.pruner,
        },
        warm=[point for folder in settings.warm_start for point in warm_points(folder, space)],
    )


def fit_scope(scope: Scope, store: Store) -> tuple[Scope, list[str]]:
    """Leave out the batches that the training split does not fill.

    What the trials share (`subject`) stays as it was asked for: it names the study.

    Returns:
        The scope, and a line for each thing that was changed.

    Raises:
        UserError: a split of the store is empty.
    """
    records = len(store.records("train"))
    base = fitted(scope.base, (), store)
    space = scope.space.at_most("batch_size", records)
    found = f"there are {counted(records, 'training record')}"
    said = []
    if base != scope.base:
        said.append(f"batches of {base.batch_size}, not {scope.base.batch_size}: {found}")
    if space is scope.space:
        return dataclasses.replace(scope, base=base), said
    said.append(f"no trial with a larger batch_size, which the space has: {found}")
    combinations, limits = space.combinations, scope.limits
    if scope.sampler == "grid" and combinations is not None:
        most = min(limits.trials or combinations, combinations)
        limits = dataclasses.replace(limits, trials=most)
    warm = [inside for point in scope.warm for inside in space.inside(point)]
    fit = dataclasses.replace(
        scope, base=base, space=space, combinations=combinations, limits=limits, warm=warm
    )
    return fit, said


def _base(settings: SearchSettings) -> Recipe:
    chosen: dict[str, Any] = {"seed": settings.seed}
    if settings.max_epochs is not None:
        chosen["epochs"] = settings.max_epochs
    elif settings.data is None:
        chosen["epochs"] = _EMBEDDED_EPOCHS
    return with_short_refit(Recipe.load(recipe_file(settings.recipe), chosen), ())


def _limits(settings: SearchSettings, sampler: SamplerName, combinations: int | None) -> Limits:
    trials = settings.trials
    if trials is None and settings.time_budget is None:
        # With a time budget, that ends the search.
        trials = DEFAULT_TRIALS
    if sampler == "grid" and combinations is not None:
        trials = min(trials or combinations, combinations)
    return Limits(trials, settings.time_budget_s, settings.pruner)
