"""What the tests share: one Ray cluster, one folder of synthetic images, one trained bundle."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ctray.config import Recipe
from ctray.data.phantom import PhantomSpec, write_folder
from ctray.data.prepare import Options, prepare
from ctray.data.records import list_folder
from ctray.data.store import Store
from ctray.session import ray_session

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
    return Recipe(backbone="small_cnn", image_size=96, epochs=6, batch_size=16, lr=3e-3, seed=1)


@pytest.fixture(scope="session")
def run(store: Store, tiny_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished training run on that store."""
    from ctray.training.plan import make_plan
    from ctray.training.trainer import train

    out = tmp_path_factory.mktemp("run")
    train(tiny_recipe, store, out, make_plan(1), lambda row: None)
    return out


@pytest.fixture(scope="session")
def radiographs() -> Path:
    """The real radiographs; tests that need them are skipped where they are not."""
    root = Path(os.environ.get("CTRAY_TEST_DATA", REPOSITORY / ".." / "shared" / "data"))
    folder = root / "radiography"
    if not folder.is_dir():
        pytest.skip(f"no real images at {folder}: set CTRAY_TEST_DATA")
    return folder
