"""Memory: the peak of all processes while streaming a small store and one twenty times as large.

Memory is what the processes have to themselves (USS) plus shared memory (Ray's object store),
sampled ten times a second over one epoch at 224 px. The large store repeats the small one's images
under other names.
"""

import hashlib
import json
import os
import shutil
import tempfile
import threading
from pathlib import Path

import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from kit import arguments, emit, images, note

from ctray.config import AugmentConfig, PreprocessSpec
from ctray.data.ingest.listing import list_folder
from ctray.data.ingest.prepare import Options, prepare
from ctray.data.store import INFO, MANIFEST, STAMP_KEY, Store, shard_path, version_stamp
from ctray.data.stream import Stream
from ctray.session import ray_session

_SHARED_BEFORE = psutil.virtual_memory().shared


def enlarge(store: Store, root: Path, records: int) -> Store:
    """A store of so many records: the shards copied, the rows under other ids."""
    shutil.copytree(store.root, root)
    shards = int(store.manifest["shard"].max()) + 1
    parts, turn = [], 0
    while turn * len(store.manifest) < records:
        rows = store.manifest.copy()
        rows["id"] = [hashlib.sha256(f"{turn}{id_}".encode()).hexdigest() for id_ in rows["id"]]
        rows["path"] = f"{turn}/" + rows["path"]
        for shard in range(shards if turn else 0):
            shutil.copyfile(shard_path(store.root, shard), shard_path(root, turn * shards + shard))
        rows["shard"] += turn * shards
        parts.append(rows)
        turn += 1
    table = pa.Table.from_pandas(pd.concat(parts)[:records], preserve_index=False)
    stamp = version_stamp(1, "repeated").encode()
    pq.write_table(table.replace_schema_metadata({STAMP_KEY: stamp}), root / MANIFEST)
    info = json.loads((root / INFO).read_text()) | {"fingerprint": "repeated"}
    (root / INFO).write_text(json.dumps(info))
    return Store.open(root)


class Peak(threading.Thread):
    """Watches the memory of this process, its children and the object store, in MiB."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.done = threading.Event()
        self.mebibytes = 0.0

    def run(self) -> None:
        """Sample until told to stop."""
        while not self.done.wait(0.1):
            self.mebibytes = max(self.mebibytes, memory())


def memory() -> float:
    """MiB of all processes of this session, and of the object store."""
    me = psutil.Process()
    total = 0
    for process in [me, *me.children(recursive=True)]:
        try:
            total += process.memory_full_info().uss
        except psutil.NoSuchProcess:
            continue
    # Pages of the object store stay with it once they were used.
    return (total + psutil.virtual_memory().shared - _SHARED_BEFORE) / 2**20


def peak(store: Store) -> float:
    """The peak, in MiB, while one epoch streams."""
    watch = Peak()
    watch.start()
    spec = PreprocessSpec(image_size=224, tone="none")
    count = 0
    for batch in Stream(store, "all", spec, 0, 1).training(AugmentConfig(), 0, range(1), 32):
        count += len(batch.images)
    watch.done.set()
    watch.join()
    note(f"{count} images of {len(store.manifest)} records: {watch.mebibytes:.0f} MiB")
    return watch.mebibytes


def main() -> None:
    """Run the bench."""
    options = arguments(__doc__ or "")
    few, many = (100, 1000) if options.quick else (2000, 40000)
    with images(options) as folder, tempfile.TemporaryDirectory() as root, ray_session():
        note(f"images: {folder}, process {os.getpid()}")
        made = prepare(list_folder(folder), Path(root) / "made", Options())
        small = enlarge(made, Path(root) / "small", few)
        large = enlarge(made, Path(root) / "large", many)
        peak(small)  # the processes start and import
        before, after = peak(small), peak(large)
        emit(
            "stream_memory",
            f"peak memory, {few} to {many} images",
            "MiB",
            after,
            many,
            before,
            f"the same over {few} images",
            1.15,
            at_most=True,
        )


if __name__ == "__main__":
    main()
