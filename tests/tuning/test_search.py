"""The search on a real cluster: trials end, what matters is kept, a second command resumes it."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
import ray
import yaml
from chaos_kit import interruptible
from ray.util import placement_group_table

from ctray.artefact.bundle import Bundle
from ctray.artefact.registry import production
from ctray.config import Recipe
from ctray.data.batches import steps_per_epoch
from ctray.data.store import Store
from ctray.engine.latency import latency_ms
from ctray.engine.loading import load_engine
from ctray.errors import UserError
from ctray.ray_internals import actors
from ctray.training.history import HistoryRow
from ctray.training.plan import make_plan
from tuning.choice import choose_trial
from tuning.finish import finish
from tuning.memory import Memory
from tuning.objectives import parse_objectives
from tuning.run import run_trials
from tuning.samplers import make_sampler
from tuning.search import main
from tuning.space import Space
from tuning.study import Limits, Study
from tuning.trials import Trial

SPACE = {
    "backbone": {"choice": ["small_cnn"]},
    "image_size": {"choice": [48, 64]},
    "lr": {"low": 1e-6, "high": 1e-2, "log": True},
    "augment.policy": {"choice": ["light", "standard"]},
}
# A point of it.
LEARNS = {"backbone": "small_cnn", "image_size": 48, "lr": 5e-3, "augment.policy": "light"}
# Without an average what a trial has learned shows at once.
BASE = Recipe(backbone="small_cnn", batch_size=16, epochs=3, seed=1, refit_epochs=0, ema=0)
F1 = ("macro_f1",)


class Told:
    """Remembers what a study tells."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.resumed: list[tuple[int, int]] = []
        self.rows: list[tuple[int, float]] = []
        self.ended: list[Trial] = []
        self.threads: set[threading.Thread] = set()

    def begin(self, number: int, params: dict[str, Any]) -> None:
        self.begun.append(number)
        self.threads.add(threading.current_thread())

    def resume(self, number: int, step: int) -> None:
        self.resumed.append((number, step))
        self.threads.add(threading.current_thread())

    def row(self, number: int, row: HistoryRow) -> None:
        self.rows.append((number, row["epoch"]))
        self.threads.add(threading.current_thread())

    def end(self, trial: Trial) -> None:
        self.ended.append(trial)
        self.threads.add(threading.current_thread())


def memory_of(out: Path, space: dict[str, Any] = SPACE, objectives: Sequence[str] = F1) -> Memory:
    out.mkdir(exist_ok=True)
    return Memory(
        f"sqlite:///{out / 'optuna.db'}",
        "study",
        Space(space),
        parse_objectives(objectives),
        lambda begun: make_sampler("tpe", 3 + begun, objectives),
        {"space": space},
    )


def study_of(
    store: Store,
    out: Path,
    base: Recipe = BASE,
    space: dict[str, Any] = SPACE,
    objectives: Sequence[str] = F1,
    latency_budget_ms: float | None = None,
    workers: int = 1,
    runs: int = 1,
) -> Study:
    return Study(
        id="0123456789ab",
        memory=memory_of(out, space, objectives),
        space=Space(space),
        base=base,
        objectives=parse_objectives(objectives),
        store=store,
        out=out,
        plan=make_plan(workers, runs),
        latency_budget_ms=latency_budget_ms,
    )


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("study")


@pytest.fixture(scope="module")
def told() -> Told:
    return Told()


@pytest.fixture(scope="module")
def trials(store: Store, out: Path, told: Told) -> list[Trial]:
    """A study of five trials: one that learns, one that cannot, and three as they are drawn."""
    study = study_of(store, out)
    study.memory.enqueue([LEARNS, LEARNS | {"lr": 1e-6}])
    return run_trials(study, Limits(5), told)


def test_every_trial_ends_and_is_told_once(trials: list[Trial], told: Told) -> None:
    assert [trial.number for trial in trials] == [0, 1, 2, 3, 4]
    assert told.begun == [0, 1, 2, 3, 4]
    assert told.resumed == []
    assert [trial.number for trial in told.ended] == [0, 1, 2, 3, 4]
    assert [trial.state for trial in trials[:2]] == ["finished", "pruned"]
    assert {"finished", "pruned"} >= {trial.state for trial in trials}
    # The state of the trials has no lock: one thread changes it.
    assert told.threads == {threading.main_thread()}
    for trial in trials:
        assert set(trial.params) == set(SPACE)
        epochs = [epoch for number, epoch in told.rows if number == trial.number]
        assert [row["epoch"] for row in trial.rows] == epochs
        if trial.state == "finished":
            assert epochs == [1.0, 2.0, 3.0]
        else:
            assert len(epochs) < 3
            assert trial.reason.startswith(("behind the better third", "no better than guessing"))


