"""What the tests share: one Ray cluster, one folder of synthetic images, one trained bundle."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from moto.server import ThreadedMotoServer
from pyarrow import fs

from ctray.config import Recipe
from ctray.data.ingest.listing import list_folder
from ctray.data.ingest.prepare import Options, prepare
from ctray.data.store import Store
from ctray.session import ray_session
from ctray.synthetic.folder import write_folder
from ctray.synthetic.phantom import PhantomSpec

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """The session's Ray cluster; commands run in this process use it."""
    with ray_session():
        yield


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Synthetic images, 80 a class at 96 px, in the Kaggle layout."""
    spec = PhantomSpec(images_per_class=80, size=96, seed=3)
    return write_folder(spec, tmp_path_factory.mktemp("phantom") / "images")


@pytest.fixture(scope="session")
def store(cluster: None, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store of those images."""
    return prepare(
        list_folder(images), tmp_path_factory.mktemp("store") / "store", Options(size=96)
    )


@pytest.fixture(scope="session")
def tiny_recipe() -> Recipe:
    """A recipe that trains in seconds and still learns something."""
    return Recipe(
        backbone="small_cnn",
        image_size=96,
        epochs=6,
        batch_size=16,
        lr=3e-3,
        seed=1,
        evaluate_every=6,
        refit_epochs=0,
    )


@pytest.fixture(scope="session")
def trained(
    store: Store, tiny_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, "Told"]:
    """A finished training run on that store: its folder, and what it told."""
    out = tmp_path_factory.mktemp("run")
    return out, train_tiny(tiny_recipe, store, out)


@pytest.fixture(scope="session")
def run(trained: tuple[Path, "Told"]) -> Path:
    """The folder of that run."""
    return trained[0]


class Told:
    """Remembers what a run tells."""

    def __init__(self) -> None:
        self.starts: list[tuple[int, int, int, bool]] = []
        self.rows: list[dict[str, Any]] = []
        self.said: list[str] = []
        self.steps: list[int] = []

    def start(self, step: int, interval: int, workers: int, replaced: bool) -> None:
        self.starts.append((step, interval, workers, replaced))

    def first(self, times: dict[str, float]) -> None:
        assert times["started"] <= times["ready"] <= times["arrived"] <= times["done"]

    def progress(self, step: int, steps: int) -> None:
        self.steps.append(step)

    def row(self, row: dict[str, Any]) -> None:
        self.rows.append(row)

    def say(self, text: str) -> None:
        self.said.append(text)


def train_tiny(
    recipe: Recipe, store: Store, out: Path, workers: int = 1, told: Told | None = None
) -> Told:
    """Train in this process's cluster, and return what the run told."""
    from ctray.training.plan import make_plan
    from ctray.training.trainer import train

    told = told or Told()
    train(recipe, store, out, make_plan(workers), told, str(out / "checkpoints"))
    return told


@pytest.fixture(scope="session")
def bucket() -> Iterator[str]:
    """A bucket of an S3 server in this process: its URI, with a query, with the path as `{}`."""
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_EC2_METADATA_DISABLED")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "true"))
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    query = f"endpoint_override={host}:{port}&scheme=http&region=us-east-1"
    filesystem, _ = fs.FileSystem.from_uri(f"s3://bucket?{query}&allow_bucket_creation=true")
    filesystem.create_dir("bucket")
    yield "s3://bucket/{}?" + query
    server.stop()
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value


def _real(name: str) -> Path:
    root = Path(os.environ.get("CTRAY_TEST_DATA", REPOSITORY / ".." / "shared" / "data"))
    if not (root / name).is_dir():
        pytest.skip(f"no real images at {root / name}: set CTRAY_TEST_DATA")
    return root / name


@pytest.fixture(scope="session")
def radiographs() -> Path:
    """The real radiographs; tests that need them are skipped where they are not."""
    return _real("radiography")


@pytest.fixture(scope="session")
def slices() -> Path:
    """Real CT slices of two classes; tests that need them are skipped where they are not."""
    return _real("ct")


@pytest.fixture(scope="session")
def dicoms() -> Path:
    """Real DICOM radiographs; tests that need them are skipped where they are not."""
    return _real("dicom")


@pytest.fixture(scope="session")
def wild() -> Path:
    """Small inputs that went wrong when people used them; see the README beside them."""
    return _real("wild")
