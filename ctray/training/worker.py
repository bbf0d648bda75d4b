"""Where a Ray Train worker starts: the batches come while the model's libraries are imported.

The driver imports this module, and none of torch with it: the functions import what they need.
"""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray.util.queue import Queue

from ctray.data.batches import smallest_share
from ctray.errors import UserError
from ctray.training.job import Job, Reporter, TrainingEnd

if TYPE_CHECKING:
    import torch

    from ctray.config import Recipe
    from ctray.data.store import Store
    from ctray.training.checkpoints import Checkpoint

# What a refit learns from.
REFIT_SPLIT = "train+val"


class QueueReporter:
    """Passes everything on to the driver of `ctray train`."""

    def __init__(self, messages: Queue) -> None:
        self._actor: Any = messages.actor

    def tell(self, kind: str, content: Any) -> None:
        """Put it into the queue."""
        self._actor.put.remote((kind, content))

    def wants_more(self) -> bool:
        """Always."""
        return True

    def is_over(self) -> bool:
        """Never."""
        return False


def train_loop(config: dict[str, Any]) -> TrainingEnd:
    """Run the training `job` and put what the driver should know into `messages`; as `run_job`."""
    return run_job(config["job"], QueueReporter(config["messages"]))


def run_job(job: Job, reporter: Reporter) -> TrainingEnd:
    """Run one training on this worker.

    Returns:
        How it ended. A user's mistake is returned, too: Ray would start the workers again if it
        were raised.

    Raises:
        UserError: this worker alone made the mistake, and the others wait for it.
    """
    started = time.time()
    import ray.train.torch
    import torch

    from ctray.config import Recipe
    from ctray.training.checkpoints import NotWrittenError

    torch.set_num_threads(job["threads"])
    device = ray.train.torch.get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    world = ray.train.get_context().get_world_size()
    recipe = Recipe.model_validate(job["recipe"])
    try:
        return _train(job, reporter, recipe, device, started)
    except UserError as error:
        return {
            "error": str(error),
            "arguments": error.arguments,
            "is_unsaved": isinstance(error, NotWrittenError),
        }
    except torch.OutOfMemoryError as error:
        mistake = _too_large(recipe, world, str(device))
        if world > 1:
            # The others wait for this one's gradients: an exception ends them, too.
            raise mistake from error
        return {"error": str(mistake), "arguments": mistake.arguments, "is_unsaved": False}


def _train(
    job: Job, reporter: Reporter, recipe: "Recipe", device: "torch.device", started: float
) -> TrainingEnd:
    """Fetch batches, then build the model and train; `started`: when the worker began."""
    import ray.train

    from ctray.config import PreprocessSpec
    from ctray.data.stream import Stream
    from ctray.training.feed import Feed

    context = ray.train.get_context()
    world = context.get_world_size()
    store, found, warnings = _open(job, world)
    split = "train" if job["refit_of"] is None else REFIT_SPLIT
    # Without channels, mean and scale, which are the model's: the stream hands on grey pixels.
    spec = PreprocessSpec.of(recipe, store.size)
    # One task feeds any training on a CPU, and every other takes a second from its start.
    tasks = 1 if device.type == "cpu" else None
    step = found.state["step"] if found else 0
    stream = Stream(store, split, spec, rank=context.get_world_rank(), world=world, tasks=tasks)
    feed = Feed(stream, recipe, step, job["prefetch"])
    try:
        # timm alone takes longer to import than the first batch takes to come.
        from ctray.training.loop import Training

        training = Training(job, reporter, recipe, store, feed, found, started)
        for text in warnings:
            training.say(text)
        return {"ended": training.run(), "best": training.best}
    finally:
        feed.close()


def _open(job: Job, world: int) -> "tuple[Store, Checkpoint | None, list[str]]":
    """The store, and the checkpoint to resume from, with what was odd about those after it.

    Raises:
        UserError: on all workers, when one of them cannot open them or found another checkpoint.
    """
    from ctray.data.store import Store
    from ctray.training import checkpoints

    warnings: list[str] = []
    mistake: UserError | None = None
    step = 0
    try:
        store = Store.open(Path(job["store"]), job["version"])
        # The driver made it: a folder of this machine's own would be found out at the end.
        parent = Path(job["checkpoints"]).parent
        if "://" not in job["checkpoints"] and not parent.is_dir():
            raise checkpoints.NotWrittenError(
                f"{parent} is not there on the machine of a worker: choose a folder or URI that "
                "all machines reach",
                "out",
                "checkpoints",
            )
        found = checkpoints.newest(job["checkpoints"], warnings.append)
        step = found.state["step"] if found else 0
    except UserError as error:
        mistake = error
    _agree(world, step, mistake)
    return store, found, warnings


def _too_large(recipe: "Recipe", world: int, device: str) -> UserError:
    """The sentence for a GPU that has too little memory."""
    smaller, settings = "a smaller image_size", ["image_size"]
    if 2 * recipe.accumulate <= smallest_share(recipe.batch_size, world):
        smaller = (
            f"accumulate={2 * recipe.accumulate}, with which a run can be resumed, or {smaller}"
        )
        settings.insert(0, "accumulate")
    return UserError(f"{device} has too little memory: try {smaller}", *settings)


def _agree(world: int, step: int, mistake: UserError | None) -> None:
    """Raise UserError on all workers when one made a mistake or found another checkpoint."""
    import torch.distributed

    seen: list[tuple[int, UserError | None]] = [(step, mistake)]
    if world > 1:
        seen = seen * world
        torch.distributed.all_gather_object(seen, (step, mistake))
    for _, error in seen:
        if error is not None:
            raise error
    if len({number for number, _ in seen}) > 1:
        raise UserError(
            "the workers do not see the same checkpoints: choose a place that all machines reach",
            "checkpoints",
        )
