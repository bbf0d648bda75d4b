"""Trials as Ray documents them: each is a function of Tune's that calls `trainer.fit()`.

The peer of `search_overhead.py`, which starts it in a process of its own. Training, settings and
images are those of ctray's trials; for each one Tune starts an actor, and Ray Train a controller,
a worker and data tasks. Prints the seconds from the first to the last.
"""

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import ray.tune
from ray.util.queue import Queue

from ctray.config import Recipe
from ctray.data.store import Store
from ctray.session import ray_session
from ctray.training.job import make_job
from ctray.training.plan import make_plan
from ctray.training.ray_train import build_trainer, fit
from ctray.training.worker import train_loop


def trial(config: dict[str, Any]) -> None:
    """Train once, and report the score."""
    recipe = Recipe.model_validate(config["recipe"] | {"lr": config["lr"]})
    plan = config["plan"]
    with tempfile.TemporaryDirectory() as scratch:
        store = Store.open(Path(config["store"]))
        job = make_job(recipe, store, plan, f"{scratch}/checkpoints")
        messages = Queue(actor_options={"num_cpus": 0})
        settings = {"job": job, "messages": messages}
        outcome = fit(build_trainer(train_loop, settings, plan, scratch, 0))
        ray.tune.report({"val_macro_f1": outcome["best"]["val_macro_f1"]})


def main(store: str, trials: str, image_size: str) -> None:
    """Run so many one-epoch trials, one at a time."""
    recipe = Recipe(
        backbone="small_cnn", image_size=int(image_size), epochs=1, small_share=0, refit_epochs=0
    )
    with ray_session(), tempfile.TemporaryDirectory() as scratch:
        plan = make_plan(runs=1)
        start = time.monotonic()
        results = ray.tune.Tuner(
            ray.tune.with_resources(trial, {"CPU": plan.driver_cpus}),
            param_space={
                "store": store,
                "plan": plan,
                "recipe": recipe.model_dump(),
                "lr": ray.tune.loguniform(1e-3, 1e-2),
            },
            tune_config=ray.tune.TuneConfig(num_samples=int(trials), max_concurrent_trials=1),
            run_config=ray.tune.RunConfig(name="peer", storage_path=scratch, verbose=0),
        ).fit()
        took = time.monotonic() - start
    if results.num_errors:
        raise SystemExit(f"{results.num_errors} trials failed: {results.errors[0]}")
    print(took)


if __name__ == "__main__":
    main(*sys.argv[1:])
