"""The coordinator: the one owner of a trial's state while a command runs.

What a trial is to do, what it has reported and how it ended is changed here and nowhere else: in
the study's storage (`Memory`), on disk (`tuning.disk`) and towards who follows the study
(`StudyListener`).

Threads. There is no lock, for one thread calls every method:

- The main thread of the command runs Tune's loop, which calls the coordinator through its adapter
  (`tuning.adapter`). So the memory, the judge, the disk and the listener, which the coordinator
  calls, are used in the main thread only.
- The thread of a lane and the timer of the time budget never call the coordinator. All they do is
  set the `StopSignal`, which any thread may; the coordinator looks at it before it begins a trial.
- Other processes (the workers of the lanes, Tune's proxies of the trials) speak to the desk only,
  an actor with one event loop; what they report comes back through Tune, in the main thread.
"""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import ray
from ray.exceptions import RayActorError

from ctray.config import Recipe
from ctray.data.store import Store
from ctray.errors import UserError
from ctray.training.history import ROW_KEYS, HistoryRow
from ctray.training.job import make_job
from ctray.training.trainer import check_run
from tuning.desk import TrialJob
from tuning.disk import tidy
from tuning.judge import Judge
from tuning.stop import StopSignal
from tuning.study import Limits, Study, StudyListener, recipe_of
from tuning.trials import TrialState, write_table

# So many in a row that need no training, too slow ones or mistakes: there are no others.
_IN_VAIN = 50


@dataclass(frozen=True)
class _Figures:
    """What is measured of a model, whatever its weights."""

    latency_ms: float
    size_mb: float


