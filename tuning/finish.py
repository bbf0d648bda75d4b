"""The end of a study: choose, refit, score on the test split, write bundle and reports."""

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ctray import storage
from ctray.artefact.bundle import Bundle
from ctray.config import Recipe
from ctray.console import error_console
from ctray.errors import UserError
from ctray.evaluation.metrics import Metrics
from ctray.provenance import now, versions
from ctray.training.terminal import Terminal
from tuning.choice import Choice, choose_trial
from tuning.names import Choose
from tuning.objectives import OBJECTIVES, front
from tuning.report import Context, write_study
from tuning.study import Study, recipe_of
from tuning.trials import Trial

if TYPE_CHECKING:
    from ctray.training.checkpoints import Tensors

_SPLIT = "test"


def finish(
    study: Study, trials: Sequence[Trial], choose: Choose, refits: bool, command: str
) -> Path:
    """Write `best/bundle`, `best/test` and `study.html`; print what was chosen.

    Args:
        study: whose trials they are.
        trials: all of them.
        choose: how one is chosen.
        refits: whether it is trained on with the validation records.
        command: as it was given, for the page.

    Returns:
        The folder of the bundle.

    Raises:
        UserError: no trial trained to its end, within the latency budget.
    """
    choice = choose_trial(
        trials,
        study.objectives[0],
        choose,
        study.latency_budget_ms,
        lambda trial: lowest_of_interval(study, trial),
        recipes_own(study, trials),
    )
    if choice is None:
        raise _nothing(study, trials)
    bundle = study.out / "best" / "bundle"
    result = deploy(study, choice, refits, bundle)
    context = _context(study, choice, bundle, command, result)
    write_study(study.out / "study.html", trials, choice.trial, context)
    _print(study, trials, choice, result)
    print(f"bundle: {bundle}\nreport: {study.out / 'study.html'}")
    return bundle


def _context(
    study: Study, choice: Choice, bundle: Path, command: str, result: dict[str, Any]
) -> Context:
    """What the page says beside the trials."""
    return Context(
        data=str(study.store.root),
        synthetic=study.store.synthetic,
        fingerprint=study.store.fingerprint,
        space=study.space.source,
        seed=study.base.seed,
        max_epochs=study.base.epochs,
        seconds=study.memory.seconds,
        plan=str(study.plan),
        command=command,
        created=now(),
        versions=versions(),
        bundle=str(bundle),
        objectives=tuple(study.objectives),
        rule=choice.rule,
        latency_budget_ms=study.latency_budget_ms,
        result=result,
    )


def deploy(study: Study, choice: Choice, refits: bool, place: Path) -> dict[str, Any]:
    """Write the bundle, refitted where that is wanted, and score it once on the test split.

    The same choice made again by the next command changes nothing.
    """
    made = {"trial": choice.trial.number, "refitted": refits}
    known, report = place.parent / "choice.json", place.parent / _SPLIT
    if not known.is_file() or json.loads(known.read_text()) != made:
        chosen = Bundle.load(str(study.bundle(choice.trial.number)))
        refit = study.folder(choice.trial.number) / "refit"
        result = refitted(study, choice.trial, refit) if refits else None
        # Only now, when nothing of the new one is missing.
        shutil.rmtree(place.parent, ignore_errors=True)
        write_best(study, choice.trial, chosen, result, place)
        evaluated(study, place, report, _SPLIT)
        storage.write_bytes(str(known), json.dumps(made).encode())
        shutil.rmtree(refit, ignore_errors=True)
    score = json.loads((report / "report.json").read_text())
    return {
        "split": _SPLIT,
        "records": score["n"],
        "accuracy": score["metrics"]["accuracy"],
        "macro_f1": score["metrics"]["macro_f1"],
        "refitted": refits,
    }


class Refit(NamedTuple):
    """A refit that was done: the recipe with it, and the weights after it."""

    recipe: Recipe
    weights: "Tensors"


