"""Train the five systems of the deck and the default, score them, and write docs/results.md.

Every step is a command a user would type, on one prepared store: `ctray train` with the recipes
`deck_…` and `default`, `ctray evaluate` on the validation and the test split. `default` is trained
without the refit that its recipe ends with, which learns from the validation split; `default_refit`
is the recipe as it is, scored on the test split only. Latency is taken here: one image, prepared
input to logits, on the engine the machine gets. A run that is finished in the work folder is
not trained again, and an unfinished one is resumed.

The page has two tables, and each is made in one go: `--table deck` and `--table default` write one
of them and keep the other as it is. The page goes into the work folder instead with `--quick`, with
`--only`, and on synthetic images.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit import REPOSITORY, alone, conditions, ctray, images, parser

from ctray.data.ingest.confound import find_confounds
from ctray.data.store import Store, is_store
from ctray.engine.latency import CALLS, WARM_UP, latency_ms
from ctray.engine.model import restore_model
from ctray.engine.predictor import Predictor
from ctray.models.backbones import SMALL_CNN, resolve_weights

TABLES = {
    "deck": ("small_cnn", "resnet18", "efficientnet_b0", "vgg16", "xception"),
    "default": ("default", "default_refit"),
}
SYSTEMS = tuple(system for systems in TABLES.values() for system in systems)
_TITLES = {
    "deck": "The deck: five networks from random weights",
    "default": "The default recipe, from ImageNet weights",
}
_ABOUT = {
    "deck": """\
A network with random weights is not shown at its best: with a network connection,
`--set weights=hub` starts all but `small_cnn` from ImageNet.""",
    "default": """\
`default` is without the refit that its recipe ends with. `default_refit` is with it: it learns
from the validation split too, so no figure of that split is shown. Its seconds are those before
the refit.""",
}
_HEAD = """# Results

**The five networks of the deck started from random weights, and the default recipe from ImageNet
weights.** So the two tables compare starts as much as networks.

