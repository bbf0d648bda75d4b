"""`ctray …`: parsing and printing only, one function a verb."""

import time
from pathlib import Path
from typing import Annotated

import typer

from ctray import __version__
from ctray.artefact import DEFAULT_NAME
from ctray.config import PreprocessSpec, Recipe, parse_assignments, read_yaml
from ctray.console import (
    BUNDLE_HELP,
    DATA_HELP,
    REGISTRY_HELP,
    VERBOSE,
    Command,
    error_console,
    other_program,
    parse_pairs,
    print_store,
    promote_and_print,
    run_app,
)
from ctray.errors import UserError
from ctray.words import counted, printable

# Heavy imports (Ray, torch) wait inside the verbs: `--help` and mistakes answer at once.

_TRAINER = "ctray.training.trainer"

app = typer.Typer(
    help="Chest images in folders to a checked data set, a tuned classifier, a report, a service.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.command(cls=Command)
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything the demo makes.")] = Path(
        "demo-out"
    ),
    images_per_class: Annotated[int, typer.Option(min=20, help="Images a class.")] = 120,
    trials: Annotated[int, typer.Option(min=1, help="Trials of the search.")] = 4,
    epochs: Annotated[int, typer.Option(min=1, help="Most epochs of a trial.")] = 4,
) -> None:
    """Run the whole way on synthetic data, to a prediction over HTTP.

    Example: ctray demo
    """
    from ctray.demo import run_demo

    run_demo(out, images_per_class, trials, epochs)


@app.command(cls=Command)
def phantom(
    out: Annotated[Path, typer.Option(help="Folder to draw into.")],
    images_per_class: Annotated[int, typer.Option(min=1, help="Images a class.")] = 150,
    seed: Annotated[int, typer.Option(min=0, help="Of the drawings.")] = 0,
) -> None:
    """Draw a folder of synthetic chest images, to try ctray on.

    Example: ctray phantom --out synthetic --images-per-class 100
    """
    from ctray.synthetic.folder import write_folder
    from ctray.synthetic.phantom import PhantomSpec

    write_folder(PhantomSpec(images_per_class=images_per_class, seed=seed), out)
    print(f"synthetic images, {images_per_class} a class: {out}")


