"""A search space is checked key by key."""

from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from ctray.config import Recipe, recipe_file
from ctray.errors import UserError
from tuning.samplers import choose_sampler, make_sampler
from tuning.space import SPACES, Space, space_file
from tuning.study import recipe_of

pytestmark = pytest.mark.fast


def load(tmp_path: Path, text: str) -> Space:
    file = tmp_path / "space.yaml"
    file.write_text(text)
    return Space.load(file)


@pytest.mark.parametrize("file", sorted(SPACES.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_space_of_ours_is_one_and_all_of_its_points_are_recipes(file: Path) -> None:
    space = Space.load(file)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(50):
        params = space.suggest(study.ask())
        recipe_of(Recipe(batch_size=16), params)


def test_the_default_space_searches_backbone_and_augmentation() -> None:
    space = Space.load(space_file("default"))
    assert len(space.backbones) > 1
    assert {"augment.policy", "augment.strength", "lr", "weight_decay"} <= set(space.distributions)


def test_the_recipes_defaults_are_the_first_point(tmp_path: Path) -> None:
    base = Recipe.load(recipe_file("fast"))
    (point,) = Space.load(space_file("default")).point(base)
    assert point["image_size"] == base.image_size
    assert point["augment.strength"] == base.augment.strength
    # What only another backbone has is not part of it.
    assert "layer_decay" in point
    assert load(tmp_path, "backbone: {choice: [small_cnn]}").point(Recipe()) == []
    # Whose members the recipe leaves to the policy.
    wide = Space.load(space_file("wide"))
    (point,) = wide.point(base)
    assert set(point) == set(wide.active(point))
    assert (point["augment.affine.p"], point["augment.noise.p"]) == (0.7, 0.0)


CONDITIONAL = """
backbone: {choice: [small_cnn, resnet18]}
lr: {low: 1.0e-4, high: 1.0e-3}
dropout: {low: 0.0, high: 0.5}
when:
  backbone:
    small_cnn:
      lr: {low: 1.0e-2, high: 1.0e-1}
    resnet18:
      freeze_epochs: {low: 0, high: 2}
"""


def test_a_choice_brings_ranges_of_its_own(tmp_path: Path) -> None:
    space = load(tmp_path, CONDITIONAL)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(multivariate=True, group=True))
    seen = set()
    for _ in range(30):
        trial = study.ask()
        params = space.suggest(trial)
        seen.add(params["backbone"])
        if params["backbone"] == "small_cnn":
            assert params.keys() == {"backbone", "lr", "dropout"}
            assert params["lr"] >= 1e-2
        else:
            assert params.keys() == {"backbone", "lr", "dropout", "freeze_epochs"}
            assert params["lr"] <= 1e-3
        # Optuna has one kind of value under one name, and each comes back under its key.
        assert space.from_optuna(trial.params) == params
        assert space.to_optuna(params) == trial.params
        study.tell(trial, params["lr"])
    assert seen == {"small_cnn", "resnet18"}


FINITE = """
backbone: {choice: [small_cnn, resnet18]}
image_size: {choice: [64, 96]}
when:
  backbone:
    small_cnn:
      image_size: {choice: [64, 96, 128]}
    resnet18:
      freeze_epochs: {low: 0, high: 2}
"""


def test_the_combinations_of_a_finite_space_are_tried_once_each(tmp_path: Path) -> None:
    space = load(tmp_path, FINITE)
    assert space.combinations == 3 + 2 * 3
    assert load(tmp_path, CONDITIONAL).combinations is None
    assert choose_sampler("auto", None) == "tpe"
    assert choose_sampler("auto", 1000) == "tpe"
    assert choose_sampler("auto", 9) == "grid"
    with pytest.raises(UserError, match="the sampler grid needs lists"):
        choose_sampler("grid", None)
    study = optuna.create_study(sampler=make_sampler("grid", 0, ["macro_f1"]))
    study.enqueue_trial({"backbone": "resnet18", "image_size": 96, "freeze_epochs@resnet18": 1})
    seen = set()
    # Two at a time, as two lanes ask.
    waiting = study.ask()
    seen.add(str(space.suggest(waiting)))
    for _ in range(8):
        trial = study.ask()
        seen.add(str(space.suggest(trial)))
        study.tell(waiting, state=optuna.trial.TrialState.PRUNED)
        waiting = trial
    assert len(seen) == 9


def test_a_name_is_a_space_of_ours_or_a_file() -> None:
    assert space_file("quick").is_file()
    assert space_file("mine.yaml") == Path("mine.yaml")
    with pytest.raises(UserError, match="did you mean 'quick'"):
        space_file("quik")


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
        ("epochs: {choice: [1, 2]}", "a search sets epochs and seed itself"),
        ("", "no search space"),
        ("when: {backbone: {small_cnn: {lr: {low: 1, high: 2}}}}", "never 'small_cnn'"),
        ("backbone: {choice: [small_cnn]}\nwhen: {backbone: [1]}", "when.backbone: give it"),
        (
            "backbone: {choice: [small_cnn]}\nwhen: {backbone: {small_cnn: {lrr: {choice: [1]}}}}",
            "did you mean 'lr'",
        ),
        (
            "backbone: {choice: [small_cnn]}\ntta: {choice: [none, flip]}\nwhen:\n"
            "  backbone: {small_cnn: {tta: {choice: [flip]}}}\n"
            "  tta: {none: {lr: {choice: [0.2]}}}\n",
            "tta cannot depend on backbone",
        ),
    ],
)
def test_a_wrong_space_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        load(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_members_of_an_augmentation_and_what_depends_on_others_are_checked_together(
    tmp_path: Path,
) -> None:
    space = load(
        tmp_path,
        "augment.noise.p: {low: 0.0, high: 0.5}\naugment.noise.std: {low: 0.01, high: 0.1}",
    )
    assert set(space.distributions) == {"augment.noise.p", "augment.noise.std"}
    file = tmp_path / "freeze.yaml"
    file.write_text("freeze_epochs: {low: 0, high: 8}")
    assert Space.load(file, Recipe(epochs=8)).distributions
    with pytest.raises(UserError, match="freeze_epochs=8 is more than epochs=4"):
        Space.load(file, Recipe(epochs=4))


def test_a_key_that_depends_on_two_others_is_refused(tmp_path: Path) -> None:
    text = (
        "backbone: {choice: [small_cnn]}\nimage_size: {choice: [64]}\nwhen:\n"
        "  backbone: {small_cnn: {lr: {choice: [0.1]}}}\n"
        "  image_size: {64: {lr: {choice: [0.2]}}}\n"
    )
    with pytest.raises(UserError, match="lr depends on more than one key"):
        load(tmp_path, text)
    with pytest.raises(UserError, match="1 is not a key of a recipe"):
        load(tmp_path, "1: {choice: [1]}")


def test_values_above_a_limit_are_left_out_wherever_they_are() -> None:
    space = Space(
        {
            "batch_size": {"choice": [16, 32]},
            "backbone": {"choice": ["small_cnn", "resnet18"]},
            "when": {
                "backbone": {
                    "small_cnn": {"batch_size": {"low": 8, "high": 64}},
                    "resnet18": {"batch_size": {"choice": [32]}, "lr": {"choice": [1e-3]}},
                }
            },
        }
    )
    assert space.at_most("batch_size", 64) is space
    capped = space.at_most("batch_size", 22)
    assert capped.source == {
        "batch_size": {"choice": [16]},
        "backbone": {"choice": ["small_cnn", "resnet18"]},
        "when": {
            "backbone": {
                "small_cnn": {"batch_size": {"low": 8, "high": 22}},
                "resnet18": {"lr": {"choice": [1e-3]}},
            }
        },
    }
    assert "batch_size" not in space.at_most("batch_size", 7).source
    assert Space({"batch_size": {"low": 8, "high": 64}}).at_most("batch_size", 8).source == {
        "batch_size": {"choice": [8]}
    }


def test_a_key_that_others_depend_on_stays() -> None:
    lr = {"lr": {"choice": [1e-3]}}
    space = Space({"batch_size": {"choice": [16, 32]}, "when": {"batch_size": {32: lr}}})
    assert space.at_most("batch_size", 22) is space
