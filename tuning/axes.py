"""Axes of plots: what is a number, which scale it needs, and what its ticks say."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, Locator, LogLocator, MaxNLocator, NullLocator

LOG_SPAN = 10
TICKED_VALUES = 5
TICKED_NAMES = 8
LABEL_CHARACTERS = 16
LINE_CHARACTERS = 13
LINES = 5


def is_numeric(values: Sequence[Any]) -> bool:
    """Whether all are finite numbers."""
    return all(
        isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        for value in values
    )


def spans_decades(values: Sequence[float]) -> bool:
    """Whether their logarithms tell more than they do."""
    return min(values) > 0 and max(values) >= LOG_SPAN * min(values)


def number_axis(axes: Axes, values: Sequence[float]) -> None:
    """Scale and ticks of a horizontal axis of a parameter's values."""
    if spans_decades(values):
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_ticks(_ticks(values))
    axes.xaxis.set_major_formatter(FuncFormatter(_tick))
    axes.margins(x=0.15 if len(set(values)) <= TICKED_VALUES else 0.05)


def _ticks(values: Sequence[float]) -> list[float]:
    """The values themselves, where they are as choices are: few, apart and round."""
    named, scale = sorted(set(values)), _scaling(values)
    low, high = named[0], named[-1]
    nearest = min((scale(b) - scale(a) for a, b in pairwise(named)), default=0)
    if (
        len(named) <= TICKED_VALUES
        and nearest >= (scale(high) - scale(low)) / 10
        and all(float(_tick(value)) == value for value in named)
    ):
        return named
    ticks = _locator(values).tick_values(float(low), float(high))
    return [tick for tick in ticks if low <= tick <= high] or [low, high]


def _scaling(values: Sequence[float]) -> Callable[[float], float]:
    return math.log10 if spans_decades(values) else float


def _locator(values: Sequence[float]) -> Locator:
    if not spans_decades(values):
        return MaxNLocator(5)
    return LogLocator(subs=(1, 3) if max(values) < 100 * min(values) else (1,))


def _tick(number: float, _: int | None = None) -> str:
    """1e-4 rather than 0.0001: neighbours must not run into each other."""
    if 0 < abs(number) < 0.001:
        return f"{number:.0e}".replace("e-0", "e-")
    return f"{number:.3g}"


def cost_axis(axes: Axes, costs: Sequence[float], budget: float | None) -> None:
    """Scale and ticks of a horizontal axis of costs, with room for a budget."""
    shown = [*costs, *([] if budget is None else [budget])]
    if spans_decades(shown):
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_locator(_locator(shown))
    axes.xaxis.set_major_formatter(FuncFormatter(_tick))


@dataclass(frozen=True)
class Scale:
    """A vertical axis of its own: where on it, from 0 to 1, a value lies, and its ticks."""

    place: Callable[[Any], float]
    ticks: list[tuple[float, str]]


def scale_of(values: Sequence[Any]) -> Scale:
    """The scale of a parameter's values, numbers or names."""
    if is_numeric(values):
        return number_scale(values)
    names = sorted({str(value) for value in values})
    last = max(1, len(names) - 1)
    step = math.ceil(len(names) / TICKED_NAMES)
    ticks = [(names.index(name) / last, short(name)) for name in names[::step]]
    return Scale(lambda value: names.index(str(value)) / last, ticks)


def number_scale(values: Sequence[float]) -> Scale:
    """The scale of numbers, the highest on top."""
    scale, low, high = _scaling(values), min(values), max(values)

    def place(value: float) -> float:
        return 0.5 if low == high else (scale(value) - scale(low)) / (scale(high) - scale(low))

    return Scale(place, [(place(value), _tick(value)) for value in _ticks(values)])


def flipped(scale: Scale) -> Scale:
    """The same scale with its lowest value on top."""
    ticks = [(1 - height, label) for height, label in scale.ticks]
    return Scale(lambda value: 1 - scale.place(value), ticks)


def short(text: str) -> str:
    """Names often differ at their ends: what is left out is in the middle."""
    if len(text) <= LABEL_CHARACTERS:
        return text
    end = LABEL_CHARACTERS // 2 - 2
    return f"{text[: LABEL_CHARACTERS - end - 1]}…{text[-end:]}"


def wrapped(key: str) -> str:
    """A parameter's name in short lines; `lr@small_cnn` is that of one backbone alone."""
    lines = [""]
    for part in re.findall(f"[@._]?[^@._]{{0,{LINE_CHARACTERS - 1}}}", key):
        if part.startswith("@") or len(lines[-1] + part) > LINE_CHARACTERS:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines if len(lines) <= LINES else [*lines[: LINES - 1], "…"])
