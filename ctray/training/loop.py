"""The training loop of every Ray Train worker: step, evaluate, save."""

import contextlib
import itertools
import math
import time
from typing import Any, cast

import numpy as np
import ray.train
import ray.train.torch
import torch
import torch.distributed
from torch import nn
from torch.nn import functional

from ctray.artefact.bundle import Bundle
from ctray.artefact.parts import is_bundle
from ctray.config import Recipe
from ctray.data.batches import share_of
from ctray.data.store import Store
from ctray.data.stream import Batch, Stream
from ctray.errors import UserError
from ctray.models.backbones import (
    build_model,
    initial_model,
    preprocess_spec,
    takes_any_size,
)
from ctray.models.depthwise import speed_up_depthwise
from ctray.models.normalise import Normalise
from ctray.models.precision import autocast, uses_bf16
from ctray.models.tta import with_tta
from ctray.training import checkpoints
from ctray.training.checkpoints import Checkpoint, RunState, Snapshot, Tensors
from ctray.training.feed import Feed, size_in_epoch
from ctray.training.history import HistoryRow
from ctray.training.job import End, Job, Reporter
from ctray.training.mixing import Mixer
from ctray.training.optim import Average, Loss, build_optimizer, set_lr, warmup_cosine
from ctray.training.peers import Peers
from ctray.training.tensors import collect_tensors, copies, restore_tensors
from ctray.training.validation import ValidationShare

# Steps between two looks at what can end a run: the losses, a preemption, a failed checkpoint.
_SYNC_STEPS = 8


