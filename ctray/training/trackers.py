"""Where a run's evaluations are written as they come: history, curves, TensorBoard, MLflow."""

import contextlib
import importlib.util
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from ctray.errors import UserError
from ctray.training.history import HistoryRow, written

MLFLOW_URI = "MLFLOW_TRACKING_URI"
# The tag by which a run is found again.
_KEY = "ctray.key"


class TrackerLostError(Exception):
    """A tracker cannot continue; the training can."""


class Tracker(Protocol):
    """Follows one run; a resumed run starts again with the rows it has."""

    def start(self, history: Sequence[HistoryRow]) -> None:
        """The run begins, or resumes after these evaluations."""
        ...

    def row(self, row: HistoryRow) -> None:
        """One evaluation; raises TrackerLostError when it can take no more."""
        ...

    def close(self, finished: bool) -> None:
        """The run ended, well or not."""
        ...


class Trackers:
    """Several trackers as one; the run continues without those that can take no more.

    Args:
        trackers: told in this order.
        say: told of each that is left out.
    """

    def __init__(self, trackers: Sequence[Tracker], say: Callable[[str], None]) -> None:
        self._trackers, self._say = list(trackers), say

    def start(self, history: Sequence[HistoryRow]) -> None:
        """The run begins, or resumes after these evaluations."""
        self._each(lambda tracker: tracker.start(history))

    def row(self, row: HistoryRow) -> None:
        """One evaluation."""
        self._each(lambda tracker: tracker.row(row))

    def close(self, finished: bool) -> None:
        """The run ended, well or not."""
        for tracker in self._trackers:
            tracker.close(finished)

    def _each(self, action: Callable[[Tracker], None]) -> None:
        for tracker in list(self._trackers):
            try:
                action(tracker)
            except (TrackerLostError, OSError) as error:
                self._say(f"{type(tracker).__name__}: {error}: the run continues without it")
                self._trackers.remove(tracker)


class History:
    """`history.jsonl`, a line an evaluation, and `curves.png`, drawn again with each."""

    def __init__(self, out: Path, title: str) -> None:
        self._out, self._title = out, title
        self._rows: list[HistoryRow] = []

    def start(self, history: Sequence[HistoryRow]) -> None:
        """Write the evaluations before the resume; what came after them is gone with the run."""
        self._rows = list(history)
        lines = (_line(row) for row in history)
        (self._out / "history.jsonl").write_text("".join(lines))
        if history:
            self._draw()

    def row(self, row: HistoryRow) -> None:
        """Append a line and draw."""
        self._rows.append(row)
        with (self._out / "history.jsonl").open("a") as stream:
            stream.write(_line(row))
        self._draw()

    def _draw(self) -> None:
        from ctray.training.curves import draw_curves

        draw_curves(self._rows, self._out / "curves.png", self._title)

    def close(self, finished: bool) -> None:
        """Nothing is open."""


class TensorBoard:
    """Scalars in `tensorboard/`."""

    def __init__(self, out: Path) -> None:
        self._folder = out / "tensorboard"
        self._writer: Any = None

    def start(self, history: Sequence[HistoryRow]) -> None:
        """Open a file of events; it tells the viewer to forget what comes again."""
        # Without torch: the writer that comes with Ray Tune.
        from tensorboardX import SummaryWriter

        self.close(False)
        # Two files of one second would have one name.
        suffix = f".{history[-1]['step'] if history else 0}"
        self._writer = SummaryWriter(
            str(self._folder),
            # All: evaluations may be lost with the checkpoint they came before, and those before it
            # may not have been written.
            purge_step=0,
            filename_suffix=suffix,
            # A thread writes; if it dies of a full disk, nobody must wait for it.
            max_queue=10_000,
            flush_secs=5,
        )
        for row in history:
            self.row(row)

    def row(self, row: HistoryRow) -> None:
        """Write the scalars of an evaluation."""
        for key, value in written(row).items():
            if key not in ("step", "epoch", "seconds"):
                name = key.replace("_", "/", 1) if key.startswith(("train", "val")) else key
                self._writer.add_scalar(name, value, row["step"])

    def close(self, finished: bool) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()


class MLflow:
    """A run in the experiment `ctray` of the server that MLFLOW_TRACKING_URI names.

    Attributes:
        id: of the run.
    """

    def __init__(
        self, name: str, settings: dict[str, Any], parent: str | None = None, key: str | None = None
    ) -> None:
        """Begin a run, or resume the one with the same key.

        Args:
            name: of the run, for people.
            settings: logged as parameters of a new run.
            parent: `id` of the run that this one is shown under.
            key: by which a resumed run is found again.

        Raises:
            UserError: MLflow is not installed, or its server cannot be used.
        """
        if importlib.util.find_spec("mlflow") is None:
            raise UserError(
                f"{MLFLOW_URI} is set but MLflow is not installed: pip install 'ctray[mlflow]', "
                f"or unset {MLFLOW_URI}"
            )
        # MLflow's own default is to try for some minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        self._errors = MlflowException
        try:
            self._client = client = MlflowClient()
            experiment = client.get_experiment_by_name("ctray")
            place = experiment.experiment_id if experiment else client.create_experiment("ctray")
            tags = {"mlflow.parentRunId": parent, _KEY: key}
            tags = {name: value for name, value in tags.items() if value is not None}
            known = client.search_runs([place], f"tags.`{_KEY}` = '{key}'") if key else []
            if known:
                self.id = known[0].info.run_id
                client.update_run(self.id, status="RUNNING")
            else:
                self.id = client.create_run(place, run_name=name, tags=tags).info.run_id
                for setting, value in _flat(settings).items():
                    client.log_param(self.id, setting, value)
        except MlflowException as error:
            raise UserError(
                f"{MLFLOW_URI}={os.environ[MLFLOW_URI]} cannot be used: {_first_line(error)}"
            ) from error

    def start(self, history: Sequence[HistoryRow]) -> None:
        """Log the evaluations before a resume that have not been logged."""
        with self._lost():
            logged = self._client.get_metric_history(self.id, "seconds")
        steps = {metric.step for metric in logged}
        for row in history:
            if row["step"] not in steps:
                self.row(row)

    def row(self, row: HistoryRow) -> None:
        """Log the metrics of an evaluation."""
        with self._lost():
            for key, value in written(row).items():
                if key != "step":
                    self._client.log_metric(self.id, key, float(value), step=row["step"])

    def close(self, finished: bool) -> None:
        """Mark the run as ended."""
        # It may be the server whose loss ended the logging.
        with contextlib.suppress(self._errors):
            self._client.set_terminated(self.id, "FINISHED" if finished else "FAILED")

    @contextlib.contextmanager
    def _lost(self) -> Iterator[None]:
        try:
            yield
        except self._errors as error:
            raise TrackerLostError(f"MLflow: {_first_line(error)}") from error


def trackers_for(out: Path, title: str, settings: dict[str, Any], key: str) -> list[Tracker]:
    """Those of a run: MLflow where its variable is set, the others always.

    Args:
        out: the run's folder.
        title: of the run, for people.
        settings: that MLflow logs as parameters.
        key: of the run, the same when it is resumed.

    Raises:
        UserError: MLflow is asked for and not installed.
    """
    found: list[Tracker] = [History(out, title), TensorBoard(out)]
    return [*found, MLflow(title, settings, key=key)] if os.environ.get(MLFLOW_URI) else found


def _line(row: HistoryRow) -> str:
    return json.dumps(written(row)) + "\n"


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            values |= _flat(value, f"{prefix}{key}.")
        else:
            values[prefix + key] = value
    return values
