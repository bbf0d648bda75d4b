"""What a recipe is worth: grouped folds of everything but the test split.

`python bench/folds.py fast default` trains each recipe on every fold by `ctray train`, without its
refit, and scores its last weights on the records of the fold that it has not seen: not the best
epoch's, which is chosen by those records. Recipes are chosen by this and not by the test split,
which no number here depends on. Groups (patients, near-duplicates) stay together, classes are
spread evenly. `--set lr=2e-3` changes a setting of each recipe, `--seeds 3` trains every fold three
times.
"""

import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
from kit import alone, ctray, emit, images, link_images, note, parser, prepared
from sklearn.model_selection import StratifiedGroupKFold

from ctray.data.store import Store

FOLDS = 3


def folds(store: Store, place: Path) -> list[Path]:
    """Folders of links to images, each with its own `train` and `val`, as `ctray prepare` reads."""
    records = store.records("train+val")
    cut = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0)
    made = []
    for number, (_, left_out) in enumerate(cut.split(records, records["label"], records["group"])):
        folder = place / f"fold{number}"
        split = pd.Series("train", records.index)
        split.iloc[left_out] = "val"
        for name, part in records.groupby(split):
            link_images(part, folder / str(name))
        made.append(folder)
    return made


def score(store: Store, recipe: str, settings: list[str]) -> dict[str, float]:
    """The last evaluation of a training by a recipe with these settings, and its seconds."""
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "run"
        command = ctray(
            *("train", "--data", store.root, "--out", out, "--recipe", recipe),
            *(word for setting in settings for word in ("--set", setting)),
        )
        start = time.monotonic()
        subprocess.run(command, check=True, env=alone(), stdout=sys.stderr)
        seconds = time.monotonic() - start
        last = json.loads((out / "history.jsonl").read_text().splitlines()[-1])
    return last | {"command_s": seconds}


def main() -> None:
    """Run the bench."""
    made = parser(__doc__ or "")
    made.add_argument("recipes", nargs="*", default=["fast", "default"], help="names")
    made.add_argument("--set", action="append", default=[], help="key=value; repeat")
    made.add_argument("--seeds", type=int, default=1, help="trainings of each fold; default 1")
    options = made.parse_args()
    settings = [*options.set, "refit_epochs=0", *["epochs=1"] * options.quick]
    with images(options) as folder, tempfile.TemporaryDirectory() as root:
        place = Path(root)
        store = prepared(folder, place / "store")
        stores = [prepared(fold, fold.with_suffix(".store")) for fold in folds(store, place)]
        for recipe in options.recipes:
            scores = []
            for seed, (number, fold) in itertools.product(
                range(options.seeds), enumerate(stores, 1)
            ):
                scores.append(score(fold, recipe, [*settings, f"seed={seed}"]))
                note(f"{recipe}, fold {number}, seed {seed}: {json.dumps(scores[-1])}")
            n = options.seeds * sum(len(fold.records("val")) for fold in stores)
            for key, unit in (
                *(("val_accuracy", "share"), ("val_macro_f1", "share"), ("val_loss", "nats")),
                ("command_s", "s"),
            ):
                value = statistics.mean(one[key] for one in scores)
                name = " ".join([recipe, *options.set])
                emit("folds", f"{name}: {key.removeprefix('val_')}", unit, value, n)


if __name__ == "__main__":
    main()
