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
from ctray.data.ingest.finding import find_images, masks_among
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


@dataclass(frozen=True)
class File:
    """A file to predict.

    Attributes:
        path: as it was named, or below the folder that was.
        fault: why it is no image, where its first bytes have said so; "" otherwise.
    """

    path: Path
    fault: str = ""

    def data(self) -> bytes:
        """Its bytes; ImageError where it is no image or cannot be opened."""
        if self.fault:
            raise ImageError("unreadable", self.fault)
        return read_file(self.path)


@dataclass(frozen=True)
class Files:
    """What was named to be predicted.

    Attributes:
        listed: a row each, in this order.
        masks: number of masks beside images, which get none.
    """

    listed: tuple[File, ...]
    masks: int


def predict_files(predictor: Predictor, files: Iterable[File]) -> Iterator[Line]:
    """Predict image files; one that cannot be opened or read gets its own error.

    A file of several pages or frames is an error too: which of them is meant, nobody said.
    """

    def load(file: File) -> ModelInput:
        return predictor.read(file.data(), file.path.name)

    for file, outcome in predict_many(predictor, files, load):
        yield outcome.line(str(file.path))


def expand(named: Iterable[Path], table: Path) -> Files:
    """Files as they are named, folders as all files at any depth below them, sorted by path.

    Folders are listed as `ctray prepare` lists them: linked ones once, hidden ones and the system's
    own not at all. The table itself, which an earlier command may have written, is left out too. A
    pipe or a device that was named has a fault.

    Args:
        named: files and folders.
        table: what the predictions will be written to.

    Raises:
        UserError: a path that does not exist, or a folder without a file.
    """
    listed: list[File] = []
    masks = 0
    for path in named:
        if path.is_dir():
            root = storage.absolute(str(path))
            names = storage.walk(root).files
            found = find_images(root, names)
            drawn = masks_among(found.images)
            masks += len(drawn)
            below = [
                File(path / name, found.faults.get(name, ""))
                for name in names
                if name not in drawn and not _is_same(path / name, table)
            ]
            if not below:
                raise UserError(f"{path} has no file to predict")
            listed += below
        elif os.path.lexists(path):
            listed.append(File(path, _fault(path)))
        else:
            raise UserError(f"no such file or folder: {path}")
    return Files(tuple(listed), masks)


def _fault(path: Path) -> str:
    """Why a path that was named is not opened: a pipe would wait for a writer."""
    return "no regular file" if os.path.exists(path) and not os.path.isfile(path) else ""


def _is_same(path: Path, table: Path) -> bool:
    return path.name == table.name and path.resolve() == table.resolve()
