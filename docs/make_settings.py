"""Write docs/settings.md from the models that hold the settings.

`python docs/make_settings.py` (or `make docs`) writes the page; a test compares it. A new model of
settings is one more line of SECTIONS.
"""

import importlib
import inspect
import re
import textwrap
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

PAGE = Path(__file__).with_name("settings.md")
# What the page shows, in this order: a title, and where the model is.
SECTIONS = (
    ("The recipe of a training", "ctray.config:Recipe"),
    ("Augmentation: the recipe's `augment`", "ctray.config:AugmentConfig"),
    ("A search", "tuning.settings:SearchSettings"),
    ("The service", "serve.settings:ServiceSettings"),
    ("Preprocessing, as a bundle keeps it", "ctray.config:PreprocessSpec"),
)
_NAMES = {
    bool: "`true`, `false`",
    int: "whole number",
    float: "number",
    str: "text",
    Path: "path",
}
_HEAD = """# Settings

Every setting, with its type, default and meaning. `make docs` makes this page from the code, so
edit the descriptions there. An unknown key is an error that names the nearest known one.

- `ctray train` takes the recipe: from `--recipe NAME`, from a YAML file with `--config`, and
  `--set key=value` over either. Dotted keys reach inside: `--set augment.affine.rotate=15`.
- `ctray search` takes its own settings from a YAML file with `--config`, or as options.
- The service takes its settings as arguments of the application; see [serving](serving.md).
- Preprocessing follows from the recipe and the store. It is read from the bundle when serving.
"""


def main() -> None:
    """Write the page."""
    PAGE.write_text(page())
    print(PAGE)


def page() -> str:
    """The page as the code has it now."""
    parts = [_HEAD]
    for title, place in SECTIONS:
        module, _, name = place.partition(":")
        kind = getattr(importlib.import_module(module), name)
        parts += [f"## {title}", about(kind), f"In `{module}`: `{name}`.", table(kind)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def about(kind: type[BaseModel]) -> str:
    """What the docstring of a model says before it comes to attributes."""
    text = re.split(r"^\w+:$", inspect.getdoc(kind) or "", maxsplit=1, flags=re.M)[0]
    paragraphs = (" ".join(paragraph.split()) for paragraph in text.strip().split("\n\n"))
    return "\n\n".join(textwrap.fill(paragraph, 100) for paragraph in paragraphs)


def table(kind: type[BaseModel]) -> str:
    """The settings of a model, a row each."""
    lines = ["| setting | values | default | meaning |", "|---|---|---|---|"]
    return "\n".join([*lines, *rows(kind, "")])


def rows(kind: type[BaseModel], prefix: str) -> list[str]:
    """A row a setting; those of a model inside follow under its name."""
    titles = {place.partition(":")[2]: title for title, place in SECTIONS}
    found: list[str] = []
    for name, field in kind.model_fields.items():
        key, inner = f"{prefix}{name}", field.annotation
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            found.append(_row([f"`{key}`", values(field), default(field), field.description]))
        elif inner.__name__ in titles:
            title = titles[inner.__name__]
            link = f"see [{title}](#{_anchor(title)})"
            found.append(_row([f"`{key}.…`", link, "", field.description]))
        else:
            doc = " ".join((inspect.getdoc(inner) or "").split())
            found.append(_row([f"**`{key}`**", "", "", f"{doc} Policies: {field.description}"]))
            found += rows(inner, f"{key}.")
    return found


def values(field: FieldInfo) -> str:
    """What a setting may be: its type, or its choices, and its bounds."""
    bounds = " and ".join(
        text
        for one in field.metadata
        for kind, sign, attribute in (
            (annotated_types.Ge, "≥", "ge"),
            (annotated_types.Gt, ">", "gt"),
            (annotated_types.Le, "≤", "le"),
            (annotated_types.Lt, "<", "lt"),
        )
        if isinstance(one, kind)
        for text in [f"{sign} {getattr(one, attribute):g}"]
    )
    return f"{_type(field.annotation)} {bounds}".strip()


def default(field: FieldInfo) -> str:
    """What it is when nothing is said."""
    if field.default is PydanticUndefined and field.default_factory is None:
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, list | tuple):
        return f"`{[*value]}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _type(annotation: Any) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{one}`" for one in inner)
    if origin in (Union, types.UnionType):
        return " or ".join(_type(one) for one in inner if one is not type(None))
    if origin in (list, tuple):
        return f"list of {_type(inner[0])}s"
    return _NAMES.get(annotation, getattr(annotation, "__name__", str(annotation)).lower())


def _anchor(title: str) -> str:
    kept = "".join(letter for letter in title.lower() if letter.isalnum() or letter in " -")
    return kept.replace(" ", "-")


def _row(cells: list[str | None]) -> str:
    # A bar would end the cell.
    texts = [(cell or "").replace("|", r"\|") for cell in cells]
    return f"| {' | '.join(texts)} |"


if __name__ == "__main__":
    main()
