"""Predict many images on this machine: decode in threads, infer in batches."""

import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import cv2

from ctray import storage
from ctray.data.image.dispatch import read_file
from ctray.data.image.picture import ImageError
from ctray.decision.prediction import Prediction
from ctray.engine.predictor import ModelInput, Predictor
from ctray.engine.table import Known, Line
from ctray.errors import UserError

_BATCH = 32
Job = TypeVar("Job")


@dataclass(frozen=True)
class Outcome:
    """A prediction, or the reason why there is none.

    Attributes:
        prediction: None where there is an error.
        error: the reason; "" without one.
        warnings: of reading the image.
    """

    prediction: Prediction | None
    error: str = ""
    warnings: tuple[str, ...] = ()

    def line(self, file: str, known: Known | None = None) -> Line:
        """Its row of the table."""
        return Line(file, self.prediction, self.error, known, "; ".join(self.warnings))


def predict_many(
    predictor: Predictor, jobs: Iterable[Job], load: Callable[[Job], ModelInput | None]
) -> Iterator[tuple[Job, Outcome]]:
    """Predict every job, in order.

    Args:
        predictor: what to predict with.
        jobs: anything `load` understands.
        load: job to engine input; runs in threads. It raises ImageError for an image that cannot
            be read, and returns None to leave the job out.

    Yields:
        Each job that was not left out, with its outcome.
    """
    cv2.setNumThreads(1)

    def attempt(job: Job) -> ModelInput | ImageError | None:
        try:
            return load(job)
        except ImageError as error:
            return error

    remaining = iter(jobs)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        while batch := list(itertools.islice(remaining, _BATCH)):
            loaded = list(pool.map(attempt, batch))
            readable = [item.pixels for item in loaded if isinstance(item, ModelInput)]
            predictions = iter(predictor.predict(readable))
            for job, item in zip(batch, loaded, strict=True):
                if isinstance(item, ModelInput):
                    yield job, Outcome(next(predictions), warnings=item.warnings)
                elif item is not None:
                    yield job, Outcome(None, str(item))


def predict_files(predictor: Predictor, paths: Iterable[Path]) -> Iterator[Line]:
    """Predict image files; one that cannot be opened or read gets its own error.

    A file of several pages or frames is an error too: which of them is meant, nobody said.
    """

    def load(path: Path) -> ModelInput:
        return predictor.read(read_file(path), path.name)

    for path, outcome in predict_many(predictor, paths, load):
        yield outcome.line(str(path))


@dataclass(frozen=True)
class Files:
    """What was named to be predicted.

    Attributes:
        paths: a row each, in this order.
        masks: number of masks beside images, which get none.
    """

    paths: tuple[Path, ...]
    masks: int


def expand(named: Iterable[Path], table: Path) -> Files:
    """Files as they are named, folders as all files at any depth below them, sorted by path.

    Linked folders are followed. What is hidden (a name that begins with a dot) is left out, and so
    is the table itself, which an earlier command may have written into one of the folders.

    Args:
        named: files and folders.
        table: what the predictions will be written to.

    Raises:
        UserError: a path that does not exist, or a folder without a file.
    """
    paths: list[Path] = []
    masks = 0
    for path in named:
        if not path.is_dir():
            if not os.path.lexists(path):
                raise UserError(f"no such file or folder: {path}")
            paths.append(path)
            continue
        below = [path / name for name in storage.walk(str(path))[0]]
        found = [file for file in below if not _is_same(file, table)]
        if not found:
            raise UserError(f"{path} has no file to predict")
        images = [file for file in found if not _is_mask(file)]
        paths += images
        masks += len(found) - len(images)
    return Files(tuple(paths), masks)


def _is_mask(path: Path) -> bool:
    # In the Kaggle layout `masks` beside `images` holds drawings, not films.
    return path.parent.name == "masks" and (path.parent.parent / "images").is_dir()


def _is_same(path: Path, table: Path) -> bool:
    return path.name == table.name and path.resolve() == table.resolve()
