"""What a trial of the search costs beyond its training, and whether two at a time pay.

Eight one-epoch trials of `small_cnn`, `python -m tuning.search` as one types it, one at a time and
two at a time. Beyond the training is the time from the plan to the end of the last trial, start of
the lanes included, less what an epoch takes in the midst of a longer training of the same. The
first design (a Ray Train run for each trial) took 10 to 17 s a trial on two cores.
"""

import json
import re
import sqlite3
import statistics
import subprocess
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from kit import alone, arguments, emit, images, in_turn, note, prepared, search

from ctray.data.store import Store

TRIALS = 8
FIRST_DESIGN_S = 10.0
SPACE = """
backbone: {choice: [small_cnn]}
image_size: {choice: [96]}
lr: {low: 1.0e-3, high: 1.0e-2, log: true}
"""


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
    """The last evaluation of every trial."""
    query = "select value_json from trial_user_attributes where key = 'rows'"
    with sqlite3.connect(database) as connection:
        return [json.loads(text)[-1] for (text,) in connection.execute(query)]


def overhead(store: Store, trials: int) -> float:
    """Seconds a trial beyond its training."""
    _, (last,) = timed(store, 1, at_a_time=1, epochs=3)
    training = len(store.records("train")) / last["images_per_s"]
    took, _ = timed(store, trials, at_a_time=1)
    note(f"{took:.1f} s for {trials} trials, {training:.1f} s of training each")
    return took / trials - training


def an_hour(store: Store, trials: int, at_a_time: int) -> float:
    """Trials an hour."""
    took, _ = timed(store, trials, at_a_time)
    return 3600 * trials / took


def main() -> None:
    """Run the bench."""
    options = arguments(__doc__ or "")
    rounds, trials = (1, 2) if options.quick else (3, TRIALS)
    with images(options) as folder, tempfile.TemporaryDirectory() as root:
        note(f"images: {folder}")
        store = prepared(folder, Path(root) / "store")
        n = len(store.records("train"))
        taken = statistics.median(overhead(store, trials) for _ in range(rounds))
        row = f"a trial beyond its training, {trials} of one epoch"
        emit(
            "search_overhead", row, "s", taken, n, FIRST_DESIGN_S, "first design", 4.0, taken, True
        )
        rates = in_turn(
            {
                "one": partial(an_hour, store, trials, 1),
                "two": partial(an_hour, store, trials, 2),
            },
            rounds,
        )
        # `auto` is one at a time on this few cores; the figure says what that costs or gains.
        emit(
            *("search_overhead", "one trial at a time", "1/h", rates["one"], n, rates["two"]),
            *("two at a time",),
        )


if __name__ == "__main__":
    main()
