"""Run the trials of a study: Tune asks and judges, lanes train, the memory keeps it all."""

import contextlib
import math
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import ray
import ray.tune
from ray.exceptions import RayActorError, RayError
from ray.tune.search import Searcher

from ctray.config import Recipe
from ctray.data.store import Store
from ctray.errors import UserError
from ctray.process import environment
from ctray.session import cluster_has_died
from ctray.training.history import ROW_KEYS
from ctray.training.job import make_job
from ctray.training.plan import Plan
from ctray.training.ray_train import build_trainer, fit
from ctray.training.trainer import check_run
from tuning.desk import Desk, TrialJob
from tuning.judge import Judge, Pruner
from tuning.lane import lane_loop
from tuning.memory import Memory
from tuning.objectives import OBJECTIVES, Objective, best_of, front
from tuning.runner import TrialRun
from tuning.space import Space
from tuning.trials import State, Trial, write_table

_LATENCY = OBJECTIVES["latency_ms"]
# So many in a row that need no training, too slow ones or mistakes: there are no others.
_IN_VAIN = 50
# A lane without a trial is home by then, unless it never started.
_HOME_S = 20.0
# What a lane has to come to its next look, some steps away, and to save.
_SAVED_S = 600.0
# A trial's actor that dies comes back so often.
_ACTOR_RESTARTS = 3
# After so many deadly trials in one command it is not the trials.
_DEADLY_TRIALS = 100
# Trials that hear the end by then stop by themselves; one whose actor waits for a CPU never does.
_HEARD_S = 10.0
_TUNE_ENV = {
    # Ctrl-C is to end the command, not to be counted.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # The study has tables and curves of its own.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # A trial's end is told by the study, in a line.
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    # Not every result is an evaluation.
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    # It writes its state for Tuner.restore, which is not how a study goes on.
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",
}


class Listener(Protocol):
    """Who follows a study as it goes on."""

    def begin(self, number: int, params: dict[str, Any]) -> None:
        """A trial begins, or is to go on."""
        ...

    def resume(self, number: int, step: int) -> None:
        """A trial that was cut, or whose process died, goes on after so many steps."""
        ...

    def row(self, number: int, row: dict[str, Any]) -> None:
        """An evaluation of a trial."""
        ...

    def end(self, trial: Trial) -> None:
        """What became of a trial."""
        ...


@dataclass(frozen=True)
class Study:
    """A search: what it looks through, for what, and where it is kept.

    Attributes:
        id: goes into the bundle.
        memory: its trials.
        space: what they choose from.
        base: what they do not; its epochs are the most a trial trains.
        objectives: what for; the first is what trials are compared by.
        store: what they are trained on.
        out: its folder, absolute.
        plan: from `make_plan`.
        latency_budget_ms: a model that is slower is not trained; None: no limit.
    """

    id: str
    memory: Memory
    space: Space
    base: Recipe
    objectives: Sequence[Objective]
    store: Store
    out: Path
    plan: Plan
    latency_budget_ms: float | None = None

    def folder(self, number: int) -> Path:
        """Where a trial keeps its checkpoints and, when it has finished, its bundle."""
        return self.out / "trials" / f"{number:04d}"

    def bundle(self, number: int) -> Path:
        """Where the bundle of a finished trial lies."""
        return self.folder(number) / "bundle"


@dataclass(frozen=True)
class Limits:
    """How much is searched.

    Attributes:
        trials: in the whole study, those of earlier commands included. None: no limit.
        time_budget_s: of this command; then nothing goes on. None: no limit.
        pruner: who ends trials that are behind.
    """

    trials: int | None
    time_budget_s: float | None = None
    pruner: Pruner = "asha"


def recipe_of(base: Recipe, params: dict[str, Any]) -> Recipe:
    """The recipe of a trial; without a refit, for a trial is judged on the validation records.

    Raises:
        UserError: the values do not go together.
    """
    return Recipe.load(None, base.model_dump() | {"refit_epochs": 0} | params)


def run_trials(study: Study, limits: Limits, listener: Listener) -> list[Trial]:
    """Run what is left of a study's trials; returns all of them.

    Needs a running Ray. Bundles of finished trials that may still be chosen, and checkpoints of
    those that were cut, stay in their folders.

    Raises:
        UserError: lanes cannot start, or their processes die again and again.
    """
    run = _Run(study, limits, listener)
    run.tidy()
    try:
        if run.has_more():
            run.go()
    finally:
        study.memory.close()
    run.tidy()
    trials = study.memory.trials()
    write_table(trials, study.out / "trials.csv")
    return trials


