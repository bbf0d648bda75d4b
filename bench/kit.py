"""What the benches share: the images, paired rounds, and one JSON object a line."""

import argparse
import datetime
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

import pandas as pd
import psutil

from ctray.data.store import Store
from ctray.synthetic.folder import write_folder
from ctray.synthetic.phantom import PhantomSpec

REPOSITORY = Path(__file__).parent.parent
# Of a processor's flags the first that it has says how fast it may be.
_VECTORS = ("amx_bf16", "avx512_bf16", "avx512f", "avx2")
# How a bench ends that cannot be run on this machine; `run.py` goes on with the next.
NOT_HERE = 3


def parser(description: str) -> argparse.ArgumentParser:
    """`--quick` (small, to see that it runs) and `--data` (images in the Kaggle layout)."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--quick", action="store_true", help="few images and rounds")
    made.add_argument("--data", type=Path, help="folder with one sub-folder a class")
    return made


def arguments(description: str) -> argparse.Namespace:
    """What was asked for, of a bench that has no options of its own."""
    return parser(description).parse_args()


@contextmanager
def images(options: argparse.Namespace) -> Iterator[Path]:
    """A folder of images: `--data`, else real ones where they are, else synthetic ones."""
    root = Path(os.environ.get("CTRAY_TEST_DATA", REPOSITORY / ".." / "shared" / "data"))
    found = options.data or root / "radiography"
    with tempfile.TemporaryDirectory(prefix="ctray-bench-") as place:
        if options.quick or not found.is_dir():
            count = 40 if options.quick else 300
            spec = PhantomSpec(images_per_class=count, size=299, seed=0)
            found = write_folder(spec, Path(place) / "synthetic")
        yield found


def prepared(folder: Path, place: Path) -> Store:
    """A store of these images at `place`, made by `ctray prepare`."""
    subprocess.run(
        ctray("prepare", folder, "--out", place), check=True, env=alone(), stdout=sys.stderr
    )
    return Store.open(place)


def link_images(records: pd.DataFrame, place: Path) -> None:
    """Links to the files of these records, a folder a class with the images in `images`."""
    for number, (label, uri) in enumerate(zip(records["label"], records["uri"], strict=True)):
        link = place / label / "images" / f"{number:06d}.png"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(Path(uri).resolve())


def ctray(*words: object) -> list[str]:
    """The command `ctray …` of this environment."""
    return [sys.executable, "-m", "ctray", *(str(word) for word in words)]


def search(store: Store, out: Path, space: str, *words: object) -> list[str]:
    """The command `python -m tuning.search` on a store, with this space (YAML), beside `out`."""
    file = out.with_suffix(".yaml")
    file.write_text(space)
    given = ("--data", store.root, "--out", out, "--space", file, "--choose", "best", *words)
    return [sys.executable, "-m", "tuning.search", *(str(word) for word in given)]


def alone() -> dict[str, str]:
    """The environment of a command that is timed: its own cluster, all cores, no GPU.

    OMP_NUM_THREADS, which Ray sets to 1 in its workers, would leave torch one thread.
    """
    left_out = ("RAY_", "OMP_NUM_THREADS")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    return kept | {"CUDA_VISIBLE_DEVICES": "", "NO_ALBUMENTATIONS_UPDATE": "1"}


def in_turn(sides: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Medians of figures taken in turn, each side once a round."""
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        for name, side in sides.items():
            taken[name].append(side())
            note(f"round {number + 1} of {rounds}, {name}: {taken[name][-1]:.4g}")
    return {name: statistics.median(values) for name, values in taken.items()}


def alternate(
    ours: Callable[[], float], peers: dict[str, Callable[[], float]], rounds: int
) -> tuple[float, dict[str, float]]:
    """Medians of figures taken in turn, so that what else runs here meets both sides alike."""
    mine: list[float] = []
    theirs: dict[str, list[float]] = {name: [] for name in peers}
    for _ in range(rounds):
        for name, peer in peers.items():
            theirs[name].append(peer())
            mine.append(ours())
    return statistics.median(mine), {name: statistics.median(v) for name, v in theirs.items()}


def emit(
    bench: str,
    row: str,
    unit: str,
    ours: float,
    n: int,
    peer: float | None = None,
    peer_name: str = "",
    bar: float | None = None,
    ratio: float | None = None,
    at_most: bool = False,
) -> None:
    """Print one row; `ratio` is ours to the peer's unless given, `bar` is for it or for ours."""
    if ratio is None and peer is not None:
        ratio = ours / peer
    judged = ours if ratio is None else ratio
    holds = None if bar is None else (judged <= bar if at_most else judged >= bar)
    print(
        json.dumps(
            {
                "bench": bench,
                "row": row,
                "unit": unit,
                "ours": _short(ours),
                "peer": _short(peer),
                "peer_name": peer_name,
                "ratio": _short(ratio),
                "bar": bar,
                "holds": holds,
                "n": n,
                "machine": _machine(),
            }
        ),
        flush=True,
    )


def note(text: str) -> None:
    """Say something to whoever waits; stdout is for rows."""
    print(text, file=sys.stderr, flush=True)


def cannot(reason: str) -> NoReturn:
    """End a bench that this machine has not what it takes for."""
    note(reason)
    sys.exit(NOT_HERE)


def conditions(packages: tuple[str, ...]) -> list[str]:
    """Lines for a page: hardware, versions and date."""
    about = Path("/proc/cpuinfo").read_text()
    named = re.search(r"^model name\s*: (.+)$", about, flags=re.M)
    processor = named[1] if named else platform.machine()
    # The name alone does not say what it computes with.
    vectors = next((flag for flag in _VECTORS if f" {flag} " in about), "")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    return [
        f"- {_machine()}, {processor}{f' ({vectors})' if vectors else ''}",
        f"- Python {platform.python_version()}, {versions}",
        f"- {datetime.datetime.now(datetime.UTC).date().isoformat()}",
    ]


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def _machine() -> str:
    memory = psutil.virtual_memory().total / 2**30
    return f"{os.cpu_count()} cores, {memory:.0f} GiB, {platform.machine()}"
