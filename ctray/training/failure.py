"""What ends a run and what only begins it anew; read by Ray Train's controller."""

from typing import Any

import ray.train

from ctray.errors import UserError
from ctray.ray_internals import DefaultFailurePolicy, FailureDecision


class EndAtMistake(DefaultFailurePolicy):
    """Ray's own, but for a user's mistake, which new workers would only make again."""

    def make_decision(self, training_failed_error: Any) -> FailureDecision:
        """Whether to end the run with this error."""
        if mistake_in(training_failed_error) is not None:
            return FailureDecision.RAISE
        return super().make_decision(training_failed_error)


def mistake_in(error: Exception) -> UserError | None:
    """The user's mistake that a worker raised; None when none did."""
    if not isinstance(error, ray.train.WorkerGroupError):
        return None
    return next((e for e in error.worker_failures.values() if isinstance(e, UserError)), None)
