"""The search under kill -9: the study continues, or the same command resumes it."""

import contextlib
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import optuna
import pandas as pd
import psutil
import pytest
from chaos_kit import Command, kill, running
from optuna.trial import FrozenTrial, TrialState

from ctray.artefact.bundle import Bundle
from ctray.synthetic.folder import write_folder
from ctray.synthetic.phantom import PhantomSpec

pytestmark = pytest.mark.timeout(1800)

# Ray's two agents of a node look for their dead parent now and then; all the rest goes at once.
AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
WORKER, TRIAL, DESK = "ray::RayTrainWorker", "ray::ResourceTrainable", "ray::Desk"
# Long enough to be met in a trial's midst.
EPOCHS = 8
ALL = [float(epoch) for epoch in range(1, EPOCHS + 1)]
ENDED = {TrialState.COMPLETE, TrialState.PRUNED}
SPACE = """
backbone: {choice: [small_cnn]}
image_size: {choice: [32, 48]}
lr: {low: 1.0e-3, high: 1.0e-2, log: true}
"""
# Ray's processes end by themselves when their driver is gone.
GONE_S = 45.0


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 160 synthetic images."""
    folder = tmp_path_factory.mktemp("chaos-search")
    (folder / "space.yaml").write_text(SPACE)
    images = write_folder(PhantomSpec(images_per_class=40, size=64, seed=3), folder / "images")
    store = folder / "store"
    with running("ctray", "prepare", str(images), "--out", str(store), "--size", "64") as command:
        assert command.wait() == 0, command
    return store


def search(data: Path, out: Path, *more: str) -> list[str]:
    space = str(data.parent / "space.yaml")
    return ["tuning.search", "--data", str(data), "--out", str(out), "--space", space, *more]


def study(out: Path) -> list[FrozenTrial]:
    """The trials in the study's storage; none before there is one."""
    storage = f"sqlite:///{out / 'optuna.db'}"
    with contextlib.suppress(Exception):
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        return optuna.load_study(study_name=out.name, storage=storage).trials
    return []


def rows(out: Path) -> int:
    return sum(len(trial.user_attrs.get("rows", ())) for trial in study(out))


def begun(out: Path, trials: int) -> Callable[[], bool]:
    return lambda: sum(trial.state != TrialState.WAITING for trial in study(out)) >= trials


def assert_nothing_is_lost(before: list[FrozenTrial], after: list[FrozenTrial]) -> None:
    """No trial was changed by a kill, and each that finished has every evaluation once."""
    for old, new in zip(before, after, strict=False):
        assert old.params == new.params
        if old.state == TrialState.COMPLETE:
            assert old.values == new.values
            assert old.datetime_complete == new.datetime_complete
    for trial in after:
        if trial.state == TrialState.COMPLETE:
            assert [row["epoch"] for row in trial.user_attrs["rows"]] == ALL


def kill_the_search(command: Command, out: Path) -> None:
    """Kill -9 a search at work; what it started ends by itself."""
    seen = rows(out)
    command.wait_for(lambda: rows(out) > seen, "an evaluation")
    command.process.kill()
    command.process.wait()
    _, left = psutil.wait_procs(command.family(), GONE_S)
    assert set(left) <= set(command.named(AGENTS))


def test_a_study_that_loses_a_worker_and_the_search_ends_with_every_trial_once(
    data: Path, tmp_path: Path
) -> None:
    """The short form: the first and the hardest kill of the long one."""
    out = tmp_path / "study"
    arguments = search(data, out, "--trials", "2", "--max-epochs", str(EPOCHS), "--pruner", "none")
    with running(*arguments) as command:
        command.wait_for(lambda: command.says(f"epoch 1 of {EPOCHS}"), "a first evaluation")
        kill([command.process_named(WORKER)])
        command.wait_for(begun(out, 2), "the next trial after a worker died")
        assert study(out)[0].state == TrialState.COMPLETE
        kill_the_search(command, out)
    before = study(out)
    with running(*arguments) as command:
        assert command.wait() == 0, command
    after = study(out)
    assert [trial.state for trial in after] == [TrialState.COMPLETE] * 2
    assert_nothing_is_lost(before, after)
    assert pd.read_csv(out / "trials.csv")["starts"].max() > 1
    assert Bundle.load(str(out / "best" / "bundle")).info.study


