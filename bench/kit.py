"""What the benches share: the images, paired rounds, and one JSON object a line."""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from ctray.data.phantom import PhantomSpec, write_folder

_REPOSITORY = Path(__file__).parent.parent


def arguments(description: str) -> argparse.Namespace:
    """`--quick` (small, to see that it runs) and `--data` (images in the Kaggle layout)."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="few images and rounds")
    parser.add_argument("--data", type=Path, help="folder with one sub-folder a class")
    return parser.parse_args()


@contextmanager
def images(options: argparse.Namespace) -> Iterator[Path]:
    """A folder of images: `--data`, else real ones where they are, else synthetic ones."""
    root = Path(os.environ.get("CTRAY_TEST_DATA", _REPOSITORY / ".." / "shared" / "data"))
    found = options.data or root / "radiography"
    with tempfile.TemporaryDirectory(prefix="ctray-bench-") as place:
        if options.quick or not found.is_dir():
            count = 40 if options.quick else 300
            spec = PhantomSpec(images_per_class=count, size=299, seed=0)
            found = write_folder(spec, Path(place) / "synthetic")
        yield found


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


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def _machine() -> str:
    memory = psutil.virtual_memory().total / 2**30
    return f"{os.cpu_count()} cores, {memory:.0f} GiB, {platform.machine()}"