All systems were trained, chosen and scored on the same splits. Intervals are 95 %, by a bootstrap
over groups (patients or look-alikes). The validation split chose each system's epoch, so its
figures flatter. The test split chose nothing. `python bench/deck.py --table deck` and
`--table default` make one table each, in one go.
"""
_PACKAGES = ("ray", "torch", "timm", "openvino")
_STARTS = {"none": "random", "package": "ImageNet, pip package", "hub": "ImageNet, hub"}
_QUICK_SETTINGS = ("image_size=64", "batch_size=16", "small_share=0", "freeze_epochs=0")
_QUICK = ("--epochs", 1, *(word for pair in _QUICK_SETTINGS for word in ("--set", pair)))


@dataclass(frozen=True)
class Result:
    """A row of the table.

    Attributes:
        system: its name in SYSTEMS.
        backbone: its network.
        image_size: px.
        start: the weights it started from.
        parameters: that learn, in millions.
        epochs: passes over the training split.
        seconds: of training and evaluation while training, without start-up and refit.
        trained_on: records.
        reports: what `ctray evaluate` wrote for `val` and `test`; no `val` after a refit.
        latency: p50 at batch 1, ms.
        engine: that it was taken on.
    """

    system: str
    backbone: str
    image_size: int
    start: str
    parameters: float
    epochs: float
    seconds: float
    trained_on: int
    reports: dict[str, dict[str, Any]]
    latency: float
    engine: str


def run(*words: object) -> None:
    """Run a command of ctray, printed before it runs."""
    print(f"\n$ ctray {' '.join(str(word) for word in words)}", flush=True)
    subprocess.run(ctray(*words), check=True, env=alone())


def result(system: str, store: Store, out: Path, quick: bool) -> Result:
    """Train a system if it is not trained yet, and score it."""
    refits = system == "default_refit"
    recipe = "default" if system.startswith("default") else f"deck_{system}"
    place, bundle = out / system, out / system / "bundle"
    # With --resume a command starts a run, resumes one, or says that it is finished.
    words = ["train", "--data", store.root, "--recipe", recipe, "--out", place, "--resume"]
    if not refits:
        words += ["--set", "refit_epochs=0"]
    if quick:
        words += _QUICK
    if refits and quick:
        words += ["--set", "refit_epochs=1"]
    run(*words)
    reports: dict[str, dict[str, Any]] = {}
    for split in ("test",) if refits else ("val", "test"):
        folder = place / split
        run("evaluate", bundle, "--data", store.root, "--split", split, "--out", folder)
        reports[split] = json.loads((folder / "report.json").read_text())
    predictor = Predictor.load(str(bundle))
    info = predictor.bundle.info
    last = json.loads((place / "history.jsonl").read_text().splitlines()[-1])
    weights = resolve_weights(info.recipe)
    start = _STARTS.get(weights, weights)
    parameters = restore_model(predictor.bundle).model.parameters()
    return Result(
        system,
        info.backbone,
        info.preprocess.image_size,
        start if info.backbone != SMALL_CNN else "random, by design",
        sum(parameter.numel() for parameter in parameters) / 1e6,
        last["epoch"],
        last["seconds"],
        len(predictor.bundle.seen.trained_on),
        reports,
        latency_ms(predictor.engine, info.preprocess.image_size),
        f"{predictor.engine.name}, {predictor.engine.device}",
    )


def source(store: Store) -> Path:
    """The folder its images came from."""
    return Path(os.path.commonpath(list(store.records("all")["uri"]))).resolve()


def section(results: Sequence[Result], store: Store, command: str, quick: bool) -> str:
    """What these results stand on, and the table of them."""
    sizes = {split: store.records(split) for split in ("train", "val", "test")}
    split = ", ".join(f"{len(r)} {name}" for name, r in sizes.items())
    groups = store.records("all")["group"].nunique()
    kind = "synthetic images" if store.synthetic else "radiographs"
    lines: list[str] = []
    if quick:
        lines += ["**A quick run, to see that it runs: one epoch at 64 px. No result.**", ""]
    if store.synthetic:
        lines += ["**Synthetic data: the figures say nothing about patients.**", ""]
    lines += [
        *conditions(_PACKAGES),
        f"- `{command}`: `ctray train --recipe …`, `ctray evaluate`",
        f"- {source(store).name}: {split} {kind} in {groups} groups, {len(store.classes)} classes",
        f"  ({', '.join(store.classes)}), fingerprint {store.fingerprint[:12]}",
        f"- latency: prepared input to logits, batch 1, median of {CALLS} after "
        f"{WARM_UP}, engine {', '.join(sorted({r.engine for r in results}))}",
    ]
    factors = find_confounds(store.records("all"), store.classes).factors
    strong = [factor for factor in factors if factor.verdict == "strong"]
    if strong:
        said = f"- what gives a class away in these data: {strong[0].sentences[0]}"
        lines += textwrap.wrap(said, 100, subsequent_indent="  ")
    lines += [
        "",
        "| system | backbone | px | started from | train / val / test | val accuracy | "
        "val macro-F1 | test accuracy | test macro-F1 | training s | epochs | parameters M | "
        "p50 ms |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*lines, *(row(result) for result in results)]) + "\n"


def with_sections(page: str, made: dict[str, str]) -> str:
    """The page with these tables in place of those of the same names."""
    parts = re.split(r"^## (.+)\n", page, flags=re.M)
    kept = dict(zip(parts[1::2], parts[2::2], strict=True))
    named = {_TITLES[name]: f"{_ABOUT[name]}\n\n{text}" for name, text in made.items()}
    sections = kept | named
    titles = [title for title in _TITLES.values() if title in sections]
    return "\n".join([_HEAD, *(f"## {title}\n\n{sections[title].strip()}\n" for title in titles)])


def row(result: Result) -> str:
    """A line of the table."""
    splits = [result.reports.get(split) for split in ("val", "test")]
    counts = (result.trained_on, *(report["n"] if report else "–" for report in splits))
    measures = [
        interval(report["metrics"][name]) if report else "–"
        for report in splits
        for name in ("accuracy", "macro_f1")
    ]
    cells = [
        result.system,
        result.backbone,
        str(result.image_size),
        result.start,
        " / ".join(str(count) for count in counts),
        *measures,
        f"{result.seconds:.0f}",
        f"{result.epochs:g}",
        f"{result.parameters:.1f}",
        f"{result.latency:.1f}",
    ]
    return f"| {' | '.join(cells)} |"


def interval(measure: dict[str, float]) -> str:
    """A value and its interval."""
    return f"{measure['value']:.3f} ({measure['low']:.3f}–{measure['high']:.3f})"


def arguments() -> argparse.Namespace:
    """What was asked for."""
    own = parser(__doc__ or "")
    own.add_argument("--out", type=Path, help="work folder; default: bench-deck[-quick]")
    own.add_argument("--table", choices=TABLES, help="write this table only")
    own.add_argument(
        "--only", nargs="+", choices=SYSTEMS, metavar="NAME", help="these systems only"
    )
    return own.parse_args()


def main() -> None:
    """Train, score, write."""
    options = arguments()
    quick = options.quick
    out = (options.out or REPOSITORY / f"bench-deck{'-quick' if quick else ''}").resolve()
    if not is_store(out / "store"):
        with images(options) as folder:
            run("prepare", folder, "--out", out / "store")
    store = Store.open(out / "store")
    if options.data and source(store) != options.data.resolve():
        sys.exit(f"{out} is of {source(store)}: name another folder with --out")
    asked = {options.table: TABLES[options.table]} if options.table else TABLES
    # Both tables are made before either is written: each in one go.
    results = {
        name: [
            result(system, store, out, quick)
            for system in systems
            if options.only is None or system in options.only
        ]
        for name, systems in asked.items()
    }
    command = " ".join(["python bench/deck.py", *sys.argv[1:]])
    made = {name: section(rows, store, command, quick) for name, rows in results.items() if rows}
    whole = not (quick or store.synthetic or options.only)
    written = (REPOSITORY / "docs" if whole else out) / "results.md"
    before = written.read_text() if whole and written.exists() else ""
    written.write_text(with_sections(before, made))
    print(f"\nresults: {written}")


if __name__ == "__main__":
    main()
