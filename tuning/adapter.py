"""Tune's adapter: what Tune asks and tells, in the words of the coordinator.

Tune schedules: it asks the searcher for the next trial, holds a light actor for each that is at
work (`TrialProxy`), and shows every report of it to the scheduler. Nothing is decided here, and no
state of a trial is kept but its number; Tune calls all of it from the main thread, but the proxy,
which lives in a process of its own.
"""

import time
from typing import Any, cast

import ray
import ray.tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from ctray.training.plan import Plan
from tuning.coordinator import Coordinator
from tuning.desk import Event
from tuning.stop import StopSignal

# A trial's actor that dies comes back so often.
_ACTOR_RESTARTS = 3
# Trials that hear the end by then stop by themselves; one whose actor waits for a CPU never does.
_HEARD_S = 10.0
# What Tune reads from the environment when it starts.
TUNE_ENVIRONMENT = {
    # Ctrl-C is to end the command, not to be counted.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # The study has tables and curves of its own.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # A trial's end is told by the study, in a line.
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    # Not every result is an evaluation.
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    # It writes its state for Tuner.restore, which is not how a study is resumed.
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",
}


def run_tune(
    coordinator: Coordinator, stop: StopSignal, desk: Any, plan: Plan, scratch: str
) -> None:
    """Let Tune ask for trials until there are no more, or the search is stopped.

    Args:
        coordinator: who is asked and told.
        stop: the end of the search.
        desk: handle of the actor where the trials' reports arrive.
        plan: how many trials run at a time, and the CPUs that each proxy holds.
        scratch: local folder for what Tune itself writes.
    """
    trainable = ray.tune.with_resources(
        ray.tune.with_parameters(TrialProxy, desk=desk), {"CPU": plan.driver_cpus}
    )
    tuner = ray.tune.Tuner(
        trainable,
        tune_config=ray.tune.TuneConfig(
            num_samples=-1,
            max_concurrent_trials=plan.runs,
            search_alg=TrialSearcher(coordinator),
            scheduler=Scheduler(coordinator),
            reuse_actors=True,
        ),
        run_config=ray.tune.RunConfig(
            name="search",
            stop=Stopper(stop),
            storage_path=scratch,
            verbose=0,
            failure_config=cast(Any, ray.tune.FailureConfig)(max_failures=_ACTOR_RESTARTS),
            checkpoint_config=cast(Any, ray.tune.CheckpointConfig)(checkpoint_at_end=False),
        ),
    )
    tuner.fit()


class TrialProxy(ray.tune.Trainable):
    """A trial as Tune sees it: a light actor that stands for the training in a lane.

    Every step of it is the next thing that the desk hears of the trial. A result has `kind` and, by
    that, the fields of an evaluation, of the model, or of the end.
    """

    def setup(self, config: dict[str, Any], desk: Any = None) -> None:
        """Stand for the trial `number` of `config`; `desk` is the actor."""
        self._desk = desk
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Stand for another trial: the process is warm. The search has dismissed the one before."""
        self._number, self._seen = new_config["number"], 0
        return True

    def step(self) -> dict[str, Any]:
        """Wait for the next event."""
        event: Event = ray.get(self._desk.next.remote(self._number, self._seen))
        self._seen += 1
        return {**event["content"], "kind": event["kind"], "done": event["kind"] == "end"}


class TrialSearcher(Searcher):
    """Asks the coordinator for the next trial, for Tune."""

    def __init__(self, coordinator: Coordinator) -> None:
        super().__init__()
        self._coordinator = coordinator
        self._numbers: dict[str, int] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Tune writes it down for `Tuner.restore`, which is not how a study is resumed."""
        return {}

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """The number of the next trial, or that there are no more."""
        number = self._coordinator.next_trial()
        if number is None:
            return cast(Any, Searcher.FINISHED)
        self._numbers[trial_id] = number
        return {"number": number}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell of an actor that died and will not be started again; other ends are known."""
        if error:
            self._coordinator.lose(self._numbers[trial_id])

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """The memory is on disk."""


class Scheduler(FIFOScheduler):
    """Shows every report of a trial to the coordinator, which says whether the trial continues."""

    def __init__(self, coordinator: Coordinator) -> None:
        super().__init__()
        self._coordinator = coordinator

    def __getstate__(self) -> dict[str, Any]:
        """Tune writes it down for `Tuner.restore`, which is not how a study is resumed."""
        return {}

    def on_trial_result(
        self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]
    ) -> str:
        """Hand it on."""
        continues = self._coordinator.hear(trial.config["number"], result)
        return TrialScheduler.CONTINUE if continues else TrialScheduler.STOP

    def on_trial_complete(
        self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]
    ) -> None:
        """Hand on the end: Tune shows the last result of a trial nowhere else."""
        # A trial that was stopped before its actor began has none.
        if result.get("kind") == "end":
            self._coordinator.hear(trial.config["number"], result)


class Stopper(ray.tune.Stopper):
    """Ends what does not end by itself when the search is over: a trial that has no actor."""

    def __init__(self, stop: StopSignal) -> None:
        self._stop = stop
        self._since: float | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Tune writes it down for `Tuner.restore`, which is not how a study is resumed."""
        return {}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """No trial by itself: the scheduler does that."""
        return False

    def stop_all(self) -> bool:
        """Whether those that hear the end have had time to."""
        if not self._stop.is_set():
            return False
        self._since = self._since or time.monotonic()
        return time.monotonic() - self._since > _HEARD_S
