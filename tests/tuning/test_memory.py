"""What a study remembers is on disk, and right after every kind of end."""

import sqlite3
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from ctray.errors import UserError
from tuning import memory as memory_module
from tuning.memory import Memory, shown, warm_points
from tuning.objectives import OBJECTIVES, Objective
from tuning.samplers import make_sampler
from tuning.space import Space
from tuning.trials import write_table

pytestmark = pytest.mark.fast

SPACE = {"image_size": {"choice": [48, 64]}, "lr": {"low": 1e-3, "high": 1e-2, "log": True}}
ABOUT = {"data": "here", "sizes": (1, 2)}


def open_memory(
    tmp_path: Path, *objectives: str, about: dict[str, Any] = ABOUT, name: str = "study"
) -> Memory:
    chosen: list[Objective] = [OBJECTIVES[one] for one in objectives or ("macro_f1",)]
    return Memory(
        f"sqlite:///{tmp_path / 'optuna.db'}",
        name,
        Space(SPACE),
        chosen,
        lambda begun: make_sampler("tpe", begun, [one.name for one in chosen]),
        about,
    )


def memory_at(storage: str) -> Memory:
    return Memory(
        storage=storage,
        name="study",
        space=Space(SPACE),
        objectives=[OBJECTIVES["macro_f1"]],
        make_sampler=lambda begun: make_sampler("random", begun, ["macro_f1"]),
        about=ABOUT,
    )


def row(evaluation: int, score: float) -> dict[str, Any]:
    return {
        "evaluation": evaluation,
        "epoch": float(evaluation),
        "val_macro_f1": score,
        "image_size": 64,
        "val_accuracy": score,
        "val_loss": 1 - score,
    }


def as_optuna_has_it(tmp_path: Path) -> list[optuna.trial.FrozenTrial]:
    storage = f"sqlite:///{tmp_path / 'optuna.db'}"
    return optuna.load_study(study_name="study", storage=storage).trials


def test_every_end_is_told_to_optuna_as_what_it_is(tmp_path: Path) -> None:
    memory = open_memory(tmp_path)
    for scores, end in (((0.4, 0.7, 0.6), "finished"), ((0.3,), "pruned"), ((), "failed")):
        number, _ = memory.begin()
        for index, score in enumerate(scores):
            memory.row(number, row(index + 1, score))
        memory.end(number, end, "" if end == "finished" else f"because {end}")
    memory.begin()
    told = as_optuna_has_it(tmp_path)
    ends = [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING]
    assert [trial.state for trial in told] == ends
    # The value is of the weights that are kept, not of the last epoch.
    assert told[0].value == 0.7
    assert told[1].intermediate_values == {1: 0.3}
    states = [(trial.state, trial.reason) for trial in memory.trials()[:3]]
    assert states == [("finished", ""), ("pruned", "because pruned"), ("failed", "because failed")]


def test_a_killed_study_resumes_the_cut_trial_and_its_parameters(tmp_path: Path) -> None:
    before = open_memory(tmp_path)
    done, _ = before.begin()
    before.row(done, row(1, 0.5))
    before.end(done, "finished")
    cut, params = before.begin()
    before.row(cut, row(1, 0.6))
    # As after kill -9: nothing is closed.
    after = open_memory(tmp_path)
    assert after.cut() == [cut]
    assert after.begin(cut) == (cut, params)
    after.row(cut, row(2, 0.8))
    after.end(cut, "finished")
    again, new = after.begin()
    assert again == 2
    assert new != params
    first, second, _ = after.trials()
    assert (first.starts, second.starts) == (1, 2)
    assert [one["val_macro_f1"] for one in second.rows] == [0.6, 0.8]
    assert as_optuna_has_it(tmp_path)[cut].value == 0.8


def test_a_trial_that_ended_is_not_ended_again(tmp_path: Path) -> None:
    memory = open_memory(tmp_path)
    number, _ = memory.begin()
    memory.row(number, row(1, 0.5))
    memory.end(number, "pruned", "behind")
    assert memory.end(number, "finished").state == "pruned"


