"""What the search may choose: a YAML file of recipe keys, each checked before anything runs.

`lr: {low: 1e-4, high: 1e-2, log: true}` and `backbone: {choice: [small_cnn, resnet18]}` are a range
and a list. Under `when:` stand dimensions that depend on one chosen from a list, such as
`when: {backbone: {small_cnn: {lr: {low: 1e-3, high: 1e-2, log: true}}}}`: they are added for that
choice, or take the place of one of the same key.
"""

import copy
import difflib
import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast, get_args

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from pydantic import Field, ValidationError, model_validator

from ctray.config import Recipe, Strict, read_yaml
from ctray.data.augment import settings
from ctray.errors import UserError
from ctray.models.names import check_backbone

SPACES = Path(__file__).parent / "spaces"
_WHEN = "when"
# Between a key and the choice that it depends on, in the name of Optuna's parameter.
_AT = "@"
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
        if self.choice is not None and (self.high is not None or self.log):
            raise ValueError("`high` and `log` belong to a range, not to `choice`")
        if self.choice is not None and not self.choice:
            raise ValueError("`choice` is empty")
        if self.low is not None and (self.high is None or self.high <= self.low):
            raise ValueError("`high` must be greater than `low`")
        if self.log and (self.low is None or self.low <= 0):
            raise ValueError("`log` needs a range above zero")
        return self

    @property
    def values(self) -> tuple[Any, ...]:
        """Those of a list, or the ends of a range."""
        return self.choice or (self.low, self.high)

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
        distributions: by dotted recipe key, of every trial.
        conditional: by key and value of a choice, those that only its trials have.
        source: the YAML values it was read from.
    """

    def __init__(self, source: dict[str, Any], base: Recipe | None = None) -> None:
        """Check a space; `base` is the recipe of what it leaves out, by default `default`."""
        odd = [key for key in source if not isinstance(key, str)]
        if odd:
            raise UserError(f"{odd[0]!r} is not a key of a recipe: put it in quotes, or remove it")
        self.source = source
        self._recipe = base or Recipe()
        self._base = self._recipe.model_dump()
        always = {key: values for key, values in source.items() if key != _WHEN}
        self.distributions = self._dimensions(always, {})
        self.conditional: dict[tuple[str, Any], dict[str, BaseDistribution]] = {}
        for key, value, values in _conditions(source.get(_WHEN, {})):
            chosen = self.distributions.get(key)
            if not isinstance(chosen, CategoricalDistribution) or value not in chosen.choices:
                raise UserError(
                    f"when: {key} is never {value!r}: give it `choice: [...]` with that value"
                )
            deciding = [name for name in values if name in source[_WHEN]]
            if deciding:
                raise UserError(
                    f"when: {deciding[0]} cannot depend on {key} while others depend on it: "
                    "let it have one list of values"
                )
            twice = [
                name
                for (other, _), dimensions in self.conditional.items()
                for name in dimensions
                if other != key and name in values
            ]
            if twice or _WHEN in values:
                raise UserError(
                    f"when: {twice[0] if twice else _WHEN} depends on more than one key: let it "
                    "depend on one"
                )
            self.conditional[key, value] = self._dimensions(values, always | {key: value})
        for backbone in self.backbones:
            check_backbone(backbone)

    @classmethod
    def load(cls, path: Path, base: Recipe | None = None) -> "Space":
        """Read a YAML space; `base` is the recipe of what it leaves out.

        Raises:
            UserError: not a file, not YAML, an unknown key or a value the recipe refuses.
        """
        source = read_yaml(path)
        if not source:
            raise UserError(f"{path} holds no search space: give it `key: {{choice: [...]}}` lines")
        return cls(source, base)

    def at_most(self, key: str, most: int) -> "Space":
        """This space without a key's values above `most`; a key that has none left is not searched.

        A key that others depend on stays as it is.

        Args:
            key: of a whole number in a recipe.
            most: the greatest value that may be chosen.
        """
        conditions = self.source.get(_WHEN, {})
        if key in conditions:
            return self
        source = _capped(self.source, key, most)
        if conditions:
            source[_WHEN] = {
                name: {value: _capped(part, key, most) for value, part in values.items()}
                for name, values in conditions.items()
            }
        return self if source == self.source else Space(source, self._recipe)

    def suggest(self, trial: optuna.Trial) -> dict[str, Any]:
        """Let a trial choose; returns the values by dotted recipe key."""
        decide = dict.fromkeys(key for key, _ in self.conditional)
        params = {key: _suggest(trial, key, self.distributions[key]) for key in decide}
        for (key, value), dimensions in self.conditional.items():
            if params[key] == value:
                for name, distribution in dimensions.items():
                    params[name] = _suggest(trial, f"{name}{_AT}{value}", distribution)
        for key, distribution in self.distributions.items():
            if key not in params:
                params[key] = _suggest(trial, key, distribution)
        return {key: params[key] for key in self._order(params)}

    def to_optuna(self, params: dict[str, Any]) -> dict[str, Any]:
        """Values by recipe key as values by the name of Optuna's parameter."""
        renamed = dict(params)
        for (key, value), dimensions in self.conditional.items():
            if params.get(key) == value:
                for name in dimensions.keys() & params.keys():
                    renamed[f"{name}{_AT}{value}"] = renamed.pop(name)
        return renamed

    def from_optuna(self, params: dict[str, Any]) -> dict[str, Any]:
        """The other way."""
        values = {name.partition(_AT)[0]: value for name, value in params.items()}
        return {key: values[key] for key in self._order(values)}

    def active(self, params: dict[str, Any]) -> dict[str, BaseDistribution]:
        """The distributions that a trial with these choices has, by recipe key."""
        found = dict(self.distributions)
        for (key, value), dimensions in self.conditional.items():
            if params.get(key) == value:
                found |= dimensions
        return found

    def point(self, recipe: Recipe) -> list[dict[str, Any]]:
        """A recipe's values as a point of the space, those that lie in it; the rest is drawn.

        Empty when one is outside that others depend on: it would be another model.
        """
        values = {key: _value(recipe, key) for key in self._keys()}
        active = self.active(values)
        decide = {key for key, _ in self.conditional} | ({"backbone"} & active.keys())
        point = {key: values[key] for key, one in active.items() if _holds(one, values[key])}
        return [point] if decide <= point.keys() else []

    def inside(self, values: dict[str, Any]) -> list[dict[str, Any]]:
        """Values by recipe key as a point of the space; empty when one is missing or outside."""
        active = self.active(values)
        if not all(_holds(distribution, values.get(key)) for key, distribution in active.items()):
            return []
        return [{key: values[key] for key in active}]

    @property
    def backbones(self) -> tuple[str, ...]:
        """Every backbone a trial may get."""
        distribution = self.distributions.get("backbone")
        if isinstance(distribution, CategoricalDistribution):
            return tuple(str(name) for name in distribution.choices)
        return (Recipe().backbone,)

    @property
    def combinations(self) -> int | None:
        """How many points it has; None when one of its ranges is continuous."""
        decide = dict.fromkeys(key for key, _ in self.conditional)
        choices = (cast(CategoricalDistribution, self.distributions[key]).choices for key in decide)
        count = 0
        for values in itertools.product(*choices):
            active = self.active(dict(zip(decide, values, strict=True)))
            sizes = [_size(one) for key, one in active.items() if key not in decide]
            if None in sizes:
                return None
            count += math.prod(size for size in sizes if size is not None)
        return count

    def _dimensions(
        self, source: dict[str, Any], beside: dict[str, Any]
    ) -> dict[str, BaseDistribution]:
        """The dimensions of a part of the space, each checked beside values of all others."""
        dimensions = {key: _dimension(key, values) for key, values in source.items()}
        for key, values in beside.items():
            if key not in dimensions:
                dimension = _dimension(key, values) if isinstance(values, dict) else None
                beside = beside | {key: dimension.values[0] if dimension else values}
        context = self._base | beside
        context |= {key: _as_typed(key, one.values[0]) for key, one in dimensions.items()}
        for key, dimension in dimensions.items():
            for value in dimension.values:
                Recipe.load(None, copy.deepcopy(context) | {key: _as_typed(key, value)})
        return {key: one.distribution(_is_whole(key)) for key, one in dimensions.items()}

    def _keys(self) -> list[str]:
        more = (key for values in self.conditional.values() for key in values)
        return list(dict.fromkeys([*self.distributions, *more]))

    def _order(self, params: dict[str, Any]) -> list[str]:
        return [key for key in self._keys() if key in params]


