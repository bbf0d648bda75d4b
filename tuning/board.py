"""What a person sees of a study while it runs: a live table, or plain lines in a pipe."""

import math
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Column, Table
from rich.text import Text

from ctray.training import history
from ctray.training.history import HistoryRow
from tuning.objectives import Objective
from tuning.trials import Trial

_COLUMNS = ("trial", "state", "epoch", "score", "best", "ms", "s", "parameters, and why it ended")
# The table shows the last ones, a line each; all are in trials.csv.
_SHOWN = 20
# Those of the screen that are not trials: the heads, and the last event, which may be long.
_OTHER_LINES = 6


class Board:
    """Follows a study's trials.

    Args:
        console: where the table is drawn when it is a terminal; lines go to stdout otherwise.
        objective: what a trial is judged by.
        epochs: of a whole trial.
    """

    def __init__(self, console: Console, objective: Objective, epochs: int) -> None:
        self._console, self._objective, self._epochs = console, objective, epochs
        self._is_live = console.is_terminal
        self._live = Live(console=console, auto_refresh=False)
        self._rows: dict[int, dict[str, str]] = {}
        self._best: float | None = None

    def __enter__(self) -> Self:
        if self._is_live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_live:
            self._live.stop()

    def begin(self, number: int, params: dict[str, Any]) -> None:
        """A trial begins, or is to be resumed."""
        self._rows[number] = {"state": "running", _COLUMNS[-1]: written(params)}
        self._show(f"trial {number}: begins  {written(params)}")

    def resume(self, number: int, step: int) -> None:
        """A trial is resumed."""
        self._rows[number]["state"] = f"running, from step {step}"
        self._show(f"trial {number}: resumed from step {step}")

    def row(self, number: int, row: HistoryRow) -> None:
        """An evaluation."""
        value = history.value(row, self._objective.row_key)
        if self._best is None or self._objective.is_better(value, self._best):
            self._best = value
        cells = self._rows[number]
        cells |= {"epoch": f"{row['epoch']:g}/{self._epochs}", "score": f"{value:.4f}"}
        cells |= {"best": f"{self._best:.4f}", "s": f"{row['seconds']:.0f}"}
        self._show(
            f"trial {number}: epoch {row['epoch']:g} of {self._epochs}, "
            f"{self._objective.title} {value:.4f}, {row['images_per_s']:.1f} images/s"
        )

    def end(self, trial: Trial) -> None:
        """What became of a trial."""
        value = self._objective.value(trial)
        score = "no evaluation" if math.isnan(value) else f"{self._objective.title} {value:.4f}"
        latency = "" if trial.latency_ms is None else f", {trial.latency_ms:.1f} ms"
        reason = f" ({trial.reason})" if trial.reason else ""
        cells = self._rows[trial.number]
        cells |= {"state": trial.state, "s": f"{trial.seconds:.0f}"}
        if trial.reason:
            cells[_COLUMNS[-1]] = f"{trial.reason}: {cells[_COLUMNS[-1]]}"
        if trial.latency_ms is not None:
            cells["ms"] = f"{trial.latency_ms:.1f}"
        self._show(
            f"trial {trial.number}: {trial.state}{reason}, {score}{latency}, "
            f"{trial.epochs:g} epochs, {trial.seconds:.0f} s"
        )

    def _show(self, line: str) -> None:
        if not self._is_live:
            print(line, flush=True)
            return
        # The last one gives way.
        last = Column(_COLUMNS[-1], no_wrap=True, overflow="ellipsis", ratio=1)
        table = Table(*_COLUMNS[:-1], last, box=None, expand=True)
        shown = max(1, min(_SHOWN, self._console.height - _OTHER_LINES))
        for number, cells in list(self._rows.items())[-shown:]:
            # A reason may hold brackets, which are rich's markup.
            table.add_row(str(number), *(Text(cells.get(column, "")) for column in _COLUMNS[1:]))
        self._live.update(Group(table, Text(line)), refresh=True)


def written(params: dict[str, Any]) -> str:
    """Parameters as one reads them: `lr=0.00123 backbone=small_cnn`."""
    return " ".join(
        f"{key}={value:.3g}" if isinstance(value, float) else f"{key}={value}"
        for key, value in params.items()
    )