class Coordinator:
    """Begins trials, hears what they report, and ends them.

    Attributes:
        error: what ended the search, the first if there were several; None while all is well.
    """

    def __init__(
        self, study: Study, limits: Limits, listener: StudyListener, desk: Any, stop: StopSignal
    ) -> None:
        """Take over a study as its memory has it.

        Args:
            study: whose trials they are.
            limits: how much is searched.
            listener: told what happens as it happens.
            desk: handle of the actor where jobs are handed in.
            stop: set by whoever ends the search.
        """
        self.error: UserError | OSError | None = None
        self._study, self._memory, self._limits = study, study.memory, limits
        self._listener, self._desk, self._stop = listener, desk, stop
        earlier = self._memory.trials()
        self._to_resume = self._memory.cut()
        self._begun = len(earlier)
        # By trial: its evaluations on record, its recipe, whether it ended, whether its actor died.
        self._rows = {trial.number: len(trial.rows) for trial in earlier}
        self._recipes: dict[int, Recipe] = {}
        self._ended: set[int] = set()
        self._lost: set[int] = set()
        # Latency and size: models of the same network and input have the same.
        self._models: dict[tuple[str, int, str], _Figures] = {}
        for trial in earlier:
            if trial.latency_ms is not None and trial.size_mb is not None:
                model = _architecture(recipe_of(study.base, trial.params))
                self._models[model] = _Figures(trial.latency_ms, trial.size_mb)
        self._judge = Judge(
            pruner=limits.pruner,
            objective=study.objectives[0],
            epochs=study.base.epochs,
            classes=len(study.store.classes),
            largest=_most_by_guessing(study.store),
            earlier=earlier,
        )

    def next_trial(self) -> int | None:
        """Hand the job of the next trial that is worth a lane to the desk.

        Returns:
            The trial's number; None when there are no more.
        """
        with self._error_kept():
            for _ in range(_IN_VAIN):
                is_left = bool(self._to_resume) or self._limits.allow_another(self._begun)
                if not is_left or self._stop.is_set():
                    return None
                job = self._begin()
                if job is not None:
                    self._judge.add(job["number"])
                    self._desk.submit.remote(job)
                    return job["number"]
        return None

    def hear(self, number: int, report: dict[str, Any]) -> bool:
        """Take in what a trial reports; returns whether it continues.

        Args:
            number: of the trial.
            report: the content of an `Event` of the desk, and its `kind`.
        """
        continues = True
        with self._error_kept():
            if number in self._ended:
                # A trial whose actor died reports again from its start.
                return True
            if report["kind"] == "start":
                self._memory.lane(number, report["lane"])
                # A process that died before it had a first checkpoint begins again, at step 0.
                if report["step"] or report["deaths"]:
                    self._listener.resume(number, report["step"])
            elif report["kind"] == "model":
                self._note_model(number, report["latency_ms"], report["size_mb"])
            elif report["kind"] == "row" and report["evaluation"] > self._rows.get(number, 0):
                # Tune adds keys of its own.
                row = cast(HistoryRow, {key: report[key] for key in ROW_KEYS})
                self._note_row(number, row)
                reason = self._judge.reason_to_end(number, row)
                if reason:
                    continues = False
                    self._end(number, "pruned", reason)
            elif report["kind"] == "end":
                self._note_end(number, report)
        return continues

    def lose(self, number: int) -> None:
        """Resume a trial that Tune gave up for its actor's death, once."""
        with self._error_kept():
            if number in self._ended:
                return
            if number not in self._lost:
                # Tune gives a trial up at once whose reused actor died before it began.
                self._lost.add(number)
                self._to_resume.append(number)
            else:
                self._end(number, "failed", "its actor died again and again")

    def _begin(self) -> TrialJob | None:
        """Begin or resume a trial; None when it ended at once, for it cannot be trained."""
        if self._to_resume:
            number, params = self._memory.begin(self._to_resume.pop(0))
        else:
            number, params = self._memory.begin()
            self._begun += 1
        folder, store, plan = self._study.folder(number), self._study.store, self._study.plan
        # From now on the study's folder is kept, whatever happens.
        folder.mkdir(parents=True, exist_ok=True)
        self._listener.begin(number, params)
        try:
            recipe = recipe_of(self._study.base, params)
            check_run(recipe, store, plan)
        except UserError as error:
            self._end(number, "failed", str(error))
            return None
        self._recipes[number] = recipe
        known = self._models.get(_architecture(recipe))
        budget = self._study.latency_budget_ms
        if known is not None:
            self._memory.model(number, known.latency_ms, known.size_mb, budget)
            if budget is not None and known.latency_ms > budget:
                self._end(number, "pruned", self._too_slow(known.latency_ms))
                return None
        return {
            "number": number,
            "training": make_job(recipe, store, plan, str(folder / "checkpoints")),
            "bundle": str(self._study.bundle(number)),
            "known": self._rows.get(number, 0),
            "measures": known is None,
            "budget_ms": budget,
        }

    def _note_model(self, number: int, latency_ms: float, size_mb: float) -> None:
        # Of two trials that measured at the same time the first counts for both.
        architecture = _architecture(self._recipes[number])
        model = self._models.setdefault(architecture, _Figures(latency_ms, size_mb))
        budget = self._study.latency_budget_ms
        self._memory.model(number, model.latency_ms, model.size_mb, budget)

    def _note_row(self, number: int, row: HistoryRow) -> None:
        self._rows[number] = row["evaluation"]
        self._memory.row(number, row)
        self._listener.row(number, row)

    def _note_end(self, number: int, report: dict[str, Any]) -> None:
        ended = report["ended"]
        if ended == "finished":
            self._end(number, "finished", "")
        elif ended == "failed":
            self._end(number, "failed", report["reason"])
        elif ended == "unsaved":
            # Not the trial's fault, and the next would meet it, too.
            arguments = report.get("arguments", ())
            raise UserError(f"{report['reason']}, then run the same command again", *arguments)
        elif ended == "slow":
            # As its lane measured it; of a model that two lanes measured, the first figure is kept.
            self._end(number, "pruned", self._too_slow(report["latency_ms"]))

    def _end(self, number: int, state: TrialState, reason: str) -> None:
        """Remember the end of a trial, and keep on disk what still matters."""
        self._ended.add(number)
        try:
            # Only from here, where the end is known: its actor may be dead.
            ray.get(self._desk.dismiss.remote(number))
        except RayActorError as error:
            raise UserError(
                "the process that hands out the trials died: run the same command again"
            ) from error
        self._listener.end(self._memory.end(number, state, reason))
        write_table(self._memory.trials(), self._study.out / "trials.csv")
        if state != "pruned":
            # The lane of a pruned one is about to write to its folder, and clears it itself.
            tidy(self._study, just_ended=number)

    def _too_slow(self, latency: float) -> str:
        """The reason of a trial that was not trained."""
        return f"too slow: {latency:.1f} ms, the budget is {self._study.latency_budget_ms:g} ms"

    @contextlib.contextmanager
    def _error_kept(self) -> Iterator[None]:
        """End the search with what is raised in the block.

        Tune would make text of it, try the trial again, or print it and continue.
        """
        try:
            yield
        except UserError as error:
            self._fail(error)
        except OSError as error:
            # A write to a full disk names no file.
            error.filename = error.filename or str(self._study.out)
            self._fail(error)

    def _fail(self, error: UserError | OSError) -> None:
        """End the search; what went wrong first is what is told."""
        self.error = self.error or error
        self._stop.set()


def _architecture(recipe: Recipe) -> tuple[str, int, str]:
    return recipe.backbone, recipe.image_size, recipe.tta


def _most_by_guessing(store: Store) -> float:
    """The most that who always answers the largest class has right, as a share.

    An epoch leaves out what fills no batch: a standard error above its share of all records.
    """
    labels = store.records("train")["label"]
    share = float(labels.value_counts(normalize=True).max())
    return share + math.sqrt(share * (1 - share) / len(labels))
