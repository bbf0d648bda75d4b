"""A search space is checked key by key."""

from pathlib import Path

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from ctray.config import Recipe, recipe_file
from ctray.errors import UserError
from tuning.search import parse_duration
from tuning.space import DEFAULT_SPACE, Space

pytestmark = pytest.mark.fast


def load(tmp_path: Path, text: str) -> Space:
    file = tmp_path / "space.yaml"
    file.write_text(text)
    return Space.load(file)


def test_the_default_space_searches_backbone_and_augmentation() -> None:
    space = Space.load(DEFAULT_SPACE)
    assert len(space.backbones) > 1
    assert {"augment.policy", "augment.strength", "lr", "weight_decay"} <= set(space.distributions)


def test_the_recipes_defaults_are_the_first_point(tmp_path: Path) -> None:
    base = Recipe.load(recipe_file("fast"))
    (point,) = Space.load(DEFAULT_SPACE).defaults(base)
    assert point["image_size"] == base.image_size
    assert point["augment.strength"] == base.augment.strength
    assert load(tmp_path, "backbone: {choice: [small_cnn]}").defaults(Recipe()) == []


def test_kinds_follow_the_recipe(tmp_path: Path) -> None:
    space = load(
        tmp_path,
        "lr: {low: 1.0e-4, high: 1.0e-2, log: true}\n"
        "batch_size: {low: 8, high: 64}\n"
        "backbone: {choice: [small_cnn, resnet18]}\n",
    )
    assert isinstance(space.distributions["lr"], FloatDistribution)
    assert isinstance(space.distributions["batch_size"], IntDistribution)
    assert isinstance(space.distributions["backbone"], CategoricalDistribution)
    assert space.backbones == ("small_cnn", "resnet18")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("lrr: {low: 1, high: 2}", "did you mean 'lr'"),
        ("lr: {low: 0.1, high: 0.01}", "`high` must be greater than `low`"),
        ("lr: {low: 0.1}", "`high`"),
        ("lr: {min: 0.1}", "lr.min"),
        ("lr: 3", "lr"),
        ("lr: {low: 0.001, high: 5}", "lr=5"),
        ("label_smoothing: {low: 0, high: 0.1, log: true}", "above zero"),
        ("backbone: {choice: [resnet19]}", "did you mean 'resnet1"),
        ("backbone: {choice: []}", "empty"),
        ("epochs: {choice: [1, 2]}", "--max-epochs"),
        ("", "no search space"),
    ],
)
def test_a_wrong_space_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        load(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_durations() -> None:
    assert [parse_duration(text) for text in ("90s", "30m", "1.5h")] == [90, 1800, 5400]
    for text in ("30", "0m", "soon", "-3m"):
        with pytest.raises(UserError, match="--time-budget"):
            parse_duration(text)
