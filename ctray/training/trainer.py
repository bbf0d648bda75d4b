"""One run through Ray Train, from recipe and store to bundle.

Neither torch nor timm is imported before the workers start, unless there are checkpoints to go on
from: each takes the driver seconds.
"""

import contextlib
import os
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import ray
import ray.train
from ray.exceptions import GetTimeoutError, RayActorError, RayError
from ray.util.queue import Queue

from ctray import storage
from ctray.config import Recipe
from ctray.data.store import Store
from ctray.data.stream import smallest_share, steps_per_epoch
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
from ctray.session import cluster_has_died
from ctray.training.backend import LazyTorchConfig
from ctray.training.failure import EndAtMistake, mistake_in
from ctray.training.plan import Plan
from ctray.training.run import recorded_recipe, write_config
from ctray.training.trackers import Row, Tracker, TrackerLostError, trackers_for
from ctray.training.worker import Job, train_loop

if TYPE_CHECKING:
    from ctray.artefact.bundle import BundleInfo, SeenRecords
    from ctray.training.checkpoints import State

# A worker that dies is replaced this often; something that kills it every time must end.
_RESTARTS = 5
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
# The actor between worker and driver: when it dies a new one takes its place.
_MESSENGER = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1}
# Longer no dead cluster is waited for.
_LAST_WORD_S = 5.0


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


class Listener(Protocol):
    """Who follows a run as it goes on; called from a thread."""

    def start(self, step: int, interval: int, workers: int, again: bool) -> None:
        """So many workers are ready to go on after `step` steps; `again`: others died before.

        What was done after that checkpoint is lost, at most `interval` steps.
        """
        ...

    def first(self, times: dict[str, float]) -> None:
        """The first step of these workers is done; the times are seconds since the epoch."""
        ...

    def progress(self, step: int, steps: int) -> None:
        """So many of all steps are done."""
        ...

    def row(self, row: Row) -> None:
        """An evaluation."""
        ...

    def say(self, text: str) -> None:
        """Something worth a line."""
        ...


def check_run(recipe: Recipe, store: Store, plan: Plan) -> None:
    """Raise UserError for every mistake that can be known before a worker starts."""
    for split in ("train", "val"):
        if len(store.records(split)) == 0:
            raise UserError(f"the {split} split is empty: a class needs at least three patients")
    steps_per_epoch(len(store.records("train")), recipe.batch_size)
    # A batch is shared in pairs, and a worker without a record would not keep step.
    least = 2 * plan.workers - 1
    if recipe.batch_size < least:
        raise UserError(
            f"batch_size={recipe.batch_size} is too small for {plan.workers} workers: "
            f"--set batch_size={least + 1} or more"
        )
    fewest = smallest_share(recipe.batch_size, plan.workers)
    if recipe.accumulate > fewest:
        raise UserError(
            f"accumulate={recipe.accumulate} is more than the {fewest} records of a worker's "
            f"batch: --set accumulate={fewest} or less"
        )


def make_job(
    recipe: Recipe, store: Store, plan: Plan, folder: str, refit_of: str | None = None
) -> Job:
    """What the workers are told of a training.

    Args:
        recipe: what to train.
        store: what on.
        plan: from `make_plan`.
        folder: absolute path or URI for the checkpoints; a run goes on from what is there.
        refit_of: a bundle, or the checkpoints of a run; set, this one starts from its weights and
            learns from training and validation records, without evaluation.
    """
    return {
        "recipe": recipe.model_dump(),
        "store": store.place[0],
        "version": store.place[1],
        "threads": plan.threads,
        "prefetch": plan.prefetch,
        "checkpoints": folder,
        "refit_of": refit_of,
    }


