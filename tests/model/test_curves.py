"""Learning curves as a picture: one evaluation is seen, too."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from ctray.training.curves import draw_curves

pytestmark = pytest.mark.fast

# matplotlib's first two colours, blue, green, red.
TRAINING, VALIDATION = (180, 119, 31), (14, 127, 255)


def row(epoch: float = 1.0, **changes: Any) -> Any:
    made = {
        "step": round(3 * epoch),
        "epoch": epoch,
        "train_loss": 1.3,
        "train_accuracy": 0.42,
        "val_loss": 1.1,
        "val_accuracy": 0.5,
        "val_macro_f1": 0.38,
        "lr": 1e-4,
        "image_size": 96,
        "images_per_s": 30.0,
        "seconds": 9.0,
    }
    return made | changes


def drawn(path: Path, *rows: Any) -> np.ndarray:
    draw_curves(rows, path, "small_cnn, store")
    return cv2.imread(str(path))


def dots(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Pixels of a colour in the first plot, right of its legend."""
    near = np.abs(picture.astype(int) - colour).max(axis=2) < 40
    return near[:, 300:520]


@pytest.mark.parametrize("score", [0.0, 0.38, 1.0])
def test_a_single_evaluation_is_a_dot_that_is_seen(score: float, tmp_path: Path) -> None:
    scores = {"train_accuracy": score, "val_accuracy": score, "val_macro_f1": score}
    picture = drawn(tmp_path / "curves.png", row(**scores))
    for colour in (TRAINING, VALIDATION):
        assert dots(picture, colour).sum() > 40, "a disc, not a speck on the frame"


def test_a_rate_that_has_come_to_nothing_is_drawn(tmp_path: Path) -> None:
    assert drawn(tmp_path / "curves.png", row(lr=0.0)).std() > 10


def test_of_several_evaluations_there_is_a_line(tmp_path: Path) -> None:
    picture = drawn(tmp_path / "curves.png", row(1.0), row(2.0, train_loss=0.9), row(3.0))
    columns = dots(picture, TRAINING).any(axis=0)
    assert columns.mean() > 0.5
