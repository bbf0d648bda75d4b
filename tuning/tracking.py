"""The study in MLflow: one run for all of it, one below it a trial."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from ctray.errors import UserError
from ctray.training.history import HistoryRow
from ctray.training.trackers import MLFLOW_URI, MLflow, TrackerLostError
from tuning.study import StudyListener
from tuning.trials import Trial


class Tracking:
    """Follows a study's trials; a server that is lost does not end the search."""

    def __init__(self, name: str, study: str, settings: dict[str, Any]) -> None:
        self._name, self._study = name, study
        self._parent = MLflow(name, settings | {"study": study}, key=study)
        self._children: dict[int, MLflow] = {}

    def begin(self, number: int, params: dict[str, Any]) -> None:
        """A run for a trial; one that is resumed has it already."""
        title, key = f"{self._name}, trial {number}", f"{self._study}/{number}"
        settings = {"trial": number} | params
        try:
            self._children[number] = MLflow(title, settings, self._parent.id, key)
        except UserError as error:
            print(f"{error}: trial {number} continues without it", flush=True)

    def resume(self, number: int, step: int) -> None:
        """Its run has begun already."""

    def row(self, number: int, row: HistoryRow) -> None:
        """Its metrics."""
        if number in self._children:
            try:
                self._children[number].row(row)
            except TrackerLostError as error:
                print(f"{error}: trial {number} continues without it", flush=True)
                del self._children[number]

    def end(self, trial: Trial) -> None:
        """Its end; only a trial that trained to its last epoch is finished."""
        child = self._children.pop(trial.number, None)
        if child is not None:
            child.close(trial.state == "finished")

    def close(self, finished: bool) -> None:
        """The end of the search; trials that it cut have ended with it."""
        for child in self._children.values():
            child.close(False)
        self._parent.close(finished)


class Listeners:
    """Tells several listeners."""

    def __init__(self, *listeners: StudyListener) -> None:
        self._listeners = listeners

    def begin(self, number: int, params: dict[str, Any]) -> None:
        """A trial begins, or is to be resumed."""
        for listener in self._listeners:
            listener.begin(number, params)

    def resume(self, number: int, step: int) -> None:
        """A trial is resumed."""
        for listener in self._listeners:
            listener.resume(number, step)

    def row(self, number: int, row: HistoryRow) -> None:
        """An evaluation."""
        for listener in self._listeners:
            listener.row(number, row)

    def end(self, trial: Trial) -> None:
        """What became of a trial."""
        for listener in self._listeners:
            listener.end(trial)


@contextlib.contextmanager
def followed(
    listener: StudyListener, name: str, study: str, settings: dict[str, Any]
) -> Iterator[StudyListener]:
    """The listener for a block, and MLflow beside it where its variable is set.

    Args:
        listener: told first.
        name: of the study, for people.
        study: its id, by which a command that resumes it finds its runs.
        settings: logged with it.

    Raises:
        UserError: MLflow is asked for and cannot be used.
    """
    if not os.environ.get(MLFLOW_URI):
        yield listener
        return
    tracking, finished = Tracking(name, study, settings), False
    try:
        yield Listeners(listener, tracking)
        finished = True
    finally:
        tracking.close(finished)
