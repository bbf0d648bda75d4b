"""The only module that touches private names of Ray.

`NAMES` lists each of them with the reason; a test looks all of them up in the installed Ray. A
class is taken from here (`from ctray.ray_internals import ExecutionCallback`), what is done with a
function or a variable is a function below. Ray's module is imported when a name of it is first
asked for: Ray Data and Ray Train cost a process one to two seconds, and most commands need neither.
"""

import functools
import importlib
import logging
from typing import Any, NamedTuple


class Internal(NamedTuple):
    """A name that Ray does not promise to keep.

    Attributes:
        module: of Ray, where it is.
        name: in that module; with a dot: an attribute of a class.
        why: what it is needed for.
    """

    module: str
    name: str
    why: str


_ERRORS = "ray.train.v2._internal.exceptions"
_TRAINER = "ray.train.v2.api.data_parallel_trainer"
_FAILURES = "ray.train.v2._internal.execution.failure_handling"
_TORCH = "ray.train.torch.config"

NAMES = (
    # A session.
    Internal(
        "ray._private.auto_init_hook",
        "enable_auto_connect",
        "a thread that outlives its session would start another cluster by a question",
    ),
    Internal(
        "ray._private.worker",
        "_global_node",
        "the folder of a cluster's logs, which go with a cluster of the command's own",
    ),
    Internal(
        "ray._private.state",
        "state",
        "what an autoscaling cluster may grow to; the public calls know what is there now",
    ),
    Internal(
        "ray._private.authentication",
        "__name__",
        "its logger speaks while a cluster starts, before Ray sets the level",
    ),
    Internal(
        "ray._private.state",
        "actors",
        "the actors of a cluster without a dashboard, which Ray's public list needs (tests, bench)",
    ),
    # A stream.
    Internal(
        "ray.data._internal.execution.execution_callback",
        "ExecutionCallback",
        "the scheduling loop sleeps in one between its steps (docs/decisions/stream.md)",
    ),
    Internal(
        "ray.data._internal.execution.execution_callback",
        "ExecutionCallback.on_execution_step",
        "the loop's step, in which it sleeps",
    ),
    Internal(
        "ray.data._internal.stats",
        "get_or_create_stats_actor",
        "a process that counts for a dashboard which a cluster of the command's own has not",
    ),
    Internal(
        "ray.data._internal.cluster_autoscaler",
        "get_or_create_autoscaling_coordinator",
        "an actor that starts beside the trainer, instead of after it",
    ),
    # A training.
    Internal(
        _TRAINER,
        "DataParallelTrainer",
        "the trainer under TorchTrainer, whose module imports torch in the driver",
    ),
    Internal(
        _TRAINER,
        "DataParallelTrainer._create_default_callbacks",
        "two of them start processes that a command has no use for (docs/decisions/session.md)",
    ),
    Internal(
        _TRAINER,
        "DataParallelTrainer._initialize_and_run_controller",
        "takes the failure policy, for which there is no setting",
    ),
    Internal(
        _TRAINER,
        "DataParallelTrainer._register_sigint_handler",
        "Ray's handler would end the process with 0: Ctrl-C is to be an exception",
    ),
    Internal(
        "ray.train.v2._internal.callbacks.datasets",
        "DatasetsCallback",
        "left out: the stream is not a data set of Ray Train's",
    ),
    Internal(
        "ray.train.v2._internal.callbacks.placement_group_callback",
        "PlacementGroupCleanerCallback",
        "left out: a placement group ends with the command",
    ),
    Internal(_FAILURES, "DefaultFailurePolicy", "ends a run at a user's mistake at once"),
    Internal(_FAILURES, "DefaultFailurePolicy.make_decision", "where it is decided"),
    Internal(_FAILURES, "FailureDecision", "what is decided"),
    Internal(_ERRORS, "WorkerGroupStartupFailedError", "tells workers that died at their start"),
    Internal(_ERRORS, "WorkerGroupStartupTimeoutError", "tells workers that found no room"),
    Internal(_ERRORS, "WorkerHealthCheckFailedError", "tells a worker that died"),
    # The process group, which Ray's own backend sets up from a process that would import torch.
    Internal("ray.train._internal.utils", "get_address_and_port", "where the workers meet"),
    Internal(_TORCH, "_set_torch_distributed_env_vars", "rank and world size for torch"),
    Internal(_TORCH, "_setup_torch_process_group", "sets it up, as Ray's backend does"),
    Internal(_TORCH, "_shutdown_torch", "ends it, as Ray's backend does"),
)


def look_up(internal: Internal) -> Any:
    """The thing itself.

    Raises:
        ImportError: the installed Ray has no such module.
        AttributeError: the module has no such name.
    """
    return functools.reduce(
        getattr, internal.name.split("."), importlib.import_module(internal.module)
    )


def __getattr__(name: str) -> Any:
    """A listed name, imported from Ray now."""
    for internal in NAMES:
        if internal.name == name:
            return look_up(internal)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def stay_disconnected() -> None:
    """From now on a question to Ray is an error where there is no cluster; it starts none."""
    from ray._private import auto_init_hook

    auto_init_hook.enable_auto_connect = False


def set_start_level(level: int) -> None:
    """Set the level of what Ray says while a cluster starts, before it sets its own level."""
    logging.getLogger("ray._private.authentication").setLevel(level)


def session_folder() -> str:
    """The folder with the logs of the cluster that this process started."""
    from ray._private import worker

    node: Any = worker._global_node
    return node.get_session_dir_path()


def largest_resources() -> dict[str, float]:
    """What an autoscaling cluster may grow to, in Ray's units; empty where nothing says so."""
    from ray._private.state import state

    largest = state.get_max_resources_from_cluster_config() or {}
    return {name: float(value) for name, value in largest.items()}


class _Nobody:
    """Hears what Ray Data counts, in place of the actor that keeps it for a dashboard."""

    def __getattr__(self, name: str) -> "_Nobody":
        return self

    def remote(self, *_: object) -> None:
        """Forget it."""


def keep_no_data_statistics() -> None:
    """From now on Ray Data starts no actor in this process that counts for a dashboard."""
    from ray.data._internal import stats

    stats.get_or_create_stats_actor = _Nobody  # type: ignore[assignment]


def join_process_group(backend: str, rank: int, world: int) -> None:
    """Join torch's process group at MASTER_ADDR and MASTER_PORT of the environment.

    Args:
        backend: `nccl` or `gloo`.
        rank: of this worker, from 0.
        world: how many workers there are.
    """
    from ray.train.torch import config

    config._set_torch_distributed_env_vars()
    config._setup_torch_process_group(backend, rank, world, "env://")


def leave_process_group(is_shared: bool) -> None:
    """Free what GPUs hold, and end torch's process group where more than one worker is in it."""
    from ray.train.torch import config

    config._shutdown_torch(destroy_process_group=is_shared)