def test_pruned_trials_never_enter_a_front_of_several_objectives(tmp_path: Path) -> None:
    memory = open_memory(tmp_path, "macro_f1", "latency_ms")
    for score, latency, end in ((0.9, 5.0, "finished"), (0.99, 1.0, "pruned")):
        number, _ = memory.begin()
        memory.model(number, latency, 10.0, None)
        memory.row(number, row(1, score))
        memory.end(number, end)
    storage = f"sqlite:///{tmp_path / 'optuna.db'}"
    (best,) = optuna.load_study(study_name="study", storage=storage).best_trials
    assert best.values == [0.9, 5.0]


def test_points_to_begin_with_are_tried_once(tmp_path: Path) -> None:
    point = {"image_size": 64, "lr": 0.004}
    memory = open_memory(tmp_path)
    memory.enqueue([point])
    assert memory.begin() == (0, point)
    again = open_memory(tmp_path)
    again.enqueue([point])
    assert again.begin()[1] != point


def test_seconds_are_of_all_commands_together(tmp_path: Path) -> None:
    memory = open_memory(tmp_path)
    memory._begin -= 100.0
    number, _ = memory.begin()
    memory.row(number, row(1, 0.5))
    # As after kill -9: nothing is closed.
    assert open_memory(tmp_path).seconds >= 100.0


def test_another_subject_is_refused(tmp_path: Path) -> None:
    open_memory(tmp_path)
    open_memory(tmp_path)
    with pytest.raises(
        UserError, match=r"has another data set: .* another folder or name"
    ) as caught:
        open_memory(tmp_path, about=ABOUT | {"data": "elsewhere"})
    assert caught.value.arguments == ("data", "out", "study_name")
    optuna.create_study(storage=f"sqlite:///{tmp_path / 'optuna.db'}", study_name="foreign").ask()
    with pytest.raises(UserError, match=r"'foreign' in .* was not made by this search"):
        open_memory(tmp_path, name="foreign")


def test_a_storage_of_another_optuna_is_one_sentence(tmp_path: Path) -> None:
    open_memory(tmp_path)
    with sqlite3.connect(tmp_path / "optuna.db") as connection:
        connection.execute("update alembic_version set version_num = 'v9.9.9'")
    with pytest.raises(UserError, match=r"optuna.db cannot be used"):
        open_memory(tmp_path)


def test_a_locked_storage_is_one_sentence_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_module, "_LOCK_S", 0.2)
    memory = open_memory(tmp_path)
    number, _ = memory.begin()
    other = sqlite3.connect(tmp_path / "optuna.db")
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(UserError, match=r"database is locked.*same command again"):
        memory.row(number, row(1, 0.5))
    other.rollback()
    memory.row(number, row(1, 0.5))
    assert [len(trial.rows) for trial in memory.trials()] == [1]


@pytest.mark.parametrize(
    ("storage", "sentence"),
    [
        ("sqlite:////no/such/folder/optuna.db", "unable to open"),
        ("postgresql://localhost/x", "cannot be used"),
        ("nonsense", "cannot be used"),
    ],
)
def test_a_storage_that_cannot_be_had_is_one_sentence(storage: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        memory_at(storage)
    assert "\n" not in str(caught.value)


def test_a_password_is_never_shown() -> None:
    assert shown("postgresql://me:secret@host/x") == "postgresql://me:***@host/x"
    assert shown("sqlite:////home/me/optuna.db") == "sqlite:////home/me/optuna.db"
    with pytest.raises(UserError) as caught:
        memory_at("postgresql://me:secret@localhost/x")
    assert "secret" not in str(caught.value)


def test_an_earlier_study_gives_its_best_points(tmp_path: Path) -> None:
    memory = open_memory(tmp_path)
    for score in (0.5, 0.9, 0.7):
        number, _ = memory.begin()
        memory.row(number, row(1, score))
        memory.end(number, "finished")
    trials = memory.trials()
    write_table(trials, tmp_path / "trials.csv")
    points = warm_points(tmp_path, Space(SPACE))
    expected = [trials[number].params for number in (1, 2, 0)]
    assert [point["lr"] for point in points] == pytest.approx([one["lr"] for one in expected])
    assert [point["image_size"] for point in points] == [one["image_size"] for one in expected]
    with pytest.raises(
        UserError, match="has no finished trial with all of this space's parameters"
    ):
        warm_points(tmp_path, Space(SPACE | {"batch_size": {"choice": [16]}}))
    with pytest.raises(UserError, match=r"no trials\.csv"):
        warm_points(tmp_path / "nowhere", Space(SPACE))
