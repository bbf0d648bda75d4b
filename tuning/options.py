"""Command-line options that are made from a settings model: its fields are their one source.

Names, types, least values, defaults and help texts are those of the fields. An option that is not
given is None, so that a file of settings can say it.
"""

import inspect
from collections.abc import Callable, Mapping
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import typer
from annotated_types import Ge
from pydantic import BaseModel
from pydantic.fields import FieldInfo

Function = TypeVar("Function", bound=Callable[..., Any])


def takes(
    settings: type[BaseModel], spelled: Mapping[str, tuple[str, ...]] | None = None
) -> Callable[[Function], Function]:
    """Give a function that ends in `**given` an option for every field of a model.

    Args:
        settings: the model.
        spelled: the options of fields that have more than one, such as `--verbose` and `-v`.
    """
    names = spelled or {}

    def decorate(function: Function) -> Function:
        own = inspect.signature(function)
        kept = [one for one in own.parameters.values() if one.kind != inspect.Parameter.VAR_KEYWORD]
        options = [
            _option(name, field, names.get(name, ()))
            for name, field in settings.model_fields.items()
        ]
        described: Any = function
        described.__signature__ = own.replace(parameters=[*kept, *options])
        return function

    return decorate


def _option(name: str, field: FieldInfo, spelled: tuple[str, ...]) -> inspect.Parameter:
    least: Any = next((one.ge for one in field.metadata if isinstance(one, Ge)), None)
    option = typer.Option(*spelled, help=f"{field.description}{_default(field)}", min=least)
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[_type_on_a_command_line(field.annotation) | None, option],
    )


def _type_on_a_command_line(kind: Any) -> Any:
    """The type that typer reads a field's words as; pydantic does the rest."""
    if get_origin(kind) in (Union, UnionType):
        inner = [one for one in get_args(kind) if one is not type(None)]
        # What may be of several types is read from a text.
        return _type_on_a_command_line(inner[0]) if len(inner) == 1 else str
    if get_origin(kind) is tuple:
        return list[get_args(kind)[0]]  # type: ignore[misc]
    return kind


def _default(field: FieldInfo) -> str:
    """What the help says of a default; of None, of a switch and of an empty list there is none."""
    default = field.default
    if isinstance(default, tuple):
        default = ", ".join(map(str, default))
    if default is None or isinstance(default, bool) or default == "":
        return ""
    return f"  [default: {default}]"
