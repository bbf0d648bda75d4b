"""What a search is to do: read from its settings, and made to fit the records there are."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ctray.errors import UserError
from tuning.scope import fit_scope, read_scope
from tuning.settings import SearchSettings

pytestmark = pytest.mark.fast


def store_of(train: int, val: int = 6) -> Any:
    splits = {"train": range(train), "val": range(val)}
    return SimpleNamespace(records=lambda split: splits[split])


def test_few_records_make_the_batches_of_recipe_and_space_smaller() -> None:
    scope = read_scope(SearchSettings())
    fit, said = fit_scope(scope, store_of(22))
    assert fit.base == scope.base.model_copy(update={"batch_size": 10})
    assert fit.space.source["batch_size"] == {"choice": [16]}
    assert fit.subject == scope.subject, "or a resumed study would be another one"
    assert said == [
        "batches of 10, not 32: there are 22 training records",
        "no trial with a larger batch_size, which the space has: there are 22 training records",
    ]


def test_enough_records_change_nothing() -> None:
    scope = read_scope(SearchSettings())
    assert fit_scope(scope, store_of(200)) == (scope, [])


def test_an_empty_split_ends_a_search_before_its_first_trial() -> None:
    with pytest.raises(UserError, match="the val split is empty"):
        fit_scope(read_scope(SearchSettings()), store_of(22, 0))


def test_a_grid_of_fewer_combinations_has_fewer_trials(tmp_path: Path) -> None:
    space = tmp_path / "space.yaml"
    space.write_text("batch_size: {choice: [8, 16, 32]}\nlr: {choice: [1.0e-3, 2.0e-3]}")
    scope = read_scope(SearchSettings(space=str(space)))
    assert (scope.sampler, scope.combinations, scope.limits.trials) == ("grid", 6, 6)
    fit, _ = fit_scope(scope, store_of(22))
    assert (fit.combinations, fit.limits.trials) == (4, 4)


def test_a_refit_is_no_longer_than_a_trial() -> None:
    assert read_scope(SearchSettings(max_epochs=1)).base.refit_epochs == 1
    assert read_scope(SearchSettings(max_epochs=20)).base.refit_epochs == 3
