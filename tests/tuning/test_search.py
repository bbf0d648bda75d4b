"""The search on a real cluster: trials end, the best becomes a bundle, nothing is left behind."""

import time
from pathlib import Path

import pandas as pd
import pytest
from ray.util.state import list_actors, list_placement_groups

from ctray.bundle import Bundle
from ctray.config import Recipe
from ctray.data.store import Store
from ctray.errors import UserError
from ctray.training.plan import make_plan
from tuning.search import Study, search
from tuning.space import Space
from tuning.trials import Trial

SPACE = {
    "backbone": {"choice": ["small_cnn"]},
    "image_size": {"choice": [48, 64]},
    "lr": {"low": 1e-3, "high": 1e-2, "log": True},
    "augment.policy": {"choice": ["light", "standard"]},
    "augment.strength": {"low": 0.1, "high": 0.6},
}


@pytest.fixture(scope="module")
def base() -> Recipe:
    return Recipe(backbone="small_cnn", batch_size=16, epochs=2, seed=1)


@pytest.fixture(scope="module")
def printed() -> list[Trial]:
    return []


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("study")


@pytest.fixture(scope="module")
def study(store: Store, base: Recipe, printed: list[Trial], out: Path) -> Study:
    plan = make_plan(workers=1, runs=None, at_most=4)
    return search(
        *(store, out, Space(SPACE), base),
        trials=4,
        plan=plan,
        time_budget_s=None,
        on_trial=printed.append,
    )


def test_every_trial_ends_and_is_told_once(study: Study, printed: list[Trial]) -> None:
    assert [trial.number for trial in study.trials] == [0, 1, 2, 3]
    assert sorted(trial.number for trial in printed) == [0, 1, 2, 3]
    assert {trial.state for trial in study.trials} <= {"finished", "pruned"}
    for trial in study.trials:
        assert set(trial.params) == set(SPACE)
        assert trial.epochs == 2 if trial.state == "finished" else trial.epochs < 2


def test_the_best_trials_bundle_is_the_studys(study: Study, store: Store) -> None:
    assert study.best.score == max(trial.score for trial in study.trials)
    bundle = Bundle.load(str(study.bundle))
    assert bundle.info.metrics["val_macro_f1"] == pytest.approx(study.best.score)
    assert bundle.info.recipe.lr == pytest.approx(study.best.params["lr"])
    assert bundle.info.recipe.augment.policy == study.best.params["augment.policy"]
    assert bundle.info.fingerprint == store.fingerprint


def test_it_writes_the_table_and_the_report_and_nothing_else(study: Study, out: Path) -> None:
    assert {path.name for path in out.iterdir()} == {"best", "study.html", "trials.csv"}
    table = pd.read_csv(out / "trials.csv")
    assert len(table) == 4
    assert {"trial", "state", "val_macro_f1", "epochs", "seconds", *SPACE} <= set(table.columns)
    assert f"{study.best.score:.4f}"[:5] in (out / "study.html").read_text()


def test_a_failed_trial_is_named_and_the_others_go_on(
    study: Study, store: Store, base: Recipe, tmp_path: Path
) -> None:
    space = SPACE | {"batch_size": {"choice": [16, 100_000]}}
    plan = make_plan(workers=1, runs=None, at_most=4)
    done = search(
        *(store, tmp_path, Space(space), base.model_copy(update={"epochs": 1, "seed": 3})),
        trials=4,
        plan=plan,
        time_budget_s=None,
        on_trial=lambda trial: None,
    )
    failed = [trial for trial in done.trials if trial.state == "failed"]
    assert len(failed) == sum(trial.params["batch_size"] == 100_000 for trial in done.trials) > 0
    assert all("batch_size=100000 is larger than" in trial.reason for trial in failed)
    assert done.best.params["batch_size"] == 16


def test_not_one_evaluation_is_one_sentence(store: Store, base: Recipe, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no trial reached an evaluation.*batch_size=99999"):
        search(
            *(store, tmp_path, Space({"batch_size": {"choice": [99_999]}}), base),
            trials=1,
            plan=make_plan(workers=1, runs=1),
            time_budget_s=None,
            on_trial=lambda trial: None,
        )


def test_trials_leave_no_placement_group_and_no_worker(study: Study) -> None:
    def busy() -> list[str]:
        groups = [g.placement_group_id for g in list_placement_groups() if g.state == "CREATED"]
        workers = [a.class_name for a in list_actors() if a.state == "ALIVE"]
        return groups + [name for name in workers if name.startswith("RayTrainWorker")]

    # Ray frees a stopped trial's group a second or so after the trial.
    deadline = time.monotonic() + 60
    while busy() and time.monotonic() < deadline:
        time.sleep(0.5)
    assert busy() == []
