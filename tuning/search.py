"""`python -m tuning.search`: the study of a data set, its trials, and the bundle to deploy."""

import contextlib
import json
import re
import shlex
import shutil
import sys
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Any

import typer

from ctray.cli import promote as promote_bundle
from ctray.config import Recipe, recipe_file
from ctray.console import VERBOSE, error_console, print_store, run_cli
from ctray.data.ingest.opening import check_data, open_or_prepare
from ctray.errors import UserError
from ctray.session import import_meanwhile, ray_session
from ctray.storage import locked, new_folder, write_bytes
from ctray.synthetic.folder import write_folder
from ctray.synthetic.phantom import PhantomSpec
from ctray.training.plan import make_plan
from tuning.board import Board
from tuning.choice import Choose
from tuning.judge import Pruner
from tuning.memory import OPTIONS, Memory, check_storage, shown, warm_points
from tuning.objectives import parse_objectives
from tuning.samplers import SamplerName, choose_sampler, make_sampler
from tuning.space import Space, space_file
from tuning.study import Limits, Study, recipe_of, run_trials
from tuning.tracking import followed

# What a search without data shows takes some minutes on two cores.
_EMBEDDED_IMAGES_PER_CLASS, _EMBEDDED_EPOCHS = 90, 4
_TRIALS = 8
_SETTINGS, _LOCK = "study.json", ".lock"
_FIRST_FILES = {_LOCK, f"{_SETTINGS}.partial"}
_TRIALS_HELP = f"Default: {_TRIALS}, or as many as fit into --time-budget."
_DATA_HELP = "Store, or folder with one sub-folder a class; default: embedded synthetic images."


def main(
    data: Annotated[Path | None, typer.Option(help=_DATA_HELP)] = None,
    out: Annotated[Path, typer.Option(help="Folder of the study; one there goes on.")] = Path(
        "study"
    ),
    space: Annotated[
        str, typer.Option(help="quick, default, wide, deck, or a YAML file of your own.")
    ] = "default",
    trials: Annotated[
        int | None, typer.Option(min=1, help=f"In the whole study; may be raised. {_TRIALS_HELP}")
    ] = None,
    max_epochs: Annotated[
        int | None,
        typer.Option(min=1, help="Epochs of a trial that is kept; default: the recipe's."),
    ] = None,
    time_budget: Annotated[
        str | None, typer.Option(help="Of this command's trials: 90s, 30m or 2h; default: none.")
    ] = None,
    recipe: Annotated[str, typer.Option(help="Recipe of what is not searched.")] = "fast",
    objective: Annotated[
        list[str] | None,
        typer.Option(help="macro_f1 (default), accuracy, loss, then also latency_ms, size_mb."),
    ] = None,
    latency_budget_ms: Annotated[
        float | None, typer.Option(min=0.0, help="Slower models are not trained.")
    ] = None,
    choose: Annotated[
        Choose, typer.Option(help="fastest within the interval of the best, or the best.")
    ] = "fastest",
    sampler: Annotated[
        SamplerName, typer.Option(help="auto is tpe, and grid where there are few combinations.")
    ] = "auto",
    pruner: Annotated[Pruner, typer.Option(help="Ends trials that are behind.")] = "asha",
    concurrency: Annotated[
        str, typer.Option(help="Trials at the same time: auto or a number.")
    ] = "auto",
    workers_per_trial: Annotated[int, typer.Option(min=1, help="Train workers a trial.")] = 1,
    gpus_per_trial: Annotated[
        float | None, typer.Option(help="Share of a GPU, such as 0.5, for trials of one worker.")
    ] = None,
    storage: Annotated[
        str | None, typer.Option(help="Database URL of the study; default: OUT/optuna.db.")
    ] = None,
    study_name: Annotated[
        str | None, typer.Option(help="In the database; default: the name of OUT.")
    ] = None,
    warm_start: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of a study whose best are tried first."),
    ] = None,
    refit: Annotated[
        bool, typer.Option("--refit", help="Train the winner on with the validation records.")
    ] = False,
    promote: Annotated[
        bool, typer.Option("--promote", help="Put the winner into the registry as production.")
    ] = False,
    registry: Annotated[
        str | None, typer.Option(help="Of --promote; default: as `ctray promote`.")
    ] = None,
    name: Annotated[str, typer.Option(help="In the registry.")] = "chest",
    seed: Annotated[int, typer.Option(min=0, help="Of the sampler and the trials.")] = 0,
    verbose: Annotated[bool, VERBOSE] = False,
) -> None:
    """Search backbone, augmentation and training; keep the model one would deploy.

    The same command goes on with a study that was stopped or killed.

    Example: python -m tuning.search --data xrays --trials 20 --max-epochs 8 --time-budget 2h
    """
    budget = parse_duration(time_budget) if time_budget else None
    at_a_time = parse_concurrency(concurrency)
    if max_epochs is None and data is None:
        max_epochs = _EMBEDDED_EPOCHS
    chosen = {"seed": seed} if max_epochs is None else {"seed": seed, "epochs": max_epochs}
    base = Recipe.load(recipe_file(recipe), chosen)
    checked = Space.load(space_file(space), base)
    objectives = parse_objectives(objective or ["macro_f1"])
    if objectives[0].name == "loss" and choose == "fastest":
        raise UserError("there is no interval for --objective loss: add --choose best")
    combinations = checked.combinations
    sampler = choose_sampler(sampler, combinations)
    # A mistake in it shows now.
    make_sampler(sampler, seed, [one.name for one in objectives])
    # Without a number the time budget ends the search.
    at_most = _TRIALS if trials is None and budget is None else trials
    if sampler == "grid" and combinations is not None:
        at_most = min(at_most or combinations, combinations)
    limits = Limits(at_most, budget, pruner)
    settings: dict[str, Any] = {
        "data": None if data is None else str(data.resolve()),
        "space": checked.source,
        "base": recipe_of(base, {}).model_dump(),
        "objectives": [one.name for one in objectives],
        "pruner": pruner,
    }
    if data is None:
        print("no --data: searching on the embedded synthetic data; its figures mean nothing")
    else:
        check_data(data)
    if storage:
        check_storage(storage)
    earlier = [point for folder in warm_start or () for point in warm_points(folder, checked)]
    with (
        study_folder(out, settings) as study_id,
        # What Optuna's storage imports when it opens.
        import_meanwhile("alembic.command"),
        ray_session(verbose),
    ):
        plan = make_plan(
            workers=workers_per_trial,
            runs=at_a_time,
            at_most=at_most,
            gpu_share=gpus_per_trial,
            option="--workers-per-trial",
        )
        count = f"{at_most} trials" if at_most else f"as many trials as fit into {time_budget},"
        print(f"plan: {count} of at most {base.epochs} epochs, {plan}", flush=True)
        if sampler == "grid":
            print(f"{at_most} of the {combinations} combinations of this space, none twice")
        if plan.runs == 1 and at_a_time is None and not plan.gpu and at_most != 1:
            print("one trial at a time: two would share the cores, and know less of each other")
        folder = embedded_data(out, seed) if data is None else data
        store = open_or_prepare(folder, out / "store")
        print_store(store)
        memory = Memory(
            storage or f"sqlite:///{(out / 'optuna.db').resolve()}",
            study_name or out.resolve().name,
            checked,
            objectives,
            lambda begun: make_sampler(sampler, seed + begun, settings["objectives"]),
            settings | {"fingerprint": store.fingerprint, "owner": study_id},
        )
        # Its storage knows this study by its id: from now on the folder stays.
        (out / "trials").mkdir(exist_ok=True)
        first = checked.point(base)
        if not first or set(first[0]) != set(checked.active(first[0])):
            print(f"no trial has all values of the recipe {recipe}: some lie outside this space")
        memory.enqueue([*first, *earlier])
        study = Study(
            *(study_id, memory, checked, base, objectives),
            *(store, out.resolve(), plan, latency_budget_ms),
        )
        with (
            Board(error_console(), objectives[0], base.epochs) as board,
            followed(board, out.resolve().name, study_id, settings) as listener,
        ):
            done = run_trials(study, limits, listener)
        # matplotlib, torch: seconds, which the trials need not wait for.
        from tuning.finish import finish

        command = "python -m tuning.search " + shlex.join(map(shown, sys.argv[1:]))
        bundle = finish(study, done, choose, refit, command)
    if promote:
        promote_bundle(str(bundle), registry, name)