def test_latency_and_size_are_of_the_model_that_would_serve(trials: list[Trial], out: Path) -> None:
    bundles = {trial.number: out / "trials" / f"{trial.number:04d}" / "bundle" for trial in trials}
    done = next(trial for trial in trials if bundles[trial.number].is_dir())
    bundle = Bundle.load(str(bundles[done.number]))
    size = sum(value.nbytes for value in bundle.weights.values()) / 1e6
    assert done.size_mb == pytest.approx(size)
    assert done.latency_ms is not None
    again = latency_ms(load_engine(bundle), bundle.info.preprocess.image_size)
    # A busy machine may take some times as long; milliseconds and seconds differ by a thousand.
    assert again / 20 < done.latency_ms < again * 20
    by_size = {(one.params["image_size"], one.latency_ms) for one in trials}
    assert len(by_size) == len({size for size, _ in by_size})


def test_on_disk_are_the_bundles_that_may_be_chosen_and_nothing_else(
    trials: list[Trial], out: Path
) -> None:
    kept = {path.name for path in (out / "trials").iterdir()}
    done = [trial for trial in trials if trial.state == "finished"]
    best = max(done, key=lambda trial: trial.score)
    assert f"{best.number:04d}" in kept
    assert kept <= {f"{trial.number:04d}" for trial in done}
    assert {path.name for folder in (out / "trials").iterdir() for path in folder.iterdir()} == {
        "bundle"
    }


def test_the_same_command_again_has_nothing_to_do_and_more_trials_are_added(
    store: Store, trials: list[Trial], out: Path
) -> None:
    told = Told()
    assert run_trials(study_of(store, out), Limits(5), told) == trials
    assert told.begun == []
    more = run_trials(study_of(store, out), Limits(6), told)
    assert [trial for trial in more if trial.number < 5] == trials
    assert told.begun == [5]


