"""A lane: Ray Train workers that stay, and train one trial after the other.

Every worker of a lane runs `run_lane`; its first one talks to the desk for all. The driver imports
this module, and none of torch with it.
"""

import errno
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import ray
import ray.train

from ctray import storage
from ctray.config import Recipe
from ctray.data.store import Store
from ctray.errors import UserError
from ctray.training.worker import run_job
from tuning.desk import TrialJob

Value = TypeVar("Value")


def run_lane(config: dict[str, Any]) -> None:
    """Take jobs from `desk` until there are none; `lane` is this one's number.

    Args:
        config: `desk` and `lane`.
    """
    import ray.train.torch
    import torch

    device = ray.train.torch.get_device()
    if device.type == "cuda":
        # Before the workers first speak to each other.
        torch.cuda.set_device(device)
    desk, lane = config["desk"], config["lane"]
    over = desk.closing.remote()
    while (job := from_first(lambda: ray.get(desk.take.remote(lane)))) is not None:
        if job == "later":
            continue
        try:
            end = run_trial(job, DeskReporter(desk, job["number"], lane, over))
        except UserError as error:
            # Of one of several workers; the others wait for it, so all are replaced.
            failed = {"ended": "failed", "reason": str(error)}
            ray.get(desk.end.remote(lane, job["number"], failed))
            raise RuntimeError(f"trial {job['number']}: {error}") from error
        except Exception as error:
            said = str(error).strip().splitlines() or [""]
            ray.get(desk.blame.remote(job["number"], f"{type(error).__name__}: {said[-1]}"))
            # Who knows what it left behind: whatever follows gets new processes.
            raise
        if is_first():
            ray.get(desk.end.remote(lane, job["number"], end))
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def run_trial(job: TrialJob, reporter: "DeskReporter") -> dict[str, Any]:
    """Measure, train, and write the bundle of a finished trial; returns what became of it."""
    from ctray.training import checkpoints

    training = job["training"]
    recipe = Recipe.model_validate(training["recipe"])
    store = Store.open(Path(training["store"]), training["version"])
    if job["measures"]:
        model = from_first(lambda: measure(recipe, store))
        if is_first():
            reporter.tell("model", model)
        budget = job["budget_ms"]
        if budget is not None and model["latency_ms"] > budget:
            return {"ended": "slow", "reason": "", "latency_ms": model["latency_ms"]}
    outcome = run_job(training, reporter)
    if "error" in outcome:
        end = "unsaved" if outcome["is_unsaved"] else "failed"
        return {"ended": end, "reason": outcome["error"], "arguments": outcome["arguments"]}
    if is_first() and outcome["ended"] == "finished":
        assert outcome["best"] is not None, "it was evaluated after its last step"
        from ctray.artefact.build import TrainingData, build_bundle

        best = checkpoints.load_best(training["checkpoints"])
        try:
            build_bundle(
                job["bundle"],
                best=outcome["best"],
                recipe=recipe,
                data=TrainingData.of(store),
                weights=best.weights,
                val_logits=best.val_logits,
            )
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            reason = f"the bundle cannot be written to {job['bundle']}: {storage.cause(error)}"
            return {"ended": "unsaved", "reason": f"{reason}; make room"}
    elif is_first() and outcome["ended"] == "stopped":
        checkpoints.clear(training["checkpoints"])
    return {"ended": outcome["ended"], "reason": ""}


def measure(recipe: Recipe, store: Store) -> dict[str, float]:
    """Latency and size of a recipe's model, which do not depend on its weights."""
    from ctray.engine.latency import latency_ms
    from ctray.engine.loading import start_engine
    from ctray.engine.model import InputModel
    from ctray.models.backbones import build_model, preprocess_spec

    spec = preprocess_spec(recipe, store.size)
    plain = build_model(recipe.backbone, len(store.classes), recipe.image_size)
    size = sum(value.numel() * value.element_size() for value in plain.state_dict().values())
    engine = start_engine(InputModel(spec, plain, recipe).eval())
    return {"latency_ms": latency_ms(engine, spec.image_size), "size_mb": size / 1e6}


class DeskReporter:
    """Takes what a trial tells to the desk, and asks there whether to continue."""

    def __init__(self, desk: Any, number: int, lane: int, over: ray.ObjectRef) -> None:
        self._desk, self._number, self._lane, self._over = desk, number, lane, over
        self._evaluation = 0

    def tell(self, kind: str, content: Any) -> None:
        """Hand on where it starts, its model and its evaluations; nobody reads the rest."""
        if kind == "start":
            where = {"step": content["step"], "lane": self._lane}
            self._desk.tell.remote(self._number, kind, where)
            for row in content["history"]:
                self.tell("row", row)
        elif kind == "row":
            self._evaluation = content["evaluation"]
            self._desk.tell.remote(self._number, kind, content)
        elif kind == "model":
            self._desk.tell.remote(self._number, kind, content)

    def wants_more(self) -> bool:
        """Wait until the search has judged the last evaluation."""
        return ray.get(self._desk.verdict.remote(self._number, self._evaluation)) == "more"

    def is_over(self) -> bool:
        """Whether the desk has closed."""
        return bool(ray.wait([self._over], timeout=0)[0])


def is_first() -> bool:
    """Whether this is the worker that talks."""
    return ray.train.get_context().get_world_rank() == 0


def from_first(action: Callable[[], Value]) -> Value:
    """What the first worker gets by doing something, on all workers."""
    import torch.distributed

    value: list[Any] = [action() if is_first() else None]
    if ray.train.get_context().get_world_size() > 1:
        torch.distributed.broadcast_object_list(value, 0)
    return value[0]
