"""One run through Ray Train, from recipe and store to bundle.

Neither torch nor timm is imported before the workers start, unless there are checkpoints to resume
from: each takes the driver seconds.
"""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, cast

from ctray import storage
from ctray.config import Recipe
from ctray.data.batches import smallest_share
from ctray.data.store import Store
from ctray.errors import UserError
from ctray.training.fitting import check_records
from ctray.training.following import RunListener, message_queue
from ctray.training.history import HistoryRow
from ctray.training.job import TrainingEnd, make_job
from ctray.training.plan import Plan
from ctray.training.ray_train import build_trainer, fit
from ctray.training.run import recorded_recipe, write_config
from ctray.training.trackers import Trackers, trackers_for
from ctray.training.worker import train_loop
from ctray.words import counted

if TYPE_CHECKING:
    from ctray.training.checkpoints import RunState

# A worker that dies is replaced this often; something that kills it every time must end.
_RESTARTS = 5
# What to do after the death of processes, where nothing else is said.
_AGAIN = "resume the run"


def check_run(recipe: Recipe, store: Store, plan: Plan) -> None:
    """Raise UserError for every mistake that can be known before a worker starts."""
    check_records(recipe, store)
    # A batch is shared in pairs, and a worker without a record would not keep step.
    least = 2 * plan.workers - 1
    if recipe.batch_size < least:
        raise UserError(
            f"batch_size={recipe.batch_size} is too small for {counted(plan.workers, 'worker')}: "
            f"use batch_size={least + 1} or more",
            "batch_size",
        )
    fewest = smallest_share(recipe.batch_size, plan.workers)
    if recipe.accumulate > fewest:
        raise UserError(
            f"accumulate={recipe.accumulate} is more than the {fewest} records of a worker's "
            f"batch: use accumulate={fewest} or less",
            "accumulate",
        )


def train(
    recipe: Recipe, store: Store, out: Path, plan: Plan, listener: RunListener, folder: str
) -> HistoryRow:
    """Train, and write `bundle/`, `history.jsonl`, `curves.png` and `tensorboard/` into `out`.

    Needs a running Ray. A run whose checkpoints are in `folder` resumes from the newest of them;
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
    begun = _state_to_resume(recipe, store, folder, listener)
    run_id = write_config(out, recipe, store, plan)
    title = f"{recipe.backbone}, {store.root.name}"
    settings = {"recipe": recipe.model_dump(), "fingerprint": store.fingerprint}
    trackers = Trackers(trackers_for(out, title, settings, run_id), listener.say)
    if begun is not None and begun["finished"]:
        # Killed after it, in its refit: the last evaluation may not have been written.
        trackers.start(begun["history"])
        trackers.close(True)
        best = cast(HistoryRow, begun["best"])
    else:
        best = _run(recipe, store, plan, listener, folder, trackers)
    if recipe.refit_epochs:
        run_refit(recipe, store, plan, listener, refit_folder, folder)
    from ctray.artefact.build import TrainingData, build_bundle
    from ctray.training import checkpoints

    chosen = checkpoints.load_best(folder)
    weights = checkpoints.load_best(refit_folder).weights if recipe.refit_epochs else chosen.weights
    build_bundle(
        str(out / "bundle"),
        best=best,
        recipe=recipe,
        data=TrainingData.of(store),
        weights=weights,
        val_logits=chosen.val_logits,
    )
    # Only now: until the bundle is whole they are all there is of the training.
    checkpoints.clear(refit_folder)
    storage.delete_if_empty(refit_folder)
    checkpoints.clear(folder)
    # A folder that was named to us stays.
    if folder == storage.absolute(str(out / "checkpoints")):
        storage.delete_if_empty(folder)
    return best


def run_refit(
    recipe: Recipe,
    store: Store,
    plan: Plan,
    listener: RunListener,
    folder: str,
    refit_of: str,
    again: str = _AGAIN,
) -> None:
    """Train on from a bundle's or a run's best weights with the validation records as well.

    Needs a running Ray. `folder` then holds checkpoints of which the best weights are the last;
    what is there before is resumed. Raises what `train` raises; `again` is what to do when
    processes died or a checkpoint could not be written.
    """
    refit = recipe.for_refit()
    _state_to_resume(refit, store, folder, listener)
    epochs = counted(refit.epochs, "epoch")
    listener.say(f"refit: {epochs} on training and validation records")
    trackers = Trackers((), listener.say)
    _run(refit, store, plan, listener, folder, trackers, refit_of, again)


def _run(
    recipe: Recipe,
    store: Store,
    plan: Plan,
    listener: RunListener,
    folder: str,
    trackers: Trackers,
    refit_of: str | None = None,
    again: str = _AGAIN,
) -> HistoryRow:
    """Fit with somebody watching; returns the best evaluation, or a refit's last epoch."""
    job = make_job(recipe, store, plan, folder, refit_of)
    with (
        tempfile.TemporaryDirectory(prefix="ctray-train-", ignore_cleanup_errors=True) as scratch,
        message_queue(trackers, listener) as messages,
    ):
        config = {"job": job, "messages": messages}
        outcome: TrainingEnd = fit(
            build_trainer(train_loop, config, plan, scratch, _RESTARTS), again
        )
        if "error" in outcome:
            sentence, arguments = outcome["error"], outcome["arguments"]
            if outcome["is_unsaved"]:
                raise UserError(f"{sentence}, then {again}", *arguments, "resume")
            raise UserError(sentence, *arguments)
    return cast(HistoryRow, outcome["best"])


def _state_to_resume(
    recipe: Recipe, store: Store, folder: str, listener: RunListener
) -> "RunState | None":
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
            f"{state['fingerprint'][:12]}, not {store.fingerprint[:12]}): choose another folder",
            "out",
        )
    difference = recipe.difference(recorded_recipe(state["recipe"]).as_resumed(recipe))
    if difference:
        raise UserError(
            f"the run to resume has {difference}: give it the same recipe, or choose another "
            "folder",
            "out",
        )
    return state