def test_the_end_writes_bundle_table_report_and_a_test_score(
    store: Store, trials: list[Trial], out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = study_of(store, out)
    done = study.memory.trials()
    finish(study, done, "best", refits=False, command="")
    best = max((t for t in done if t.state == "finished"), key=lambda trial: trial.score)
    bundle = Bundle.load(str(out / "best" / "bundle"))
    assert bundle.info.study == "0123456789ab"
    assert bundle.info.metrics["val_macro_f1"] == pytest.approx(best.score)
    assert bundle.info.recipe.lr == pytest.approx(best.params["lr"])
    assert bundle.info.recipe.augment.policy == best.params["augment.policy"]
    assert bundle.info.fingerprint == store.fingerprint
    report = json.loads((out / "best" / "test" / "report.json").read_text())
    assert report["n"] == len(store.records("test"))
    table = pd.read_csv(out / "trials.csv")
    assert list(table["trial"]) == [trial.number for trial in done]
    assert {"state", "val_macro_f1", "latency_ms", "size_mb", "starts", *SPACE} <= set(table)
    assert f"trial {best.number}" in (out / "study.html").read_text()
    printed = capsys.readouterr().out
    assert f"chosen: trial {best.number}, the best macro-F1" in printed
    assert "test split: accuracy" in printed
    # The test split is scored once: the same choice again reads the report that is there.
    scored = (out / "best" / "test" / "report.json").stat().st_mtime_ns
    finish(study, done, "best", refits=False, command="")
    assert (out / "best" / "test" / "report.json").stat().st_mtime_ns == scored


def test_a_refit_learns_from_the_validation_records_too(
    store: Store, trials: list[Trial], out: Path
) -> None:
    study = study_of(store, out)
    finish(study, study.memory.trials(), "best", refits=False, command="")
    before = Bundle.load(str(out / "best" / "bundle"))
    finish(study, study.memory.trials(), "best", refits=True, command="")
    after = Bundle.load(str(out / "best" / "bundle"))
    assert set(after.seen.trained_on) == set(store.records("train+val")["id"])
    assert after.digest != before.digest
    assert after.info.metrics == before.info.metrics
    assert not list(out.rglob("refit"))


def test_failed_trials_are_named_and_the_others_continue_in_two_lanes(
    store: Store, tmp_path: Path
) -> None:
    space = SPACE | {
        "batch_size": {"choice": [16, 100_000]},
        # This much takes the weights beyond all numbers in some steps.
        "weight_decay": {"choice": [0.02, 1e30]},
    }
    study = study_of(store, tmp_path, BASE.model_copy(update={"epochs": 1}), space, runs=2)
    good = LEARNS | {"batch_size": 16, "weight_decay": 0.02}
    changes = ({}, {"weight_decay": 1e30}, {"batch_size": 100_000}, {"lr": 3e-3}, {"lr": 2e-3})
    study.memory.enqueue([good | change for change in changes])
    # What raises in a process, and does so again in the next one.
    study.folder(3).mkdir(parents=True)
    study.bundle(3).write_text("in the way")
    trials = run_trials(study, Limits(5), Told())
    states = [trial.state for trial in trials]
    assert states == ["finished", "failed", "failed", "failed", "finished"]
    assert re.search(r"the loss is (nan|inf) at step \d+", trials[1].reason)
    assert "batch_size=100000 is larger than" in trials[2].reason
    assert trials[3].reason.startswith("its process died twice: ")
    assert str(study.bundle(3)) in trials[3].reason
    # While one lane got new processes for the one that raised, the other continued.
    assert {trial.lane for trial in trials if trial.rows} == {0, 1}


def test_a_full_disk_ends_the_search_and_costs_no_trial(store: Store, tmp_path: Path) -> None:
    # As full as can be had here: nothing can be made there.
    study = study_of(store, tmp_path)
    study.memory.enqueue([LEARNS])
    study.folder(0).mkdir(parents=True)
    place = study.folder(0) / "checkpoints"
    place.symlink_to("/dev/null/nothing")
    with pytest.raises(UserError, match=r"cannot be written to .*; make room, then run the same"):
        run_trials(study, Limits(2), Told())
    place.unlink()
    trials = run_trials(study_of(store, tmp_path), Limits(2), Told())
    assert [trial.number for trial in trials] == [0, 1]
    assert trials[0].state == "finished"


def test_the_bundle_of_the_choice_is_kept_whatever_else_was_looked_for(
    store: Store, tmp_path: Path
) -> None:
    study = study_of(store, tmp_path, objectives=("accuracy", "loss"))
    # Alike in accuracy and latency, by which one chooses.
    for loss in (0.4, 0.2):
        number, _ = study.memory.begin()
        row = {"evaluation": 1, "epoch": 1.0, "image_size": 64, "val_loss": loss}
        study.memory.row(number, row | {"val_accuracy": 0.9, "val_macro_f1": 0.9})
        study.memory.model(number, 5.0, 1.0, None)
        study.memory.end(number, "finished")
        study.bundle(number).mkdir(parents=True)
    trials = run_trials(study, Limits(2), Told())
    choice = choose_trial(trials, study.objectives[0], "fastest", None, lambda _: 0.8)
    assert choice is not None
    assert study.bundle(choice.trial.number).is_dir()


def test_a_model_over_the_latency_budget_is_not_trained_by_any_of_its_workers(
    store: Store, tmp_path: Path
) -> None:
    told = Told()
    study = study_of(
        store, tmp_path, objectives=("macro_f1", "latency_ms"), latency_budget_ms=1e-6, workers=2
    )
    # Without a number of trials, too: it sees that there are no others.
    trials = run_trials(study, Limits(None), told)
    assert {trial.state for trial in trials} == {"pruned"}
    assert len(trials) < 100
    assert all("too slow" in trial.reason and "1e-06 ms" in trial.reason for trial in trials)
    assert told.rows == []
    with pytest.raises(UserError, match="no finished trial answers within"):
        finish(study, trials, "fastest", refits=False, command="")


def test_the_command_keeps_the_study_elsewhere_begins_with_another_ones_best_and_promotes(
    store: Store, trials: list[Trial], out: Path, tmp_path: Path
) -> None:
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(SPACE))
    storage, registry = f"sqlite:///{tmp_path / 'other.db'}", str(tmp_path / "registry")
    main(
        data=store.root,
        out=tmp_path / "study",
        space=str(tmp_path / "space.yaml"),
        trials=1,
        max_epochs=1,
        objective=["macro_f1", "latency_ms"],
        latency_budget_ms=1e4,
        sampler="random",
        storage=storage,
        study_name="mine",
        warm_start=[out],
        promote=True,
        registry=registry,
    )
    known = optuna.load_study(study_name="mine", storage=storage)
    (only,) = known.get_trials(states=[optuna.trial.TrialState.COMPLETE])
    # Tests before this one may have added to them.
    finished = (one for one in memory_of(out).trials() if one.state == "finished")
    assert only.params == max(finished, key=lambda trial: trial.score).params
    assert len(only.values) == 2
    assert not (tmp_path / "study" / "optuna.db").exists()
    bundle = Bundle.load(str(tmp_path / "study" / "best" / "bundle"))
    assert Bundle.load(production(registry)).digest == bundle.digest


