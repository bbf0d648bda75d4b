"""Training through Ray Train: what it writes, what it learns, and that it can be repeated."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from ctray.bundle import Bundle
from ctray.config import Recipe
from ctray.data.store import Store
from ctray.errors import UserError
from ctray.training.loop import warmup_cosine
from ctray.training.plan import make_plan
from ctray.training.trainer import HISTORY_KEYS, train


def history(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]


def test_it_writes_what_scripts_rely_on(run: Path, tiny_recipe: Recipe, store: Store) -> None:
    assert {path.name for path in run.iterdir()} == {
        "bundle",
        "config.json",
        "curves.png",
        "history.jsonl",
    }
    rows = history(run)
    assert len(rows) == tiny_recipe.epochs * tiny_recipe.evaluations_per_epoch
    assert all(tuple(row) == HISTORY_KEYS for row in rows)
    assert [row["epoch"] for row in rows][1::2] == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert rows[0]["epoch"] < 1.0, "it is evaluated during the epoch as well"
    config = json.loads((run / "config.json").read_text())
    assert Recipe.model_validate(config["recipe"]) == tiny_recipe
    assert config["fingerprint"] == store.fingerprint
    assert cv2.imread(str(run / "curves.png")).std() > 10


def test_the_bundle_is_the_best_evaluation(run: Path, store: Store) -> None:
    bundle = Bundle.load(str(run / "bundle"))
    best = max(history(run), key=lambda row: row["val_macro_f1"])
    assert bundle.info.metrics["val_macro_f1"] == best["val_macro_f1"]
    assert bundle.info.metrics["val_records"] == len(store.records("val"))
    assert bundle.info.synthetic
    assert set(bundle.seen.trained_on) == set(store.records("train")["id"])
    assert set(bundle.seen.chosen_on) == set(store.records("val")["id"])


def test_it_learns(run: Path) -> None:
    rows = history(run)
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    assert max(row["val_accuracy"] for row in rows) > 0.5, "four balanced classes: chance is 0.25"


def test_the_same_seed_gives_the_same_weights(
    run: Path, store: Store, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    train(tiny_recipe, store, tmp_path, make_plan(1), lambda row: None)
    first, second = (Bundle.load(str(place / "bundle")) for place in (run, tmp_path))
    assert first.info.metrics == second.info.metrics
    for name, tensor in first.weights.items():
        assert np.array_equal(tensor.numpy(), second.weights[name].numpy()), name


def test_two_workers_train_and_count_every_validation_record_once(
    store: Store, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    recipe = tiny_recipe.model_copy(update={"epochs": 1})
    rows: list[dict[str, float]] = []
    train(recipe, store, tmp_path, make_plan(2), rows.append)
    assert [row["val_records"] for row in rows] == [len(store.records("val"))] * 2
    assert Bundle.load(str(tmp_path / "bundle")).info.metrics["val_macro_f1"] > 0


def test_divergence_is_one_sentence_with_step_and_learning_rate(
    store: Store, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    # Weights beyond float32's square make the first loss infinite.
    broken = tiny_recipe.model_copy(
        update={"lr": 1.0, "weight_decay": 1e30, "epochs": 1, "warmup": 0.0}
    )
    with pytest.raises(UserError, match=r"diverged: the loss is (nan|inf) at step \d+ .*lr="):
        train(broken, store, tmp_path, make_plan(1), lambda row: None)


def test_a_batch_that_cannot_be_divided_is_one_sentence(
    store: Store, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    odd = tiny_recipe.model_copy(update={"batch_size": 15})
    with pytest.raises(UserError, match="batch_size=14"):
        train(odd, store, tmp_path, make_plan(2), lambda row: None)


@pytest.mark.fast
def test_the_schedule_rises_then_falls_to_nothing() -> None:
    factors = [warmup_cosine(step, 100, 0.1) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == factors[9] == 1.0
    assert factors[9:] == sorted(factors[9:], reverse=True)
    assert factors[-1] < 0.001
