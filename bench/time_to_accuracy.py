"""Time to a validation accuracy of 0.90 on the real radiographs, command to evaluation.

Ours is `ctray train` with the recipe `default`, the peer `plain_torch.py`: the same backbone from
the same ImageNet weights, trained on the same images and scored on the same validation images after
every epoch, each with the settings it comes with. The clock runs from the start of the process,
imports and cluster included, until the first evaluation at 0.90 is printed; both are stopped there.
Each is scored at the image size it trains on at the time. While ours trains on smaller images it
keeps no weights for a bundle: the first that it keeps come with its first epoch at full size.
Sides take turns, round k with seed k. A peer that ends below 0.90 counts with the time it took for
nothing, which is too short; ours may not.
"""

import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import torch
from kit import (
    alone,
    cannot,
    ctray,
    emit,
    images,
    in_turn,
    link_images,
    note,
    parser,
    prepared,
)

from ctray.config import Recipe
from ctray.data.store import Store
from ctray.models.backbones import initial_model

TARGET = 0.90
BACKBONE = "tf_efficientnet_lite0"
_PEER = Path(__file__).parent / "plain_torch.py"


def seconds_until(
    command: list[str], target: float, accuracies: Callable[[str], list[float]], stop: bool
) -> tuple[float, float]:
    """Seconds until a command prints an accuracy of at least `target`, and the best one it printed.

    If it ends before, the seconds are those it ran. `stop`: it has to be asked to end.
    """
    start, best = time.monotonic(), 0.0
    with subprocess.Popen(command, env=alone(), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            best = max([best, *accuracies(line)])
            if accuracies(line) and best >= target:
                took = time.monotonic() - start
                if stop:
                    process.terminate()
                process.communicate()
                return took, best
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return time.monotonic() - start, best


def of_ctray(line: str) -> list[float]:
    """The accuracy in a line of `ctray train`, if there is one."""
    return [float(value) for value in re.findall(r"val accuracy ([\d.]+)", line)]


def of_peer(line: str) -> list[float]:
    """The accuracy in a line of the peer."""
    return [json.loads(line)["acc"]]


def folders(store: Store, place: Path) -> Iterator[Path]:
    """The training and the validation split as the peer reads them: links, a folder a class."""
    for split in ("train", "val"):
        link_images(store.records(split), place / split)
        yield place / split


def main() -> None:
    """Run the bench."""
    own = parser(__doc__ or "")
    own.add_argument("--recipe", default="default", help="of ours")
    options = own.parse_args()
    rounds, target = (1, 0.0) if options.quick else (3, TARGET)
    fewest = ("image_size=64", "batch_size=16", "small_share=0", "freeze_epochs=0")
    small = ("--epochs", 1, *(word for pair in fewest for word in ("--set", pair)))
    with images(options) as folder, tempfile.TemporaryDirectory() as root:
        note(f"images: {folder}")
        place = Path(root)
        store = prepared(folder, place / "store")
        if store.synthetic and not options.quick:
            cannot("time_to_accuracy needs the real radiographs: name their folder with --data")
        weights = place / "weights.pt"
        pretrained = initial_model(Recipe(backbone=BACKBONE), len(store.classes))
        torch.save(pretrained.state_dict(), weights)
        train, val = folders(store, place)
        our_seeds, peer_seeds, bests = count(), count(), []

        def ours() -> float:
            seed = next(our_seeds)
            command = ctray(
                *("train", "--data", store.root, "--out", place / f"run-{seed}"),
                *("--recipe", options.recipe, "--seed", seed, *(small if options.quick else ())),
            )
            took, best = seconds_until(command, target, of_ctray, stop=True)
            if best < target:
                raise SystemExit(f"ours ended at {best:.4f}, below {target}: nothing to compare")
            return took

        def peer() -> float:
            words = [str(train), str(val), "--weights", str(weights)]
            words += ["--until", str(target), "--seed", str(next(peer_seeds))]
            words += ["--epochs", "1", "--size", "64", "--bs", "16"] if options.quick else []
            command = [sys.executable, str(_PEER), *words]
            took, best = seconds_until(command, target, of_peer, stop=False)
            bests.append(best)
            return took

        taken = in_turn({"peer": peer, "ours": ours}, rounds)
        short = sum(best < target for best in bests)
        name = f"plain PyTorch{f', below it in {short} of {rounds} runs' if short else ''}"
        emit(
            "time_to_accuracy",
            f"validation accuracy {target:.2f} at the size in training, recipe {options.recipe}",
            "s",
            taken["ours"],
            len(store.records("train")),
            taken["peer"],
            name,
            0.7,
            at_most=True,
        )


if __name__ == "__main__":
    main()