def test_ctrl_c_ends_a_search_that_waits_for_a_busy_cluster(store: Store, tmp_path: Path) -> None:
    # Too few are left for a lane, and enough for the rest.
    @ray.remote(num_cpus=ray.cluster_resources()["CPU"] - 0.5)
    class Other:
        def ready(self) -> None:
            pass

    other = Other.remote()
    ray.get(other.ready.remote())
    address = ray.get_runtime_context().gcs_address
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(SPACE))
    words = ("--data", store.root, "--out", tmp_path / "study", "--time-budget", "1h")
    words += ("--space", tmp_path / "space.yaml")
    with interruptible():
        search = subprocess.Popen(
            [sys.executable, "-m", "tuning.search", *map(str, words)],
            env=os.environ | {"RAY_ADDRESS": address, "RAY_AUTH_MODE": "token"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    try:
        assert search.stdout is not None
        said = list(itertools.takewhile(lambda line: "trial 0: begins" not in line, search.stdout))
        # What is not said is the recipe's and the budget's.
        assert "as many trials as fit into 1h, of at most 8 epochs" in "".join(said)
        search.send_signal(signal.SIGINT)
        _, error = search.communicate(timeout=120)
    finally:
        search.kill()
        ray.kill(other)
    assert search.returncode == 130, error
    assert "Traceback" not in error


def test_the_time_budget_ends_a_search_that_a_cluster_has_no_room_for(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The lane never starts: nobody comes home, however long that is waited for.
    monkeypatch.setattr("tuning.lanes._HOME_S", 2.0)
    study = study_of(store, tmp_path)

    @ray.remote(num_cpus=ray.cluster_resources()["CPU"])
    class Other:
        def ready(self) -> None:
            pass

    other = Other.remote()
    ray.get(other.ready.remote())
    try:
        trials = run_trials(study, Limits(2, time_budget_s=1.0), Told())
    finally:
        ray.kill(other)
    assert [trial.state for trial in trials] == ["stopped"]


def test_a_folder_that_a_lane_does_not_see_ends_the_search_and_costs_no_trial(
    store: Store, tmp_path: Path
) -> None:
    study = study_of(store, tmp_path)

    class Elsewhere(Told):
        """What was made for a trial is on the disk of another machine than its lane's."""

        def begin(self, number: int, params: dict[str, Any]) -> None:
            study.folder(number).rmdir()

    with pytest.raises(UserError, match=r"0000 is not there on the machine .* then run the same"):
        run_trials(study, Limits(2), Elsewhere())
    assert [trial.state for trial in study.memory.trials()] == ["stopped"]


# Before the one that is interrupted, whose trial Ray frees when the process ends.
def test_studies_leave_no_placement_group_and_no_actor(trials: list[Trial]) -> None:
    ours = ("RayTrainWorker", "TrainController", "Desk", "ResourceTrainable")

    def busy() -> list[str]:
        tables = placement_group_table().values()
        groups = [group["placement_group_id"] for group in tables if group["state"] != "REMOVED"]
        alive = [one["ActorClassName"] for one in actors(actor_state_name="ALIVE").values()]
        return groups + [name for name in alive if name.startswith(ours)]

    # Ray frees a group a second or so after its run.
    deadline = time.monotonic() + 60
    while busy() and time.monotonic() < deadline:
        time.sleep(0.5)
    assert busy() == []


class Interrupting(Told):
    """Presses Ctrl-C after so many evaluations."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after

    def row(self, number: int, row: HistoryRow) -> None:
        super().row(number, row)
        if len(self.rows) == self.after:
            raise KeyboardInterrupt


def test_a_cut_trial_is_resumed_where_it_was(store: Store, tmp_path: Path) -> None:
    base = BASE.model_copy(update={"epochs": 6})
    first, second, third = Interrupting(2), Told(), Told()
    begun = study_of(store, tmp_path, base)
    begun.memory.enqueue([LEARNS])
    with pytest.raises(KeyboardInterrupt):
        run_trials(begun, Limits(1, pruner="none"), first)
    assert first.ended == []
    (cut,) = memory_of(tmp_path).trials()
    assert (cut.state, len(cut.rows)) == ("stopped", 2)
    assert list((tmp_path / "trials" / "0000" / "checkpoints").glob("step-*"))
    # A budget that is over before a lane has started costs nothing, and leaves it as it was.
    (still,) = run_trials(study_of(store, tmp_path, base), Limits(1, 0.1, "none"), second)
    assert (still.state, still.rows) == ("stopped", cut.rows)
    (done,) = run_trials(study_of(store, tmp_path, base), Limits(1, pruner="none"), third)
    assert third.begun == [0]
    # From a checkpoint of after two epochs: what was trained is not trained again.
    ((number, step),) = third.resumed
    assert number == 0
    assert step >= 2 * steps_per_epoch(len(store.records("train")), 16)
    assert (done.state, done.params) == ("finished", cut.params)
    assert done.rows[:2] == cut.rows
    # Nothing was lost, and nothing was done twice.
    assert [row["epoch"] for row in done.rows] == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