def refitted(study: Study, trial: Trial, folder: Path) -> Refit:
    """Refit a trial's weights, with the checkpoints in `folder`."""
    from ctray.training import checkpoints
    from ctray.training.trainer import run_refit

    epochs = study.base.refit_epochs or 1
    recipe = recipe_of(study.base, trial.params).model_copy(update={"refit_epochs": epochs})
    bundle = str(study.bundle(trial.number))
    with Terminal(error_console()) as terminal:
        run_refit(
            recipe=recipe,
            store=study.store,
            plan=study.plan,
            listener=terminal,
            folder=str(folder),
            refit_of=bundle,
            again="run the same command again",
        )
    return Refit(recipe, checkpoints.load_best(str(folder)).weights)


def write_best(
    study: Study, trial: Trial, chosen: Bundle, refit: Refit | None, place: Path
) -> None:
    """Write the bundle of the study.

    Args:
        study: whose it is.
        trial: the chosen one.
        chosen: its bundle.
        refit: of its weights; None without one: then the trial's bundle is adopted.
        place: folder of the bundle.
    """
    from ctray.artefact.build import TrainingData, adopt_bundle, build_bundle

    if refit is None:
        adopt_bundle(chosen, str(place), study.id)
        return
    assert trial.best is not None
    build_bundle(
        str(place),
        best=trial.best,
        recipe=refit.recipe,
        data=TrainingData.of(study.store),
        weights=refit.weights,
        val_logits=chosen.validation.logits if chosen.validation else None,
        study=study.id,
    )


def recipes_own(study: Study, trials: Sequence[Trial]) -> Trial | None:
    """The finished trial that has the values of the recipe; None without one."""
    own = study.space.point(study.base)
    return next((one for one in trials if one.state == "finished" and [one.params] == own), None)


def lowest_of_interval(study: Study, trial: Trial) -> float:
    """The low end of the 95 % interval, by groups, of a trial's objective on validation records."""
    with tempfile.TemporaryDirectory() as place:
        metrics = evaluated(study, study.bundle(trial.number), Path(place), "val")
    measures = {"macro_f1": metrics.macro_f1, "accuracy": metrics.accuracy}
    return measures[study.objectives[0].name].low


def evaluated(study: Study, bundle: Path, place: Path, split: str) -> Metrics:
    """As `ctray evaluate` on a split of the study's store."""
    from ctray.engine.predictor import Predictor
    from ctray.evaluation.evaluate import evaluate

    return evaluate(Predictor.load(str(bundle)), study.store.root, place, split).metrics


def _nothing(study: Study, trials: Sequence[Trial]) -> UserError:
    """Why nothing can be deployed, with the settings to change."""
    failed = [trial for trial in trials if trial.state == "failed"]
    budget_ms, where = study.latency_budget_ms, f"(all trials: {study.out / 'trials.csv'})"
    if failed and len(failed) == len(trials):
        # What a reason advises is in the words of a recipe, for which a search has no option.
        named = any(f"{key}=" in failed[0].reason for key in Recipe.model_fields)
        hint = "; a recipe's key is set in the space, as `key: {choice: [value]}`" if named else ""
        return UserError(
            f"every trial failed; the first: {failed[0].reason}{hint} {where}",
            *(("space",) if named else ()),
        )
    if budget_ms is not None and all(trial.state != "stopped" for trial in trials):
        return UserError(
            f"no finished trial answers within {budget_ms:g} ms: raise the latency budget and "
            f"the number of trials {where}",
            "latency_budget_ms",
            "trials",
        )
    return UserError(
        "no trial trained to its end: run the same command again to resume it, with more time or "
        f"more trials {where}",
        "time_budget",
        "trials",
    )


def _print(study: Study, trials: Sequence[Trial], choice: Choice, result: dict[str, Any]) -> None:
    primary = study.objectives[0]
    print(f"front of {primary.title} and latency:")
    for trial in front(trials, (primary, OBJECTIVES["latency_ms"])):
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
