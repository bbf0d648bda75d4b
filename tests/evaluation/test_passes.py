"""A pass over a folder: names and warnings of its files. The model answers at once."""

import dataclasses
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from ctray.config import PreprocessSpec, Recipe
from ctray.data.image.dispatch import decode_picture
from ctray.data.image.picture import Picture
from ctray.engine.predictor import Predictor
from ctray.evaluation.passes import Seen, score_folder

pytestmark = pytest.mark.fast


@pytest.fixture
def predictor() -> Predictor:
    """One that finds all classes equally likely, and has seen nothing."""
    info = SimpleNamespace(
        classes=("a", "b"), preprocess=PreprocessSpec.of(Recipe(image_size=64), 64)
    )
    seen = SimpleNamespace(trained_on=(), chosen_on=())
    bundle: Any = SimpleNamespace(decision=None, info=info, seen=seen)
    engine: Any = SimpleNamespace(logits=lambda batch: np.zeros((len(batch), 2), np.float32))
    return Predictor(bundle, engine)


def picture(suffix: str, step: int) -> bytes:
    """An image that is not blank, and differs by step."""
    ramp = np.tile(np.arange(64, dtype=np.uint8) * step, (64, 1))
    return cv2.imencode(suffix, ramp)[1].tobytes()


def test_a_name_that_is_not_utf_8_is_scored_and_drawn(predictor: Predictor, tmp_path: Path) -> None:
    for step, (label, name) in enumerate((("a", b"r\xf6ntgen.png"), ("b", b"x.png"))):
        (tmp_path / label).mkdir()
        (tmp_path / label / os.fsdecode(name)).write_bytes(picture(".png", step + 1))
    scored = score_folder(predictor, tmp_path, Seen(predictor, trained=True, chosen=True))
    assert scored.table.frame["file"].tolist() == [r"a/r\xf6ntgen.png", "b/x.png"]
    assert scored.table.labels.tolist() == [0, 1]
    for file in scored.table.frame["file"]:
        assert scored.picture(file).shape == (64, 64)


def test_the_table_has_the_warnings_of_the_images(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decode(data: bytes, name: str | None) -> Picture:
        guesses = ("a guess",) if name == "b/0.png" else ()
        return dataclasses.replace(decode_picture(data, name), warnings=guesses)

    monkeypatch.setattr("ctray.evaluation.passes.decode_picture", decode)
    for step, label in enumerate("ab"):
        (tmp_path / label).mkdir()
        (tmp_path / label / "0.png").write_bytes(picture(".png", step + 1))
    scored = score_folder(predictor, tmp_path, Seen(predictor, trained=True, chosen=True))
    assert scored.table.frame["warning"].fillna("").tolist() == ["", "a guess"]
