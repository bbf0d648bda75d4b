"""The owner of the trials' state: what it hands out, remembers, ends and keeps of an error."""

import errno
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from ray.exceptions import RayActorError

from ctray.config import Recipe
from ctray.errors import UserError
from ctray.training.history import HistoryRow
from ctray.training.plan import Plan
from tuning.coordinator import Coordinator
from tuning.memory import Memory
from tuning.objectives import parse_objectives
from tuning.samplers import make_sampler
from tuning.space import Space
from tuning.stop import StopSignal
from tuning.study import Limits, Study
from tuning.trials import Trial

pytestmark = pytest.mark.fast

SPACE = {"lr": {"low": 1e-3, "high": 1e-2, "log": True}, "image_size": {"choice": [48, 64]}}
BASE = Recipe(backbone="small_cnn", batch_size=4, epochs=3, refit_epochs=0, small_share=0.0)
PLAN = Plan(workers=1, gpu=False, cpus=1.0, threads=1, prefetch=2, data_cpus=0.2, runs=1)


class Scene:
    """A coordinator with a desk that takes everything, and a listener that remembers it."""

    def __init__(self, out: Path, limits: Limits, budget_ms: float | None = None) -> None:
        self.jobs: list[dict[str, Any]] = []
        self.told: list[tuple[Any, ...]] = []
        self.desk: Any = SimpleNamespace(
            submit=SimpleNamespace(remote=self.jobs.append),
            dismiss=SimpleNamespace(remote=lambda number: self.told.append(("dismiss", number))),
            # Called only while Ray runs in this process.
            close=SimpleNamespace(remote=lambda: None),
        )
        self.stop = StopSignal(self.desk)
        labels = pd.DataFrame({"label": ["a", "b"] * 8})
        store: Any = SimpleNamespace(
            classes=("a", "b"), place=("here", 1), records=lambda split: labels
        )
        self.memory = Memory(
            storage=f"sqlite:///{out / 'optuna.db'}",
            name="study",
            space=Space(SPACE),
            objectives=parse_objectives(["macro_f1"]),
            make_sampler=lambda begun: make_sampler("random", begun, ["macro_f1"]),
            about={},
        )
        self.study = Study(
            id="1f",
            memory=self.memory,
            space=Space(SPACE),
            base=BASE,
            objectives=parse_objectives(["macro_f1"]),
            store=store,
            out=out,
            plan=PLAN,
            latency_budget_ms=budget_ms,
        )
        self.coordinator = Coordinator(self.study, limits, self, self.desk, self.stop)

    def begin(self, number: int, params: dict[str, Any]) -> None:
        self.told.append(("begin", number))

    def resume(self, number: int, step: int) -> None:
        self.told.append(("resume", number, step))

    def row(self, number: int, row: HistoryRow) -> None:
        self.told.append(("row", number, row["evaluation"]))

    def end(self, trial: Trial) -> None:
        self.told.append(("end", trial.number, trial.state, trial.reason))

    def states(self) -> list[str]:
        return [trial.state for trial in self.memory.trials()]


@pytest.fixture(autouse=True)
def _answers_come_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuning.coordinator.ray.get", lambda answer: answer)


def row(evaluation: int, score: float = 0.9, accuracy: float = 0.9) -> dict[str, Any]:
    figures = dict.fromkeys(("train_loss", "val_loss", "lr", "images_per_s", "seconds"), 1.0)
    return figures | {
        "kind": "row",
        "step": evaluation * 4,
        "epoch": float(evaluation),
        "evaluation": evaluation,
        "image_size": 64,
        "train_accuracy": accuracy,
        "val_accuracy": score,
        "val_macro_f1": score,
        "val_records": 400,
    }


def end(ended: str, reason: str = "", **more: Any) -> dict[str, Any]:
    return {"kind": "end", "ended": ended, "reason": reason, **more}