def space_file(name: str) -> Path:
    """The file of a space: one that comes with ctray, or the user's own.

    Raises:
        UserError: neither.
    """
    names = sorted(file.stem for file in SPACES.glob("*.yaml"))
    if name in names:
        return SPACES / f"{name}.yaml"
    if name.endswith((".yaml", ".yml")) or Path(name).is_file():
        return Path(name)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else "known: " + ", ".join(names)
    raise UserError(f"unknown space {name!r}; {hint} (a file of your own ends in .yaml)", "space")


def _dimension(key: str, values: Any) -> Dimension:
    if key in _RESERVED:
        raise UserError(
            f"{key!r} is not searched: a search sets epochs and seed itself, and refits no trial",
            "max_epochs",
            "seed",
        )
    try:
        return Dimension.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join([key, *(str(part) for part in first["loc"])])
        raise UserError(f"{where}: {first['msg'].removeprefix('Value error, ')}") from error


def _capped(part: dict[str, Any], key: str, most: int) -> dict[str, Any]:
    """A part of a space's source with one of its keys at most so great."""
    if key not in part:
        return part
    dimension = _dimension(key, part[key])
    rest = {name: values for name, values in part.items() if name != key}
    if dimension.choice is not None:
        kept = [value for value in dimension.choice if value <= most]
    elif dimension.high is not None and dimension.high <= most:
        return part
    elif dimension.low is not None and dimension.low < most:
        return part | {key: part[key] | {"high": most}}
    else:
        kept = [value for value in (dimension.low,) if value is not None and value <= most]
    return part | {key: {"choice": kept}} if kept else rest


