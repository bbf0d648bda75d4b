"""One trial: the search's choices laid over a recipe, run by the same trainer as `ctray train`."""

from typing import Any

import ray.tune
from ray.tune.integration.ray_train import TuneReportCallback

from ctray.config import Recipe
from ctray.data.store import Store
from ctray.training.plan import Plan
from ctray.training.trainer import build_trainer, check_run, fit


def recipe_of(base: Recipe, params: dict[str, Any]) -> Recipe:
    """The recipe of a trial; without a refit, for a trial is judged on the validation records."""
    values = base.model_dump() | {"refit_epochs": 0}
    for dotted, value in params.items():
        *parents, last = dotted.split(".")
        place = values
        for parent in parents:
            place = place[parent]
        place[last] = value
    return Recipe.model_validate(values)


def checkpoints_of(storage: str, trial_id: str) -> str:
    """Where the checkpoints of a trial lie."""
    return f"{storage}/checkpoints/{trial_id}"


def objective(
    params: dict[str, Any], *, base: Recipe, store: Store, plan: Plan, storage: str
) -> None:
    """Run one trial inside its Tune actor; every evaluation goes to Tune as it comes."""
    recipe = recipe_of(base, params)
    check_run(recipe, store, plan)
    trial_id = ray.tune.get_context().get_trial_id()
    trainer = build_trainer(
        recipe,
        store.place,
        plan,
        folder=checkpoints_of(storage, trial_id),
        scratch=f"{storage}/train/{trial_id}",
        callbacks=[TuneReportCallback()],
    )
    fit(trainer)