@app.command(cls=Command)
def prepare(
    data: Annotated[
        list[str],
        typer.Argument(
            help="Folders, manifests (.csv, .tsv, .parquet) or stores; paths, s3:// or gs://; "
            "NAME=PLACE names the source."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the store.")],
    append: Annotated[
        bool, typer.Option("--append", help="Add to the store --out; nothing in it moves.")
    ] = False,
    size: Annotated[
        int | None, typer.Option(min=32, max=2048, help="Side of stored images, px; default 256.")
    ] = None,
    map_: Annotated[
        list[str] | None, typer.Option("--map", help="OLD=NEW name of a class; repeat.")
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(help="OURS=THEIRS: path, label, group, split, source or mask; repeat."),
    ] = None,
    group_regex: Annotated[
        str | None, typer.Option(help="What in a path names the patient or series.")
    ] = None,
    layout: Annotated[
        str, typer.Option(help="Well-known download it is, or folders; default: found out.")
    ] = "",
    label: Annotated[
        list[str] | None,
        typer.Option(help="Finding of a download to tell from the rest; repeat for a class each."),
    ] = None,
    views: Annotated[
        str, typer.Option(help="Of a download's images: frontal, or all.")
    ] = "frontal",
    fractions: Annotated[
        str | None,
        typer.Option(help="Shares TRAIN,VAL,TEST; also of what has a split. Default .7,.15,.15."),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Make any file left out or warned about an error.")
    ] = False,
    verbose: Annotated[bool, VERBOSE] = False,
) -> None:
    """Decode, check, group and split images into a store.

    Beside it lies a report on them: counts, samples, duplicates, faults, confounds.

    Example: ctray prepare xrays --out store
    """
    # Over 80 lines, because more than half of them declare options.
    from rich.progress import Progress

    from ctray.data.ingest.listing import Choice, list_inputs, parse_input
    from ctray.data.ingest.prepare import Options, read_fractions
    from ctray.data.ingest.prepare import prepare as prepare_store
    from ctray.data.store import DEFAULT_SIZE, Store
    from ctray.session import ray_session
    from ctray.storage import check_empty

    known = Store.open(out).size if append else DEFAULT_SIZE
    options = Options(size or known, read_fractions(fractions), strict)
    listing = list_inputs(
        [parse_input(text) for text in data],
        columns=parse_pairs("--column", column or []),
        classes=parse_pairs("--map", map_ or []),
        group_regex=group_regex,
        choice=Choice(layout, tuple(label or ()), views),
    )
    for note in listing.notes:
        print(note)
    if not append:
        check_empty(out)
    console = error_console()
    # Not on a terminal it would still print the line it ends with.
    hidden = not console.is_terminal
    with ray_session(verbose), Progress(console=console, transient=True, disable=hidden) as bar:
        task = bar.add_task("decoding", total=len(listing.files))

        def show(done: int, total: int) -> None:
            # Once all are decoded they are compared with each other.
            phase = "comparing" if done == total and total > 0 else "decoding"
            bar.update(task, completed=done, total=total, description=phase)

        store = prepare_store(listing, out, options, append, show)
    print_store(store)
    print(f"report: {out / 'report.html'}")
    print(f"store: {out}")


@app.command(cls=Command)
def augment(
    store: Annotated[Path, typer.Argument(help="Store.")],
    preview: Annotated[Path, typer.Option(help="PNG to write.")],
    config: Annotated[Path | None, typer.Option(help="YAML recipe.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="key=value of the recipe; repeat.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of the run; also picks the images. Default: the recipe's.")
    ] = None,
    epoch: Annotated[int, typer.Option(min=0, help="Which pass, from 0.")] = 0,
) -> None:
    """Draw training images as each policy and the recipe change them.

    Example: ctray augment store --preview preview.png --set augment.strength=0.8
    """
    if preview.suffix.lower() != ".png":
        raise UserError(f"--preview {preview}: the name must end in .png")
    overrides = parse_assignments(set_ or [])
    recipe = Recipe.load(config, overrides | ({} if seed is None else {"seed": seed}))

    from ctray.data.preview import draw_preview
    from ctray.data.store import Store

    opened = Store.open(store)
    spec = PreprocessSpec.of(recipe, opened.size)
    preview.parent.mkdir(parents=True, exist_ok=True)
    draw_preview(opened, recipe.augment, spec, recipe.seed, epoch, preview)
    print(f"preview: {preview}")


@app.command(cls=Command)
def train(
    data: Annotated[Path, typer.Option(help=DATA_HELP)],
    out: Annotated[Path, typer.Option(help="Folder for the run.")],
    recipe: Annotated[
        str | None, typer.Option(help="One that comes with ctray: fast, default, best, deck_….")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML recipe of your own.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="key=value of the recipe; repeat.")
    ] = None,
    workers: Annotated[
        str, typer.Option(help="Data-parallel workers: auto, N, or MIN:MAX (elastic).")
    ] = "auto",
    epochs: Annotated[
        int | None, typer.Option(help="Passes over the training split, before a refit.")
    ] = None,
    backbone: Annotated[str | None, typer.Option(help="small_cnn or any timm name.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, order, augmentation.")] = None,
    checkpoints: Annotated[
        str | None, typer.Option(help="Folder or URI for checkpoints; default: OUT/checkpoints.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume the unfinished run in --out.")
    ] = False,
    verbose: Annotated[bool, VERBOSE] = False,
) -> None:
    """Fine-tune a classifier and write its bundle.

    Example: ctray train --data store --out run --recipe fast --set augment.policy=strong
    """
    # Over 80 lines, because almost half of them declare options.
    from ctray.config import recipe_file

    if recipe and config:
        raise UserError("--recipe and --config exclude each other: a recipe is a --config of ours")
    if recipe and Path(recipe).suffix in (".yaml", ".yml"):
        raise UserError(f"{recipe} is a file: a recipe of your own goes with --config")
    chosen = {"epochs": epochs, "backbone": backbone, "seed": seed}
    overrides = parse_assignments(set_ or [])
    overrides |= {key: value for key, value in chosen.items() if value is not None}
    asked = Recipe.load(recipe_file(recipe) if recipe else config, overrides)

    from ctray import storage
    from ctray.data.ingest.opening import check_data, known_store, open_or_prepare
    from ctray.models.names import check_backbone
    from ctray.process import import_meanwhile
    from ctray.session import ray_session
    from ctray.training.fitting import fitted, schedule, with_short_refit
    from ctray.training.plan import make_plan, parse_workers
    from ctray.training.run import finished_bundle, run_folder, start_of_process
    from ctray.training.terminal import Terminal, print_trained, scores

    given = overrides.keys() | (read_yaml(config).keys() if config else ())
    asked = with_short_refit(asked, given)
    most, least = parse_workers(workers)
    check_backbone(asked.backbone)
    notes = check_data(data)
    known = known_store(data, out / "store")
    settings = fitted(asked, given, known) if known else asked
    done = finished_bundle(out, settings, data)
    if done is not None:
        before = " before its refit" if done.recipe.refit_epochs else ""
        print(f"finished already, nothing to do: validation {scores(done.metrics)}{before}")
        print(f"bundle: {out / 'bundle'}")
        return
    folder = storage.absolute(checkpoints or str(out / "checkpoints"))
    started = {"Python": start_of_process()}
    started["Ray"] = time.time()
    session = ray_session(verbose, "run the same command with --resume")
    with run_folder(out, settings, data, folder, resume):
        for line in (*notes, *([f"plan: {schedule(settings, asked, known)}"] if known else ())):
            print(line, flush=True)
        with import_meanwhile(_TRAINER), session:
            started["data set"] = time.time()
            from ctray.training.trainer import train as train_run

            plan = make_plan(most, least=least)
            store = known or open_or_prepare(data, out / "store")
            print_store(store)
            if not known:
                settings = fitted(asked, given, store)
                print(f"plan: {schedule(settings, asked, store)}")
            print(f"plan: {settings.backbone} at {settings.image_size} px, {plan}", flush=True)
            with Terminal(error_console(), started) as terminal:
                best = train_run(settings, store, out, plan, terminal, folder)
    print_trained(settings, best)
    print(f"bundle: {out / 'bundle'}")


@app.command(cls=other_program("tuning.search"), add_help_option=False)
def search() -> None:
    """Search models and settings; keep the model one would deploy.

    Example: ctray search --data store --out study
    """


@app.command(cls=Command)
def evaluate(
    bundle: Annotated[str, typer.Argument(help=BUNDLE_HELP)],
    data: Annotated[Path, typer.Option(help=DATA_HELP)],
    out: Annotated[Path, typer.Option(help="Folder for the report.")],
    split: Annotated[
        str | None, typer.Option(help="Of a store: train, val, test (default) or all.")
    ] = None,
    include_training: Annotated[
        bool, typer.Option("--include-training", help="Score records it was trained on, too.")
    ] = False,
) -> None:
    """Score a bundle on records it has not seen, and report.

    It writes report.json and report.html.

    Example: ctray evaluate run/bundle --data store --out report
    """
    from ctray.data.ingest.opening import check_data
    from ctray.evaluation.splits import check_split
    from ctray.storage import check_writable

    check_split(data, split)
    check_data(data)
    check_writable(out)

    from ctray.engine.predictor import Predictor
    from ctray.evaluation.evaluate import evaluate as evaluate_bundle
    from ctray.evaluation.metrics import table

    done = evaluate_bundle(Predictor.load(bundle), data, out, split, include_training)
    print(table(done.metrics))
    print(
        f"scored {done.metrics.n} records; left out {done.trained_on} it was trained on and "
        f"{done.chosen_on} that chose its checkpoint; {done.unreadable} unreadable"
    )
    print(f"report: {out / 'report.html'}")


@app.command(cls=Command)
def predict(
    bundle: Annotated[str, typer.Argument(help=BUNDLE_HELP)],
    paths: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.")],
    out: Annotated[Path, typer.Option(help="Table: .csv, .parquet or .jsonl.")],
) -> None:
    """Predict image files; one that cannot be read gets an error.

    Every file of a folder gets a row, at any depth and whatever its name.

    Example: ctray predict run/bundle new/*.png --out predictions.csv
    """
    from rich.progress import track

    from ctray.engine.batch import expand, predict_files
    from ctray.engine.predictor import Predictor
    from ctray.engine.table import PredictionTable, check_table_path

    check_table_path(out)
    files = expand(paths, out)
    predictor = Predictor.load(bundle)
    start = time.monotonic()
    lines = track(
        predict_files(predictor, files.listed),
        total=len(files.listed),
        description="predicting",
        console=error_console(),
        transient=True,
    )
    table = PredictionTable.of(predictor.bundle.info.classes, lines)
    rate = len(table.frame) / (time.monotonic() - start)
    table.write(out)
    masks = f"left out {counted(files.masks, 'mask')}, " if files.masks else ""
    print(
        f"{len(table.readable)} answered, {len(table.unreadable)} with an error, "
        f"{table.frame['warning'].count()} with a warning, {masks}"
        f"{rate:.0f} images/s: {printable(str(out))}"
    )


@app.command(cls=Command)
def explain(
    bundle: Annotated[str, typer.Argument(help=BUNDLE_HELP)],
    paths: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.")],
    out: Annotated[Path, typer.Option(help="PNG to write; for several images, a folder.")],
) -> None:
    """Draw where the evidence for a prediction lies (Grad-CAM).

    Of several images, one that cannot be read gets an error, and the others a picture each.

    Example: ctray explain run/bundle patient.png --out evidence.png
    """
    from rich.progress import track

    from ctray.engine.batch import expand
    from ctray.engine.predictor import Predictor
    from ctray.explain.files import explain_files, places
    from ctray.storage import check_empty, check_writable

    is_one = len(paths) == 1 and not paths[0].is_dir()
    if is_one != (out.suffix.lower() == ".png"):
        needed = "the name of one picture must end in .png" if is_one else "name a folder"
        raise UserError(f"--out {out}: {needed}")
    check_writable(out.parent)
    if not is_one:
        check_empty(out)
    files = expand(paths, out)
    wanted = [(files.listed[0], out)] if is_one else places(files.listed, out)
    predictor = Predictor.load(bundle)
    drawn = 0
    for one in track(
        explain_files(predictor, wanted),
        total=len(wanted),
        description="explaining",
        console=error_console(),
        transient=True,
    ):
        name = printable(str(one.file))
        if one.prediction is None:
            if is_one:
                raise UserError(f"{name}: {one.error}")
            print(f"{name}: {one.error}")
            continue
        for warning in one.warnings:
            print(f"{name}: {warning}")
        drawn += 1
        answer = f"{one.prediction.predicted} {one.prediction.confidence:.4f}"
        print(f"{answer}: {printable(str(one.picture))}")
    if not is_one:
        masks = f", left out {counted(files.masks, 'mask')}" if files.masks else ""
        print(f"{drawn} explained, {len(wanted) - drawn} with an error{masks}: {out}")


@app.command(cls=Command)
def promote(
    bundle: Annotated[str, typer.Argument(help=BUNDLE_HELP)],
    registry: Annotated[str | None, typer.Option(help=REGISTRY_HELP)] = None,
    name: Annotated[str, typer.Option(help="Name in the registry.")] = DEFAULT_NAME,
) -> None:
    """Register a bundle and make it the production version.

    Example: ctray promote study/best/bundle --name chest
    """
    promote_and_print(bundle, registry, name)


@app.command(cls=Command)
def versions(
    registry: Annotated[str | None, typer.Option(help=REGISTRY_HELP)] = None,
    name: Annotated[str | None, typer.Option(help="Only this name; default: all.")] = None,
) -> None:
    """List the registered versions.

    Example: ctray versions
    """
    from ctray.artefact import registry as registry_module

    place = registry or registry_module.default_registry()
    if name:
        registry_module.check_name(place, name)
    names = [name] if name else registry_module.names(place)
    found = [version for n in names for version in registry_module.list_versions(place, n)]
    if not found:
        raise UserError(f"no version in {place}: register one with `ctray promote BUNDLE`")
    print(f"{'name':<16} {'version':>7}  {'promoted':<26} {'val macro-F1':>12}  backbone")
    for v in found:
        mark = "  (production)" if v.production else ""
        print(
            f"{v.name:<16} {v.version:>7}  {v.promoted:<26} {v.macro_f1:>12.4f}  {v.backbone}{mark}"
        )


@app.command(cls=other_program("serve"), add_help_option=False)
def serve() -> None:
    """Serve a bundle over HTTP until interrupted.

    Example: ctray serve run/bundle --port 8000
    """


def _version(value: bool) -> None:
    if value:
        print(f"ctray {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point of `ctray`."""
    run_app(app)
