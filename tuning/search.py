"""`python -m tuning.search`: Ray Tune, Optuna and ASHA over Ray Train runs, to the best bundle."""

import math
import re
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import optuna
import ray
import ray.tune
import typer
from optuna.samplers import TPESampler
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from ctray.bundle import write_bundle
from ctray.cli import EXPERT, print_store, run_cli
from ctray.config import Recipe, recipe_file
from ctray.data.phantom import PhantomSpec, write_folder
from ctray.data.source import check_data, open_or_prepare
from ctray.data.store import Store
from ctray.errors import UserError
from ctray.models.backbones import initial_model
from ctray.provenance import now, versions
from ctray.session import ray_session
from ctray.storage import new_folder
from ctray.training import checkpoints
from ctray.training.plan import Plan, make_plan
from ctray.training.trainer import describe
from tuning.objective import checkpoints_of, objective, recipe_of
from tuning.report import write_study
from tuning.space import DEFAULT_SPACE, Space
from tuning.trials import State, Trial, write_table

METRIC = "val_macro_f1"
_EMBEDDED_IMAGES_PER_CLASS = 120


@dataclass(frozen=True)
class Study:
    """A finished search: its trials, the best of them and where its bundle lies."""

    trials: tuple[Trial, ...]
    best: Trial
    bundle: Path


class Ledger(ray.tune.Callback):
    """Keeps every trial's evaluations and prints a line when one ends."""

    def __init__(self, on_trial: Callable[[Trial], None], epochs: int) -> None:
        self.start = time.monotonic()
        self._on_trial = on_trial
        self._epochs = epochs
        self._started: dict[str, float] = {}
        self._rows: dict[str, list[dict[str, Any]]] = {}
        self.done: dict[str, Trial] = {}

    def on_trial_start(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any
    ) -> None:
        """Note when it began."""
        self._started[trial.trial_id] = time.monotonic()
        self._rows[trial.trial_id] = []

    def on_trial_result(
        self,
        iteration: int,
        trials: list[TuneTrial],
        trial: TuneTrial,
        result: dict[str, Any],
        **info: Any,
    ) -> None:
        """Keep an evaluation."""
        self._rows[trial.trial_id].append(
            {key: value for key, value in result.items() if isinstance(value, int | float)}
        )

    def on_trial_complete(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any
    ) -> None:
        """It finished its epochs, or ASHA ended it."""
        rows = self._rows[trial.trial_id]
        if rows and rows[-1]["epoch"] >= self._epochs:
            self._end(trial, "finished", "")
        else:
            self._end(trial, "pruned", "behind the better part of the trials at the same epoch")

    def on_trial_error(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any
    ) -> None:
        """It raised; the others go on."""
        self._end(trial, "failed", last_error(trial.error_file))

    def close(self, trials: list[TuneTrial]) -> None:
        """Account for the trials that the time budget cut."""
        for trial in trials:
            if trial.trial_id in self._started and trial.trial_id not in self.done:
                self._end(trial, "stopped", "the time budget ended")

    def _end(self, trial: TuneTrial, state: State, reason: str) -> None:
        started = self._started[trial.trial_id]
        self.done[trial.trial_id] = Trial(
            number=list(self._started).index(trial.trial_id),
            state=state,
            reason=reason,
            params=dict(trial.config),
            rows=tuple(self._rows[trial.trial_id]),
            started=started - self.start,
            seconds=time.monotonic() - started,
        )
        self._on_trial(self.done[trial.trial_id])


