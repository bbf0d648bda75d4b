"""What a trial of the search costs beyond its training, and whether two at a time pay.

Eight one-epoch trials of `small_cnn`, `python -m tuning.search` as one types it, against the
pattern that Ray documents (`tune_over_train.py`). What an epoch takes, validation included, in the
midst of a longer training of the same is subtracted; the rest is the start of processes, imports,
and what passes between trials. The clock runs from the plan, or from the start of Tune, to the end
of the last trial. The images are few and synthetic: training, which a busy machine makes longer now
and then, is to be a small part of it.
"""

import itertools
import json
import re
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from kit import alone, arguments, emit, in_turn, note, prepared, search

from ctray.data.store import Store
from ctray.synthetic.folder import write_folder
from ctray.synthetic.phantom import PhantomSpec

TRIALS, IMAGE_SIZE = 8, 96
SPACE = f"""
backbone: {{choice: [small_cnn]}}
image_size: {{choice: [{IMAGE_SIZE}]}}
lr: {{low: 1.0e-3, high: 1.0e-2, log: true}}
"""
_PEER = Path(__file__).parent / "tune_over_train.py"


def timed(store: Store, trials: int, at_a_time: int, epochs: int = 1) -> tuple[float, list[Any]]:
    """Seconds from the plan to the end of the last trial, and the trials' evaluations."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "study"
        command = search(
            *(store, out, SPACE, "--trials", trials, "--max-epochs", epochs),
            *("--pruner", "none", "--concurrency", at_a_time),
        )
        begin = end = 0.0
        with subprocess.Popen(
            command, env=alone() | {"PYTHONUNBUFFERED": "1"}, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("plan:"):
                    begin = time.monotonic()
                if re.match(r"trial \d+: finished", line):
                    end = time.monotonic()
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command)
        return end - begin, evaluations(out / "optuna.db")


def evaluations(database: Path) -> list[Any]:
    """The evaluations of every trial."""
    query = "select value_json from trial_user_attributes where key = 'rows'"
    with sqlite3.connect(database) as connection:
        return [json.loads(text) for (text,) in connection.execute(query)]


def documented(store: Store, trials: int) -> float:
    """Seconds of as many trials, one at a time, of the pattern that Ray documents."""
    command = [sys.executable, str(_PEER), str(store.root), str(trials), str(IMAGE_SIZE)]
    done = subprocess.run(command, env=alone(), stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def seconds(store: Store, trials: int, at_a_time: int) -> float:
    """Seconds of as many trials of the search."""
    return timed(store, trials, at_a_time)[0]


def main() -> None:
    """Run the bench."""
    options = arguments(__doc__ or "")
    trials = 2 if options.quick else TRIALS
    with tempfile.TemporaryDirectory() as root:
        place = Path(root)
        spec = PhantomSpec(images_per_class=100, seed=0)
        store = prepared(write_folder(spec, place / "images"), place / "store")
        n = len(store.records("train"))
        _, (rows,) = timed(store, 1, at_a_time=1, epochs=4)
        times = [row["seconds"] for row in rows]
        epoch = statistics.median(b - a for a, b in itertools.pairwise(times))
        note(f"{epoch:.1f} s an epoch in the midst of a training")
        took = in_turn(
            {
                "one": partial(seconds, store, trials, 1),
                "documented": partial(documented, store, trials),
                "two": partial(seconds, store, trials, 2),
            },
            1,
        )
        beyond = {name: value / trials - epoch for name, value in took.items()}
        row = f"a trial beyond its training, {trials} of one epoch"
        emit("search_overhead", row, "s", beyond["one"], n, bar=4.0, at_most=True)
        emit(
            *("search_overhead", row, "s", beyond["one"], n, beyond["documented"]),
            *("Tune over Train as documented", 0.4),
            at_most=True,
        )
        # `auto` is one at a time on this few cores; the figure says what that costs or gains.
        hour = {name: 3600 * trials / value for name, value in took.items()}
        emit(
            *("search_overhead", "one trial at a time", "1/h", hour["one"], n, hour["two"]),
            "two at a time",
        )


if __name__ == "__main__":
    main()
