"""Epochs that the search needs for the score that random search without pruning reaches.

Random search trains every trial to its last epoch. Ours (TPE, ASHA, the recipe's values first) is
stopped in the books at the first epoch of any trial whose score is at least random search's best.
Both draw from one space, seed after seed, trials of as many epochs as the default recipe has; the
figure is the median over seeds of the ratio of epochs. The embedded synthetic images are
few to learn from and many to be scored on: then no trial gets all of them right, and settings are
told apart. Batches of 16 give an epoch of them 25 steps (the reference radiographs have 51): with a
dozen, every score after it is that of guessing. Trainings are real, and their number is what is
counted: time does not matter.
"""

import json
import sqlite3
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from kit import alone, emit, note, parser, prepared, search

from ctray.data.phantom import MARKER_FILE, PhantomSpec, write_folder
from ctray.data.store import Store

SEEDS, TRIALS, EPOCHS = 5, 20, 12
# Images of each class.
SPLITS = {"train": 100, "val": 200, "test": 8}
SPACE = """
backbone: {choice: [small_cnn]}
image_size: {choice: [48]}
batch_size: {choice: [16]}
lr: {low: 1.0e-4, high: 3.0e-2, log: true}
weight_decay: {low: 1.0e-4, high: 1.0e-1, log: true}
label_smoothing: {low: 0.0, high: 0.3}
augment.policy: {choice: [none, light, standard, strong]}
augment.strength: {low: 0.1, high: 1.0}
"""


def embedded(place: Path, quick: bool) -> Path:
    """Synthetic images in three splits, other patients in each."""
    for seed, (split, count) in enumerate(SPLITS.items()):
        spec = PhantomSpec(images_per_class=8 if quick else count, size=96, seed=seed)
        # Its table's patients are numbered alike in every split.
        (write_folder(spec, place / split) / "metadata.csv").unlink()
    (place / MARKER_FILE).touch()
    return place


def scores(store: Store, seed: int, trials: int, epochs: int, *more: str) -> list[float]:
    """The validation macro-F1 of every epoch that a search trained, in the order it did."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "study"
        command = search(
            *(store, out, SPACE, "--trials", trials, "--max-epochs", epochs),
            *("--seed", seed, "--concurrency", 1, *more),
        )
        subprocess.run(command, check=True, env=alone(), stdout=sys.stderr)
        query = "select value_json from trial_user_attributes where key = 'rows' order by trial_id"
        with sqlite3.connect(out / "optuna.db") as connection:
            trials_rows = [json.loads(text) for (text,) in connection.execute(query)]
    return [row["val_macro_f1"] for rows in trials_rows for row in rows]


def main() -> None:
    """Run the bench."""
    options = parser(__doc__ or "").parse_args()
    seeds, trials, epochs = (1, 2, 2) if options.quick else (SEEDS, TRIALS, EPOCHS)
    ratios = []
    with tempfile.TemporaryDirectory() as root:
        place = Path(root)
        store = prepared(embedded(place / "images", options.quick), place / "store")
        for seed in range(seeds):
            given = (store, seed, trials, epochs)
            theirs = scores(*given, "--sampler", "random", "--pruner", "none")
            # Half as many again: what counts is when it is there, not when it would end.
            ours = scores(store, seed, 3 * trials // 2, epochs)
            goal = max(theirs)
            reached = next((n for n, score in enumerate(ours, 1) if score >= goal), None)
            note(
                f"seed {seed}: {goal:.4f} after {len(theirs)} epochs at random, ours {reached} "
                f"of {len(ours)}, in the end {max(ours):.4f}"
            )
            # Not reached: worse than any that was.
            ratios.append((reached or max(len(theirs), len(ours)) + 1) / len(theirs))
    emit(
        "search_efficiency",
        f"epochs to the best of random search, median of {seeds} seeds",
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
