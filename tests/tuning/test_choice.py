"""Objectives, the front and the choice."""

import math
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ctray.config import Recipe
from ctray.errors import UserError
from tuning.choice import choose_trial
from tuning.finish import finish, recipes_own
from tuning.objectives import OBJECTIVES, best_of, front, parse_objectives
from tuning.space import Space
from tuning.trials import Trial, TrialState

pytestmark = pytest.mark.fast

F1, LOSS, LATENCY = (OBJECTIVES[name] for name in ("macro_f1", "loss", "latency_ms"))


def trial(
    number: int, score: float, latency: float | None, state: TrialState = "finished", **row: Any
) -> Trial:
    figures = {"val_macro_f1": score, "val_loss": 1 - score, "image_size": 64}
    rows = ({"epoch": 1.0, **figures, **row},)
    return Trial(number, state, "", {}, rows, 0.0, 1.0, latency, 10.0)


def never(_: Trial) -> float:
    raise AssertionError("nobody asked for an interval")


def test_the_front_has_what_no_other_beats() -> None:
    trials = [trial(0, 0.9, 5.0), trial(1, 0.8, 2.0), trial(2, 0.85, 6.0), trial(3, 0.8, 2.5)]
    assert [one.number for one in front(trials, (F1, LATENCY))] == [0, 1]


def test_a_score_on_smaller_images_is_not_of_the_weights_that_are_kept() -> None:
    (small,), (large,) = (trial(0, 0.9, 5.0).rows, trial(0, 0.8, 5.0, image_size=96).rows)
    grown = replace(trial(0, 0.8, 5.0), rows=(small, large))
    assert grown.score == 0.8
    assert replace(grown, rows=(small,)).score == 0.9


def test_only_trials_trained_to_the_end_are_on_it() -> None:
    trials = [trial(0, 0.9, 5.0), trial(1, 0.99, 1.0, "pruned"), trial(2, 0.99, 1.0, "stopped")]
    assert [one.number for one in front(trials, (F1, LATENCY))] == [0]
    assert best_of(trials, F1) is trials[0]
    assert best_of(trials[1:], F1) is None


def test_the_fastest_within_the_interval_of_the_best_is_chosen() -> None:
    trials = [trial(0, 0.93, 6.0), trial(1, 0.92, 3.0), trial(2, 0.89, 1.0), trial(3, 0.91, 3.5)]
    choice = choose_trial(trials, F1, "fastest", None, lambda best: 0.905)
    assert choice is not None
    assert choice.trial.number == 1
    assert "0.9050" in choice.rule
    assert "trial 0 with 0.9300" in choice.rule


def test_none_is_chosen_that_scores_below_the_recipe_one_had_before() -> None:
    recipe, better = trial(0, 0.92, 5.0), trial(2, 0.93, 6.0)
    trials = [recipe, trial(1, 0.91, 1.0), better]
    choice = choose_trial(trials, F1, "fastest", None, lambda best: 0.905, recipe)
    assert choice is not None
    assert choice.trial is recipe
    assert "0.9200, that of the recipe's own values, trial 0: within" in choice.rule
    # One that beats it and is as quick takes its place; one over the budget sets no bound.
    quicker = trial(3, 0.925, 4.0)
    choice = choose_trial([*trials, quicker], F1, "fastest", None, lambda best: 0.905, recipe)
    assert choice is not None
    assert choice.trial is quicker
    choice = choose_trial(trials, F1, "fastest", 4.5, lambda best: 0.905, recipe)
    assert choice is not None
    assert choice.trial.number == 1


def test_a_recipe_that_is_far_behind_sets_no_bound() -> None:
    trials = [trial(0, 0.7, 6.0), trial(1, 0.93, 5.0), trial(2, 0.91, 2.0)]
    choice = choose_trial(trials, F1, "fastest", None, lambda best: 0.905, trials[0])
    assert choice is not None
    assert choice.trial.number == 2
    assert "0.9050" in choice.rule


def test_the_recipes_own_trial_is_the_finished_one_with_all_of_its_values() -> None:
    values = {"image_size": {"choice": [160, 192]}, "lr": {"low": 1e-4, "high": 1e-2}}
    recipe = Recipe(image_size=192, lr=2e-3, small_share=0)
    study: Any = SimpleNamespace(space=Space(values, recipe), base=recipe)
    other = replace(trial(0, 0.9, 5.0), params={"image_size": 160, "lr": 2e-3})
    own = replace(trial(1, 0.9, 5.0), params={"image_size": 192, "lr": 2e-3})
    assert recipes_own(study, [other, own]) is own
    assert recipes_own(study, [other, replace(own, state="pruned")]) is None
    # A part of its values is another model.
    study.space = Space(values | {"lr": {"low": 1e-4, "high": 1e-3}}, recipe)
    assert recipes_own(study, [other, own]) is None


def test_a_small_loss_is_better() -> None:
    trials = [trial(0, 0.9, 6.0), trial(1, 0.88, 3.0), trial(2, 0.7, 1.0)]
    assert best_of(trials, LOSS) is trials[0]


def test_of_equals_the_quicker_is_chosen_whose_bundle_is_kept() -> None:
    trials = [trial(0, 0.93, 6.0), trial(1, 0.93, 3.0)]
    choice = choose_trial(trials, F1, "best", None, never)
    assert choice is not None
    assert choice.trial.number == 1


def test_the_best_is_chosen_when_asked_for() -> None:
    choice = choose_trial([trial(0, 0.93, 6.0), trial(1, 0.92, 3.0)], F1, "best", None, never)
    assert choice is not None
    assert choice.trial.number == 0


def test_nothing_above_the_latency_budget_is_chosen() -> None:
    trials = [trial(0, 0.93, 6.0), trial(1, 0.8, 3.0), trial(2, 0.85, None)]
    choice = choose_trial(trials, F1, "best", 4.0, never)
    assert choice is not None
    assert choice.trial.number == 1
    assert "at most 4 ms" in choice.rule
    assert choose_trial(trials, F1, "best", 1.0, never) is None


@pytest.mark.parametrize(
    ("reason", "says"),
    [
        (
            "small_cnn takes images of one size only: use small_share=0",
            "use small_share=0; a recipe's key is set in the space, as `key: {choice: [value]}`",
        ),
        ("its process died twice", "its process died twice (all trials"),
    ],
)
def test_when_all_have_failed_the_advice_is_one_that_a_search_can_follow(
    reason: str, says: str, tmp_path: Path
) -> None:
    space = Space({"lr": {"choice": [1e-3]}})
    study: Any = SimpleNamespace(
        objectives=(F1,), latency_budget_ms=None, space=space, base=Recipe(), out=tmp_path
    )
    failed = replace(trial(0, 0.9, None), state="failed", reason=reason, rows=())
    with pytest.raises(UserError, match=re.escape(says)) as caught:
        finish(study, [failed], "best", refits=False, command="")
    assert caught.value.arguments == (("space",) if "small_share" in reason else ())


def test_objectives_by_name() -> None:
    assert parse_objectives(["macro_f1", "latency_ms"]) == (F1, LATENCY)
    for names, sentence in (
        (["macro_f2"], "did you mean 'macro_f1'"),
        (["macro_f1", "macro_f1"], "given twice"),
        (["latency_ms", "macro_f1"], "put macro_f1, accuracy or loss before it"),
    ):
        with pytest.raises(UserError, match=sentence):
            parse_objectives(names)


def test_a_figure_that_is_not_known_is_no_number() -> None:
    assert math.isnan(LATENCY.value(trial(0, 0.9, None)))
