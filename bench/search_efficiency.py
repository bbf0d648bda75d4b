"""Epochs that the search needs for a model as good as random search without pruning finds.

Random search trains every trial to its last epoch and keeps the best by the validation split. Ours
(TPE, ASHA) is read at the end of each trial that is its best until then, and has reached the goal
with the one from which on all have a macro-F1 on the test split of at least random search's. By
records that no trial was chosen by: on the validation split the best of many is flattered by luck,
the more the more epochs were scored, which would be what the ratio measures. Both search the
dimensions of the space `wide`, of the deck's small network, beginning with its recipe; the figure
is the median over seeds of the ratio of epochs. The embedded synthetic images are few to learn from
and many to be scored on: then no trial gets all of them right, and settings are told apart.
Trainings are real, and their number is what is counted: time does not matter.
"""

import contextlib
import json
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import NamedTuple

from kit import alone, emit, note, parser, prepared, search

from ctray.artefact.parts import SUMS
from ctray.data.store import Store
from ctray.engine.predictor import Predictor
from ctray.evaluation.evaluate import evaluate
from ctray.synthetic.folder import write_folder
from ctray.synthetic.marker import SYNTHETIC_MARKER
from ctray.synthetic.phantom import PhantomSpec

RECIPE = "deck_small_cnn"
SEEDS, TRIALS, EPOCHS = 5, 20, 12
# Images of each class.
SPLITS = {"train": 100, "val": 200, "test": 250}
SPACE = """
backbone: {choice: [small_cnn]}
image_size: {choice: [32, 40, 48]}
batch_size: {choice: [8, 16, 32]}
lr: {low: 1.0e-4, high: 2.0e-2, log: true}
weight_decay: {low: 1.0e-4, high: 1.0e-1, log: true}
label_smoothing: {low: 0.0, high: 0.2}
mixup: {low: 0.0, high: 0.4}
cutmix: {low: 0.0, high: 1.0}
dropout: {low: 0.0, high: 0.4}
tta: {choice: [none, flip]}
sampling: {choice: [natural, balanced]}
class_weights: {choice: [none, balanced]}
focal_gamma: {low: 0.0, high: 2.0}
tone: {choice: [none, equalise, percentile]}
augment.policy: {choice: [light, standard, strong]}
augment.strength: {low: 0.1, high: 1.0}
augment.affine.p: {low: 0.0, high: 1.0}
augment.noise.p: {low: 0.0, high: 0.5}
augment.dropout.p: {low: 0.0, high: 0.5}
"""


def embedded(place: Path, quick: bool) -> Path:
    """Synthetic images in three splits, other patients in each."""
    for seed, (split, count) in enumerate(SPLITS.items()):
        spec = PhantomSpec(images_per_class=8 if quick else count, size=96, seed=seed)
        # Its table's patients are numbered alike in every split.
        (write_folder(spec, place / split) / "metadata.csv").unlink()
    (place / SYNTHETIC_MARKER).touch()
    return place


class Leader(NamedTuple):
    """A trial that was a search's best: epochs it had trained in all by then, and macro-F1."""

    epochs: int
    validation: float
    test: float


def leaders(store: Store, seed: int, trials: int, epochs: int, *more: str) -> list[Leader]:
    """The trials of a search that were its best when they ended, in order."""
    with tempfile.TemporaryDirectory() as folder:
        out, kept = Path(folder) / "study", Path(folder) / "kept"
        command = search(
            *(store, out, SPACE, "--recipe", RECIPE, "--trials", trials, "--max-epochs", epochs),
            *("--seed", seed, "--concurrency", 1, *more),
        )
        over = threading.Event()
        keeper = threading.Thread(target=keep_bundles, args=(out, kept, over))
        keeper.start()
        try:
            subprocess.run(command, check=True, env=alone(), stdout=sys.stderr)
        finally:
            over.set()
            keeper.join()
        found: list[Leader] = []
        spent, best = 0, 0.0
        for number, rows in enumerate(evaluations(out / "optuna.db")):
            spent += len(rows)
            score = max((row["val_macro_f1"] for row in rows), default=0.0)
            if len(rows) == epochs and score > best:
                best = score
                predictor = Predictor.load(str(kept / f"{number:04d}"))
                done = evaluate(predictor, store.root, kept / f"{number:04d}-report")
                found.append(Leader(spent, score, done.metrics.macro_f1.value))
    return found


def keep_bundles(out: Path, kept: Path, over: threading.Event) -> None:
    """Copy bundles as they come: the search deletes one as soon as a later trial is better."""
    while not over.wait(0.1):
        for sums in out.glob(f"trials/*/bundle/{SUMS}"):
            number = sums.parts[-3]
            if not (kept / number).exists():
                # Of one that was no better than another nothing is left before the copy is whole.
                with contextlib.suppress(OSError):
                    shutil.copytree(sums.parent, kept / f"{number}.partial", dirs_exist_ok=True)
                    (kept / f"{number}.partial").rename(kept / number)


def evaluations(database: Path) -> list[list[dict[str, float]]]:
    """Those of each trial, in the order that one after the other was trained."""
    query = """select value_json from trials left join trial_user_attributes as attributes
        on attributes.trial_id = trials.trial_id and attributes.key = 'rows' order by number"""
    with sqlite3.connect(database) as connection:
        return [json.loads(text or "[]") for (text,) in connection.execute(query)]


def main() -> None:
    """Run the bench."""
    options = parser(__doc__ or "").parse_args()
    seeds, trials, epochs = (1, 2, 2) if options.quick else (SEEDS, TRIALS, EPOCHS)
    ratios = []
    with tempfile.TemporaryDirectory() as root:
        place = Path(root)
        store = prepared(embedded(place / "images", options.quick), place / "store")
        for seed in range(seeds):
            # Draws of its own: with the same, its best may be one of ours by that alone.
            without = ("--sampler", "random", "--pruner", "none")
            *_, goal = leaders(store, seeds + seed, trials, epochs, *without)
            ours = leaders(store, seed, trials, epochs)
            behind = [place for place, one in enumerate(ours) if one.test < goal.test]
            since = ours[behind[-1] + 1 :] if behind else ours
            spent = since[0].epochs if since else None
            note(f"seed {seed}: random search {goal}, ours {ours}: {spent}")
            # Not reached: worse than any that was.
            ratios.append((spent or trials * epochs + 1) / (trials * epochs))
    emit(
        "search_efficiency",
        f"epochs to the test score of random search, median of {seeds} seeds",
        "share",
        statistics.median(ratios),
        trials * epochs,
        1.0,
        "random search without pruning",
        0.35,
        at_most=True,
    )


if __name__ == "__main__":
    main()