def parse_duration(text: str) -> float:
    """`90s`, `30m` or `2h` as seconds.

    Raises:
        UserError: anything else.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if match is None or float(match[1]) == 0:
        raise UserError(f"--time-budget {text!r} is not of the form 90s, 30m or 2h")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]


def parse_concurrency(text: str) -> int | None:
    """`auto` as None, or a number of at least 1.

    Raises:
        UserError: anything else.
    """
    if text == "auto":
        return None
    if not re.fullmatch(r"[1-9]\d*", text):
        raise UserError(f"--concurrency {text!r} is not auto or a number such as 4")
    return int(text)


def embedded_data(out: Path, seed: int) -> Path:
    """The embedded synthetic images in the study's folder; drawn whole or not at all."""
    place, half = out / "data", out / "data.partial"
    if not place.exists():
        shutil.rmtree(half, ignore_errors=True)
        spec = PhantomSpec(images_per_class=_EMBEDDED_IMAGES_PER_CLASS, seed=seed)
        write_folder(spec, half).rename(place)
    return place


@contextlib.contextmanager
def study_folder(out: Path, settings: dict[str, Any]) -> Iterator[str]:
    """The folder of a study for a block, new or to go on with; yields the study's id.

    Raises:
        UserError: it is not a study's, it is one with other settings, or another search is in it.
    """
    file = out / _SETTINGS
    if file.is_file():
        known = json.loads(file.read_text())
        given = json.loads(json.dumps(settings))
        for key in given:
            if known.get(key) != given[key]:
                raise UserError(
                    f"--out {out} holds a study with another {OPTIONS[key]}: give it the same "
                    "again, or choose another folder"
                )
        with _alone(out):
            yield known["id"]
        return
    study_id = uuid.uuid4().hex[:12]
    if (out / _LOCK).exists() and {path.name for path in out.iterdir()} <= _FIRST_FILES:
        # Of a search that was killed before it had written anything.
        with _alone(out):
            for name in _FIRST_FILES:
                (out / name).unlink(missing_ok=True)
    with new_folder(out, is_kept=lambda: (out / "trials").exists()), _alone(out):
        text = json.dumps({"id": study_id} | settings, indent=2) + "\n"
        write_bytes(str(file), text.encode())
        yield study_id


def _alone(out: Path) -> AbstractContextManager[None]:
    """Hold the lock of a study."""
    sentence = f"another search is at work in --out {out}: wait for it, or choose another folder"
    return locked(out / _LOCK, sentence)


if __name__ == "__main__":
    run_cli(main)
