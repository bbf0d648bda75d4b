"""One command's part of a study: start desk, lanes and Tune, and put all in order afterwards."""

import tempfile
import threading
from typing import Any, cast

import ray
import ray.tune

from ctray.process import environment
from ctray.session import cluster_has_died
from tuning.adapter import TUNE_ENVIRONMENT, run_tune
from tuning.coordinator import Coordinator
from tuning.desk import Desk
from tuning.disk import tidy
from tuning.lanes import Lanes
from tuning.stop import StopSignal, ray_hears
from tuning.study import Limits, Study, StudyListener
from tuning.trials import Trial, write_table

# After so many deadly trials in one command it is not the trials.
_DEADLY_TRIALS = 100


def run_trials(study: Study, limits: Limits, listener: StudyListener) -> list[Trial]:
    """Run what is left of a study's trials; returns all of them.

    Needs a running Ray. Bundles of finished trials that may still be chosen, and checkpoints of
    those that were cut, stay in their folders.

    Raises:
        UserError: lanes cannot start, or their processes die again and again.
    """
    tidy(study)
    try:
        if study.memory.cut() or limits.allow_another(len(study.memory.trials())):
            _train(study, limits, listener)
    finally:
        study.memory.close()
    tidy(study)
    trials = study.memory.trials()
    write_table(trials, study.out / "trials.csv")
    return trials


def _train(study: Study, limits: Limits, listener: StudyListener) -> None:
    """Run trials until there are no more, or the time is up."""
    desk = cast(Any, ray.remote(num_cpus=0)(Desk)).remote()
    stop = StopSignal(desk)
    coordinator = Coordinator(study, limits, listener, desk, stop)
    # A trial ends with the second death of its process, and the lane takes the next one.
    restarts = 2 * (min(limits.trials or _DEADLY_TRIALS, _DEADLY_TRIALS) + 1)
    lanes = Lanes(desk, study.plan, restarts)
    timer = threading.Timer(limits.time_budget_s or 0.0, stop.set)
    with (
        environment(TUNE_ENVIRONMENT),
        tempfile.TemporaryDirectory(prefix="ctray-", ignore_cleanup_errors=True) as scratch,
    ):
        # Without a lane nothing moves; that it went home at the end says nothing new.
        lanes.start(scratch, on_end=stop.set)
        if limits.time_budget_s is not None:
            timer.start()
        try:
            run_tune(coordinator, stop, desk, study.plan, scratch)
        except ray.tune.TuneError as error:
            raise coordinator.error or error from error
        finally:
            timer.cancel()
            stop.set()
            if not cluster_has_died():
                lanes.wait()

    def dismiss_desk() -> None:
        """End the desk, of which Tune keeps handles, when no lane is left to hear the end."""
        if ray_hears():
            ray.kill(desk)

    lanes.when_all_have_ended(dismiss_desk)
    if coordinator.error is not None:
        raise coordinator.error
    lanes.check()
