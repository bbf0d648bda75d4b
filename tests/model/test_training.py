"""Training through Ray Train: what it writes, what it learns, and that it can be repeated."""

import contextlib
import json
import shutil
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import psutil
import pytest
import ray.train
import torch
from conftest import Told, train_tiny
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ctray import config
from ctray.artefact.bundle import Bundle
from ctray.config import PreprocessSpec, Recipe
from ctray.data.ingest.listing import list_folder
from ctray.data.ingest.prepare import prepare
from ctray.data.store import Store
from ctray.data.stream import Stream
from ctray.errors import UserError
from ctray.provenance import versions
from ctray.training import ray_train, trainer, worker
from ctray.training.history import HISTORY_KEYS
from ctray.training.job import make_job
from ctray.training.plan import make_plan
from ctray.training.validation import ValidationShare


def history(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]


def test_it_writes_what_scripts_rely_on(run: Path, tiny_recipe: Recipe, store: Store) -> None:
    names = {path.name for path in run.iterdir()}
    assert names == {"bundle", "config.json", "curves.png", "history.jsonl", "tensorboard"}
    config = json.loads((run / "config.json").read_text())
    assert Recipe.model_validate(config["recipe"]) == tiny_recipe
    assert config["fingerprint"] == store.fingerprint
    assert config["plan"]["workers"] == 1
    assert config["versions"] == versions()
    rows = history(run)
    steps = len(store.records("train")) // tiny_recipe.batch_size
    every = tiny_recipe.evaluate_every
    assert every is not None
    total = tiny_recipe.epochs * steps
    expected = {n for n in range(1, total + 1) if n % every == 0 or n % steps == 0}
    assert [row["step"] for row in rows] == sorted(expected)
    assert all(tuple(row) == HISTORY_KEYS for row in rows)
    assert {1.0, 2.0, 6.0} <= {row["epoch"] for row in rows}
    assert cv2.imread(str(run / "curves.png")).std() > 10


def test_tensorboard_has_the_history(run: Path) -> None:
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    rows = history(run)
    for tag, key in (("val/macro_f1", "val_macro_f1"), ("train/loss", "train_loss"), ("lr", "lr")):
        scalars = events.Scalars(tag)
        assert [scalar.step for scalar in scalars] == [row["step"] for row in rows]
        assert [scalar.value for scalar in scalars] == pytest.approx([row[key] for row in rows])


def test_the_bundle_is_the_best_evaluation(run: Path, store: Store, tiny_recipe: Recipe) -> None:
    bundle = Bundle.load(str(run / "bundle"))
    best = max(history(run), key=lambda row: row["val_macro_f1"])
    assert bundle.info.metrics["val_macro_f1"] == best["val_macro_f1"]
    assert bundle.info.metrics["val_records"] == len(store.records("val"))
    assert bundle.info.recipe == tiny_recipe
    assert bundle.info.synthetic
    assert set(bundle.seen.trained_on) == set(store.records("train")["id"])
    assert set(bundle.seen.chosen_on) == set(store.records("val")["id"])


def test_it_learns(run: Path) -> None:
    rows = history(run)
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    assert rows[-1]["train_accuracy"] > rows[0]["train_accuracy"]
    assert max(row["val_accuracy"] for row in rows) > 0.5, "four balanced classes: chance is 0.25"


def test_it_tells_what_happens(trained: tuple[Path, Told], tiny_recipe: Recipe) -> None:
    _, told = trained
    assert [start[0] for start in told.starts] == [0]
    assert told.starts[0][1:] == (tiny_recipe.evaluate_every, 1, False)
    assert told.steps == sorted(told.steps)
    assert told.said == []


# Everything that is off by default, at once: that it runs, learns and evaluates.
EVERYTHING = {
    "epochs": 4,
    "small_share": 0.5,
    "small_size": 64,
    "freeze_epochs": 1,
    "mixup": 0.2,
    "cutmix": 1.0,
    "ema": 0.9,
    "layer_decay": 0.9,
    "focal_gamma": 1.0,
    "class_weights": "balanced",
    "accumulate": 2,
    "sampling": "balanced",
    "checkpoint_every": 5,
}


