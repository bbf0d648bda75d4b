"""Settings are strict, and say what is wrong in one sentence."""

import re
from pathlib import Path

import pytest

from ctray.config import AugmentConfig, Recipe, Transform, parse_assignments
from ctray.errors import UserError

pytestmark = pytest.mark.fast


def test_overrides_reach_inside_and_win_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("epochs: 3\nlr: 1e-4\naugment: {policy: light}\n")
    recipe = Recipe.load(file, parse_assignments(["epochs=5", "augment.strength=0.2"]))
    assert recipe.epochs == 5
    assert recipe.lr == 1e-4
    assert recipe.augment == AugmentConfig(policy="light", strength=0.2)


def test_a_recipe_survives_its_own_json() -> None:
    recipe = Recipe(backbone="resnet18", lr=2e-4)
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


@pytest.mark.parametrize(
    ("assignment", "sentence"),
    [
        ("learning_rate=1", "unknown setting 'learning_rate'"),
        ("epoch=3", "did you mean 'epochs'"),
        ("augment.polcy=light", "did you mean 'augment.policy'"),
        ("epochs=0", "epochs=0: input should be greater than or equal to 1"),
        ("lr=fast", "lr='fast'"),
        ("augment.policy=wild", "'none', 'light', 'standard' or 'strong'"),
        ("lr.peak=1", "'lr'"),
        ("augment.noise.p=2", "augment.noise.p=2: input should be less than or equal to 1"),
        ("augment.noise.p=-0.1", "augment.noise.p=-0.1: input should be greater than or equal to"),
        ("augment.noise.std=0", "augment.noise.std=0: input should be greater than 0"),
        ("augment.dropout.holes=1.5", "augment.dropout.holes=1.5: input should be a valid int"),
        ("augment.strength=1.1", "augment.strength=1.1: input should be less than or equal to 1"),
        ("augment.noise=0.3", "augment.noise=0.3: input should be a valid dictionary"),
        ("augment.noise.sd=0.1", "did you mean 'augment.noise.std'"),
        ("augment.rotate.p=0.1", "unknown setting 'augment.rotate'"),
        ("augment.noise.std=0.1", "the policy 'standard' has no noise: give it a p, too"),
        ("sampling=even", "sampling='even': input should be 'natural' or 'balanced'"),
        ("nonsense", "not of the form key=value"),
    ],
)
def test_a_wrong_setting_is_named(assignment: str, sentence: str) -> None:
    with pytest.raises(UserError, match=re.escape(sentence)) as caught:
        Recipe.load(None, {"lr": 1e-3} | parse_assignments([assignment]))
    assert "\n" not in str(caught.value)


def test_a_refit_is_the_rest_of_the_recipe_at_full_size_and_a_lower_rate() -> None:
    changed = {"lr": 1e-2, "epochs": 9, "refit_epochs": 3, "seed": 5, "freeze_epochs": 2}
    recipe = Recipe.load(None, changed | {"small_share": 0.5, "patience": 2, "batch_size": 8})
    theirs, ours = recipe.model_dump(), recipe.for_refit().model_dump()
    difference = {key: ours[key] for key in ours if ours[key] != theirs[key]}
    assert difference.pop("seed") != 5
    assert difference == {
        "lr": pytest.approx(4e-3),
        "epochs": 3,
        "refit_epochs": 0,
        "freeze_epochs": 0,
        "small_share": 0,
        "patience": 0,
    }


def test_a_run_is_gone_on_with_by_other_means_but_not_as_another() -> None:
    begun = Recipe(checkpoint_every=5)
    now = Recipe(accumulate=2, evaluate_every=7, compile=True, refit_epochs=0)
    assert now.difference(begun)
    assert not now.difference(begun.as_resumed(now))
    other = now.model_copy(update={"lr": 0.5})
    assert other.difference(begun.as_resumed(other)) == "lr=0.001, not 0.5"


@pytest.mark.parametrize("text", ["- a list", "a: [1", "\x00\x01"])
def test_a_file_that_is_no_recipe_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=r"recipe\.yaml"):
        Recipe.load(file)


def test_every_setting_is_documented() -> None:
    groups = [type(value) for _, value in AugmentConfig() if isinstance(value, Transform)]
    assert len(groups) == 9
    for kind in (Recipe, AugmentConfig, *groups):
        for name, field in kind.model_fields.items():
            assert field.description, name
