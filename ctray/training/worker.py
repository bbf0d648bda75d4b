"""Where a Ray Train worker starts: the batches come while the model's libraries are imported."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypedDict

from ray.util.queue import Queue

from ctray.data.stream import smallest_share
from ctray.errors import UserError

if TYPE_CHECKING:
    from ctray.config import Recipe

# What a refit learns from.
REFIT_SPLIT = "train+val"


class Job(TypedDict):
    """One training, in plain values, the same for every worker.

    `refit_of` is set in a refit, which starts from the weights of the bundle there, or the best of
    the run with checkpoints there, and learns from more records, without validation, to the last
    step.
    """

    recipe: dict[str, Any]
    store: str
    version: int
    threads: int
    prefetch: int
    checkpoints: str
    refit_of: str | None


class Ear(Protocol):
    """Whom the first worker of a training tells how it goes."""

    def tell(self, kind: str, content: Any) -> None:
        """Take a message; nobody waits for it to arrive."""
        ...

    def wants_more(self) -> bool:
        """Whether the training is to go on after the evaluation that was told last; may wait."""
        ...

    def is_over(self) -> bool:
        """Whether the training is to save and end as soon as it can."""
        ...


class DriverEar:
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


def train_loop(config: dict[str, Any]) -> dict[str, Any]:
    """Run the training `job` and put what the driver should know into `messages`; as `run_job`."""
    return run_job(config["job"], DriverEar(config["messages"]))


def run_job(job: Job, ear: Ear) -> dict[str, Any]:
    """Run one training; returns the best evaluation's row as `best`, or a mistake as `error`.

    `is_unsaved` says of an error whether it was that a checkpoint could not be written. `ended` is
    `finished`, or `stopped` when the ear wanted no more, or `cut` when it was over: then the
    checkpoints are of the last step. A user's mistake is returned because Ray would start the
    workers again if it were raised.
    """
    started = time.time()
    # Here, not above: the driver imports this module, and needs none of it.
    import ray.train.torch
    import torch

    from ctray.config import PreprocessSpec, Recipe
    from ctray.data.store import Store
    from ctray.data.stream import Stream
    from ctray.training import checkpoints
    from ctray.training.feed import Feed

    torch.set_num_threads(job["threads"])
    device = ray.train.torch.get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    context = ray.train.get_context()
    recipe = Recipe.model_validate(job["recipe"])
    try:
        warnings: list[str] = []
        mistake: UserError | None = None
        step = 0
        try:
            store = Store.open(Path(job["store"]), job["version"])
            # The driver made it: a folder of this machine's own would be found out at the end.
            parent = Path(job["checkpoints"]).parent
            if "://" not in job["checkpoints"] and not parent.is_dir():
                raise checkpoints.NotWrittenError(
                    f"{parent} is not there on the machine of a worker: put --out, or "
                    "--checkpoints, on a folder or URI that all machines reach"
                )
            found = checkpoints.newest(job["checkpoints"], warnings.append)
            step = found[1]["step"] if found else 0
        except UserError as error:
            mistake = error
        _agree(context.get_world_size(), step, mistake)
        split = "train" if job["refit_of"] is None else REFIT_SPLIT
        place = (context.get_world_rank(), context.get_world_size())
        # Channels, mean and scale are the model's; the stream hands on grey pixels.
        spec = PreprocessSpec(store_size=store.size, tone=recipe.tone)
        # One task feeds any training on a CPU, and every other takes a second from its start.
        tasks = 1 if device.type == "cpu" else None
        feed = Feed(Stream(store, split, spec, *place, tasks), recipe, step, job["prefetch"])
        try:
            # timm alone takes longer to import than the first batch takes to come.
            from ctray.training.loop import Training

            training = Training(job, ear, recipe, store, feed, found, started)
            for text in warnings:
                training.say(text)
            return {"ended": training.run(), "best": training.best}
        finally:
            feed.close()
    except UserError as error:
        return {
            "error": str(error),
            "is_unsaved": isinstance(error, checkpoints.NotWrittenError),
        }
    except torch.OutOfMemoryError as error:
        mistake = _too_large(recipe, context.get_world_size(), str(device))
        if context.get_world_size() > 1:
            # The others wait for this one's gradients: an exception ends them, too.
            raise mistake from error
        return {"error": str(mistake), "is_unsaved": False}


def _too_large(recipe: "Recipe", world: int, device: str) -> UserError:
    """The sentence for a GPU that has too little memory."""
    text = f"{device} has too little memory: try "
    if 2 * recipe.accumulate <= smallest_share(recipe.batch_size, world):
        text += f"accumulate={2 * recipe.accumulate}, with which a run can go on, or "
    return UserError(text + "a smaller image_size")


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
            "the workers do not see the same checkpoints: name a place that all machines reach "
            "with --checkpoints"
        )