def _conditions(when: Any) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Key, value and dimensions of every condition."""
    if not isinstance(when, dict):
        raise UserError("when: give it `key: {value: {dimensions}}`")
    for key, values in when.items():
        if not isinstance(values, dict):
            raise UserError(f"when.{key}: give it `value: {{dimensions}}`")
        for value, dimensions in values.items():
            if not isinstance(dimensions, dict):
                raise UserError(f"when.{key}.{value}: give it `key: {{low: …, high: …}}` lines")
            yield str(key), value, dimensions


def _suggest(trial: optuna.Trial, name: str, distribution: BaseDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(name, distribution.choices)
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(name, distribution.low, distribution.high, log=distribution.log)
    assert isinstance(distribution, FloatDistribution)
    return trial.suggest_float(name, distribution.low, distribution.high, log=distribution.log)


def _size(distribution: BaseDistribution) -> int | None:
    if isinstance(distribution, CategoricalDistribution):
        return len(distribution.choices)
    if isinstance(distribution, IntDistribution):
        return distribution.high - distribution.low + 1
    return None


def _holds(distribution: BaseDistribution, value: Any) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    return value is not None and distribution.low <= value <= distribution.high


def _value(recipe: Recipe, key: str) -> Any:
    value: Any = recipe
    for part in key.split("."):
        value = getattr(value, part, None)
    if value is None and key.startswith("augment."):
        # A member that the recipe leaves to the policy.
        _, member, field = key.split(".")
        return settings(recipe.augment)[member].get(field)
    return value


def _as_typed(key: str, value: Any) -> Any:
    whole = isinstance(value, float) and value.is_integer() and _is_whole(key)
    return int(value) if whole else value


def _is_whole(key: str) -> bool:
    """Whether a recipe's key takes integers only."""
    model: Any = Recipe
    kinds: tuple[Any, ...] = ()
    for part in key.split("."):
        fields = getattr(model, "model_fields", {})
        if part not in fields:
            return False
        model = fields[part].annotation
        kinds = get_args(model) or (model,)
    return int in kinds and float not in kinds
