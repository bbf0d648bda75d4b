"""MLflow shows a study as one run with a run a trial below it."""

from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from ctray.training.history import HISTORY_KEYS, HistoryRow
from ctray.training.trackers import MLFLOW_URI
from tuning.tracking import followed
from tuning.trials import Trial, TrialState

pytestmark = pytest.mark.fast


class Told:
    def __init__(self) -> None:
        self.heard: list[str] = []

    def begin(self, number: int, params: dict[str, Any]) -> None:
        self.heard.append(f"begin {number}")

    def resume(self, number: int, step: int) -> None:
        self.heard.append(f"resume {number} {step}")

    def row(self, number: int, row: HistoryRow) -> None:
        self.heard.append(f"row {number}")

    def end(self, trial: Trial) -> None:
        self.heard.append(f"end {trial.number}")


def ended(number: int, state: TrialState) -> Trial:
    return Trial(number, state, "", {"lr": 0.1}, (), 0.0, 1.0)


def test_a_trial_is_a_child_of_the_studys_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MLFLOW_URI, f"file://{tmp_path}")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    told = Told()
    row = dict.fromkeys(HISTORY_KEYS, 0.5) | {"step": 3}
    with followed(told, "study", "1f", {"space": {"lr": 1}}) as listener:
        for number, state in enumerate(("finished", "pruned")):
            listener.begin(number, {"lr": 0.1})
            listener.row(number, row)
            listener.end(ended(number, state))  # type: ignore[arg-type]
        listener.begin(2, {"lr": 0.2})
        listener.resume(2, 7)
    assert told.heard == [f"{what} {n}" for n in (0, 1) for what in ("begin", "row", "end")] + [
        "begin 2",
        "resume 2 7",
    ]
    client = MlflowClient()
    experiment = client.get_experiment_by_name("ctray")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = {run.data.params["trial"]: run for run in runs if run is not parent}
    assert parent.info.status == "FINISHED"
    assert {number: run.info.status for number, run in children.items()} == {
        "0": "FINISHED",
        "1": "FAILED",
        "2": "FAILED",
    }
    for run in children.values():
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert children["0"].data.metrics["val_macro_f1"] == 0.5
    # The same command again, which resumes the cut one.
    with followed(told, "study", "1f", {"space": {"lr": 1}}) as listener:
        listener.begin(2, {"lr": 0.2})
        assert client.get_run(children["2"].info.run_id).info.status == "RUNNING"
        listener.end(ended(2, "finished"))
    assert len(client.search_runs([experiment.experiment_id])) == len(runs)
    assert client.get_run(children["2"].info.run_id).info.status == "FINISHED"


def test_without_its_variable_only_the_listener_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(MLFLOW_URI, raising=False)
    told = Told()
    with followed(told, "study", "1f", {}) as listener:
        assert listener is told
