"""The training loop that every Ray Train worker runs."""

import json
import math
import tempfile
import time
from pathlib import Path
from typing import Any, TypedDict, cast

import numpy as np
import ray
import ray.train
import ray.train.torch
import safetensors.torch
import torch
import torch.distributed
from ray.util.queue import Queue
from sklearn.metrics import f1_score
from torch import nn
from torch.nn import functional

from ctray.config import Recipe
from ctray.data.store import Store
from ctray.data.stream import Stream, steps_per_epoch
from ctray.errors import UserError
from ctray.models.backbones import build_model, preprocess_spec
from ctray.models.normalise import Normalise
from ctray.models.precision import autocast

WEIGHTS, ROW = "weights.safetensors", "row.json"
_EVALUATION_BATCH = 64


class Job(TypedDict):
    """What the driver sends to every worker; plain values and handles."""

    recipe: dict[str, Any]
    store: str
    version: int
    weights: ray.ObjectRef
    threads: int
    rows: Queue | None


def train_loop(job: dict[str, Any]) -> None:
    """Run one training: evaluate, report and keep the best weights as it goes."""
    torch.set_num_threads(job["threads"])
    store = Store.open(Path(job["store"]), job["version"])
    Training(Recipe.model_validate(job["recipe"]), store, cast(Job, job)).run()


