"""The end of a study: choose, refit, score on the test split, write bundle and reports."""

import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctray import storage
from ctray.bundle import Bundle, write_bundle
from ctray.config import Recipe
from ctray.data.store import Store
from ctray.errors import UserError
from ctray.provenance import now, versions
from ctray.training.plan import Plan
from tuning.choice import Choice, Choose, choose_trial
from tuning.memory import Memory
from tuning.objectives import OBJECTIVES, Objective, front
from tuning.report import write_study
from tuning.space import Space
from tuning.study import bundle_of, recipe_of
from tuning.trials import Trial, write_table

_SPLIT = "test"


@dataclass(frozen=True)
class Finish:
    """What the end of a study needs to know.

    Attributes:
        memory: of the study.
        trials: all of them.
        store: that they were trained on.
        out: the study's folder.
        base: the recipe of what was not searched.
        plan: for the refit.
        objectives: the first is what is compared.
        choose: how one is chosen.
        latency_budget_ms: above which none is.
        refits: whether the chosen one is trained on with the validation records.
        registry: place (None: the default) and name to promote to; None: it is not promoted.
        study_id: goes into the bundle.
        space: what was searched.
        command: as it was given.
    """

    memory: Memory
    trials: tuple[Trial, ...]
    store: Store
    out: Path
    base: Recipe
    plan: Plan
    objectives: Sequence[Objective]
    choose: Choose
    latency_budget_ms: float | None
    refits: bool
    registry: tuple[str | None, str] | None
    study_id: str
    space: Space
    command: str


def finish(study: Finish) -> None:
    """Write `best/bundle`, `best/test`, `trials.csv` and `study.html`; print what was chosen.

    Raises:
        UserError: no trial trained to its end, within the latency budget.
    """
    write_table(study.trials, study.out / "trials.csv")
    primary = study.objectives[0]
    choice = choose_trial(
        study.trials,
        primary,
        study.choose,
        study.latency_budget_ms,
        lambda trial: validation_interval(study, trial),
    )
    if choice is None:
        raise UserError(_nothing(study.trials, study.latency_budget_ms))
    bundle = study.out / "best" / "bundle"
    result = deploy(study, choice, bundle)
    write_study(
        study.out / "study.html",
        study.trials,
        choice.trial,
        {
            "data": str(study.store.root),
            "synthetic": study.store.synthetic,
            "fingerprint": study.store.fingerprint,
            "space": study.space.source,
            "seed": study.base.seed,
            "max_epochs": study.base.epochs,
            "seconds": study.memory.seconds,
            "plan": str(study.plan),
            "command": study.command,
            "created": now(),
            "versions": versions(),
            "bundle": str(bundle),
            "objectives": tuple(study.objectives),
            "rule": choice.rule,
            "latency_budget_ms": study.latency_budget_ms,
            "result": result,
        },
    )
    _print(study, choice, result)
    print(f"bundle: {bundle}\nreport: {study.out / 'study.html'}")
    if study.registry is not None:
        from ctray import registry

        place, name = study.registry
        done = registry.promote(str(bundle), place or registry.default_registry(), name)
        print(f"{done.name} version {done.version} is in production: {done.uri}")


def deploy(study: Finish, choice: Choice, place: Path) -> dict[str, Any]:
    """Write the bundle, refitted where that is wanted, and score it once on the test split.

    The same choice made again by the next command changes nothing.
    """
    made = {"trial": choice.trial.number, "refitted": study.refits}
    known = place.parent / "choice.json"
    if not known.is_file() or json.loads(known.read_text()) != made:
        bundle = Bundle.load(str(bundle_of(study.out, choice.trial.number)))
        info = bundle.info.model_copy(update={"study": study.study_id})
        seen, weights = bundle.seen, bundle.weights
        if study.refits:
            info, seen, weights = refitted(study, choice.trial)
        shutil.rmtree(place.parent, ignore_errors=True)
        write_bundle(str(place), info, seen, weights)
        storage.write_bytes(str(known), json.dumps(made).encode())
    score = evaluated(study, place, place.parent / _SPLIT, _SPLIT)
    measures = score["metrics"]
    return {
        "split": _SPLIT,
        "records": score["n"],
        "accuracy": measures["accuracy"],
        "macro_f1": measures["macro_f1"],
        "refitted": study.refits,
    }


