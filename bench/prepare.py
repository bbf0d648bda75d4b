"""Preparing: decode, check, hash, resize and write, against decoding alone on the same cores.

The peer decodes the same files with OpenCV in one thread a core, and keeps nothing. Ours is timed
in a warm cluster to the last shard; comparing all with all and the report come after that, in a row
of their own.
"""

import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from kit import alternate, arguments, emit, images, note

from ctray.data.ingest.listing import Listing, list_folder
from ctray.data.ingest.prepare import prepare
from ctray.session import ray_session

CORES = 2


def decode_alone(listing: Listing) -> float:
    """Images a second of OpenCV's decoder, files read and all."""

    def decode(uri: str) -> int:
        data = np.frombuffer(Path(uri).read_bytes(), np.uint8)
        return int(cv2.imdecode(data, cv2.IMREAD_GRAYSCALE)[0, 0])

    cv2.setNumThreads(1)
    start = time.perf_counter()
    with ThreadPoolExecutor(CORES) as pool:
        sum(pool.map(decode, [file.uri for file in listing.files]))
    return len(listing.files) / (time.perf_counter() - start)


def ours(listing: Listing, place: Path, wholes: list[float]) -> float:
    """Images a second up to the last shard; appends those up to the finished store."""
    marks: list[float] = []
    start = time.perf_counter()

    def mark(done: int, total: int) -> None:
        if done == total:
            marks.append(time.perf_counter() - start)

    prepare(listing, place, progress=mark)
    wholes.append(len(listing.files) / (time.perf_counter() - start))
    shutil.rmtree(place)
    return len(listing.files) / marks[-1]


def main() -> None:
    """Run the bench."""
    options = arguments(__doc__ or "")
    with images(options) as folder, tempfile.TemporaryDirectory() as root, ray_session():
        note(f"images: {folder}")
        listing = list_folder(folder)
        place = Path(root) / "store"
        wholes: list[float] = []
        ours(listing, place, [])  # the processes start and import
        mine, peers = alternate(
            lambda: ours(listing, place, wholes),
            {"OpenCV decoding alone, 2 threads": lambda: decode_alone(listing)},
            1 if options.quick else 5,
        )
        ((name, peer),) = peers.items()
        n = len(listing.files)
        emit("prepare", "decode, check, hash, resize, write", "1/s", mine, n, peer, name, 0.5)
        whole = sorted(wholes)[len(wholes) // 2]
        emit("prepare", "the whole of it, with duplicates and report", "1/s", whole, n, peer, name)


if __name__ == "__main__":
    main()
