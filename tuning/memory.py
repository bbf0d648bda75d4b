"""What a study remembers: an Optuna study on disk, from which a killed search is resumed.

Every trial is one of Optuna's, told COMPLETE, PRUNED or FAIL as it ends; one that is RUNNING when
nothing runs was cut, and is the first to be resumed. What Optuna has no field for (evaluations,
reason, seconds, latency) is in attributes of the trial, so that the storage is all there is to
keep. It is used in the main thread of a command only.
"""

import contextlib
import re
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import optuna
import pandas as pd
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from ctray.errors import UserError
from ctray.training import history
from ctray.training.history import HistoryRow
from tuning.objectives import Objective
from tuning.space import Space
from tuning.subject import as_json, check_same
from tuning.trials import Trial, TrialState

# Another process may hold SQLite's lock, such as a dashboard that reads; not for ever.
_LOCK_S = 60.0
_STATES: dict[OptunaState, TrialState] = {
    OptunaState.COMPLETE: "finished",
    OptunaState.PRUNED: "pruned",
    OptunaState.FAIL: "failed",
    OptunaState.RUNNING: "stopped",
}
_WARM_POINTS = 5
_CUT = "the search ended; the same command resumes it"


class Memory:
    """The trials of one study."""

    def __init__(
        self,
        storage: str,
        name: str,
        space: Space,
        objectives: Sequence[Objective],
        make_sampler: Callable[[int], BaseSampler],
        about: dict[str, Any],
    ) -> None:
        """Open a study, or begin one.

        Args:
            storage: URL of a database, as SQLAlchemy takes it.
            name: of the study in it.
            space: what its trials choose from.
            objectives: what for; the first is the one that pruning goes by.
            make_sampler: how, given the trials that were begun before: a sampler that begins
                again with the same seed would draw the same again.
            about: what all of its trials share, as plain values.

        Raises:
            UserError: the storage cannot be had, or the study there is about something else.
        """
        self._space, self._objectives = space, objectives
        self._storage = shown(storage)
        # A line for every trial, beside ours.
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with storage_errors(self._storage):
            self._study = optuna.create_study(
                storage=_open(storage),
                study_name=name,
                directions=[objective.direction for objective in objectives],
                load_if_exists=True,
            )
            begun = len(self._study.get_trials(deepcopy=False))
            self._check_subject(name, about, begun)
            self._study.sampler = make_sampler(begun)
        self._live: dict[int, optuna.Trial] = {}
        self._earlier_s = float(self._study.user_attrs.get("seconds", 0.0))
        self._begin = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since the study began, without the time between the commands that made it."""
        return self._earlier_s + time.monotonic() - self._begin

    def enqueue(self, points: Sequence[dict[str, Any]]) -> None:
        """Try these points first; those that are known already are passed over."""
        with storage_errors(self._storage):
            for point in points:
                self._study.enqueue_trial(self._space.to_optuna(point), skip_if_exists=True)

    def cut(self) -> list[int]:
        """Numbers of the trials that were cut and are to be resumed."""
        with storage_errors(self._storage):
            running = self._study.get_trials(deepcopy=False, states=(OptunaState.RUNNING,))
        return [trial.number for trial in running]

    def begin(self, number: int | None = None) -> tuple[int, dict[str, Any]]:
        """Begin a trial, or resume a cut one; returns its number and parameters."""
        with storage_errors(self._storage), warnings.catch_warnings():
            # Of samplers that Optuna calls experimental.
            warnings.simplefilter("ignore")
            if number is None:
                trial = self._study.ask()
            else:
                trial = optuna.Trial(self._study, self._frozen(number)._trial_id)
            self._live[trial.number] = trial
            # Of a cut trial these are on record; what a kill left open is drawn now.
            params = self._space.suggest(trial)
            starts = trial.user_attrs.get("starts", 0)
            trial.set_user_attr("starts", starts + 1)
            if not starts:
                trial.set_user_attr("started", self.seconds)
            trial.set_user_attr("begun", self.seconds)
            trial.set_user_attr("before", trial.user_attrs.get("seconds", 0.0))
            return trial.number, params

    def row(self, number: int, row: HistoryRow) -> None:
        """Remember an evaluation."""
        with storage_errors(self._storage):
            trial = self._live[number]
            trial.set_user_attr("rows", [*trial.user_attrs.get("rows", []), row])
            self._clock(trial)
            if len(self._objectives) == 1:
                # What TPE learns from pruned trials; Optuna has no such thing with several.
                score = history.value(row, self._objectives[0].row_key)
                trial.report(score, len(trial.user_attrs["rows"]))

    def lane(self, number: int, lane: int) -> None:
        """Remember where it is trained."""
        with storage_errors(self._storage):
            self._live[number].set_user_attr("lane", lane)

    def model(
        self, number: int, latency_ms: float, size_mb: float, budget_ms: float | None
    ) -> None:
        """Remember what does not depend on the training, and what it is above the budget."""
        with storage_errors(self._storage):
            trial = self._live[number]
            if "latency_ms" not in trial.user_attrs:
                # Of every trial: the Gaussian process wants as many of each.
                excess = 0.0 if budget_ms is None else latency_ms - budget_ms
                trial.set_constraint("latency_ms", excess)
            trial.set_user_attr("latency_ms", latency_ms)
            trial.set_user_attr("size_mb", size_mb)

    def end(self, number: int, state: TrialState, reason: str = "") -> Trial:
        """Remember how a trial ended; one that ended already stays as it is."""
        with storage_errors(self._storage):
            trial = self._live[number]
            if self._frozen(number).state == OptunaState.RUNNING:
                if reason:
                    trial.set_user_attr("reason", reason)
                self._clock(trial)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    self._tell(number, state)
            return self._as_trial(self._frozen(number))

    def trials(self) -> list[Trial]:
        """Every trial that was begun, by number."""
        with storage_errors(self._storage):
            found = self._study.get_trials(deepcopy=False)
        return [self._as_trial(one) for one in found if one.state in _STATES]

    def close(self) -> None:
        """Remember for how long it ran."""
        with storage_errors(self._storage):
            self._study.set_user_attr("seconds", self.seconds)

    def _check_subject(self, name: str, about: dict[str, Any], begun: int) -> None:
        """Write down what a new study is about; of an older one it must be the same."""
        known = self._study.user_attrs.get("about")
        if known is not None:
            whose = f"the study {name!r} in {self._storage} has"
            check_same(whose, known, about, "folder or name", "out", "study_name")
        elif begun:
            raise UserError(
                f"the study {name!r} in {self._storage} was not made by this search: choose "
                "another name",
                "study_name",
            )
        else:
            self._study.set_user_attr("about", as_json(about))

    def _tell(self, number: int, state: TrialState) -> None:
        if state == "finished":
            trial = self._as_trial(self._frozen(number))
            values = [objective.value(trial) for objective in self._objectives]
            self._study.tell(number, values)
        else:
            ends = {"pruned": OptunaState.PRUNED, "failed": OptunaState.FAIL}
            self._study.tell(number, state=ends[state])

    def _clock(self, trial: optuna.Trial) -> None:
        # As it goes: a killed search closes nothing.
        self._study.set_user_attr("seconds", self.seconds)
        attributes = trial.user_attrs
        trial.set_user_attr("seconds", attributes["before"] + self.seconds - attributes["begun"])

    def _frozen(self, number: int) -> FrozenTrial:
        return self._study.get_trials(deepcopy=False)[number]

    def _as_trial(self, frozen: FrozenTrial) -> Trial:
        known, state = frozen.user_attrs, _STATES[frozen.state]
        return Trial(
            number=frozen.number,
            state=state,
            reason=known.get("reason", _CUT if state == "stopped" else ""),
            params=self._space.from_optuna(frozen.params),
            # As JSON has them, which keeps their types.
            rows=tuple(cast(list[HistoryRow], known.get("rows", []))),
            started=known.get("started", 0.0),
            seconds=known.get("seconds", 0.0),
            latency_ms=known.get("latency_ms"),
            size_mb=known.get("size_mb"),
            starts=known.get("starts", 0),
            lane=known.get("lane"),
        )


def warm_points(folder: Path, space: Space) -> list[dict[str, Any]]:
    """What the best trials of an earlier study chose, as far as a space has it, best first.

    Raises:
        UserError: there is no study in the folder, or none of its trials lies in the space.
    """
    table = folder / "trials.csv"
    if not table.is_file():
        raise UserError(f"{folder} holds no study: it has no trials.csv", "warm_start")
    trials = pd.read_csv(table)
    done = trials[trials["state"] == "finished"].nlargest(_WARM_POINTS, "val_macro_f1")
    points = [point for _, row in done.iterrows() for point in space.inside(dict(row.dropna()))]
    if not points:
        raise UserError(
            f"the study in {folder} has no finished trial with all of this space's parameters, "
            "within its ranges: begin with another one",
            "warm_start",
        )
    return points


def shown(storage: str) -> str:
    """A storage's URL without the password in it."""
    return re.sub(r"(://[^/@:]*:)[^/@]*@", r"\1***@", storage)


@contextlib.contextmanager
def storage_errors(storage: str) -> Iterator[None]:
    """Turn what a database raises in the block into one sentence."""
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError, ImportError) as error:
        cause = error.__cause__ or error
        reason = str(getattr(cause, "orig", None) or cause).strip().splitlines()[0]
        raise UserError(
            f"the study's storage {storage} cannot be used ({reason}): see to it, then run the "
            "same command again, or name another storage",
            "storage",
        ) from error


def check_storage(storage: str) -> None:
    """Open a study's storage, and make it ready for one.

    Raises:
        UserError: it cannot be had.
    """
    with storage_errors(shown(storage)):
        _open(storage)


def _open(storage: str) -> BaseStorage:
    # A server may close a connection that an epoch has left idle.
    more: dict[str, Any] = {"pool_pre_ping": True}
    if storage.startswith("sqlite"):
        more = {"connect_args": {"timeout": _LOCK_S}}
    try:
        return RDBStorage(storage, engine_kwargs=more)
    except RuntimeError as error:
        # Its tables are of another version of Optuna.
        reason = str(error).strip().splitlines()[0]
        sentence = f"the study's storage {shown(storage)} cannot be used: {reason}"
        raise UserError(sentence, "storage") from error
