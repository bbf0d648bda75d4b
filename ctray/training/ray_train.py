"""Ray Train as our commands use it: a trainer for a loop, and the errors it may end with.

Neither torch nor timm is imported before the workers start: each takes the driver seconds.
"""

import os
from collections.abc import Callable
from typing import Any, cast

import ray.train
from ray.exceptions import RayActorError

from ctray.errors import UserError
from ctray.ray_internals import (
    DataParallelTrainer,
    DatasetsCallback,
    PlacementGroupCleanerCallback,
    WorkerGroupStartupFailedError,
    WorkerGroupStartupTimeoutError,
    WorkerHealthCheckFailedError,
    get_or_create_autoscaling_coordinator,
)
from ctray.training.backend import LazyTorchConfig
from ctray.training.failure import EndAtMistake, mistake_in
from ctray.training.plan import Plan

# Ray waits a minute each time for the workers' CPUs or GPUs; a cluster may have to grow for them.
_STARTS = 30
# Let glibc keep what a step frees for the next one. Ray runs the training in a thread, which glibc
# gives memory of its own: there no block is above 64 MB, and each that is larger is mapped, and
# faulted in page by page, in every step. What is faulted in comes in pages of 2 MB where the system
# gives them on request (docs/decisions/precision.md). Ray Data's tasks inherit it.
_MALLOC = {
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
}
_NOT_NEEDED = (DatasetsCallback, PlacementGroupCleanerCallback)


class Trainer(DataParallelTrainer):
    """Ray Train's trainer, less what our commands have or do themselves."""

    def _create_default_callbacks(self) -> list[Any]:
        # Two processes less. The stream is ours, not a data set of Ray Train's; and a command ends
        # with its controller, and its placement group with it: nobody need watch over the group.
        callbacks = super()._create_default_callbacks()
        return [one for one in callbacks if not isinstance(one, _NOT_NEEDED)]

    def _initialize_and_run_controller(self, **arguments: Any) -> Any:
        policy = EndAtMistake(cast(Any, self.run_config.failure_config))
        return super()._initialize_and_run_controller(**arguments | {"failure_policy": policy})

    def _register_sigint_handler(self, controller: Any) -> None:
        # Ray's would stay after the run, and end the process with 0: Ctrl-C is to be an exception.
        pass


def build_trainer(
    loop: Callable[[dict[str, Any]], Any],
    config: dict[str, Any],
    plan: Plan,
    scratch: str,
    restarts: int,
) -> Trainer:
    """A trainer that runs a loop on the plan's workers: a run has one, a search one a lane.

    Args:
        loop: run by every worker.
        config: its argument.
        plan: from `make_plan`.
        scratch: local folder for what Ray Train itself writes; nothing of it is read again.
        restarts: how often workers that die are replaced.
    """
    # The first that the controller asks something of: it starts while the controller does.
    get_or_create_autoscaling_coordinator()
    malloc = {name: os.environ.get(name, value) for name, value in _MALLOC.items()}
    resources = {"CPU": plan.cpus} | ({"GPU": plan.gpu_share} if plan.gpu else {})
    return Trainer(
        cast(Any, loop),
        backend_config=LazyTorchConfig(),
        train_loop_config=config,
        scaling_config=cast(Any, ray.train.ScalingConfig)(
            num_workers=plan.workers if plan.least is None else (plan.least, plan.workers),
            use_gpu=plan.gpu,
            resources_per_worker=resources,
        ),
        run_config=cast(Any, ray.train.RunConfig)(
            name="run",
            storage_path=scratch,
            failure_config=cast(Any, ray.train.FailureConfig)(
                max_failures=restarts, controller_failure_limit=_STARTS
            ),
            worker_runtime_env={} if plan.gpu else {"env_vars": malloc},
        ),
    )


def fit(trainer: Trainer, again: str = "resume the run") -> Any:
    """Run a trainer; returns what the first worker's loop returned.

    Args:
        trainer: from `build_trainer`.
        again: what to do when processes died; `resume` is the argument of a run's own command.

    Raises:
        UserError: a worker raised it, or the processes die again and again.
    """
    try:
        return cast(Any, trainer.fit()).return_value
    except RayActorError as error:
        sentence = f"the process that directs the training died: {again}"
        raise UserError(sentence, "resume") from error
    except ray.train.WorkerGroupError as error:
        if (mistake := mistake_in(error)) is not None:
            raise mistake from error
        failures = error.worker_failures.values()
        deaths = [one for one in failures if isinstance(one, WorkerHealthCheckFailedError)]
        if not deaths:
            raise
        failures_allowed = cast(Any, trainer.run_config.failure_config).max_failures
        raise _died(failures_allowed + 1, deaths[0].health_check_failure, again) from error
    except ray.train.ControllerError as error:
        cause = error.controller_failure
        if isinstance(cause, WorkerGroupStartupTimeoutError):
            raise UserError(
                f"the workers waited {_STARTS + 1} times in vain for their share of the cluster: "
                "see what else runs there, or use fewer",
                "workers",
                "concurrency",
            ) from error
        if not isinstance(cause, WorkerGroupStartupFailedError):
            raise
        raise _died(_STARTS + 1, cause, again) from error


def _died(times: int, last: Exception, again: str) -> UserError:
    # What Ray says may be a whole traceback, and goes on for lines about the actor.
    reason = " ".join(str(last).rpartition("Error: ")[2].split())[:300]
    return UserError(
        f"a worker's process died {times} times ({reason}): see to the cause, often too little "
        f"memory, and {again}",
        "resume",
    )
