"""Searches in a row: none hangs, and none leaves a process, a placement group or a file behind.

Fifty searches of four one-epoch trials. Every other one joins a Ray cluster that this bench starts
(`RAY_ADDRESS`), so that what one leaves the next would meet; the others start and stop one of their
own. After each one that cluster's actors and placement groups, the searches' processes and the
temporary folders are counted.
"""

import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import ray
from kit import alone, arguments, emit, note, prepared, search
from ray.util import placement_group_table

from ctray.ray_internals import actors
from ctray.session import ray_session
from ctray.synthetic.folder import write_folder
from ctray.synthetic.phantom import PhantomSpec

SEARCHES, TRIALS = 50, 4
# A search of this size takes under a minute; one that is not back by then hangs.
LIMIT_S = 600
# In the environment of a search and what it starts; Ray would write over it with its titles.
MARK = "CTRAY_SOAK"
# Ray frees a run's processes and groups some seconds after its end.
SETTLED_S = 60
SPACE = """
backbone: {choice: [small_cnn]}
image_size: {choice: [48, 64]}
lr: {low: 1.0e-3, high: 1.0e-2, log: true}
"""


@contextlib.contextmanager
def own_temporary(place: Path) -> Iterator[Path]:
    """A folder for temporary files of this bench and what it starts, for a block."""
    place.mkdir()
    os.environ |= {"TMPDIR": str(place), "RAY_TMPDIR": str(place)}
    tempfile.tempdir = None
    yield place


def folders(temporary: Path) -> set[str]:
    """Temporary folders of ctray's, and those where Ray keeps its logs."""
    found = (*temporary.glob("ctray-*"), *temporary.glob("ray/session_2*"))
    return {str(path.relative_to(temporary)) for path in found}


def processes() -> list[str]:
    """Processes that a search has started, and theirs."""
    named = []
    for one in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if MARK in one.environ():
                named.append(one.name())
    return named


def left_behind(temporary: Path, known: set[str]) -> list[str]:
    """What is still there of a search that has ended."""
    tables = placement_group_table().values()
    groups = [group["placement_group_id"] for group in tables if group["state"] != "REMOVED"]
    # Ray Data keeps an actor or two for all who use the cluster.
    alive = [
        one["ActorClassName"]
        for one in actors(actor_state_name="ALIVE").values()
        if not one["IsDetached"]
    ]
    return [*groups, *alive, *(folders(temporary) - known), *processes()]


def main() -> None:
    """Run the soak."""
    options = arguments(__doc__ or "")
    searches = 2 if options.quick else SEARCHES
    hung = failed = leaks = 0
    with tempfile.TemporaryDirectory() as root, own_temporary(Path(root) / "t") as temporary:
        place = Path(root)
        spec = PhantomSpec(images_per_class=40, size=64, seed=0)
        store = prepared(write_folder(spec, place / "images"), place / "store")
        with ray_session():
            address = ray.get_runtime_context().gcs_address
            own = alone() | {"RAY_TMPDIR": str(temporary), MARK: "", "SPT_NOENV": "1"}
            joining = own | {"RAY_ADDRESS": address, "RAY_AUTH_MODE": "token"}
            before = folders(temporary)
            for number in range(searches):
                out = place / f"study-{number}"
                command = search(store, out, SPACE, "--trials", TRIALS, "--max-epochs", 1)
                start = time.monotonic()
                try:
                    done = subprocess.run(
                        command,
                        env=own if number % 2 else joining,
                        stdout=subprocess.DEVNULL,
                        timeout=LIMIT_S,
                    )
                except subprocess.TimeoutExpired:
                    hung += 1
                    continue
                failed += bool(done.returncode)
                took = time.monotonic() - start
                deadline = time.monotonic() + SETTLED_S
                while (left := left_behind(temporary, before)) and (time.monotonic() < deadline):
                    time.sleep(0.5)
                leaks += len(left)
                note(f"search {number + 1} of {searches}: {took:.0f} s, left behind: {left}")
    for what, count in (("hung", hung), ("failed", failed), ("left behind", leaks)):
        emit(
            "search_soak", f"{searches} searches: {what}", "", count, searches, bar=0, at_most=True
        )


if __name__ == "__main__":
    main()
