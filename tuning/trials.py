"""What became of each trial of a study, and the table of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from ctray.training.history import HistoryRow

TrialState = Literal["finished", "pruned", "stopped", "failed"]


@dataclass(frozen=True)
class Trial:
    """One trial.

    Attributes:
        number: from 0, in the order they started.
        state: finished (all epochs), pruned (by the search, before its last epoch), stopped (with
            the search: the same command resumes it) or failed.
        reason: why, in a sentence; empty when finished.
        params: what the search chose, by dotted recipe key.
        rows: its evaluations in order (`epoch`, `train_loss`, `val_loss`, `val_accuracy`,
            `val_macro_f1`, `lr`, `images_per_s`, `seconds` …).
        started: seconds after the study's start.
        seconds: it ran, over all the times it was started.
        latency_ms: p50 of one image on the serving engine, prepared input to answer; unset before
            it was measured. Models of one architecture and image size share one figure.
        size_mb: of its weights, 10⁶ bytes.
        starts: how often it was started; more than once when the search was cut.
        lane: which workers trained it, of those that train side by side; unset when none did.
    """

    number: int
    state: TrialState
    reason: str
    params: dict[str, Any]
    rows: tuple[HistoryRow, ...]
    started: float
    seconds: float
    latency_ms: float | None = None
    size_mb: float | None = None
    starts: int = 1
    lane: int | None = None

    @property
    def best(self) -> HistoryRow | None:
        """The evaluation with the highest validation macro-F1, whose weights are kept.

        Where epochs on smaller images came first (`small_share`), of those at the largest size.
        """
        largest = max((row["image_size"] for row in self.rows), default=0)
        whole = (row for row in self.rows if row["image_size"] == largest)
        return max(whole, key=lambda row: row["val_macro_f1"], default=None)

    @property
    def score(self) -> float:
        """That macro-F1; nan before the first evaluation."""
        return math.nan if self.best is None else self.best["val_macro_f1"]

    @property
    def epochs(self) -> float:
        """Epochs trained."""
        return self.rows[-1]["epoch"] if self.rows else 0.0


def write_table(trials: Sequence[Trial], path: Path) -> None:
    """Write trials.csv: one row a trial."""
    rows = []
    for trial in trials:
        best: HistoryRow = trial.best or {}
        rows.append(
            {
                "trial": trial.number,
                "state": trial.state,
                "val_macro_f1": trial.score,
                "val_accuracy": best.get("val_accuracy", math.nan),
                "val_loss": best.get("val_loss", math.nan),
                "latency_ms": trial.latency_ms,
                "size_mb": trial.size_mb,
                "epochs": trial.epochs,
                "seconds": round(trial.seconds, 1),
                "starts": trial.starts,
                "lane": trial.lane,
                **trial.params,
                "reason": trial.reason,
            }
        )
    pd.DataFrame(rows).to_csv(path, index=False)