class _Run:
    """One command's part of a study."""

    def __init__(self, study: Study, limits: Limits, listener: Listener) -> None:
        self.study, self.limits, self.listener = study, limits, listener
        self.memory, self.base, self.store = study.memory, study.base, study.store
        earlier = self.memory.trials()
        self.to_go_on = self.memory.cut()
        self.begun = len(earlier)
        self.rows = {trial.number: len(trial.rows) for trial in earlier}
        self.recipes: dict[int, Recipe] = {}
        self.ended: set[int] = set()
        # Models of the same network and input take the same time.
        self.models: dict[tuple[Any, ...], tuple[float, float]] = {}
        for trial in earlier:
            if trial.latency_ms is not None and trial.size_mb is not None:
                model = _architecture(recipe_of(self.base, trial.params))
                self.models[model] = trial.latency_ms, trial.size_mb
        self.desk: Any = None
        self.lost: set[int] = set()
        self.is_over = threading.Event()
        self.error: UserError | OSError | None = None
        self.judge = Judge(
            limits.pruner,
            study.objectives[0],
            self.base.epochs,
            *self.classes(),
            earlier,
            self.note,
            self.prune,
        )

    def classes(self) -> tuple[int, float]:
        """How many there are, and the most that who always answers the largest has right.

        An epoch leaves out what fills no batch: a standard error above its share of all records.
        """
        labels = self.store.records("train")["label"]
        share = float(labels.value_counts(normalize=True).max())
        return len(self.store.classes), share + math.sqrt(share * (1 - share) / len(labels))

    def has_more(self) -> bool:
        """Whether a trial is left to run."""
        most = self.limits.trials
        return bool(self.to_go_on) or most is None or self.begun < most

    def go(self) -> None:
        """Run trials until there are no more, or the time is up."""
        self.desk = cast(Any, ray.remote(num_cpus=0)(Desk)).remote()
        with (
            environment(_TUNE_ENV),
            tempfile.TemporaryDirectory(prefix="ctray-", ignore_cleanup_errors=True) as scratch,
        ):
            lanes = [
                self.begin_lane(number, f"{scratch}/lane-{number}")
                for number in range(self.study.plan.runs)
            ]
            for lane in lanes:
                # Without a lane nothing moves; that it went home at the end says nothing new.
                lane.add_done_callback(self.close)
            timer = threading.Timer(self.limits.time_budget_s or 0.0, self.close)
            if self.limits.time_budget_s is not None:
                timer.start()
            try:
                self.tune(scratch)
            except ray.tune.TuneError as error:
                raise self.error or error from error
            finally:
                timer.cancel()
                self.close()
                if not cluster_has_died():
                    self.wait_for(lanes)
        for lane in lanes:
            lane.add_done_callback(lambda _: self.dismiss_desk(lanes))
        if self.error is not None:
            raise self.error
        for lane in lanes:
            if lane.done():
                lane.result()

    def close(self, *_: object) -> None:
        """Let nothing more be begun, and what is at work save and end."""
        self.is_over.set()
        if self.desk is not None and _ray_hears():
            self.desk.close.remote()

    def dismiss_desk(self, lanes: list[Future[None]]) -> None:
        """End the desk, of which Tune keeps handles, when no lane is left to hear the end."""
        if all(lane.done() for lane in lanes) and _ray_hears():
            ray.kill(self.desk)

    def begin_lane(self, number: int, scratch: str) -> Future[None]:
        """Run a lane in a thread, for which the end of this process does not wait."""
        future: Future[None] = Future()

        def run() -> None:
            try:
                self.lane(number, scratch)
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(None)

        threading.Thread(target=run, name=f"lane {number}", daemon=True).start()
        return future

    def wait_for(self, lanes: list[Future[None]]) -> None:
        """Let lanes save and go home; one that waits for a busy cluster's CPUs is left."""
        deadline = time.monotonic() + _SAVED_S
        with contextlib.suppress(RayError):
            # A dead desk or cluster gives no answer, and does not send its lanes home.
            ray.get(self.desk.is_at_work.remote(), timeout=_HOME_S)
            while wait(lanes, timeout=_HOME_S).not_done and time.monotonic() < deadline:
                if not ray.get(self.desk.is_at_work.remote(), timeout=_HOME_S):
                    return

    def lane(self, number: int, scratch: str) -> None:
        """Run a lane until the desk closes."""
        config = {"desk": self.desk, "lane": number}
        # A trial ends with the second death of its process, and the lane goes on with the next.
        restarts = 2 * (min(self.limits.trials or _DEADLY_TRIALS, _DEADLY_TRIALS) + 1)
        trainer = build_trainer(lane_loop, config, self.study.plan, scratch, restarts)
        fit(trainer, again="run the same command again")

    def tune(self, scratch: str) -> None:
        """Let Tune run its trials."""
        trainable = ray.tune.with_resources(
            ray.tune.with_parameters(TrialRun, desk=self.desk), {"CPU": self.study.plan.driver_cpus}
        )
        tuner = ray.tune.Tuner(
            trainable,
            tune_config=ray.tune.TuneConfig(
                num_samples=-1,
                max_concurrent_trials=self.study.plan.runs,
                search_alg=_Suggestions(self),
                scheduler=self.judge,
                reuse_actors=True,
            ),
            run_config=ray.tune.RunConfig(
                name="search",
                stop=_Stopper(self.is_over),
                storage_path=scratch,
                verbose=0,
                failure_config=cast(Any, ray.tune.FailureConfig)(max_failures=_ACTOR_RESTARTS),
                checkpoint_config=cast(Any, ray.tune.CheckpointConfig)(checkpoint_at_end=False),
            ),
        )
        tuner.fit()

    # ── what Tune asks and tells ─────────────────────────────────────────────────────────────────

    def next_job(self) -> TrialJob | None:
        """The next trial that is worth a lane; None when there are no more."""
        for _ in range(_IN_VAIN):
            if not self.has_more() or self.is_over.is_set():
                return None
            if self.to_go_on:
                number, params = self.memory.begin(self.to_go_on.pop(0))
            else:
                number, params = self.memory.begin()
                self.begun += 1
            folder = self.study.folder(number)
            # From now on the study's folder is kept, whatever happens.
            folder.mkdir(parents=True, exist_ok=True)
            self.listener.begin(number, params)
            try:
                recipe = recipe_of(self.base, params)
                check_run(recipe, self.store, self.study.plan)
            except UserError as error:
                self.end(number, "failed", str(error))
                continue
            self.recipes[number] = recipe
            known = self.models.get(_architecture(recipe))
            if known is not None:
                self.memory.model(number, *known, self.study.latency_budget_ms)
                if self.is_slow(known[0]):
                    self.end(number, "pruned", self.too_slow(known[0]))
                    continue
            return {
                "number": number,
                "training": make_job(
                    recipe, self.store, self.study.plan, str(folder / "checkpoints")
                ),
                "bundle": str(self.study.bundle(number)),
                "known": self.rows.get(number, 0),
                "measures": known is None,
                "budget_ms": self.study.latency_budget_ms,
            }
        return None

    def note(self, number: int, result: dict[str, Any]) -> None:
        """Remember what a trial reports."""
        with self.error_kept():
            self.remember(number, result)

    @contextlib.contextmanager
    def error_kept(self) -> Iterator[None]:
        """End the search with what is raised in the block.

        Tune would make text of it, try the trial again, or print it and go on.
        """
        try:
            yield
        except UserError as error:
            self.fail(error)
        except OSError as error:
            # A write to a full disk names no file.
            error.filename = error.filename or str(self.study.out)
            self.fail(error)

    def fail(self, error: UserError | OSError) -> None:
        """End the search; what went wrong first is what is told."""
        self.error = self.error or error
        self.close()

    def remember(self, number: int, result: dict[str, Any]) -> None:
        """Put a result into the memory; a trial whose actor died tells again from its start."""
        if number in self.ended:
            return
        if result["kind"] == "start":
            self.memory.lane(number, result["lane"])
            # A process that died before its first checkpoint was written begins again, at step 0.
            if result["step"] or result["deaths"]:
                self.listener.resume(number, result["step"])
        elif result["kind"] == "row":
            if result["evaluation"] > self.rows.get(number, 0):
                self.rows[number] = result["evaluation"]
                row = {key: result[key] for key in ROW_KEYS}
                self.memory.row(number, row)
                self.listener.row(number, row)
        elif result["kind"] == "model":
            model = result["latency_ms"], result["size_mb"]
            # Of two trials that measured at the same time the first counts for both.
            model = self.models.setdefault(_architecture(self.recipes[number]), model)
            self.memory.model(number, *model, self.study.latency_budget_ms)
        elif result["ended"] == "finished":
            self.end(number, "finished", "")
        elif result["ended"] == "failed":
            self.end(number, "failed", result["reason"])
        elif result["ended"] == "unsaved":
            # Not the trial's fault, and the next would meet it, too.
            raise UserError(f"{result['reason']}, then run the same command again")
        elif result["ended"] == "slow":
            # As its lane measured it; of a model that two lanes measured, the first figure is kept.
            self.end(number, "pruned", self.too_slow(result["latency_ms"]))

    def prune(self, number: int, reason: str) -> None:
        """End a trial before its last epoch."""
        with self.error_kept():
            self.end(number, "pruned", reason)

    def lose(self, number: int) -> None:
        """Go on with a trial that Tune gave up for its actor's death, once."""
        with self.error_kept():
            if number in self.ended:
                return
            if number not in self.lost:
                # Tune gives one up at once whose reused actor died before it began.
                self.lost.add(number)
                self.to_go_on.append(number)
            else:
                self.end(number, "failed", "its actor died again and again")

    def end(self, number: int, state: State, reason: str) -> None:
        """Remember the end of a trial, and keep on disk what still matters."""
        self.ended.add(number)
        try:
            # Only from here, where the end is known: its actor may be dead.
            ray.get(self.desk.dismiss.remote(number))
        except RayActorError as error:
            raise UserError(
                "the process that hands out the trials died: run the same command again"
            ) from error
        self.listener.end(self.memory.end(number, state, reason))
        write_table(self.memory.trials(), self.study.out / "trials.csv")
        if state != "pruned":
            # The lane of a pruned one is about to write to its folder, and clears it itself.
            self.tidy(number)

    def is_slow(self, latency: float) -> bool:
        """Whether a model is over the latency budget."""
        budget = self.study.latency_budget_ms
        return budget is not None and latency > budget

    def too_slow(self, latency: float) -> str:
        """The reason of a trial that was not trained."""
        return f"too slow: {latency:.1f} ms, the budget is {self.study.latency_budget_ms:g} ms"

    # ── what is on disk ──────────────────────────────────────────────────────────────────────────

    def tidy(self, *just_ended: int) -> None:
        """Delete what can matter no more: all but the front's bundles and cut trials' checkpoints.

        Without `just_ended` also of trials that ended before; then no lane may be at work.
        """
        trials = self.memory.trials()
        primary = self.study.objectives[0]
        # One is chosen by the first objective and latency, whatever the others are.
        fronts = ((primary, _LATENCY), (*self.study.objectives, _LATENCY))
        keep = {trial.number for by in fronts for trial in front(trials, by)}
        best = best_of(trials, primary)
        keep |= {best.number} if best else set()
        for trial in trials:
            folder = self.study.folder(trial.number)
            if trial.state == "finished":
                shutil.rmtree(folder / "checkpoints", ignore_errors=True)
                if trial.number not in keep:
                    shutil.rmtree(folder, ignore_errors=True)
            elif trial.state != "stopped" and (trial.number in just_ended or not just_ended):
                shutil.rmtree(folder, ignore_errors=True)


