"""From matplotlib to the page: a plot as an SVG element in the page's own colours."""

import io
import re
from collections.abc import Callable
from typing import Any

import matplotlib
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# matplotlib wants fixed colours: these stand in for the page's own until `_embed` puts those in.
INK, SOFT, LINE = "#0000a1", "#0000a2", "#0000a3"
GOOD, HOLD, BAD = "#0000a4", "#0000a5", "#0000a6"
_PAGE_COLOURS = {
    INK: "var(--ink)",
    SOFT: "var(--soft)",
    LINE: "var(--line)",
    GOOD: "rgb(var(--good))",
    HOLD: "rgb(var(--hold))",
    BAD: "rgb(var(--bad))",
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "ctray",
    # A dollar sign in a parameter is a dollar sign, not mathematics.
    "text.parse_math": False,
    "font.size": 8.5,
    "text.color": SOFT,
    "axes.edgecolor": LINE,
    "axes.labelcolor": SOFT,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "legend.frameon": False,
}


def draw(
    name: str, label: str, inches: tuple[float, float], paint: Callable[[Axes], None]
) -> Markup:
    """Paint a plot and turn it into an SVG element in the colours of the page.

    Args:
        name: keeps the element's ids apart from those of the other plots.
        label: what it shows, for those who cannot see it.
        inches: width and height.
        paint: called with the axes to paint on.
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=inches, layout="constrained")
        paint(figure.add_subplot())
        buffer = io.BytesIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    return _embed(buffer.getvalue().decode("utf-8"), name, label)


def _embed(svg: str, name: str, label: str) -> Markup:
    """Turn matplotlib's SVG file into an element for the page; text between tags stays as it is."""

    def adapt(match: re.Match[str]) -> str:
        tag = re.sub(r' (?:xmlns(?::\w+)?|version)="[^"]*"', "", match[0])
        tag = re.sub(r' id="', f' id="{name}-', tag)
        tag = re.sub(r'(href="#|url\(#)', rf"\1{name}-", tag)
        return re.sub("|".join(_PAGE_COLOURS), lambda hit: _PAGE_COLOURS[hit[0]], tag)

    # The file's own style sheet would reach the whole page; the page has its rule instead.
    body = re.sub(r"<style.*?</style>", "", svg[svg.index("<svg") :], count=1, flags=re.DOTALL)
    body = re.sub(r"<[^>]*>", adapt, body)
    root = re.sub(r' (?:width|height)="[^"]*"', "", body[: body.index(">")])
    described = f'{root} role="img" aria-label="{escape(label)}"'
    return Markup(described + body[body.index(">") :])
