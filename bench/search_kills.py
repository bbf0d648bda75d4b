"""One study whose search is killed with -9 at random moments: nothing is lost, nothing is repeated.

Twelve short trials; the search is killed ten times, 1 to 40 s after it was started, and the same
command is given again each time, then left to end. What the study's storage says is looked at after
each kill: a finished trial must stay as it is, and the study must end with every trial once.
"""

import json
import random
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from kit import alone, arguments, emit, note, prepared, search

from ctray.synthetic.folder import write_folder
from ctray.synthetic.phantom import PhantomSpec

KILLS, TRIALS, EPOCHS = 10, 12, 40
# A search that is not back by then hangs.
LIMIT_S = 900
SPACE = """
backbone: {choice: [small_cnn]}
image_size: {choice: [48, 64]}
lr: {low: 1.0e-3, high: 1.0e-2, log: true}
"""
_ENDED = ("COMPLETE", "PRUNED")
_QUERY = """
select number, state, value,
  (select group_concat(param_value) from trial_params where trial_id = trials.trial_id),
  (select value_json from trial_user_attributes where trial_id = trials.trial_id and key = 'rows')
from trials left join trial_values using (trial_id) order by number
"""


def ended(database: Path) -> dict[int, tuple[Any, ...]]:
    """By number the trials that trained to their end or were pruned: state, value, point, rows."""
    if not database.is_file():
        return {}
    with sqlite3.connect(database, timeout=60) as connection:
        try:
            found = connection.execute(_QUERY).fetchall()
        except sqlite3.OperationalError:
            # Killed before its tables were made.
            return {}
    return {number: tuple(rest) for number, *rest in found if rest[0] in _ENDED}


def killed(command: list[str], after_s: float) -> bool:
    """Start a search and kill it after so many seconds; whether it was still at work."""
    with subprocess.Popen(command, env=alone(), stdout=sys.stderr) as process:
        try:
            process.wait(after_s)
        except subprocess.TimeoutExpired:
            process.kill()
            return True
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return False


def main() -> None:
    """Kill, and look."""
    options = arguments(__doc__ or "")
    kills, trials = (1, 2) if options.quick else (KILLS, TRIALS)
    moments = random.Random(0)
    changed = killed_at_work = 0
    with tempfile.TemporaryDirectory() as root:
        place = Path(root)
        spec = PhantomSpec(images_per_class=40, size=64, seed=0)
        store = prepared(write_folder(spec, place / "images"), place / "store")
        out = place / "study"
        words = ("--trials", trials, "--max-epochs", EPOCHS, "--pruner", "none")
        command = search(store, out, SPACE, *words)
        before: dict[int, tuple[Any, ...]] = {}
        for number in range(kills):
            after_s = moments.uniform(1, 40)
            was_at_work = killed(command, after_s)
            now = ended(out / "optuna.db")
            changed += sum(now.get(key) != value for key, value in before.items())
            before = now
            killed_at_work += was_at_work
            note(
                f"{number + 1} of {kills}, {after_s:.0f} s after its start: "
                f"{'killed' if was_at_work else 'had ended'}, {len(now)} trials ended"
            )
        subprocess.run(command, check=True, env=alone(), stdout=sys.stderr, timeout=LIMIT_S)
        last = ended(out / "optuna.db")
        changed += sum(last.get(key) != value for key, value in before.items())
        epochs = [[row["epoch"] for row in json.loads(rows)] for *_, rows in last.values()]
    repeated = sum(len(set(times)) != len(times) for times in epochs)
    repeated += len(last) - len({point for _, _, point, _ in last.values()})
    for what, count in (
        ("trials too few or too many", abs(len(last) - trials)),
        ("trials or epochs twice", repeated),
        ("finished trials lost or changed", changed),
    ):
        row = f"{killed_at_work} kills in a study of {trials}: {what}"
        emit("search_kills", row, "", count, trials, bar=0, at_most=True)


if __name__ == "__main__":
    main()