def test_two_workers_train_and_count_every_validation_record_once(
    store: Store, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    recipe = Recipe.model_validate(tiny_recipe.model_dump() | EVERYTHING)
    told = train_tiny(recipe, store, tmp_path, workers=2)
    assert {row["val_records"] for row in told.rows} == {len(store.records("val"))}
    assert told.rows[-1]["train_loss"] < told.rows[0]["train_loss"]
    # Scored at the size they train on; the weights that are kept have seen the full one.
    sizes = {row["epoch"]: row["image_size"] for row in told.rows}
    assert [sizes[epoch] for epoch in (1.0, 2.0, 3.0, 4.0)] == [64, 64, 96, 96]
    bundle = Bundle.load(str(tmp_path / "bundle"))
    full = [row for row in told.rows if row["image_size"] == 96]
    assert bundle.info.metrics["val_loss"] in [row["val_loss"] for row in full]
    assert bundle.info.metrics["val_macro_f1"] > 0.3, "four balanced classes"
    assert bundle.info.recipe.tta == "flip"
    said = bundle.validation
    assert said is not None
    # Gathered from two workers, and yet in the store's order.
    right = (said.logits.argmax(axis=1) == said.labels).mean()
    assert right == pytest.approx(bundle.info.metrics["val_accuracy"])


def test_an_evaluation_is_of_images_of_the_size_asked_for(store: Store) -> None:
    spec = PreprocessSpec(store_size=96, image_size=96)
    validation = ValidationShare(Stream(store, "val", spec, 0, 1))
    # The second time from memory.
    for size in (64, 64, 96):
        batches = list(validation.batches(size))
        assert {batch.images.shape[1:] for batch in batches} == {(size, size)}
        assert sum(len(batch.labels) for batch in batches) == len(store.records("val"))


def test_two_workers_end_where_one_does(
    run: Path, store: Store, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    train_tiny(tiny_recipe, store, tmp_path, workers=2)
    alone, pair = history(run), history(tmp_path)
    # The same records and pixels in each step; the norms see half a batch each.
    assert [row["step"] for row in alone] == [row["step"] for row in pair]
    for row, other in zip(alone, pair, strict=True):
        assert other["train_loss"] == pytest.approx(row["train_loss"], abs=0.15)
    best = [max(row["val_accuracy"] for row in rows) for rows in (alone, pair)]
    spread = 1.96 * (best[0] * (1 - best[0]) / len(store.records("val"))) ** 0.5
    assert abs(best[0] - best[1]) <= 2 * spread


@pytest.fixture(scope="module")
def before_its_refit(
    store: Store, tiny_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of the same run once more, with a refit, that failed when the refit began."""

    def diverge(*_: object) -> None:
        raise UserError("the refit diverged")

    out = tmp_path_factory.mktemp("unfinished") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "run_refit", diverge)
        with pytest.raises(UserError, match="diverged"):
            train_tiny(tiny_recipe.model_copy(update={"refit_epochs": 1}), store, out)
    return out


def test_a_refit_goes_on_from_the_best_weights_with_the_validation_records_too(
    run: Path,
    store: Store,
    tiny_recipe: Recipe,
    before_its_refit: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(before_its_refit, tmp_path, dirs_exist_ok=True)
    # At a rate of next to nothing the weights must stay what the same run without a refit keeps.
    monkeypatch.setattr(config, "_REFIT_LR", 1e-9)
    told = train_tiny(tiny_recipe.model_copy(update={"refit_epochs": 1}), store, tmp_path)
    steps = [len(store.records(split)) // 16 for split in ("train", "train+val")]
    assert steps[1] > steps[0]
    assert told.steps[-1] == steps[1]
    begins, said = told.said
    assert begins == "refit: 1 epoch on training and validation records"
    assert said.startswith("refit, epoch 1 of 1: loss ")
    assert [row["step"] for row in history(tmp_path)] == [row["step"] for row in history(run)]
    bundle, before = (Bundle.load(str(place / "bundle")) for place in (tmp_path, run))
    assert bundle.info.metrics == before.info.metrics
    best = max(history(run), key=lambda row: row["val_macro_f1"])
    assert best["step"] < history(run)[-1]["step"], "or this cannot tell the best from the last"
    statistics = [name for name in before.weights if "running" in name or "batches" in name]
    for name in before.weights.keys() - set(statistics):
        assert np.allclose(bundle.weights[name], before.weights[name], atol=1e-6), name
    assert any(not torch.equal(bundle.weights[n], before.weights[n]) for n in statistics)
    assert set(bundle.seen.trained_on) == set(store.records("train+val")["id"])
    assert bundle.seen.chosen_on == ()
    assert bundle.validation is not None
    assert before.validation is not None
    assert bundle.validation.scored_by == "chosen checkpoint, before the refit"
    assert before.validation.scored_by == "chosen checkpoint"
    assert np.array_equal(bundle.validation.logits, before.validation.logits)
    assert bundle.validation.ids == before.validation.ids == tuple(store.records("val")["id"])
    assert not (tmp_path / "checkpoints").exists()


def test_a_run_whose_refit_fails_ends_without_it_with_the_weights_of_the_same_seed(
    run: Path, store: Store, tiny_recipe: Recipe, before_its_refit: Path, tmp_path: Path
) -> None:
    shutil.copytree(before_its_refit, tmp_path, dirs_exist_ok=True)
    (tmp_path / "curves.png").unlink()
    assert train_tiny(tiny_recipe, store, tmp_path).steps == [], "it was trained already"
    assert [row["step"] for row in history(tmp_path)] == [row["step"] for row in history(run)]
    assert (tmp_path / "curves.png").is_file()
    bundle, before = (Bundle.load(str(place / "bundle")) for place in (tmp_path, run))
    # Two trainings with one seed.
    assert bundle.info.metrics == before.info.metrics
    assert bundle.weights.keys() == before.weights.keys()
    for name, tensor in before.weights.items():
        assert torch.equal(bundle.weights[name], tensor), name
    assert bundle.seen == before.seen


def test_ct_slices_train_by_the_defaults_made_small(
    cluster: None, slices: Path, tmp_path: Path
) -> None:
    store = prepare(list_folder(slices), tmp_path / "store")
    records = store.records("all")
    assert store.classes == ("COVID", "non-COVID")
    assert records.groupby("group")["split"].nunique().max() == 1
    quick = Recipe(image_size=96, small_share=0, epochs=3, refit_epochs=0)
    train_tiny(quick, store, tmp_path / "run")
    bundle = Bundle.load(str(tmp_path / "run" / "bundle"))
    assert bundle.info.classes == store.classes
    assert bundle.info.metrics["val_records"] == len(store.records("val"))
    labels = store.records("val")["label"]
    largest = labels.value_counts(normalize=True).max()
    chance = largest + 2 * (largest * (1 - largest) / len(labels)) ** 0.5
    assert bundle.info.metrics["val_accuracy"] > chance


@pytest.mark.parametrize(("while_it_starts", "times"), [(True, 2), (False, 1)])
def test_workers_that_die_again_and_again_are_one_sentence(
    while_it_starts: bool,
    times: int,
    store: Store,
    tiny_recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ray_train, "_STARTS", 1)
    monkeypatch.setattr(trainer, "_RESTARTS", 0)
    told = Told()
    begins = (lambda: True) if while_it_starts else (lambda: bool(told.steps))
    with (
        _killing_workers(begins),
        pytest.raises(UserError, match=rf"process died {times} times \(.*\): .* resume") as caught,
    ):
        train_tiny(tiny_recipe, store, tmp_path, told=told)
    assert caught.value.arguments == ("resume",)


@contextlib.contextmanager
def _killing_workers(begins: Callable[[], bool]) -> Iterator[None]:
    """Kill every process of a training worker as soon as it is seen, once `begins` says so."""
    over = threading.Event()

    def kill() -> None:
        while not over.wait(0.1):
            for process in psutil.Process().children(recursive=True) if begins() else ():
                with contextlib.suppress(psutil.Error):
                    if "RayTrainWorker" in " ".join(process.cmdline()):
                        process.kill()

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_divergence_is_one_sentence_with_step_and_learning_rate(
    store: Store, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    # Weights beyond float32's square make the first loss infinite.
    broken = tiny_recipe.model_copy(
        update={"lr": 1.0, "weight_decay": 1e30, "epochs": 1, "warmup": 0.0}
    )
    says = r"diverged: the loss is (nan|inf) at step \d+ .*lr="
    with pytest.raises(UserError, match=says) as caught:
        train_tiny(broken, store, tmp_path)
    assert caught.value.arguments == ("lr", "out")


def test_a_gpu_without_room_is_one_sentence(
    store: Store, tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    def context(world: int) -> SimpleNamespace:
        return SimpleNamespace(get_world_rank=lambda: 0, get_world_size=lambda: world)

    monkeypatch.setattr("ctray.training.loop.Training.__init__", full)
    monkeypatch.setattr("ray.train.torch.get_device", lambda: torch.device("cpu"))
    monkeypatch.setattr("ctray.training.worker._agree", lambda *_: None)
    recipe = tiny_recipe.model_copy(update={"accumulate": 2})
    job = make_job(recipe, store, make_plan(1), str(tmp_path / "checkpoints"))
    says = "has too little memory: try accumulate=4, with which a run can be resumed, or a"
    monkeypatch.setattr("ray.train.get_context", lambda: context(1))
    outcome = worker.run_job(job, SimpleNamespace())  # type: ignore[arg-type]
    assert says in outcome["error"]
    assert outcome["arguments"] == ("accumulate", "image_size")
    # Of the sixteen records of a batch each has two: those can be taken one by one, and are.
    monkeypatch.setattr("ray.train.get_context", lambda: context(8))
    with pytest.raises(UserError, match=r"memory: try a smaller image_size$") as caught:
        worker.run_job(job, SimpleNamespace())  # type: ignore[arg-type]
    assert caught.value.arguments == ("image_size",)


def test_the_mistake_of_one_worker_ends_the_run_at_once(cluster: None, tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    starts.mkdir()

    def loop(_: dict[str, Any]) -> None:
        import torch.distributed

        if ray.train.get_context().get_world_rank() == 1:
            (starts / uuid.uuid4().hex).touch()
            raise UserError("cuda:0 has too little memory")
        torch.distributed.barrier()

    training = ray_train.build_trainer(
        loop, {}, make_plan(2), str(tmp_path / "scratch"), restarts=5
    )
    with pytest.raises(UserError, match=r"^cuda:0 has too little memory$"):
        ray_train.fit(training)
    assert len(list(starts.iterdir())) == 1


def test_a_batch_that_cannot_be_shared_is_one_sentence(
    store: Store, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    small = tiny_recipe.model_copy(update={"batch_size": 2})
    says = r"batch_size=2 is too small for 2 workers.*batch_size=4"
    with pytest.raises(UserError, match=says) as caught:
        train_tiny(small, store, tmp_path, workers=2)
    assert caught.value.arguments == ("batch_size",)
    # The first of the two gets two of the six.
    parts = tiny_recipe.model_copy(update={"batch_size": 6, "accumulate": 3})
    says = r"accumulate=3 is more than the 2 records of a worker's"
    with pytest.raises(UserError, match=says) as caught:
        train_tiny(parts, store, tmp_path, workers=2)
    assert caught.value.arguments == ("accumulate",)


def test_early_stopping_ends_the_run(store: Store, tiny_recipe: Recipe, tmp_path: Path) -> None:
    # Nothing is learnt at this rate; once the norms have seen the data, no evaluation is better.
    update = {"lr": 1e-12, "patience": 2, "evaluate_every": None, "warmup": 0.0, "epochs": 20}
    told = train_tiny(tiny_recipe.model_copy(update=update), store, tmp_path)
    best = max(told.rows, key=lambda row: row["val_macro_f1"])
    assert told.rows[-1]["epoch"] == best["epoch"] + 2 < 20
    assert told.said == ["no better evaluation in 2 epochs: stopped"]
