"""What the search may choose: a YAML file of recipe keys, each checked before anything runs."""

from pathlib import Path
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from pydantic import Field, ValidationError, model_validator

from ctray.config import Recipe, Strict, read_yaml
from ctray.errors import UserError
from ctray.models.names import check_backbone

DEFAULT_SPACE = Path(__file__).parent / "spaces" / "default.yaml"
# The search sets these itself.
_RESERVED = ("epochs", "seed", "refit_epochs")


class Dimension(Strict):
    """One key's values: a list to choose from, or a range."""

    choice: tuple[Any, ...] | None = Field(None, description="values to choose from")
    low: float | None = Field(None, description="least value of a range")
    high: float | None = Field(None, description="greatest value of a range")
    log: bool = Field(False, description="search the range on a logarithmic scale")

    @model_validator(mode="after")
    def _one_kind(self) -> "Dimension":
        if (self.choice is None) == (self.low is None):
            raise ValueError("give either `choice: [...]` or `low:` and `high:`")
        if self.choice is not None and not self.choice:
            raise ValueError("`choice` is empty")
        if self.low is not None and (self.high is None or self.high <= self.low):
            raise ValueError("`high` must be greater than `low`")
        if self.log and (self.low is None or self.low <= 0):
            raise ValueError("`log` needs a range above zero")
        return self

    def distribution(self, whole: bool) -> BaseDistribution:
        """As Optuna's distribution; of integers when the recipe's key is one."""
        if self.choice is not None:
            return CategoricalDistribution(self.choice)
        assert self.low is not None
        assert self.high is not None
        if whole:
            return IntDistribution(int(self.low), int(self.high), log=self.log)
        return FloatDistribution(self.low, self.high, log=self.log)


class Space:
    """A checked search space.

    Attributes:
        distributions: by dotted recipe key.
        source: the YAML values it was read from.
    """

    def __init__(self, source: dict[str, Any]) -> None:
        self.source = source
        self.distributions: dict[str, BaseDistribution] = {}
        for key, values in source.items():
            dimension = _dimension(key, values)
            for value in dimension.choice or (dimension.low, dimension.high):
                Recipe.load(None, {key: _as_typed(key, value)})
            whole = isinstance(_value(Recipe(), key), int)
            self.distributions[key] = dimension.distribution(whole)
        for backbone in self.backbones:
            check_backbone(backbone)

    @classmethod
    def load(cls, path: Path) -> "Space":
        """Read a YAML space.

        Raises:
            UserError: not a file, not YAML, an unknown key or a value the recipe refuses.
        """
        source = read_yaml(path)
        if not source:
            raise UserError(f"{path} holds no search space: give it `key: {{choice: [...]}}` lines")
        return cls(source)

    def defaults(self, base: Recipe) -> list[dict[str, Any]]:
        """The recipe's own values as a point of the space; empty when they lie outside it."""
        point = {key: _value(base, key) for key in self.distributions}
        inside = (_holds(d, point[key]) for key, d in self.distributions.items())
        return [point] if all(inside) else []

    @property
    def backbones(self) -> tuple[str, ...]:
        """Every backbone a trial may get."""
        distribution = self.distributions.get("backbone")
        if isinstance(distribution, CategoricalDistribution):
            return tuple(str(name) for name in distribution.choices)
        return (Recipe().backbone,)


def _dimension(key: str, values: Any) -> Dimension:
    if key in _RESERVED:
        raise UserError(
            f"{key!r} is not searched: set epochs with --max-epochs and seed with --seed; no trial "
            "is refitted"
        )
    try:
        return Dimension.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join([key, *(str(part) for part in first["loc"])])
        raise UserError(f"{where}: {first['msg'].removeprefix('Value error, ')}") from error


def _holds(distribution: BaseDistribution, value: Any) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    return distribution.low <= value <= distribution.high


def _value(recipe: Recipe, key: str) -> Any:
    value: Any = recipe
    for part in key.split("."):
        value = getattr(value, part, None)
    return value


def _as_typed(key: str, value: Any) -> Any:
    whole = (
        isinstance(value, float) and value.is_integer() and isinstance(_value(Recipe(), key), int)
    )
    return int(value) if whole else value
