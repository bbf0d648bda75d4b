"""Learning curves as a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure


def draw_curves(history: Sequence[dict[str, Any]], path: Path, title: str) -> None:
    """Draw loss, validation scores and learning rate over epochs; the best evaluation is marked."""
    epochs = [row["epoch"] for row in history]
    best = max(history, key=lambda row: row["val_macro_f1"])
    figure = Figure(figsize=(11, 4), layout="constrained")
    losses, scores, rates = figure.subplots(1, 3)
    losses.plot(epochs, [row["train_loss"] for row in history], marker=".", label="training")
    losses.plot(epochs, [row["val_loss"] for row in history], marker=".", label="validation")
    losses.set(title="Loss (cross entropy)", xlabel="epoch")
    losses.legend()
    scores.plot(epochs, [row["val_accuracy"] for row in history], marker=".", label="accuracy")
    scores.plot(epochs, [row["val_macro_f1"] for row in history], marker=".", label="macro-F1")
    scores.axvline(best["epoch"], color="grey", linestyle=":", linewidth=1)
    scores.plot(best["epoch"], best["val_macro_f1"], "o", color="black", fillstyle="none")
    title_of_best = f"Validation, best macro-F1 {best['val_macro_f1']:.3f}"
    scores.set(title=title_of_best, xlabel="epoch", ylim=(None, 1.0))
    scores.legend(loc="lower right")
    rates.plot(epochs, [row["lr"] for row in history], marker=".", color="tab:green")
    rates.set(title="Learning rate", xlabel="epoch")
    for axis in (losses, scores, rates):
        axis.grid(alpha=0.3)
    figure.suptitle(title, parse_math=False)
    figure.savefig(path, dpi=120)