class _Suggestions(Searcher):
    """Hands the study's next jobs to Tune."""

    def __init__(self, run: _Run) -> None:
        super().__init__(metric=run.study.objectives[0].row_key, mode="max")
        self._run = run
        self._numbers: dict[str, int] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Tune writes it down for `Tuner.restore`, which is not how a study goes on."""
        return {}

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """The next job, or that there are no more."""
        job = None
        with self._run.error_kept():
            job = self._run.next_job()
        if job is None:
            return cast(Any, Searcher.FINISHED)
        self._numbers[trial_id] = job["number"]
        return {"job": job}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """The judge has noted it, unless its actor died and will not be started again."""
        if error:
            self._run.lose(self._numbers[trial_id])

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """The memory is on disk."""


def _ray_hears() -> bool:
    """Whether Ray can be asked: a lane may come home after the cluster's death or this session."""
    return ray.is_initialized() and not cluster_has_died()


class _Stopper(ray.tune.Stopper):
    """Ends what does not end by itself when the search is over: a trial that has no actor."""

    def __init__(self, is_over: threading.Event) -> None:
        self._is_over = is_over
        self._since: float | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Tune writes it down for `Tuner.restore`, which is not how a study goes on."""
        return {}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """No trial by itself: the judge does that."""
        return False

    def stop_all(self) -> bool:
        """Whether those that hear the end have had time to."""
        if not self._is_over.is_set():
            return False
        self._since = self._since or time.monotonic()
        return time.monotonic() - self._since > _HEARD_S


def _architecture(recipe: Recipe) -> tuple[Any, ...]:
    return recipe.backbone, recipe.image_size, recipe.tta