def refitted(study: Finish, trial: Trial) -> tuple[Any, Any, Any]:
    """Info, seen records and weights after a refit of a trial's model."""
    from ctray.training import checkpoints
    from ctray.training.trainer import describe, run_refit

    epochs = study.base.refit_epochs or 1
    recipe = recipe_of(study.base, trial.params).model_copy(update={"refit_epochs": epochs})
    assert trial.best is not None
    with tempfile.TemporaryDirectory(prefix="refit-", dir=study.out) as folder:
        source = str(bundle_of(study.out, trial.number))
        run_refit(recipe, study.store, study.plan, _Say(), str(Path(folder).resolve()), source)
        info, seen = describe(trial.best, recipe, study.store)
        weights = checkpoints.load_best(folder)
    return info.model_copy(update={"study": study.study_id}), seen, weights


def validation_interval(study: Finish, trial: Trial) -> tuple[float, float]:
    """The 95 % interval, by groups, of a trial's objective on the validation split."""
    primary = study.objectives[0]
    with tempfile.TemporaryDirectory() as place:
        report = evaluated(study, bundle_of(study.out, trial.number), Path(place), "val")
    measure = report["metrics"][primary.name]
    return measure["low"], measure["high"]


def evaluated(study: Finish, bundle: Path, place: Path, split: str) -> dict[str, Any]:
    """The report of `ctray evaluate` on a split of the study's store."""
    from ctray.engine.predictor import Predictor
    from ctray.evaluation.evaluate import evaluate

    evaluate(Predictor.load(str(bundle)), study.store.root, place, split)
    return json.loads((place / "report.json").read_text())


class _Say:
    """Follows a refit: prints what it says."""

    def start(self, step: int, interval: int, workers: int, again: bool) -> None:
        """Nothing to say."""

    def first(self, times: dict[str, float]) -> None:
        """Nothing to say."""

    def progress(self, step: int, steps: int) -> None:
        """Nothing to say."""

    def row(self, row: dict[str, Any]) -> None:
        """A refit has no evaluations."""

    def say(self, text: str) -> None:
        """Print a line."""
        print(text, flush=True)


def _nothing(trials: Sequence[Trial], budget_ms: float | None) -> str:
    failed = [trial for trial in trials if trial.state == "failed"]
    if failed and len(failed) == len(trials):
        return f"every trial failed; the first: {failed[0].reason}"
    if budget_ms is not None and all(trial.state != "stopped" for trial in trials):
        return f"no finished trial answers within {budget_ms:g} ms: raise --latency-budget-ms"
    return (
        "no trial trained to its end: run the same command again to go on, with a longer "
        "--time-budget or more --trials"
    )


def _print(study: Finish, choice: Choice, result: dict[str, Any]) -> None:
    primary = study.objectives[0]
    print(f"front of {primary.title} and latency:")
    for trial in front(study.trials, (primary, OBJECTIVES["latency_ms"])):
        mark = "  <- chosen" if trial.number == choice.trial.number else ""
        print(
            f"  trial {trial.number}: {primary.value(trial):.4f}, {trial.latency_ms:.1f} ms{mark}"
        )
    chosen = choice.trial
    print(f"chosen: trial {chosen.number}, {choice.rule}")
    accuracy = result["accuracy"]
    print(
        f"test split: accuracy {accuracy['value']:.4f} ({accuracy['low']:.4f}-"
        f"{accuracy['high']:.4f}) over {result['records']} records"
        f"{', refitted with the validation records' if result['refitted'] else ''}"
    )
