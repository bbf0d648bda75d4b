"""Trackers: a resumed run's history and events, MLflow's server there and gone."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ctray.errors import UserError
from ctray.training.history import HISTORY_KEYS, HistoryRow
from ctray.training.trackers import (
    MLFLOW_URI,
    History,
    MLflow,
    TensorBoard,
    TrackerLostError,
    Trackers,
    trackers_for,
)

pytestmark = pytest.mark.fast


def row(step: int, value: float = 0.5) -> HistoryRow:
    return dict.fromkeys(HISTORY_KEYS, value) | {"step": step, "epoch": step / 10}  # type: ignore[return-value]


def test_a_resumed_history_has_each_evaluation_once(tmp_path: Path) -> None:
    first = History(tmp_path, "run")
    first.start([])
    for step in (10, 20, 30):
        first.row(row(step))
    again = History(tmp_path, "run")
    again.start([row(10), row(20)])
    again.row(row(30, 0.7))
    rows = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in rows] == [10, 20, 30]
    assert rows[-1]["val_loss"] == 0.7
    assert (tmp_path / "curves.png").stat().st_size > 10_000


def test_a_line_of_the_history_has_these_values_in_this_order(tmp_path: Path) -> None:
    history = History(tmp_path, "run")
    history.start([row(10) | {"evaluation": 1, "val_records": 48}])  # type: ignore[list-item]
    assert (tmp_path / "history.jsonl").read_text() == (
        '{"step": 10, "epoch": 1.0, "train_loss": 0.5, "train_accuracy": 0.5, "val_loss": 0.5, '
        '"val_accuracy": 0.5, "val_macro_f1": 0.5, "lr": 0.5, "image_size": 0.5, '
        '"images_per_s": 0.5, "seconds": 0.5}\n'
    )


def test_a_run_continues_without_a_tracker_that_can_take_no_more(tmp_path: Path) -> None:
    class Full:
        def start(self, history: Sequence[HistoryRow]) -> None:
            pass

        def row(self, row: HistoryRow) -> None:
            raise OSError(28, "No space left on device")

        def close(self, finished: bool) -> None:
            raise AssertionError("it is left out")

    said: list[str] = []
    trackers = Trackers([Full(), History(tmp_path, "run")], said.append)
    trackers.start([])
    for step in (10, 20):
        trackers.row(row(step))
    trackers.close(True)
    assert said == ["Full: [Errno 28] No space left on device: the run continues without it"]
    assert (tmp_path / "history.jsonl").read_text().count("\n") == 2


def test_tensorboard_forgets_what_comes_again(tmp_path: Path) -> None:
    for history, value in (([], 0.1), ([row(10, 0.3)], 0.2)):
        board = TensorBoard(tmp_path)
        board.start(history)
        for step in (10, 20, 30)[len(history) :]:
            board.row(row(step, value))
        board.close(True)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    found = [(event.step, round(event.value, 3)) for event in events.Scalars("val/loss")]
    assert found == [(10, 0.3), (20, 0.2), (30, 0.2)], "the last one before is written again"


def test_tensorboard_forgets_an_evaluation_that_was_never_saved(tmp_path: Path) -> None:
    for value in (0.1, 0.2):
        board = TensorBoard(tmp_path)
        board.start([])
        board.row(row(10, value))
        board.close(True)
        if value == 0.1:
            # Its name is the second it was begun in: the other one's would be the same.
            (file,) = (tmp_path / "tensorboard").iterdir()
            file.rename(file.with_name("events.out.tfevents.0000000001.killed"))
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    found = [(event.step, round(event.value, 3)) for event in events.Scalars("val/loss")]
    assert found == [(10, 0.2)]


def test_mlflow_gets_parameters_and_metrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MLFLOW_URI, f"file://{tmp_path}")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    settings = {"recipe": {"lr": 0.1, "augment": {"policy": "light"}}}
    *_, tracker = trackers_for(tmp_path / "run", "small_cnn, store", settings, "key")
    tracker.start([])
    tracker.row(row(5, 0.5))
    # Killed; the evaluation that its last checkpoint has was not logged. An operational setting has
    # changed, and MLflow lets no parameter have two values.
    settings["recipe"]["lr"] = 0.2
    *_, tracker = trackers_for(tmp_path / "run", "small_cnn, store", settings, "key")
    tracker.start([row(5, 0.5), row(10, 0.25)])
    tracker.close(True)
    client = MlflowClient()
    experiment = client.get_experiment_by_name("ctray")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params == {"recipe.lr": "0.1", "recipe.augment.policy": "light"}
    assert run.data.metrics["val_macro_f1"] == 0.25
    history = client.get_metric_history(run.info.run_id, "val_macro_f1")
    assert [metric.step for metric in history] == [5, 10]
    # The server's disk is gone: the training is not to die of it.
    (tmp_path / experiment.experiment_id / run.info.run_id / "meta.yaml").unlink()
    with pytest.raises(TrackerLostError, match="MLflow: "):
        tracker.row(row(20))


def test_without_its_variable_mlflow_is_not_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(MLFLOW_URI, raising=False)
    kinds = [type(tracker).__name__ for tracker in trackers_for(tmp_path, "run", {}, "key")]
    assert kinds == ["History", "TensorBoard"]


def test_a_server_that_does_not_answer_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MLFLOW_URI, "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(UserError, match=r"MLFLOW_TRACKING_URI=http://127.0.0.1:9 cannot be used"):
        MLflow("run", {})