def test_a_trial_from_its_job_to_its_end(tmp_path: Path) -> None:
    scene = Scene(tmp_path, Limits(1))
    hear = scene.coordinator.hear
    assert scene.coordinator.next_trial() == 0
    (job,) = scene.jobs
    assert (job["number"], job["known"], job["measures"]) == (0, 0, True)
    assert hear(0, {"kind": "start", "step": 0, "lane": 3, "deaths": 0})
    assert hear(0, {"kind": "model", "latency_ms": 5.0, "size_mb": 1.0})
    for evaluation in (1, 2, 2, 3):
        # One whose actor died reports again from its start.
        assert hear(0, row(evaluation))
    scene.study.bundle(0).mkdir(parents=True)
    (scene.study.folder(0) / "checkpoints").mkdir()
    assert hear(0, end("finished"))
    assert hear(0, row(1))
    assert scene.told == [
        ("begin", 0),
        *(("row", 0, evaluation) for evaluation in (1, 2, 3)),
        ("dismiss", 0),
        ("end", 0, "finished", ""),
    ]
    (trial,) = scene.memory.trials()
    assert (trial.lane, trial.latency_ms, len(trial.rows)) == (3, 5.0, 3)
    assert [path.name for path in scene.study.folder(0).iterdir()] == ["bundle"]
    assert (tmp_path / "trials.csv").is_file()
    assert scene.coordinator.next_trial() is None
    assert scene.coordinator.error is None


def test_a_trial_that_learns_nothing_is_told_to_end(tmp_path: Path) -> None:
    scene = Scene(tmp_path, Limits(2, pruner="none"))
    scene.coordinator.next_trial()
    assert scene.coordinator.hear(0, row(1, 0.1, 0.1))
    assert not scene.coordinator.hear(0, row(2, 0.1, 0.1))
    assert scene.told[-1] == ("end", 0, "pruned", "no better than guessing at epoch 2")
    # Its lane clears the folder itself.
    assert scene.study.folder(0).is_dir()


def test_models_that_are_known_to_be_slow_are_not_trained(tmp_path: Path) -> None:
    scene = Scene(tmp_path, Limits(None), budget_ms=1.0)
    while (number := scene.coordinator.next_trial()) is not None:
        scene.coordinator.hear(number, {"kind": "model", "latency_ms": 5.0, "size_mb": 1.0})
        scene.coordinator.hear(number, end("slow", latency_ms=5.0))
    # One of each size was measured; then there were no others in so many.
    assert len(scene.jobs) == 2
    assert set(scene.states()) == {"pruned"}
    assert scene.told[-1][3] == "too slow: 5.0 ms, the budget is 1 ms"


def test_a_lost_trial_is_resumed_once_and_a_cut_one_by_the_next_command(tmp_path: Path) -> None:
    scene = Scene(tmp_path, Limits(1))
    assert scene.coordinator.next_trial() == 0
    scene.coordinator.hear(0, row(1))
    cut = Scene(tmp_path, Limits(1))
    assert cut.coordinator.next_trial() == 0
    assert cut.jobs[0]["known"] == 1
    cut.coordinator.lose(0)
    assert cut.coordinator.next_trial() == 0
    cut.coordinator.lose(0)
    assert cut.told[-1] == ("end", 0, "failed", "its actor died again and again")
    assert cut.coordinator.next_trial() is None


def test_what_is_nobodys_fault_ends_the_search_and_costs_no_trial(tmp_path: Path) -> None:
    scene = Scene(tmp_path, Limits(2))
    scene.coordinator.next_trial()
    scene.coordinator.hear(0, end("unsaved", "a checkpoint cannot be written; make room"))
    assert isinstance(scene.coordinator.error, UserError)
    assert str(scene.coordinator.error).endswith("; make room, then run the same command again")
    assert scene.stop.is_set()
    assert scene.coordinator.next_trial() is None
    assert scene.states() == ["stopped"]


def test_a_dead_desk_ends_the_search_and_costs_no_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real one is killed in the chaos tests."""
    scene = Scene(tmp_path, Limits(2))

    def dead(_: object) -> None:
        raise RayActorError

    monkeypatch.setattr("tuning.coordinator.ray.get", dead)
    scene.coordinator.next_trial()
    scene.coordinator.hear(0, end("finished"))
    assert str(scene.coordinator.error) == (
        "the process that hands out the trials died: run the same command again"
    )
    assert scene.stop.is_set()
    assert scene.states() == ["stopped"]


def test_a_full_disk_names_the_folder_of_the_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(tmp_path, Limits(2))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tuning.coordinator.write_table", full)
    scene.coordinator.next_trial()
    scene.coordinator.hear(0, end("failed", "why"))
    assert isinstance(scene.coordinator.error, OSError)
    assert scene.coordinator.error.filename == str(tmp_path)
