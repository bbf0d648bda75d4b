"""A recipe gives way to how few records there are, and says so before Ray starts."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from ctray.cli import app
from ctray.config import Recipe
from ctray.data.batches import batch_that_fits
from ctray.errors import UserError
from ctray.training.fitting import fitted, schedule, with_short_refit

pytestmark = pytest.mark.fast


def store_of(train: int, val: int = 6) -> Any:
    """A store as far as a recipe looks at one."""
    splits = {"train": range(train), "val": range(val)}
    return SimpleNamespace(records=lambda split: splits[split])


@pytest.mark.parametrize(("records", "batch"), [(22, 10), (31, 14), (4, 2), (3, 2), (2, 2), (1, 1)])
def test_the_default_batch_gives_way_to_few_records(records: int, batch: int) -> None:
    assert batch_that_fits(records) == batch
    assert fitted(Recipe(), set(), store_of(records)).batch_size == batch
    # One that mixes pairs is still a recipe.
    mixing = fitted(Recipe(mixup=0.2), set(), store_of(max(records, 2)))
    assert Recipe.model_validate(mixing.model_dump()) == mixing


def test_a_batch_that_fits_stays() -> None:
    assert fitted(Recipe(), set(), store_of(32)) == Recipe()
    assert fitted(Recipe(batch_size=8), {"batch_size"}, store_of(8)) == Recipe(batch_size=8)


def test_a_batch_that_was_set_is_not_changed() -> None:
    says = "batch_size=32 is larger than the 22 training records: choose batch_size=10"
    with pytest.raises(UserError, match=says) as caught:
        fitted(Recipe(), {"batch_size"}, store_of(22))
    assert caught.value.arguments == ("batch_size",)


@pytest.mark.parametrize(("train", "val", "empty"), [(0, 6, "train"), (22, 0, "val")])
def test_an_empty_split_is_one_sentence(train: int, val: int, empty: str) -> None:
    with pytest.raises(UserError, match=f"the {empty} split is empty: .* where splits are given"):
        fitted(Recipe(), set(), store_of(train, val))


def test_a_refit_is_no_longer_than_the_training_unless_its_length_is_set() -> None:
    assert with_short_refit(Recipe(epochs=1), {"epochs"}).refit_epochs == 1
    assert with_short_refit(Recipe(epochs=6), {"epochs"}).refit_epochs == 4
    longer = Recipe(epochs=1, refit_epochs=4)
    assert with_short_refit(longer, {"epochs", "refit_epochs"}) == longer


def test_the_schedule_says_what_was_changed_and_that_a_refit_follows() -> None:
    store, asked = store_of(22), Recipe(epochs=1, refit_epochs=1)
    assert schedule(fitted(asked, set(), store), asked, store) == (
        "1 epoch on 22 training records in batches of 10 (the default of 32 is more than there "
        "are), then a refit of 1 epoch on these and the 6 validation records"
    )
    plain = Recipe(epochs=3, refit_epochs=0, patience=2, batch_size=8)
    text = "at most 3 epochs on 22 training records in batches of 8"
    assert schedule(plain, plain, store) == text


@pytest.fixture
def happened(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What `ctray train` asks for, on a store of 22 records: `Ray`, then the recipe trained."""
    log: list[Any] = []

    @contextmanager
    def session(*_: object) -> Iterator[None]:
        log.append("Ray")
        print("Ray starts")
        yield

    def train(recipe: Recipe, *_: object) -> dict[str, float]:
        log.append(recipe)
        return {"step": 2, "val_accuracy": 0.5, "val_macro_f1": 0.4, "val_records": 6}

    for place, stand_in in {
        "ctray.cli.print_store": lambda _: None,
        "ctray.data.ingest.opening.check_data": lambda _: (),
        "ctray.data.ingest.opening.known_store": lambda *_: store_of(22),
        "ctray.session.ray_session": session,
        "ctray.training.plan.make_plan": lambda *_, **__: "one worker",
        "ctray.training.trainer.train": train,
    }.items():
        monkeypatch.setattr(place, stand_in)
    return log


def run_train(tmp_path: Path, *arguments: str) -> Result:
    place = ("--data", str(tmp_path), "--out", str(tmp_path / "run"))
    return CliRunner().invoke(app, ["train", *place, "--backbone", "small_cnn", *arguments])


def test_the_command_says_it_before_ray_starts_and_owns_up_to_the_refit(
    happened: list[Any], tmp_path: Path
) -> None:
    done = run_train(tmp_path, "--epochs", "1")
    before, _, after = done.output.partition("Ray starts")
    assert "1 epoch on 22 training records in batches of 10" in before
    assert "then a refit of 1 epoch" in before
    recipe = happened[1]
    assert (recipe.epochs, recipe.batch_size, recipe.refit_epochs) == (1, 10, 1)
    assert "best:" not in after
    assert "chosen for the refit: step 2, validation accuracy 0.5000" in after
    assert "those figures are not theirs" in after


def test_without_a_refit_the_best_is_the_bundles(happened: list[Any], tmp_path: Path) -> None:
    done = run_train(tmp_path, "--set", "refit_epochs=0")
    assert "best: step 2, validation accuracy 0.5000" in done.output
    assert "refit" not in done.output.replace(str(tmp_path), "")


@pytest.mark.parametrize("in_a_file", [False, True])
def test_a_batch_that_was_set_is_refused_before_ray_starts(
    happened: list[Any], tmp_path: Path, in_a_file: bool
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("batch_size: 64")
    words = ("--config", str(file)) if in_a_file else ("--set", "batch_size=64")
    done = run_train(tmp_path, *words)
    assert isinstance(done.exception, UserError)
    assert "batch_size=64 is larger than the 22 training records" in str(done.exception)
    assert happened == []
    assert not (tmp_path / "run").exists()