def search(
    store: Store,
    out: Path,
    space: Space,
    base: Recipe,
    *,
    trials: int,
    plan: Plan,
    time_budget_s: float | None,
    on_trial: Callable[[Trial], None],
) -> Study:
    """Run the search, and write `trials.csv`, `study.html` and `best/bundle` into `out`.

    Needs a running Ray.

    Args:
        store: what to train on; shared by all trials.
        out: a folder that is empty or missing.
        space: what to choose from.
        base: what is not searched; its epochs are the most a trial trains.
        trials: how many to start.
        plan: from `make_plan`; its `runs` go on at the same time.
        time_budget_s: after which no trial goes on; unset: no limit.
        on_trial: called with every trial as it ends.

    Raises:
        UserError: weights that cannot be had, or not one trial that reached an evaluation.
    """
    for backbone in space.backbones:
        initial_model(recipe_of(base, {"backbone": backbone}), len(store.classes))
    storage = out / ".ray"
    ledger = Ledger(on_trial, base.epochs)
    trainable = ray.tune.with_parameters(
        objective, base=base, store=store, plan=plan, storage=str(storage)
    )
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    tuner = ray.tune.Tuner(
        ray.tune.with_resources(trainable, {"CPU": plan.driver_cpus}),
        tune_config=ray.tune.TuneConfig(
            num_samples=trials,
            max_concurrent_trials=plan.runs,
            time_budget_s=time_budget_s,
            search_alg=OptunaSearch(
                space=dict(space.distributions),
                metric=METRIC,
                mode="max",
                sampler=TPESampler(multivariate=True, seed=base.seed),
                # What one would train without a search is the first to be tried.
                points_to_evaluate=space.defaults(base),
            ),
            scheduler=ASHAScheduler(
                time_attr="epoch",
                metric=METRIC,
                mode="max",
                max_t=base.epochs,
                grace_period=1,
                reduction_factor=3,
            ),
        ),
        run_config=ray.tune.RunConfig(
            name="search", storage_path=str(storage), callbacks=[ledger], verbose=0
        ),
    )
    results = tuner.fit()
    ledger.close(results._experiment_analysis.trials)
    seconds = time.monotonic() - ledger.start
    ended = tuple(sorted(ledger.done.values(), key=lambda trial: trial.number))
    write_table(ended, out / "trials.csv")
    scored = {key: trial for key, trial in ledger.done.items() if not math.isnan(trial.score)}
    if not scored:
        reason = ended[0].reason if ended else "the time budget ended before one started"
        raise UserError(f"no trial reached an evaluation; the first: {reason}")
    best_id, best = max(scored.items(), key=lambda item: item[1].score)
    assert best.best is not None
    bundle = out / "best" / "bundle"
    folder = checkpoints_of(str(storage), best_id)
    about = describe(best.best, recipe_of(base, best.params), store)
    write_bundle(str(bundle), *about, checkpoints.load_best(folder))
    write_study(
        out / "study.html",
        ended,
        best,
        {
            "data": str(store.root),
            "synthetic": store.synthetic,
            "fingerprint": store.fingerprint,
            "space": space.source,
            "seed": base.seed,
            "max_epochs": base.epochs,
            "seconds": seconds,
            "plan": str(plan),
            "command": "python -m tuning.search " + " ".join(sys.argv[1:]),
            "created": now(),
            "versions": versions(),
            "bundle": str(bundle),
        },
    )
    shutil.rmtree(storage)
    return Study(ended, best, bundle)


def last_error(path: str | None) -> str:
    """The last line of a trial's traceback, which names what went wrong."""
    if path is None or not Path(path).is_file():
        return "the trial's process died"
    lines = [line.strip() for line in Path(path).read_text().splitlines() if line.strip()]
    return lines[-1] if lines else "the trial's process died"


def parse_duration(text: str) -> float:
    """`90s`, `30m` or `2h` as seconds.

    Raises:
        UserError: anything else.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if match is None or float(match[1]) == 0:
        raise UserError(f"--time-budget {text!r} is not of the form 90s, 30m or 2h")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]


def embedded_data(out: Path, seed: int) -> Path:
    """Draw the embedded synthetic images into the study's folder."""
    spec = PhantomSpec(images_per_class=_EMBEDDED_IMAGES_PER_CLASS, seed=seed)
    return write_folder(spec, out / "data")


def main(
    data: Annotated[
        Path | None, typer.Option(help="Store, or folder with one sub-folder a class.")
    ] = None,
    trials: Annotated[int, typer.Option(min=1, help="Trials to start.")] = 8,
    max_epochs: Annotated[int, typer.Option(min=1, help="Epochs of a trial that is kept.")] = 4,
    time_budget: Annotated[str | None, typer.Option(help="90s, 30m or 2h; default: none.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the study.")] = Path("study"),
    space: Annotated[Path, typer.Option(help="YAML search space.")] = DEFAULT_SPACE,
    seed: Annotated[int, typer.Option(min=0, help="Of the sampler and the trials.")] = 0,
    verbose: Annotated[bool, EXPERT] = False,
) -> None:
    """Search backbones, augmentation and hyperparameters; keep the best trial's bundle.

    Example: python -m tuning.search --data xrays --trials 12 --max-epochs 6 --time-budget 2h
    """
    budget = parse_duration(time_budget) if time_budget else None
    checked = Space.load(space)
    base = Recipe.load(recipe_file("fast"), {"epochs": max_epochs, "seed": seed})
    if data is None:
        print("no --data: searching on the embedded synthetic data; its figures mean nothing")
    else:
        check_data(data)
    with new_folder(out):
        folder = embedded_data(out, seed) if data is None else data
        with ray_session(verbose):
            store = open_or_prepare(folder, out / "store")
            print_store(store)
            plan = make_plan(workers=1, runs=None, at_most=trials)
            print(f"plan: {trials} trials of at most {max_epochs} epochs, {plan}", flush=True)
            study = search(
                store,
                out.resolve(),
                checked,
                base,
                trials=trials,
                plan=plan,
                time_budget_s=budget,
                on_trial=_print_trial,
            )
    print(f"best: trial {study.best.number}, validation macro-F1 {study.best.score:.4f}")
    print(f"bundle: {study.bundle}\nreport: {out / 'study.html'}")


def _print_trial(trial: Trial) -> None:
    params = " ".join(
        f"{key}={value:.3g}" if isinstance(value, float) else f"{key}={value}"
        for key, value in trial.params.items()
    )
    score = "no evaluation" if math.isnan(trial.score) else f"macro-F1 {trial.score:.4f}"
    reason = f"  ({trial.reason})" if trial.state == "failed" else ""
    print(
        f"trial {trial.number}: {trial.state}, {score}, {trial.epochs:g} epochs, "
        f"{trial.seconds:.0f} s  {params}{reason}",
        flush=True,
    )


if __name__ == "__main__":
    run_cli(main)
