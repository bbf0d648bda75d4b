"""What the tests of the study's page share: trials, the page, and its words, rows and plots."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from tuning.objectives import OBJECTIVES
from tuning.report import Context, write_study
from tuning.trials import Trial, TrialState

VOID = {"meta", "br"}
MACRO_F1, LOSS = OBJECTIVES["macro_f1"], OBJECTIVES["loss"]
LATENCY, SIZE = OBJECTIVES["latency_ms"], OBJECTIVES["size_mb"]
PARETO = "Validation macro-F1 against p50 latency, ms"
WEIGHTS = "Validation macro-F1 against weights, MB"
PARALLEL = "The parameters of each trial, a line a trial"


def trial(
    number: int = 0,
    scores: tuple[float, ...] = (0.5, 0.7),
    state: TrialState = "finished",
    reason: str = "",
    **params: Any,
) -> Trial:
    rows = tuple(
        {
            "epoch": (i + 1) / 2,
            "val_macro_f1": score,
            "image_size": 64,
            "val_accuracy": score + 0.04,
            "val_loss": 1.5 - score,
        }
        for i, score in enumerate(scores)
    )
    return Trial(number, state, reason, params, rows, started=20.0 * number, seconds=25.5)


def context(**changes: Any) -> Context:
    made = Context(
        data="clinic/store",
        synthetic=False,
        fingerprint="f" * 64,
        space={"backbone": {"choice": ["small_cnn", "resnet18"]}},
        seed=11,
        max_epochs=2,
        seconds=754.0,
        plan="2 trials at a time, each with 1 CPU",
        command="python -m tuning.search --data clinic/store",
        created="2030-01-02T03:04:05+00:00",
        versions={"ray": "2.60.0"},
        bundle="study/best/bundle",
        objectives=(MACRO_F1, LATENCY),
        rule="the one with the highest macro-F1",
    )
    return replace(made, **changes)


def page(tmp_path: Path, trials: list[Trial], chosen: Trial, **changes: Any) -> str:
    path = tmp_path / "new" / "study.html"
    write_study(path, trials, chosen, context(**changes))
    assert [file.name for file in path.parent.iterdir()] == ["study.html"]
    return path.read_text("utf-8")


class Reader(HTMLParser):
    """What a browser would make of a page: its rows, words, tags and attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.tables: list[list[list[str]]] = []
        self.plots: dict[str, list[str]] = {}
        self.words = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self._open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag == "svg":
            self.plots[dict(attrs)["aria-label"] or ""] = []

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            return
        self.words += " ".join(data.split()) + " "
        if self._open[-1:] == ["text"]:
            list(self.plots.values())[-1].append(data)
        if "td" in self._open or "th" in self._open:
            row = self.tables[-1][-1]
            row[-1] = " ".join(f"{row[-1]} {data}".split())

    @property
    def rows(self) -> list[list[str]]:
        """Of the table with every trial."""
        return self.tables[-1]

    @property
    def front(self) -> list[list[str]]:
        """The table of the front, without its head."""
        return self.tables[0][1:] if len(self.tables) > 1 else []


def study() -> list[Trial]:
    return [
        trial(0, (0.5, 0.61), backbone="small_cnn", lr=1e-4),
        trial(1, (0.4,), "pruned", "pruned by ASHA at epoch 0.5", backbone="resnet18", lr=2e-2),
        trial(2, (0.6, 0.81, 0.79), backbone="resnet18", lr=1e-3),
        trial(3, (), "failed", "OSError: no route to the hub", backbone="vgg16", lr=3e-3),
        trial(4, (0.66,), "stopped", "the time budget ran out", backbone="resnet18", lr=2e-3),
    ]


def costly_study() -> list[Trial]:
    """Of numbers that are on no axis; 101, 102 and 104 are the front of macro-F1 and latency."""
    costs = {
        101: (0.70, 2.0, 1.5, "finished"),
        102: (0.81, 6.0, 40.0, "finished"),
        103: (0.75, 7.0, 12.0, "finished"),
        104: (0.90, 9.0, 20.0, "finished"),
        105: (0.95, 1.0, 1.0, "pruned"),
        106: (0.94, 1.1, 1.0, "stopped"),
    }
    return [
        replace(trial(number, (score,), state, lr=0.1), latency_ms=ms, size_mb=mb)  # type: ignore[arg-type]
        for number, (score, ms, mb, state) in costs.items()
    ]


def points(html: str, name: str) -> list[tuple[float, float]]:
    """Where the line of this id goes, or the mark of this id lies, in an SVG; y grows downwards."""
    match = re.search(rf'<g id="{name}">.*?</g>', html, re.DOTALL)
    assert match, name
    line = re.search(r'<path d="([^"]*)"[^>]*fill: none', match[0])
    if line:
        return [(float(x), float(y)) for x, y in re.findall(r"[ML] ([\d.]+) ([\d.]+)", line[1])]
    return [(float(x), float(y)) for x, y in re.findall(r'x="([\d.]+)" y="([\d.]+)"', match[0])]
