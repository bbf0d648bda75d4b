"""Learning curves as a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ctray.training.history import HistoryRow, written


def draw_curves(history: Sequence[HistoryRow], path: Path, title: str) -> None:
    """Draw loss, scores and learning rate over epochs; the best evaluation is marked.

    The best is one at the largest image size; a line shows where that begins after smaller ones.
    """
    largest = max(row["image_size"] for row in history)
    whole = [row for row in history if row["image_size"] == largest]
    best = max(whole, key=lambda row: row["val_macro_f1"])
    figure = Figure(figsize=(13, 4), layout="constrained")
    losses, scores, rates = figure.subplots(1, 3)

    def line(axis: Axes, key: str, label: str, **style: Any) -> None:
        axis.plot(
            [row["epoch"] for row in history],
            [written(row)[key] for row in history],
            marker=None if len(history) >= 40 else "." if len(history) > 1 else "o",
            label=label,
            **style,
        )

    line(losses, "train_loss", "training")
    line(losses, "val_loss", "validation")
    losses.plot(best["epoch"], best["val_loss"], "o", color="black", fillstyle="none")
    losses.set(title="Loss", xlabel="epoch")
    line(scores, "train_accuracy", "accuracy, training")
    line(scores, "val_accuracy", "accuracy, validation")
    line(scores, "val_macro_f1", "macro-F1, validation", linestyle="--")
    scores.axvline(best["epoch"], color="grey", linestyle=":", linewidth=1)
    scores.plot(best["epoch"], best["val_macro_f1"], "o", color="black", fillstyle="none")
    title_of_best = f"Best: macro-F1 {best['val_macro_f1']:.3f}, epoch {best['epoch']:g}"
    scores.set(title=title_of_best, xlabel="epoch")
    scores.legend()
    losses.legend()
    line(rates, "lr", "learning rate", color="tab:green")
    rates.set(title="Learning rate", xlabel="epoch")
    smaller = history[: len(history) - len(whole)]
    for axis in (losses, scores) if smaller else ():
        edge = (smaller[-1]["epoch"], 0.02)
        axis.axvline(edge[0], color="tab:red", linestyle="--", linewidth=1)
        text = f" {smaller[-1]['image_size']} → {largest} px"
        axis.text(*edge, text, color="tab:red", transform=axis.get_xaxis_transform())
    # A margin beyond the values, so that a single point is not on the frame.
    for axis in (losses, rates):
        axis.set_ylim(0, 1.08 * axis.dataLim.y1 or 1.0)
    scores.set_ylim(max(0.0, scores.dataLim.y0 - 0.05), 1.02)
    for axis in (losses, scores, rates):
        axis.grid(alpha=0.3)
        axis.set_xlim(0, 1.05 * history[-1]["epoch"])
    figure.suptitle(title, parse_math=False)
    figure.savefig(path, dpi=120)