def build_trainer(
    loop: Callable[[dict[str, Any]], Any],
    config: dict[str, Any],
    plan: Plan,
    scratch: str,
    restarts: int,
) -> Trainer:
    """A trainer that runs a loop on the plan's workers: `train` makes one, a search one a lane.

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


def fit(
    trainer: Trainer, again: str = "run the same command with --resume", fewer: str = "--workers"
) -> Any:
    """Run a trainer; returns what the first worker's loop returned.

    Args:
        trainer: from `build_trainer`.
        again: what to do when processes died.
        fewer: options that ask for fewer workers.

    Raises:
        UserError: a worker raised it, or the processes die again and again.
    """
    try:
        return cast(Any, trainer.fit()).return_value
    except RayActorError as error:
        raise UserError(f"the process that directs the training died: {again}") from error
    except ray.train.WorkerGroupError as error:
        failures = error.worker_failures.values()
        if (mistake := mistake_in(error)) is not None:
            raise mistake from error
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
                f"see what else runs there, or use fewer with {fewer}"
            ) from error
        if not isinstance(cause, WorkerGroupStartupFailedError):
            raise
        raise _died(_STARTS + 1, cause, again) from error


def _died(times: int, last: Exception, again: str) -> UserError:
    # What Ray says may be a whole traceback, and goes on for lines about the actor.
    reason = " ".join(str(last).rpartition("Error: ")[2].split())[:300]
    return UserError(
        f"a worker's process died {times} times ({reason}): see to the cause, often too little "
        f"memory, and {again}"
    )


def train(
    recipe: Recipe, store: Store, out: Path, plan: Plan, listener: Listener, folder: str
) -> Row:
    """Train, and write `bundle/`, `history.jsonl`, `curves.png` and `tensorboard/` into `out`.

    Needs a running Ray. A run whose checkpoints are in `folder` goes on from the newest of them;
    they are deleted when the bundle is written.

    Args:
        recipe: what to train.
        store: what to train on.
        out: a folder.
        plan: from `make_plan`.
        listener: told what happens as it happens.
        folder: absolute path or URI for the checkpoints.

    Returns:
        The row of the best evaluation: the bundle's weights are of it, or were refitted from it.

    Raises:
        UserError: the recipe cannot work, training diverged, a checkpoint cannot be written, the
            processes die again and again; or the checkpoints in `folder` are of another run.
    """
    check_run(recipe, store, plan)
    refit_folder = storage.join(folder, "refit")
    begun = _begun(recipe, store, folder, listener)
    run_id = write_config(out, recipe, store, plan)
    title = f"{recipe.backbone}, {store.root.name}"
    settings = {"recipe": recipe.model_dump(), "fingerprint": store.fingerprint}
    trackers = trackers_for(out, title, settings, run_id)
    if begun is not None and begun["finished"]:
        # Killed after it, in its refit: the last evaluation may not have been written.
        _tell(trackers, listener, "start", begun["history"])
        for tracker in trackers:
            tracker.close(True)
        best = cast(Row, begun["best"])
    else:
        best = _run(recipe, store, plan, listener, folder, trackers)
    if recipe.refit_epochs:
        run_refit(recipe, store, plan, listener, refit_folder, folder)
    from ctray.artefact.bundle import write_bundle
    from ctray.training import checkpoints

    weights = checkpoints.load_best(refit_folder if recipe.refit_epochs else folder)
    write_bundle(str(out / "bundle"), *describe(best, recipe, store), weights)
    # Only now: until the bundle is whole they are all there is of the training.
    checkpoints.clear(refit_folder)
    storage.delete_if_empty(refit_folder)
    checkpoints.clear(folder)
    # A folder that was named to us stays.
    if folder == storage.absolute(str(out / "checkpoints")):
        storage.delete_if_empty(folder)
    return best


def run_refit(
    recipe: Recipe, store: Store, plan: Plan, listener: Listener, folder: str, refit_of: str
) -> None:
    """Train on from a bundle's or a run's best weights with the validation records as well.

    Needs a running Ray. `folder` then holds checkpoints of which the best weights are the last;
    what is there before is gone on with. Raises what `train` raises.
    """
    refit = recipe.for_refit()
    _begun(refit, store, folder, listener)
    listener.say(f"refit: {refit.epochs} epochs on training and validation records")
    _run(refit, store, plan, listener, folder, [], refit_of=refit_of)


def _run(
    recipe: Recipe,
    store: Store,
    plan: Plan,
    listener: Listener,
    folder: str,
    trackers: list[Tracker],
    refit_of: str | None = None,
) -> Row:
    """Fit with somebody listening."""
    messages = Queue(actor_options=_MESSENGER)
    finished, silent = False, threading.Event()
    with (
        tempfile.TemporaryDirectory(prefix="ctray-train-", ignore_cleanup_errors=True) as scratch,
        ThreadPoolExecutor(1) as thread,
    ):
        job = make_job(recipe, store, plan, folder, refit_of)
        config = {"job": job, "messages": messages}
        trainer = build_trainer(train_loop, config, plan, scratch, _RESTARTS)
        following = thread.submit(_follow, messages, silent, trackers, listener)
        try:
            outcome = fit(trainer)
            if "error" in outcome:
                fix = ", then run the same command with --resume"
                raise UserError(outcome["error"] + fix * outcome["is_unsaved"])
            finished = True
        finally:
            # Whatever ends this, the follower must not wait for what cannot come.
            try:
                if not cluster_has_died():
                    last = messages.actor.put.remote(None)  # type: ignore[attr-defined]
                    with contextlib.suppress(RayError):
                        ray.get(last, timeout=_LAST_WORD_S)
                        _wait_for(following, messages, finished)
            except TimeoutError:
                pass
            finally:
                silent.set()
            following.result()
            for tracker in trackers:
                tracker.close(finished)
    return outcome["best"]


def describe(best: Row, recipe: Recipe, store: Store) -> "tuple[BundleInfo, SeenRecords]":
    """What a bundle says of itself: `best` is the evaluation that chose it, or its recipe."""
    from ctray.artefact.bundle import BundleInfo, SeenRecords
    from ctray.models.backbones import preprocess_spec
    from ctray.provenance import now, versions

    info = BundleInfo(
        backbone=recipe.backbone,
        classes=store.classes,
        preprocess=preprocess_spec(recipe, store.size),
        metrics={key: float(best[key]) for key in best if key.startswith("val_")},
        fingerprint=store.fingerprint,
        synthetic=store.synthetic,
        recipe=recipe,
        versions=versions(),
        created=now(),
    )
    val = tuple(store.records("val")["id"])
    trained_on = tuple(store.records("train")["id"]) + (val if recipe.refit_epochs else ())
    return info, SeenRecords(trained_on=trained_on, chosen_on=() if recipe.refit_epochs else val)


def _begun(recipe: Recipe, store: Store, folder: str, listener: Listener) -> "State | None":
    """The state of the run whose checkpoints are in a folder, which must be of this recipe."""
    if not storage.files(folder):
        return None
    from ctray.training import checkpoints

    found = checkpoints.newest(folder, listener.say)
    if found is None:
        return None
    _, state = found
    if state["fingerprint"] != store.fingerprint:
        raise UserError(
            f"the checkpoints in {folder} are of a run on other data (fingerprint "
            f"{state['fingerprint'][:12]}, not {store.fingerprint[:12]}): choose another --out"
        )
    difference = recipe.difference(recorded_recipe(state["recipe"]).as_resumed(recipe))
    if difference:
        raise UserError(
            f"the run to resume has {difference}: give it the same recipe, or choose another --out"
        )
    return state


def _follow(
    messages: Queue, silent: threading.Event, trackers: list[Tracker], listener: Listener
) -> None:
    """Pass on what the first worker says until the driver puts None."""
    again = False
    while (message := _next(messages, silent)) is not None:
        kind, content = message
        if kind == "start":
            _tell(trackers, listener, "start", content["history"])
            listener.start(content["step"], content["interval"], content["workers"], again)
            again = True
        elif kind == "first":
            listener.first(content)
        elif kind == "progress":
            listener.progress(content["step"], content["steps"])
        elif kind == "row":
            _tell(trackers, listener, "row", content)
            listener.row(content)
        else:
            listener.say(content)


def _wait_for(following: Future[None], messages: Queue, finished: bool) -> None:
    """Wait a while for what is left to be passed on; of a good run all, however slow a tracker is.

    Raises:
        TimeoutError: it takes too long, or nothing can come any more.
    """
    while True:
        try:
            return following.result(timeout=_LAST_WORD_S)
        except TimeoutError:
            left = ray.get(messages.actor.qsize.remote(), timeout=_LAST_WORD_S)  # type: ignore[attr-defined]
            if not (finished and left):
                raise


def _tell(trackers: list[Tracker], listener: Listener, kind: str, content: Any) -> None:
    """Call a method of every tracker; one that cannot go on must not end the run."""
    for tracker in list(trackers):
        try:
            getattr(tracker, kind)(content)
        except (TrackerLostError, OSError) as error:
            listener.say(f"{type(tracker).__name__}: {error}: the run goes on without it")
            trackers.remove(tracker)


def _next(messages: Queue, silent: threading.Event) -> tuple[str, Any] | None:
    """The next message; None at the end, and once `silent` is set: nothing can come any more."""
    pending = messages.actor.get.remote()  # type: ignore[attr-defined]
    while not silent.is_set():
        try:
            return ray.get(pending, timeout=_LAST_WORD_S)
        except GetTimeoutError:
            continue
        except RayError:
            # The cluster is dead, which the run itself reports.
            break
    return None