class Training:
    """One worker's part of a run."""

    def __init__(self, recipe: Recipe, store: Store, job: Job) -> None:
        context = ray.train.get_context()
        self.rank, self.world = context.get_world_rank(), context.get_world_size()
        self.recipe = recipe
        self.rows = job["rows"]
        self.device = ray.train.torch.get_device()
        spec = preprocess_spec(recipe, store.size)
        self.train = Stream(store, "train", spec, self.rank, self.world)
        self.val = Stream(store, "val", spec, self.rank, self.world)
        self.steps = steps_per_epoch(len(self.train.records), recipe.batch_size)
        model = build_model(recipe.backbone, len(store.classes), recipe.image_size, recipe.dropout)
        model.load_state_dict(ray.get(job["weights"]))
        # Dropout must differ between workers and be the same in a repeated run.
        torch.manual_seed(recipe.seed * 1000 + self.rank)
        self.plain = model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model = ray.train.torch.prepare_model(self.plain)
        self.normalise = Normalise(spec).to(self.device)
        self.optimizer = torch.optim.AdamW(
            parameter_groups(self.plain, recipe.weight_decay), lr=recipe.lr
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer,
            lambda step: warmup_cosine(step, recipe.epochs * self.steps, recipe.warmup),
        )
        self.best = -1.0
        self.evaluations = 0

    def run(self) -> None:
        """All epochs, with an evaluation every part of an epoch."""
        recipe, start = self.recipe, time.monotonic()
        due = {
            math.ceil(self.steps * part / recipe.evaluations_per_epoch)
            for part in range(1, recipe.evaluations_per_epoch + 1)
        }
        batches = self.train.training(
            recipe.augment, recipe.seed, range(recipe.epochs), recipe.batch_size, recipe.sampling
        )
        losses: list[torch.Tensor] = []
        mark = time.monotonic()
        for step, batch in enumerate(batches, start=1):
            losses.append(self.step(batch.images, batch.labels))
            if (step - 1) % self.steps + 1 not in due:
                continue
            loss = self.mean_over_workers(torch.stack(losses).mean(), step)
            row = {
                "step": step,
                "epoch": round(step / self.steps, 4),
                "train_loss": loss,
                "lr": self.schedule.get_last_lr()[0],
                "images_per_s": len(losses) * recipe.batch_size / (time.monotonic() - mark),
            }
            row |= self.evaluate() | {"seconds": time.monotonic() - start}
            self.report(row)
            losses, mark = [], time.monotonic()

    def step(self, images: np.ndarray, labels: np.ndarray) -> torch.Tensor:
        """One optimizer step on this worker's share of the batch; returns its loss."""
        self.model.train()
        with autocast(self.device.type, self.recipe.precision):
            loss = functional.cross_entropy(
                self.model(self.inputs(images)).float(),
                torch.tensor(labels, device=self.device),
                label_smoothing=self.recipe.label_smoothing,
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.plain.parameters(), self.recipe.clip_norm)
        self.optimizer.step()
        self.schedule.step()
        return loss.detach()

    @torch.inference_mode()
    def evaluate(self) -> dict[str, float]:
        """Loss, accuracy and macro-F1 of the whole validation split, each record counted once."""
        self.plain.eval()
        if self.world > 1:
            # Each worker's norms keep statistics of their own; rank 0's go into the checkpoint,
            # so they are what is scored.
            for buffer in self.plain.buffers():
                torch.distributed.broadcast(buffer, 0)
        parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        for batch in self.val.evaluation(_EVALUATION_BATCH):
            with autocast(self.device.type, self.recipe.precision):
                logits = self.plain(self.inputs(batch.images)).float().cpu().numpy()
            parts.append((batch.positions, batch.labels, logits))
        gathered = self.gather(parts)
        positions, labels, logits = (
            np.concatenate(column) for column in zip(*gathered, strict=True)
        )
        if not np.array_equal(np.sort(positions), np.arange(len(self.val.records))):
            raise RuntimeError("a validation record was missed or counted twice")
        loss = functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels))
        predicted = logits.argmax(axis=1)
        return {
            "val_loss": float(loss),
            "val_accuracy": float((predicted == labels).mean()),
            "val_macro_f1": float(f1_score(labels, predicted, average="macro", zero_division=0)),
            "val_records": len(positions),
        }

    def report(self, row: dict[str, Any]) -> None:
        """Tell the driver; hand in the weights when they are the best so far."""
        checkpoint = None
        self.evaluations += 1
        row["evaluation"] = self.evaluations
        if row["val_macro_f1"] > self.best:
            self.best = row["val_macro_f1"]
            if self.rank == 0:
                folder = Path(tempfile.mkdtemp())
                weights = {k: v.cpu().contiguous() for k, v in self.plain.state_dict().items()}
                safetensors.torch.save_file(weights, folder / WEIGHTS)
                (folder / ROW).write_text(json.dumps(row))
                checkpoint = ray.train.Checkpoint.from_directory(folder)
        if self.rank == 0 and self.rows is not None:
            self.rows.put(row)
        ray.train.report(row, checkpoint=checkpoint, delete_local_checkpoint_after_upload=True)

    def inputs(self, images: np.ndarray) -> torch.Tensor:
        """uint8 (n, S, S) on the host to model input on the device."""
        batch = torch.tensor(images, device=self.device)
        return self.normalise(batch).contiguous(memory_format=torch.channels_last)

    def mean_over_workers(self, loss: torch.Tensor, step: int) -> float:
        """Mean of a loss over the workers; a loss that is no number ends the run on all of them."""
        if self.world > 1:
            torch.distributed.all_reduce(loss)
            loss = loss / self.world
        value = float(loss)
        if not math.isfinite(value):
            lr = self.schedule.get_last_lr()[0]
            raise UserError(
                f"training diverged: the loss is {value} at step {step} with learning rate "
                f"{lr:.2g}; lower it with --set lr={self.recipe.lr / 10:.0e}"
            )
        return value

    def gather(self, parts: list[Any]) -> list[Any]:
        """The parts of all workers, on all workers."""
        if self.world == 1:
            return parts
        everyone: list[list[Any]] = [[] for _ in range(self.world)]
        torch.distributed.all_gather_object(everyone, parts)
        return [part for worker in everyone for part in worker]


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay on matrices and kernels only, not on biases and norms."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


def warmup_cosine(step: int, total: int, warmup: float) -> float:
    """Factor on the peak learning rate: linear warmup over a share of the steps, cosine to zero."""
    rising = max(1, round(total * warmup))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, total - rising)))
