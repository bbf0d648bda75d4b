"""Training: images a second against a plain PyTorch loop, and the time to the first step.

Ours is `ctray train` as one types it, on the CPU, with batches of 32, its augmentation and its
checkpoints, at one image size: images a second of the second epoch, as `history.jsonl` has it,
which leaves start-up and evaluations out. The peer is `plain_loop.py`, in a process of its own on
as many threads as the machine has cores: the same steps over images that lie in memory at their
final size, without augmentation, evaluation or checkpoints. Sides take turns, and none runs beside
another.

The first step is the one that the commands with the default recipe's backbone reported, counted
from the start of the process; by then everything they read has been read before.
"""

import json
import re
import statistics
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
from kit import alone, arguments, ctray, emit, images, in_turn, note, prepared

from ctray.config import Recipe, recipe_file
from ctray.data.image.preprocess import resize
from ctray.data.store import Store
from ctray.models.precision import has_bf16

RESNET = Recipe(backbone="resnet18", weights="none", image_size=224)
DEFAULT = Recipe.load(recipe_file("default"))
# The first epoch has the start of everything in it; the second is timed.
EPOCHS = 2


def ours(store: Store, recipe: Recipe, workers: int, firsts: list[dict[str, float]]) -> float:
    """Images a second of `ctray train`; appends what its first step took, part by part."""
    settings = {name: getattr(recipe, name) for name in ("backbone", "weights", "image_size")}
    given = [f"{name}={value}" for name, value in settings.items() if value is not None]
    given += ["small_share=0", "refit_epochs=0"]
    with tempfile.TemporaryDirectory() as place:
        command = ctray(
            *("train", "--data", store.root, "--out", Path(place) / "run"),
            *("--workers", workers, "--epochs", EPOCHS),
            *(word for pair in given for word in ("--set", pair)),
        )
        printed = output(command)
        rows = (Path(place) / "run" / "history.jsonl").read_text().splitlines()
    firsts.append(first_step(printed))
    return float(json.loads(rows[-1])["images_per_s"])


def first_step(printed: str) -> dict[str, float]:
    """Seconds to the first step, in all and in parts, from what `ctray train` prints."""
    line = re.search(r"^first step after ([\d.]+) s: (.+)$", printed, re.M)
    if line is None:
        raise ValueError(f"no first step in {printed!r}")
    parts = (part.rpartition(" ") for part in line[2].split(", "))
    return {"": float(line[1])} | {name: float(seconds) for name, _, seconds in parts}


def plain(data: Path, backbone: str, seconds: float, *more: str) -> float:
    """Images a second of the plain loop."""
    script = str(Path(__file__).parent / "plain_loop.py")
    words = (str(data), "--backbone", backbone, "--seconds", str(seconds), *more)
    return float(output([sys.executable, script, *words]))


def output(command: list[str]) -> str:
    """What a command prints when it succeeds."""
    return subprocess.run(
        command, check=True, env=alone(), stdout=subprocess.PIPE, text=True
    ).stdout


def in_memory(store: Store, size: int, place: Path) -> Path:
    """The training images at their final size and their labels, as one file for the peer."""
    records = store.records("train")
    resized = np.stack([resize(image, size) for image in store.images(records)])
    np.savez(place, images=resized, labels=store.labels(records))
    return place


def main() -> None:
    """Run the bench."""
    options = arguments(__doc__ or "")
    rounds, seconds = (1, 1.0) if options.quick else (3, 30.0)
    with images(options) as folder, tempfile.TemporaryDirectory() as root:
        note(f"images: {folder}")
        place = Path(root)
        store = prepared(folder, place / "store")
        large = in_memory(store, RESNET.image_size, place / "large.npz")
        small = in_memory(store, DEFAULT.image_size, place / "small.npz")
        others: list[dict[str, float]] = []
        firsts: list[dict[str, float]] = []
        speeds = in_turn(
            {
                "plain": partial(plain, large, RESNET.backbone, seconds),
                "one": partial(ours, store, RESNET, 1, others),
                "fp32": partial(plain, large, RESNET.backbone, seconds, "--fp32"),
                "two": partial(ours, store, RESNET, 2, others),
                "plain default": partial(plain, small, DEFAULT.backbone, seconds),
                "default": partial(ours, store, DEFAULT, 1, firsts),
            },
            rounds,
        )
        n = len(store.records("train"))
        bf16 = has_bf16("cpu")
        name = f"plain loop, {'bf16' if bf16 else 'float32'}, channels last"
        fp32 = "plain loop, float32, channels first"
        for row, side, peer, peer_name, bar in (
            ("resnet18 224 px, 1 worker", "one", "plain", name, 0.97),
            ("resnet18 224 px, 2 workers", "two", "plain", name, 0.95),
            # Most of it is bf16's.
            ("resnet18 224 px, 1 worker", "one", "fp32", fp32, 2.5 if bf16 else None),
            (
                f"{DEFAULT.backbone} {DEFAULT.image_size} px, 1 worker",
                *("default", "plain default", name, None),
            ),
        ):
            emit("train_speed", row, "1/s", speeds[side], n, speeds[peer], peer_name, bar)
        for part in firsts[0]:
            taken = statistics.median(first[part] for first in firsts)
            row = f"first step: {part}" if part else "command to first step"
            bar = None if part else 12.0
            emit("train_speed", row, "s", taken, n, bar=bar, at_most=True)


if __name__ == "__main__":
    main()