@pytest.mark.chaos
def test_a_study_survives_its_processes_one_by_one_and_the_search(
    data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "study"
    arguments = search(data, out, "--trials", "7", "--max-epochs", str(EPOCHS), "--pruner", "none")
    with running(*arguments) as command:
        command.wait_for(lambda: command.says(f"epoch 1 of {EPOCHS}"), "a first evaluation")
        kill([command.process_named(WORKER)])
        command.wait_for(begun(out, 2), "the next trial after a worker died")
        first = study(out)[0]
        assert first.state == TrialState.COMPLETE
        assert [row["epoch"] for row in first.user_attrs["rows"]] == ALL
        # As the kernel ends a process that is out of memory, each time.
        command.wait_for(lambda: command.says(f"trial 1: epoch 1 of {EPOCHS}"), "the second trial")
        kill([command.process_named(WORKER)])
        command.wait_for(lambda: command.says("trial 1: resumed from step"), "it to be resumed")
        kill([command.process_named(WORKER)])
        command.wait_for(begun(out, 3), "the next trial after one that died twice")
        second = study(out)[1]
        assert second.state == TrialState.FAIL
        assert second.user_attrs["reason"].startswith("its process died twice: too little memory")
        kill([command.process_named(TRIAL)])
        command.wait_for(begun(out, 4), "the next trial after a trial's actor died")
        assert study(out)[2].state in ENDED
        kill_the_search(command, out)
    before = study(out)
    with running(*arguments) as command:
        command.wait_for(begun(out, 6), "trials after a killed search")
        kill(command.family()[::-1])
    with running(*arguments) as command:
        assert command.wait() == 0, command
    after = study(out)
    assert [trial.number for trial in after] == list(range(7))
    assert {trial.state for trial in after if trial.number != 1} <= ENDED
    assert_nothing_is_lost(before, after)
    table = pd.read_csv(out / "trials.csv")
    assert table["starts"].max() > 1
    assert list(table["state"]).count("failed") == 1
    assert Bundle.load(str(out / "best" / "bundle")).info.study


def test_a_second_search_in_the_folder_and_a_locked_storage_are_one_sentence(
    data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "study"
    arguments = search(data, out, "--trials", "50", "--max-epochs", "2")
    with running(*arguments) as command:
        command.wait_for(lambda: command.says("epoch 1 of 2"), "an evaluation")
        with running(*arguments) as second:
            assert second.wait() == 2
            assert "another search is at work" in second.error
        # A moment of a lock is waited for.
        other = sqlite3.connect(out / "optuna.db", timeout=30)
        other.execute("BEGIN EXCLUSIVE")
        seen = len(command.lines)
        time.sleep(2.0)
        other.rollback()
        command.wait_for(lambda: len(command.lines) > seen, "the study after a lock")
        command.process.terminate()
        assert command.wait() == 143
        assert "Traceback" not in command.error


@pytest.mark.chaos
def test_a_search_whose_desk_died_says_so_and_fails_no_trial(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "study"
    with running(*search(data, out, "--trials", "50", "--max-epochs", "2")) as command:
        command.wait_for(lambda: command.says("epoch 1 of 2"), "an evaluation")
        kill([command.process_named(DESK)])
        assert command.wait() == 2, command
    sentence = "error: the process that hands out the trials died: run the same command again\n"
    assert sentence in command.error
    assert "Traceback" not in command.error
    # The same command resumes it, as after any kill.
    assert study(out)
    assert all(trial.state != TrialState.FAIL for trial in study(out))


def test_a_search_whose_ray_died_says_so(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "study"
    with running(*search(data, out, "--trials", "50", "--max-epochs", "2")) as command:
        command.wait_for(lambda: command.says("epoch 1 of 2"), "an evaluation")
        kill([command.process_named("/raylet/raylet ")])
        assert command.wait() == 2, command
    sentence = "error: the Ray cluster of this command died: run the same command again\n"
    assert sentence in command.error
    assert study(out)