class Training:
    """One worker's part of a run."""

    def __init__(
        self,
        job: Job,
        reporter: Reporter,
        recipe: Recipe,
        store: Store,
        feed: Feed,
        found: Checkpoint | None,
        started: float,
    ) -> None:
        """Build the model, and resume the run if it has begun before.

        Args:
            job: what the worker is told.
            reporter: told how it goes, and asked whether to continue.
            recipe: of the job.
            store: of the job.
            feed: this worker's share of the batches that are left.
            found: the checkpoint to resume from.
            started: when the worker began, in seconds since the epoch.
        """
        context = ray.train.get_context()
        self.rank, self.world = context.get_world_rank(), context.get_world_size()
        self.reporter = reporter
        self.recipe, self.store, self.feed = recipe, store, feed
        self.refit_of = job["refit_of"]
        self.device = ray.train.torch.get_device()
        self.spec = preprocess_spec(recipe, store.size)
        self.peers = Peers(self.rank, self.world, self.device)
        val = Stream(store, "val", self.spec, self.rank, self.world, feed.tasks)
        self.val = ValidationShare(val)
        self.steps = feed.steps
        share = share_of(recipe.batch_size, self.rank, self.world)
        self.mixer = Mixer(recipe.mixup, recipe.cutmix, recipe.seed, recipe.batch_size, share)
        counts = np.bincount(store.labels(feed.records), minlength=len(store.classes)).tolist()
        self.loss = Loss(recipe, counts).to(self.device)
        self.normalise = Normalise(self.spec).to(self.device)
        self.writer = checkpoints.Writer(job["checkpoints"], found.state if found else None)
        self.plain = self.peers.together(lambda: self.build(found is not None))
        # As its gradients are shared, and as it is called: compiled, or the same.
        self.shared = self.model = self.plain
        self.frozen: bool | None = None
        self.optimizer = build_optimizer(self.plain, recipe)
        self.average = Average(self.plain, recipe.ema) if recipe.ema else None
        self.step, self.seconds = 0, 0.0
        self.best: HistoryRow | None = None
        self.history: list[HistoryRow] = []
        self.losses: list[torch.Tensor] = []
        # Of the steps since the last evaluation: sum of losses, records predicted right, records.
        self.sums = np.zeros(3)
        if found is not None:
            self.restore(found)
        self.begun = self.mark = time.monotonic()
        # Steps of this process since then.
        self.timed = 0
        self.first = {"started": started, "ready": time.time()}
        self.preempted = False
        self.end: End = "finished"
        start = {"step": self.step, "history": self.history, "workers": self.world}
        evaluates = recipe.evaluate_every if self.refit_of is None else None
        every = (recipe.checkpoint_every, evaluates, self.steps)
        self.tell("start", start | {"interval": min(step for step in every if step)})

    def build(self, resumes: bool) -> nn.Module:
        """The model on its device; a resumed run then takes its weights from the checkpoint."""
        recipe, classes = self.recipe, len(self.store.classes)
        smaller = recipe.small_share and recipe.small_size < recipe.image_size
        if smaller and not takes_any_size(recipe.backbone):
            sentence = f"{recipe.backbone} takes images of one size only: use small_share=0"
            raise UserError(sentence, "small_share")
        if resumes or self.refit_of is not None:
            model = build_model(
                recipe.backbone,
                classes,
                recipe.image_size,
                dropout=recipe.dropout,
                drop_path=recipe.drop_path,
            )
            if not resumes:
                assert self.refit_of is not None
                model.load_state_dict(_trained_weights(self.refit_of))
        else:
            model = initial_model(recipe, classes)
        if self.device.type == "cpu" and uses_bf16("cpu", recipe.precision):
            speed_up_depthwise(model)
        return model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    # ── training ─────────────────────────────────────────────────────────────────────────────────

    def run(self) -> End:
        """What is left of all epochs, unless it is ended before."""
        for batch in self.feed:
            if self.end != "finished":
                break
            if self.out_of_patience():
                self.say(f"no better evaluation in {self.recipe.patience} epochs: stopped")
                break
            frozen = self.step // self.steps < self.recipe.freeze_epochs
            if frozen != self.frozen:
                self.wrap(frozen)
            self.advance(batch)
        self.peers.together(self.writer.wait)
        return self.end

    def wrap(self, frozen: bool) -> None:
        """Set which parameters learn, and let the workers share their gradients."""
        self.frozen = frozen
        for parameter in self.plain.parameters():
            parameter.requires_grad_(not frozen)
        for parameter in self.plain.get_classifier().parameters():  # type: ignore[operator]
            parameter.requires_grad_(True)
        self.shared = self.model = ray.train.torch.prepare_model(self.plain)
        if self.recipe.compile:
            self.model = cast(nn.Module, torch.compile(self.shared))

    def advance(self, batch: Batch) -> None:
        """One step, and what is due after it: look, evaluate, save."""
        recipe, arrived = self.recipe, time.time()
        self.losses.append(self.optimise(batch))
        self.step += 1
        self.timed += 1
        if self.first:
            self.tell("first", self.first | {"arrived": arrived, "done": time.time()})
            self.first = {}
        ends_epoch = self.step % self.steps == 0
        evaluates = self.refit_of is None and (ends_epoch or self.is_due(recipe.evaluate_every))
        saves = ends_epoch or evaluates or self.is_due(recipe.checkpoint_every)
        if not saves and self.step % _SYNC_STEPS:
            return
        warned = self.look()
        best = None
        if evaluates:
            row = self.row()
            measured, logits = self.evaluate(row["image_size"])
            best = self.note(row | measured, logits)
        elif ends_epoch:
            best = self.end_refit_epoch(self.row())
        if self.peers.agreed(self.reporter.is_over):
            self.end = "cut"
        if saves or warned or self.end == "cut":
            self.save(best)
        if evaluates and self.end != "cut" and not self.peers.agreed(self.reporter.wants_more):
            self.end = "stopped"
        if warned:
            self.peers.together(self.writer.wait)
            self.say(f"a machine is about to be taken away: step {self.step} is saved")

    def is_due(self, every: int | None) -> bool:
        """Whether something that is done every so many steps is due now."""
        return every is not None and self.step % every == 0

    def optimise(self, batch: Batch) -> torch.Tensor:
        """One optimizer step on this worker's share: sum of losses, and records predicted right."""
        recipe = self.recipe
        # Every draw follows from the step: nothing of the generators has to be saved.
        torch.manual_seed(_seed(recipe.seed, self.step, self.rank))
        set_lr(self.optimizer, self.lr(self.step))
        self.model.train()
        if self.frozen:
            for module in self.plain.modules():
                # The norms' statistics belong to what is frozen.
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        images = torch.tensor(batch.images, device=self.device)
        labels = torch.tensor(batch.labels, device=self.device)
        targets = functional.one_hot(labels, len(self.store.classes)).float()
        mixed, targets = self.mixer(images.float(), targets, self.step)
        inputs = self.inputs(mixed)
        self.optimizer.zero_grad(set_to_none=True)
        sums = torch.zeros(2, device=self.device)
        edges = [len(labels) * part // recipe.accumulate for part in range(recipe.accumulate + 1)]
        for start, stop in itertools.pairwise(edges):
            part = slice(start, stop)
            with self.gradients_stay(stop < len(labels)):
                with autocast(self.device.type, recipe.precision):
                    logits = self.model(inputs[part]).float()
                losses = self.loss(logits, targets[part]).sum()
                # The workers' gradients are averaged: with this factor they add up to the batch's.
                (losses * self.world / recipe.batch_size).backward()
            right = (logits.argmax(dim=1) == targets[part].argmax(dim=1)).sum()
            sums += torch.stack([losses.detach(), right])
        nn.utils.clip_grad_norm_(self.plain.parameters(), recipe.clip_norm)
        self.optimizer.step()
        if self.average is not None:
            self.average.update(self.step)
        return sums

    def lr(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        recipe = self.recipe
        return recipe.lr * warmup_cosine(step, recipe.epochs * self.steps, recipe.warmup)

    def gradients_stay(self, stay: bool) -> Any:
        """A context in which the workers do not yet add up their gradients."""
        if stay and isinstance(self.shared, nn.parallel.DistributedDataParallel):
            return self.shared.no_sync()
        return contextlib.nullcontext()

    def look(self) -> bool:
        """Count the losses since the last look, and raise what should end the run on all workers.

        Returns:
            Whether it is new that a machine of this run is about to be taken away.
        """
        parts = torch.stack(self.losses).double()
        self.losses.clear()
        if self.world > 1:
            torch.distributed.all_reduce(parts)
        finite = torch.isfinite(parts[:, 0])
        if not finite.all():
            bad = int((~finite).nonzero()[0])
            step = self.step - len(parts) + bad + 1
            raise self.diverged(float(parts[bad, 0]), step)
        self.sums += [*parts.sum(dim=0).tolist(), len(parts) * self.recipe.batch_size]
        self.peers.together(self.writer.check)
        total = self.recipe.epochs * self.steps
        self.tell("progress", {"step": self.step, "steps": total})
        known, self.preempted = self.preempted, ray.train.get_preemption_info() is not None
        return self.preempted and not known

    def diverged(self, loss: float, step: int) -> UserError:
        """The sentence for a loss that is no number."""
        where = f"the loss is {loss} at step {step} with learning rate {self.lr(step - 1):.2g}"
        if self.refit_of is not None:
            return UserError(
                f"the refit diverged: {where}; do without it: refit_epochs=0", "refit_epochs"
            )
        lower = f"lr={self.recipe.lr / 10:.0e}"
        return UserError(f"training diverged: {where}; use {lower} and another folder", "lr", "out")

    # ── evaluation ───────────────────────────────────────────────────────────────────────────────

    def row(self) -> HistoryRow:
        """What is known of the steps since the last evaluation."""
        losses, right, records = self.sums
        elapsed = time.monotonic() - self.mark
        rate = self.timed * self.recipe.batch_size / elapsed
        self.sums = np.zeros(3)
        return {
            "evaluation": len(self.history) + 1,
            "step": self.step,
            "epoch": round(self.step / self.steps, 4),
            "train_loss": losses / records,
            "train_accuracy": right / records,
            "lr": self.lr(self.step - 1),
            "image_size": size_in_epoch(self.recipe, (self.step - 1) // self.steps),
            "images_per_s": rate,
        }

    @torch.inference_mode()
    def evaluate(self, size: int) -> tuple[HistoryRow, np.ndarray]:
        """Score the whole validation split, each record counted once.

        Args:
            size: px that the model trains on at the time; at another it would be misjudged.

        Returns:
            Loss, accuracy and macro-F1; and the logits, float32 (records, classes), in the store's
            order.
        """
        from sklearn.metrics import f1_score

        scored = self.scored()
        scored.eval()
        if self.world > 1:
            # Each worker's norms keep statistics of their own; rank 0's go into the checkpoint,
            # so they are what is scored.
            for buffer in scored.buffers():
                torch.distributed.broadcast(buffer, 0)
        model = with_tta(scored, self.recipe.tta)
        parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        for batch in self.val.batches(size):
            inputs = self.inputs(torch.tensor(batch.images, device=self.device))
            with autocast(self.device.type, self.recipe.precision):
                logits = model(inputs).float().cpu().numpy()
            parts.append((batch.positions, batch.labels, logits))
        gathered = self.peers.gather(parts)
        positions, labels, logits = (
            np.concatenate(column) for column in zip(*gathered, strict=True)
        )
        if not np.array_equal(np.sort(positions), np.arange(len(self.val.records))):
            raise RuntimeError("a validation record was missed or counted twice")
        loss = functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels))
        predicted = logits.argmax(axis=1)
        row: HistoryRow = {
            "val_loss": float(loss),
            "val_accuracy": float((predicted == labels).mean()),
            "val_macro_f1": float(f1_score(labels, predicted, average="macro", zero_division=0)),
            "val_records": len(positions),
        }
        return row, logits[np.argsort(positions)]

    def scored(self) -> nn.Module:
        """The model that is evaluated and kept: the averaged one where there is one."""
        return self.average.model if self.average is not None else self.plain

    def note(self, row: HistoryRow, logits: np.ndarray) -> Snapshot | None:
        """Note an evaluation and tell the driver; returns weights and logits if it is the best.

        Of those that have seen images of the full size, which is what a bundle is used at.
        """
        if not math.isfinite(row["val_loss"]):
            raise self.diverged(row["val_loss"], self.step)
        row["seconds"] = self.elapsed()
        self.history.append(row)
        self.tell("row", row)
        self.mark, self.timed = time.monotonic(), 0
        if row["image_size"] < self.recipe.image_size:
            return None
        if self.best is not None and row["val_macro_f1"] <= self.best["val_macro_f1"]:
            return None
        return self.new_best(row, {checkpoints.VAL_LOGITS: torch.from_numpy(logits)})

    def new_best(self, row: HistoryRow, logits: Tensors) -> Snapshot:
        """The weights as they are now, as the best, and beside them their validation logits."""
        self.best = row
        tensors = self.scored().state_dict() | logits if self.rank == 0 else {}
        return Snapshot("best", self.step, copies(tensors), {"row": row})

    def end_refit_epoch(self, row: HistoryRow) -> Snapshot | None:
        """Say how an epoch without validation went; returns the weights after the last one."""
        epochs = self.recipe.epochs
        self.say(
            f"refit, epoch {round(row['epoch'])} of {epochs}: loss {row['train_loss']:.4f}, "
            f"{row['images_per_s']:.1f} images/s"
        )
        self.mark, self.timed = time.monotonic(), 0
        if self.step < epochs * self.steps:
            return None
        if not all(bool(value.isfinite().all()) for value in self.scored().parameters()):
            raise self.diverged(math.nan, self.step)
        return self.new_best(row, {})

    def out_of_patience(self) -> bool:
        """Whether the last better evaluation is too long ago."""
        if not self.recipe.patience or self.best is None:
            return False
        return self.step - self.best["step"] >= self.recipe.patience * self.steps

    # ── saving and resuming ──────────────────────────────────────────────────────────────────────

    def save(self, best: Snapshot | None) -> None:
        """Hand everything a run needs to resume to the writer."""
        self.peers.together(self.writer.wait)
        if self.rank:
            return
        state: RunState = {
            "step": self.step,
            "seconds": self.elapsed(),
            "best": self.best,
            "history": list(self.history),
            "sums": self.sums.tolist(),
            "finished": self.step == self.recipe.epochs * self.steps or self.out_of_patience(),
            "recipe": self.recipe.model_dump(),
            "fingerprint": self.store.fingerprint,
            "best_file": None,
        }
        everything = collect_tensors(self.plain, self.average, self.optimizer)
        self.writer.submit(Snapshot("step", self.step, copies(everything), state), best)

    def restore(self, found: Checkpoint) -> None:
        """Become the run that was saved."""
        restore_tensors(found.tensors, self.plain, self.average, self.optimizer)
        state = found.state
        self.step, self.seconds = state["step"], state["seconds"]
        self.best, self.history = state["best"], state["history"]
        self.sums = np.array(state["sums"])

    def elapsed(self) -> float:
        """Seconds of training so far, over all the times it was started."""
        return self.seconds + time.monotonic() - self.begun

    # ── between the processes ────────────────────────────────────────────────────────────────────

    def inputs(self, images: torch.Tensor) -> torch.Tensor:
        """Pixels (n, S, S) on the 0–255 scale to model input."""
        return self.normalise(images).contiguous(memory_format=torch.channels_last)

    def tell(self, kind: str, content: Any) -> None:
        """Send a message to the driver, without waiting; only the first worker does."""
        if self.rank == 0:
            self.reporter.tell(kind, content)

    def say(self, text: str) -> None:
        """Let the driver print a line."""
        self.tell("say", text)


def _trained_weights(uri: str) -> Tensors:
    """The weights of a bundle, or the best that the checkpoints in a folder have."""
    if is_bundle(uri):
        return Bundle.load(uri).weights
    return checkpoints.load_best(uri).weights


def _seed(seed: int, step: int, rank: int) -> int:
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1)[0])
