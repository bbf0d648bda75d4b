"""One run through Ray Train's TorchTrainer, from recipe and store to bundle."""

import json
import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ray
import ray.train
import safetensors.torch
from ray.train.torch import TorchTrainer
from ray.train.v2.api.callback import UserCallback
from ray.util.queue import Queue

from ctray.bundle import BundleInfo, SeenRecords, now, versions, write_bundle
from ctray.config import Recipe
from ctray.data.store import Store
from ctray.data.stream import steps_per_epoch
from ctray.errors import UserError
from ctray.models.backbones import initial_model, preprocess_spec
from ctray.training.curves import draw_curves
from ctray.training.loop import ROW, WEIGHTS, Job, train_loop
from ctray.training.plan import Plan

Row = dict[str, Any]
HISTORY_KEYS = (
    "step",
    "epoch",
    "train_loss",
    "val_loss",
    "val_accuracy",
    "val_macro_f1",
    "lr",
    "images_per_s",
    "seconds",
)


def initial_weights(recipe: Recipe, store: Store) -> ray.ObjectRef:
    """The weights a run starts from, in the object store: fetched once, whoever asks.

    Every mistake in the recipe that can be known beforehand is a UserError here, before a worker
    starts.
    """
    for split in ("train", "val"):
        if len(store.records(split)) == 0:
            raise UserError(f"the {split} split is empty: a class needs at least three patients")
    steps_per_epoch(len(store.records("train")), recipe.batch_size)
    return ray.put(initial_model(recipe, len(store.classes)).state_dict())


def build_trainer(
    recipe: Recipe,
    store: tuple[str, int],
    weights: ray.ObjectRef,
    plan: Plan,
    *,
    name: str,
    storage: str,
    rows: Queue | None = None,
    callbacks: Sequence[UserCallback] = (),
) -> TorchTrainer:
    """A TorchTrainer for one run; the search makes one a trial, `train` makes one.

    Only improvements are handed in as checkpoints, so the last checkpoint is the best.
    """
    if recipe.batch_size % plan.workers:
        raise UserError(
            f"batch_size={recipe.batch_size} cannot be divided over {plan.workers} workers: "
            f"--set batch_size={recipe.batch_size // plan.workers * plan.workers or plan.workers}"
        )
    job: Job = {
        "recipe": recipe.model_dump(),
        "store": store[0],
        "version": store[1],
        "weights": weights,
        "threads": plan.threads,
        "rows": rows,
    }
    resources = {"CPU": plan.cpus} | ({"GPU": 1.0} if plan.gpu else {})
    return TorchTrainer(
        train_loop,
        train_loop_config=dict(job),
        scaling_config=ray.train.ScalingConfig(
            num_workers=plan.workers, use_gpu=plan.gpu, resources_per_worker=resources
        ),
        run_config=ray.train.RunConfig(
            name=name,
            storage_path=storage,
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1),
            callbacks=list(callbacks),  # type: ignore[arg-type]  # Ray re-exports two names of one class
        ),
    )


def train(
    recipe: Recipe, store: Store, out: Path, plan: Plan, on_row: Callable[[Row], None]
) -> Row:
    """Train, and write `bundle/`, `history.jsonl`, `curves.png` and `config.json` into `out`.

    Needs a running Ray. Nothing is left in `out` when the run fails.

    Args:
        recipe: what to train.
        store: what to train on.
        out: a folder that is empty or missing.
        plan: from `make_plan`.
        on_row: called with every evaluation's row as it comes.

    Returns:
        The row of the best evaluation, which is the bundle's.

    Raises:
        UserError: the recipe cannot work, or training diverged.
    """
    weights = initial_weights(recipe, store)
    scratch = out.resolve() / ".ray"
    history: list[Row] = []
    rows = Queue(actor_options={"num_cpus": 0})
    trainer = build_trainer(
        recipe, store.place, weights, plan, name="train", storage=str(scratch), rows=rows
    )
    follower = threading.Thread(target=_follow, args=(rows, history, on_row), daemon=True)
    follower.start()
    try:
        result = trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise _cause(error) from error
    finally:
        rows.put(None)
        follower.join()
        rows.shutdown()
    assert result.checkpoint is not None
    best = export_bundle(result.checkpoint, recipe, store, str(out / "bundle"))
    with (out / "history.jsonl").open("w") as stream:
        stream.writelines(
            json.dumps({key: row[key] for key in HISTORY_KEYS}) + "\n" for row in history
        )
    draw_curves(history, out / "curves.png", title=f"{recipe.backbone}, {store.root.name}")
    settings = {"recipe": recipe.model_dump(), "store": str(store.root), "plan": vars(plan)}
    settings |= {"fingerprint": store.fingerprint, "versions": versions()}
    (out / "config.json").write_text(json.dumps(settings, indent=2) + "\n")
    shutil.rmtree(scratch)
    return best


def export_bundle(checkpoint: ray.train.Checkpoint, recipe: Recipe, store: Store, uri: str) -> Row:
    """Write the bundle of a checkpoint; returns the row of the evaluation that chose it."""
    with checkpoint.as_directory() as folder:
        weights = safetensors.torch.load_file(Path(folder) / WEIGHTS)
        row: Row = json.loads((Path(folder) / ROW).read_text())
    info = BundleInfo(
        backbone=recipe.backbone,
        classes=store.classes,
        preprocess=preprocess_spec(recipe, store.size),
        metrics={key: float(row[key]) for key in row if key.startswith("val_")},
        fingerprint=store.fingerprint,
        synthetic=store.synthetic,
        recipe=recipe,
        versions=versions(),
        created=now(),
    )
    seen = SeenRecords(
        trained_on=tuple(store.records("train")["id"]),
        chosen_on=tuple(store.records("val")["id"]),
    )
    write_bundle(uri, info, seen, weights)
    return row


def _follow(rows: Queue, history: list[Row], on_row: Callable[[Row], None]) -> None:
    while (row := rows.get()) is not None:
        history.append(row)
        on_row(row)


def _cause(error: BaseException) -> BaseException:
    """The user's mistake inside a failed run, or the failure itself."""
    failures = getattr(error, "worker_failures", {}).values()
    for failure in failures:
        cause = getattr(failure, "cause", failure)
        for candidate in (failure, cause, getattr(failure, "_base_exc", None)):
            if isinstance(candidate, UserError):
                return UserError(str(candidate))
    return error
