"""What a person at a terminal sees of a run: a bar and a line an evaluation; in a pipe, lines."""

import contextlib
import itertools
import os
import sys
import time
from collections.abc import Mapping
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ctray import storage
from ctray.config import Recipe
from ctray.training.history import HistoryRow
from ctray.words import counted


class Terminal:
    """Prints what happens to a run. It is called from the thread that follows the run.

    Args:
        console: where the bar is drawn when it is a terminal.
        started: when each part of the command's start began, in order, in seconds since the epoch;
            None: the first step is nothing special.
    """

    def __init__(self, console: Console, started: dict[str, float] | None = None) -> None:
        self._started = None if started is None else started | {"workers": time.time()}
        columns = (TextColumn("step"), MofNCompleteColumn(), BarColumn(), TimeRemainingColumn())
        # rich would take the lines of a pipe to where the bar is.
        self._bar = Progress(
            *columns, console=console, transient=True, redirect_stdout=sys.stdout.isatty()
        )
        self._bar.disable = not console.is_terminal
        self._task = self._bar.add_task("", total=None)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def start(self, step: int, interval: int, workers: int, replaced: bool) -> None:
        """Say where a run is resumed."""
        if step or replaced:
            who = counted(workers, "worker")
            begins = f"the workers were replaced: {who} resumed" if replaced else "resumed"
            self.say(
                f"{begins} from step {step}; at most {counted(interval, 'step')}, and those "
                "while it was written, are done again"
            )

    def first(self, times: dict[str, float]) -> None:
        """Say what the time to the first step was spent on; once."""
        if self._started is None:
            return
        moments = self._started | {
            "model": times["started"],
            "first batch": times["ready"],
            "step": times["arrived"],
        }
        edges = [*moments.values(), times["done"]]
        parts = (stop - start for start, stop in itertools.pairwise(edges))
        spent = ", ".join(f"{name} {part:.1f}" for name, part in zip(moments, parts, strict=True))
        self.say(f"first step after {edges[-1] - edges[0]:.1f} s: {spent}")
        self._started = None

    def progress(self, step: int, steps: int) -> None:
        """Move the bar."""
        self._bar.update(self._task, completed=step, total=steps)

    def row(self, row: HistoryRow) -> None:
        """Print one evaluation."""
        self.say(
            f"step {row['step']:>5}  epoch {row['epoch']:>5.2f}  {row['image_size']} px  "
            f"loss {row['train_loss']:.4f}  val loss {row['val_loss']:.4f}  "
            f"val accuracy {row['val_accuracy']:.4f}  macro-F1 {row['val_macro_f1']:.4f}  "
            f"{row['images_per_s']:.1f} images/s"
        )

    def say(self, text: str) -> None:
        """Print a line; the run continues when nobody reads it, such as behind `| head`."""
        try:
            print(text, flush=True)
        except OSError as error:
            # What comes later, and what is still in the buffer, would raise again.
            with open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), sys.stdout.fileno())
            # It may be the same pipe.
            with contextlib.suppress(OSError):
                print(f"warning: {storage.cause(error)}: the run continues unseen", file=sys.stderr)


def print_trained(recipe: Recipe, best: HistoryRow) -> None:
    """Say which evaluation of a finished run was the best, and whether its weights are kept.

    Args:
        recipe: of the run.
        best: row of that evaluation.
    """
    if not recipe.refit_epochs:
        print(f"best: step {best['step']}, validation {scores(best)}")
        return
    print(f"chosen for the refit: step {best['step']}, validation {scores(best)}")
    print(
        f"the bundle has the weights after the refit ({counted(recipe.refit_epochs, 'epoch')}, "
        "validation records too): those figures are not theirs, see `ctray evaluate`"
    )


def scores(row: Mapping[str, Any]) -> str:
    """Accuracy, macro-F1 and number of records of an evaluation, or of a bundle's metrics."""
    return (
        f"accuracy {row['val_accuracy']:.4f}, macro-F1 {row['val_macro_f1']:.4f} over "
        f"{row['val_records']:.0f} records"
    )
