"""Every setting of a search, typed, strict and documented: its command line is made from this.

A YAML file of these (`--config FILE`) is read as a recipe is, and options lie over it.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from ctray.artefact import DEFAULT_NAME
from ctray.config import Strict, load_settings
from ctray.console import DATA_HELP, REGISTRY_HELP
from ctray.errors import UserError
from tuning.names import Choose, Pruner, SamplerName
from tuning.objectives import parse_objectives

# A search without a number of trials and without a time budget runs so many.
DEFAULT_TRIALS = 8
_SECONDS = {"s": 1, "m": 60, "h": 3600}


class SearchSettings(Strict):
    """What is searched, for what, how long, on what, and where it is kept."""

    data: Path | None = Field(
        None,
        description=f"{DATA_HELP} Default: embedded synthetic images.",
    )
    out: Path = Field(Path("study"), description="Folder of the study; a study there is resumed.")
    space: str = Field(
        "default", description="quick, default, wide, deck, or a YAML file of your own."
    )
    trials: int | None = Field(
        None,
        ge=1,
        description=f"In the whole study; may be raised. Default: {DEFAULT_TRIALS}, or as many as "
        "fit into the time budget.",
    )
    max_epochs: int | None = Field(
        None, ge=1, description="Epochs of a trial that is kept; default: the recipe's."
    )
    time_budget: str | None = Field(
        None, description="Of this command's trials: 90s, 30m or 2h; default: none."
    )
    recipe: str = Field("fast", description="Recipe of what is not searched.")
    objective: tuple[str, ...] = Field(
        ("macro_f1",), description="macro_f1, accuracy or loss, then also latency_ms, size_mb."
    )
    latency_budget_ms: float | None = Field(
        None, ge=0.0, description="Slower models are not trained."
    )
    choose: Choose = Field(
        "fastest", description="fastest within the interval of the best, or the best."
    )
    sampler: SamplerName = Field(
        "auto", description="auto is tpe, and grid where there are few combinations."
    )
    pruner: Pruner = Field("asha", description="Ends trials that are behind.")
    concurrency: Literal["auto"] | int = Field(
        "auto", description="Trials at the same time: auto or a number."
    )
    workers_per_trial: int = Field(1, ge=1, description="Train workers a trial.")
    gpus_per_trial: float | None = Field(
        None, description="Share of a GPU, such as 0.5, for trials of one worker."
    )
    storage: str | None = Field(
        None, description="Database URL of the study; default: OUT/optuna.db."
    )
    study_name: str | None = Field(None, description="In the database; default: the name of OUT.")
    warm_start: tuple[Path, ...] = Field(
        (), description="Folder of a study whose best are tried first."
    )
    refit: bool = Field(False, description="Train the winner on with the validation records.")
    promote: bool = Field(False, description="Put the winner into the registry as production.")
    registry: str | None = Field(
        None, description=f"Where it is put: {REGISTRY_HELP[0].lower()}{REGISTRY_HELP[1:]}"
    )
    name: str = Field(DEFAULT_NAME, description="In the registry.")
    seed: int = Field(0, ge=0, description="Of the sampler and the trials.")
    verbose: bool = Field(False, description="Show Ray's own messages and the workers' output.")

    @field_validator("time_budget", mode="before")
    @classmethod
    def _is_a_duration(cls, value: Any) -> Any:
        if value is not None:
            _seconds(str(value))
        return value

    @field_validator("concurrency", mode="before")
    @classmethod
    def _is_auto_or_a_number(cls, value: Any) -> Any:
        if value != "auto" and not re.fullmatch(r"[1-9]\d*", str(value)):
            raise UserError(
                f"the concurrency {value!r} is not auto or a number such as 4", "concurrency"
            )
        return value

    @field_validator("objective")
    @classmethod
    def _are_objectives(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        parse_objectives(value)
        return value

    @model_validator(mode="after")
    def _fastest_needs_an_interval(self) -> Self:
        if self.objective[0] == "loss" and self.choose == "fastest":
            raise UserError(
                "there is no interval for the objective loss: choose the best",
                "objective",
                "choose",
            )
        return self

    @classmethod
    def load(cls, path: Path | None = None, given: Mapping[str, Any] | None = None) -> Self:
        """Read a YAML file and lay what was given over it; None is not given.

        Raises:
            UserError: no such file, not YAML, an unknown key, or values that cannot be.
        """
        given = {name: value for name, value in (given or {}).items() if value is not None}
        return load_settings(cls, path, given)

    @property
    def time_budget_s(self) -> float | None:
        """The time budget in seconds; None: no limit."""
        return None if self.time_budget is None else _seconds(self.time_budget)

    @property
    def side_by_side(self) -> int | None:
        """How many trials run at the same time; None: as many as fit."""
        return None if self.concurrency == "auto" else self.concurrency


def _seconds(text: str) -> float:
    """`90s`, `30m` or `2h` as seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if match is None or float(match[1]) == 0:
        raise UserError(
            f"the time budget {text!r} is not of the form 90s, 30m or 2h", "time_budget"
        )
    return float(match[1]) * _SECONDS[match[2]]
