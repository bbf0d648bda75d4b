"""Which of a study's models is deployed, and why, in a sentence."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tuning.names import Choose
from tuning.objectives import OBJECTIVES, Objective, best_of, front
from tuning.trials import Trial


@dataclass(frozen=True)
class Choice:
    """The chosen trial, and the rule that chose it."""

    trial: Trial
    rule: str


def choose_trial(
    trials: Sequence[Trial],
    objective: Objective,
    choose: Choose,
    budget_ms: float | None,
    lowest_of_interval: Callable[[Trial], float],
    recipe: Trial | None = None,
) -> Choice | None:
    """The trial to deploy; None when none finished within the latency budget.

    Args:
        trials: of the study.
        objective: what they are compared by; `fastest` is for one that is to be large.
        choose: `fastest`: the fastest whose value lies within the 95 % interval of the best one's
            or above it, and is no worse than that of the recipe's own trial, which one had before
            the search; `best`: the best one.
        budget_ms: latency above which none is chosen.
        lowest_of_interval: of a trial's objective on the validation split; asked for the best one.
        recipe: the trial with the values of the recipe; None when it has not finished.
    """
    fit = [
        trial
        for trial in trials
        if budget_ms is None or (trial.latency_ms is not None and trial.latency_ms <= budget_ms)
    ]
    # Of equals the quicker: the other's bundle is not kept.
    best = best_of(front(fit, (objective, OBJECTIVES["latency_ms"])), objective)
    if best is None:
        return None
    among = "the finished trials" if budget_ms is None else f"those of at most {budget_ms:g} ms"
    if choose == "best":
        return Choice(best, f"the best {objective.title} of {among}")
    lowest = lowest_of_interval(best)
    leader = f"the best, trial {best.number} with {objective.value(best):.4f}"
    bound = f"{lowest:.4f}, the end of the 95 % interval of {leader}"
    if recipe in fit and objective.value(recipe) > lowest:
        lowest = objective.value(recipe)
        rest = "the best" if recipe is best else f"within the 95 % interval of {leader}"
        bound = f"{lowest:.4f}, that of the recipe's own values, trial {recipe.number}: {rest}"
    near = [
        trial
        for trial in front(fit, (objective, OBJECTIVES["latency_ms"]))
        if objective.value(trial) >= lowest
    ]
    fastest = min(near, key=OBJECTIVES["latency_ms"].value, default=best)
    return Choice(fastest, f"the fastest of {among} whose {objective.title} is not below {bound}")
