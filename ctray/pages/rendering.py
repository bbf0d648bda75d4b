"""Templates to pages: one file each, everything escaped, nothing left undefined."""

from collections.abc import Callable, Mapping

import jinja2

_HERE = "ctray.pages"


def render(
    package: str,
    template: str,
    values: Mapping[str, object],
    filters: Mapping[str, Callable[..., str]] | None = None,
) -> str:
    """Fill in a template, which extends `base.html.j2`.

    Args:
        package: the package whose folder holds the template, as `ctray.evaluation`.
        template: file name of the template.
        values: what the template names. The base needs `synthetic`: whether the data were made by
            a program and not taken from patients.
        filters: filters of this page, beside `percent`, `count` and `plural`.

    Returns:
        The page. All values are escaped, but those that are `markupsafe.Markup`.

    Raises:
        jinja2.UndefinedError: the template names a value that was not given.
    """
    folders = [jinja2.PackageLoader(name, ".") for name in (package, _HERE)]
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(folders),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "count": count, "plural": plural, **(filters or {})}
    return environment.get_template(template).render(values)


def percent(share: float) -> str:
    """Write a share (0 to 1) as a percentage with one decimal."""
    return f"{100 * share:.1f}\N{NO-BREAK SPACE}%"


def count(number: int) -> str:
    """Write a number with a comma after each thousand."""
    return f"{number:,}"


def plural(number: int) -> str:
    """Give the ending of a noun after a number: `s`, after 1 nothing."""
    return "" if number == 1 else "s"
