"""One trial: the search's choices laid over a recipe, run by the same trainer as `ctray train`."""

from typing import Any

import ray.tune
from ray.tune.integration.ray_train import TuneReportCallback

from ctray.config import Recipe
from ctray.data.store import Store
from ctray.training.plan import Plan
from ctray.training.trainer import build_trainer, initial_weights


def recipe_of(base: Recipe, params: dict[str, Any]) -> Recipe:
    """The recipe of a trial."""
    values = base.model_dump()
    for dotted, value in params.items():
        *parents, last = dotted.split(".")
        place = values
        for parent in parents:
            place = place[parent]
        place[last] = value
    return Recipe.model_validate(values)


def run_name(trial_id: str) -> str:
    """Ray Train's name of a trial's run; its checkpoints lie under it."""
    return f"train-{trial_id}"


def objective(
    params: dict[str, Any], *, base: Recipe, store: Store, plan: Plan, storage: str
) -> None:
    """Run one trial inside its Tune actor; every evaluation goes to Tune as it comes."""
    recipe = recipe_of(base, params)
    trainer = build_trainer(
        recipe,
        store.place,
        initial_weights(recipe, store),
        plan,
        name=run_name(ray.tune.get_context().get_trial_id()),
        storage=storage,
        callbacks=[TuneReportCallback()],
    )
    trainer.fit()
