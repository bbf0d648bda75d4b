"""A trial as Tune sees it: a light actor that stands for the training in a lane."""

from typing import Any

import ray
import ray.tune

from tuning.desk import Event, TrialJob


class TrialRun(ray.tune.Trainable):
    """Hands its job in at the desk; every step of it is the next thing that happens there.

    A result has `kind` and, by that, the fields of an evaluation, of the model, or of the end.
    """

    def setup(self, config: dict[str, Any], desk: Any = None) -> None:
        """Hand in the job in `config`; `desk` is the actor."""
        self._desk = desk
        self._begin(config["job"])

    def step(self) -> dict[str, Any]:
        """Wait for the next event."""
        event: Event = ray.get(self._desk.next.remote(self._number, self._seen))
        self._seen += 1
        return {**event["content"], "kind": event["kind"], "done": event["kind"] == "end"}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Stand for another trial: the process is warm. The search has dismissed the one before."""
        self._begin(new_config["job"])
        return True

    def _begin(self, job: TrialJob) -> None:
        self._number, self._seen = job["number"], 0
        ray.get(self._desk.submit.remote(job))
