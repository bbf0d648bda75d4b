"""Predict many images on this machine: decode in threads, infer in batches."""

import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np

from ctray.data.image.dispatch import EXTENSIONS, read_file
from ctray.data.image.picture import ImageError
from ctray.decision.prediction import Prediction
from ctray.engine.predictor import Predictor
from ctray.engine.table import Line
from ctray.errors import UserError

_BATCH = 32
Job = TypeVar("Job")


@dataclass(frozen=True)
class Outcome:
    """A prediction, or the reason why there is none."""

    prediction: Prediction | None
    error: str


def predict_many(
    predictor: Predictor, jobs: Iterable[Job], load: Callable[[Job], np.ndarray | None]
) -> Iterator[tuple[Job, Outcome]]:
    """Predict every job, in order.

    Args:
        predictor: what to predict with.
        jobs: anything `load` understands.
        load: job to engine input, uint8 (image_size, image_size); runs in threads. It raises
            ImageError for an image that cannot be read, and returns None to leave the job out.

    Yields:
        Each job that was not left out, with its outcome.
    """
    cv2.setNumThreads(1)

    def attempt(job: Job) -> np.ndarray | ImageError | None:
        try:
            return load(job)
        except ImageError as error:
            return error

    remaining = iter(jobs)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        while batch := list(itertools.islice(remaining, _BATCH)):
            loaded = list(pool.map(attempt, batch))
            readable = [item for item in loaded if isinstance(item, np.ndarray)]
            predictions = iter(predictor.predict(readable))
            for job, item in zip(batch, loaded, strict=True):
                if isinstance(item, np.ndarray):
                    yield job, Outcome(next(predictions), "")
                elif item is not None:
                    yield job, Outcome(None, str(item))


def predict_files(predictor: Predictor, paths: Iterable[Path]) -> Iterator[Line]:
    """Predict image files; one that cannot be opened or read gets its own error."""

    def load(path: Path) -> np.ndarray:
        return predictor.read(read_file(path))

    for path, outcome in predict_many(predictor, paths, load):
        yield Line(str(path), outcome.prediction, outcome.error)


def expand(paths: Iterable[Path]) -> list[Path]:
    """Files as they are named, folders as the image files below them, sorted, without masks.

    Raises:
        UserError: a path that does not exist, or a folder without an image.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            found = sorted(p for p in path.rglob("*") if _is_image(p))
            if not found:
                raise UserError(f"{path} has no image file")
            files += found
        elif path.exists():
            files.append(path)
        else:
            raise UserError(f"no such file or folder: {path}")
    return files


def _is_image(path: Path) -> bool:
    # In the Kaggle layout `masks` beside `images` holds drawings, not films.
    mask = path.parent.name == "masks" and (path.parent.parent / "images").is_dir()
    named = path.suffix.lower() in EXTENSIONS and not path.name.startswith(".")
    return named and not mask and path.is_file()
