"""The study's page: every trial on it, self-contained, safe with hostile names, sound when thin."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tuning.importance import IMPORTANCE_TRIALS
from tuning.objectives import OBJECTIVES, Objective
from tuning.plots import PARALLEL_PARAMETERS
from tuning.report import Context, write_study
from tuning.trials import Trial, TrialState

pytestmark = pytest.mark.fast

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


def test_every_trial_is_listed_with_its_state_figures_and_reason(tmp_path: Path) -> None:
    trials = study()
    trials[2] = replace(trials[2], latency_ms=6.25, size_mb=44.7)
    rows = Reader(page(tmp_path, trials, trials[2])).rows
    assert rows[0][2:6] == ["Macro-F1", "Accuracy", "Latency, ms", "Weights, MB"]
    assert rows[0][6:] == ["Epochs", "Seconds", "Parameters, and why it ended early"]
    assert [row[:8] for row in rows[1:]] == [
        ["0", "finished", "0.610", "0.650", "–", "–", "1", "25.5"],
        ["1", "pruned", "0.400", "0.440", "–", "–", "0.5", "25.5"],
        ["2 chosen", "finished", "0.810", "0.850", "6.25", "44.7", "1.5", "25.5"],
        ["3", "failed", "–", "–", "–", "–", "0", "25.5"],
        ["4", "stopped", "0.660", "0.700", "–", "–", "0.5", "25.5"],
    ]
    assert all(row[-1].endswith(one.reason) for row, one in zip(rows[1:], trials, strict=True))
    assert rows[4][-1] == "backbone=vgg16 lr=0.003 OSError: no route to the hub"


def test_starts_are_listed_once_a_trial_had_more_than_one(tmp_path: Path) -> None:
    trials = study()
    trials[4] = replace(trials[4], starts=3)
    reader = Reader(page(tmp_path, trials, trials[2]))
    column = reader.rows[0].index("Starts")
    assert [row[column] for row in reader.rows[1:]] == ["1", "1", "1", "1", "3"]
    assert "started more than once is one bar" in reader.words
    assert "the same command resumes it" in reader.words


def test_the_headline_names_what_is_deployed_and_the_figure_to_quote(tmp_path: Path) -> None:
    trials = study()
    words = Reader(page(tmp_path, trials, trials[2], bundle="my study/best/bundle")).words
    assert re.search(r"Chosen trial\s+2\s+resnet18\s*, at epoch 1; finished", words)
    assert re.search(r"Validation macro-F1\s+0\.810\s+accuracy 0\.850", words)
    assert "Best validation" not in words
    assert re.search(
        r"Trial 2 is deployed\s+: the one with the highest macro-F1\.\s+The val", words
    )
    assert "2 finished, 1 pruned, 1 stopped, 1 failed; 4 with a score" in words
    assert "12 min 34 s" in words
    assert "the search itself optimised" in words
    assert "ctray evaluate 'my study/best/bundle'" in words


def test_a_chosen_trial_that_is_not_the_best_is_told_from_it(tmp_path: Path) -> None:
    trials = costly_study()
    rule = "the fastest that is not below 0.800."
    reader = Reader(page(tmp_path, trials, trials[1], rule=rule, latency_budget_ms=12.5))
    words = " ".join(reader.words.split())
    assert "Chosen trial 102" in words
    assert "Validation macro-F1 0.810" in words
    # The pruned trial with the higher score was not trained to the end.
    assert "Best validation macro-F1 0.900 of trial 104, 9.00 ms, 20.0 MB" in words
    assert (
        f"Trial 102 is deployed : {rule} The best macro-F1, 0.900, is that of trial 104." in words
    )
    assert "p50 latency 6.00 ms" in words
    assert "budget 12.5 ms" in words
    assert "Weights 40.0 MB" in words
    assert [row[0] for row in reader.rows[1:5]] == ["101", "102 chosen", "103", "104 best"]


@pytest.mark.parametrize(
    ("objective", "refitted", "tile"),
    [
        ("loss", True, "Test macro-F1 0.880 95 % interval 0.860 to 0.900; accuracy 0.910,"),
        ("accuracy", False, "Test accuracy 0.910 95 % interval 0.890 to 0.930; macro-F1 0.880,"),
    ],
)
def test_the_result_on_the_test_split_is_the_figure_to_quote(
    tmp_path: Path, objective: str, refitted: bool, tile: str
) -> None:
    trials = study()
    result = {
        "split": "test",
        "records": 624,
        "accuracy": {"value": 0.91, "low": 0.89, "high": 0.93},
        "macro_f1": {"value": 0.88, "low": 0.86, "high": 0.9},
        "refitted": refitted,
    }
    objectives = (OBJECTIVES[objective],)
    html = page(tmp_path, trials, trials[2], objectives=objectives, result=result)
    words = " ".join(Reader(html).words.split())
    assert tile in words
    assert "624 records" in words
    assert "The figure to quote is that of the test split" in words
    assert "ctray evaluate" not in words
    assert ("trained further" in words) is refitted


def test_it_says_where_it_comes_from(tmp_path: Path) -> None:
    trials = study()
    words = Reader(page(tmp_path, trials, trials[2])).words
    for text in (
        "python -m tuning.search --data clinic/store",
        "f" * 64,
        "backbone: choice: - small_cnn - resnet18",
        "ray 2.60.0",
        "2030-01-02T03:04:05+00:00",
        "2 trials at a time, each with 1 CPU",
    ):
        assert text in words


@pytest.mark.parametrize("synthetic", [True, False])
def test_synthetic_data_is_called_so(tmp_path: Path, synthetic: bool) -> None:
    trials = study()
    words = Reader(page(tmp_path, trials, trials[2], synthetic=synthetic)).words
    assert ("Synthetic data: these numbers say nothing about patients." in words) is synthetic


def test_plots_show_the_trials_they_are_about(tmp_path: Path) -> None:
    trials = study()
    plots = Reader(page(tmp_path, trials, trials[2])).plots
    progress = plots["Best validation macro-F1 so far over time"]
    assert {"0", "1", "2", "4", "ended without a score", "pruned", "stopped"} <= set(progress)
    curves = plots["Validation macro-F1 over epochs, a line a trial"]
    assert {"trial 2, the chosen one", "finished", "pruned", "stopped"} <= set(curves)
    assert "failed" not in curves
    timeline = plots["When each trial ran"]
    assert {"0 finished", "1 pruned", "2 finished, chosen", "3 failed", "4 stopped"} <= set(
        timeline
    )
    backbones = plots["Validation macro-F1 against backbone"]
    assert {"small_cnn", "resnet18"} <= set(backbones)
    assert "vgg16" not in backbones
    # Few round values, as choices are: each has its tick.
    assert {"1e-4", "0.001", "0.002", "0.02"} <= set(plots["Validation macro-F1 against lr"])


def test_trials_side_by_side_are_shown_lane_by_lane(tmp_path: Path) -> None:
    trials = [replace(one, lane=one.number % 2) for one in study()[:3]] + study()[3:]
    reader = Reader(page(tmp_path, trials, trials[2]))
    labels = [t for t in reader.plots["When each trial ran"] if t[0].isdigit() and " " in t]
    assert labels[:5] == [
        "0 finished, lane 0",
        "2 finished, chosen, lane 0",
        "1 pruned, lane 1",
        "3 failed",
        "4 stopped",
    ]
    assert "in 2 lanes" in reader.words
    alone = [replace(one, lane=0) for one in study()]
    reader = Reader(page(tmp_path, alone, alone[2]))
    assert "lane" not in reader.words
    assert "0 finished" in reader.plots["When each trial ran"]


def test_values_drawn_from_decades_are_on_a_logarithmic_axis(tmp_path: Path) -> None:
    trials = [trial(n, (0.5 + n / 50,), lr=1.234e-4 * 3.3**n) for n in range(6)]
    plots = Reader(page(tmp_path, trials, trials[-1])).plots
    assert {"0.001", "0.01"} <= set(plots["Validation macro-F1 against lr"])
    assert {"0.001", "0.01"} <= set(plots[PARALLEL])


def test_the_front_is_of_finished_trials_and_marks_the_chosen_one(tmp_path: Path) -> None:
    trials = costly_study()
    html = page(tmp_path, trials, trials[1])
    reader = Reader(html)
    assert [row[:5] for row in reader.front] == [
        ["101", "0.700", "2.00", "1.50", "0.5"],
        ["102 chosen", "0.810", "6.00", "40.0", "0.5"],
        ["104 best", "0.900", "9.00", "20.0", "0.5"],
    ]
    drawn = set(reader.plots[PARETO])
    assert WEIGHTS not in reader.plots
    assert {"101", "102", "104"} <= drawn
    assert not {"103", "105", "106"} & drawn
    assert "pruned and stopped ones do not appear" in reader.words
    assert len(points(html, "pareto-latency_ms-beaten")) == 1
    (ring,) = points(html, "pareto-latency_ms-chosen")
    # The line goes right from each to the next one's latency, then to that one.
    _, _, second, _, _ = points(html, "pareto-latency_ms-front")
    assert ring == pytest.approx(second)


def test_a_chosen_trial_off_the_front_is_ringed_and_named(tmp_path: Path) -> None:
    trials = costly_study()
    html = page(tmp_path, trials, trials[2])
    reader = Reader(html)
    assert "103" in reader.plots[PARETO]
    assert len(points(html, "pareto-latency_ms-chosen")) == 1
    assert "Trial 103, the chosen one, is not on this front" in reader.words


@pytest.mark.parametrize("budget", [None, 12.5])
def test_the_latency_budget_is_a_line_where_one_is_set(
    tmp_path: Path, budget: float | None
) -> None:
    trials = costly_study()
    html = page(tmp_path, trials, trials[1], latency_budget_ms=budget)
    labels = Reader(html).plots[PARETO]
    assert ("latency budget, 12.5 ms" in labels) is (budget is not None)
    assert ('id="pareto-latency_ms-budget"' in html) is (budget is not None)
    if budget is not None:
        (x, _), (same, _) = points(html, "pareto-latency_ms-budget")
        # At 12.5 ms, right of the last of the front, at 9.
        assert x == same > points(html, "pareto-latency_ms-front")[-1][0]


def test_weights_are_plotted_where_they_are_an_objective(tmp_path: Path) -> None:
    trials = costly_study()
    html = page(tmp_path, trials, trials[1], objectives=(MACRO_F1, LATENCY, SIZE))
    numbers = set(Reader(html).plots[WEIGHTS])
    # By their size 103 is on the front too, and 102 is not.
    assert {"101", "103", "104"} <= numbers
    assert not {"105", "106"} & numbers


def test_trials_of_one_latency_and_score_share_a_number(tmp_path: Path) -> None:
    trials = [replace(trial(n, (0.8,)), latency_ms=3.5) for n in (101, 102)]
    assert "101, 102" in Reader(page(tmp_path, trials, trials[0])).plots[PARETO]


def test_a_trial_of_unknown_latency_is_not_on_the_front(tmp_path: Path) -> None:
    trials = [*costly_study(), trial(107, (0.99,))]
    reader = Reader(page(tmp_path, trials, trials[1]))
    assert [row[0] for row in reader.front] == ["101", "102 chosen", "104"]
    assert "1 finished trial has no measured latency" in reader.words


def test_without_a_latency_it_says_so(tmp_path: Path) -> None:
    trials = study()
    reader = Reader(page(tmp_path, trials, trials[2], latency_budget_ms=20.0))
    assert "No finished trial has a measured latency" in reader.words
    assert PARETO not in reader.plots
    assert reader.front == []


def test_of_a_loss_the_lower_one_is_better(tmp_path: Path) -> None:
    trials = [
        replace(trial(n, (score,), lr=0.1 * n), latency_ms=float(n))
        for n, score in ((101, 0.6), (102, 0.5), (103, 0.8), (104, 0.7))
    ]
    html = page(tmp_path, trials, trials[0], objectives=(LOSS, LATENCY), rule="it is fast")
    reader = Reader(html)
    words = " ".join(reader.words.split())
    assert "Validation loss 0.900" in words
    assert "Best validation loss 0.700 of trial 103" in words
    assert [row[:2] for row in reader.front] == [["101 chosen", "0.900"], ["103 best", "0.700"]]
    assert reader.rows[0][2:5] == ["Loss", "Macro-F1", "Accuracy"]
    heights = [y for _, y in points(html, "progress-records")]
    assert heights == sorted(heights)
    assert heights[0] < heights[-1]
    assert "Validation loss over epochs, a line a trial" in reader.plots
    assert not [label for label in reader.plots if "macro-F1" in label]


def test_learning_curves_are_of_the_primary_measure(tmp_path: Path) -> None:
    trials = [trial(0, (0.2, 0.4, 0.9))]
    for name, objective in (("rises", MACRO_F1), ("falls", LOSS)):
        html = page(tmp_path / name, trials, trials[0], objectives=(objective,))
        heights = [y for _, y in points(html, "curves-chosen")]
        assert heights == sorted(heights, reverse=name == "rises")


def test_parallel_coordinates_are_of_every_scored_trial(tmp_path: Path) -> None:
    trials = study()
    html = page(tmp_path, trials, trials[2])
    labels = Reader(html).plots[PARALLEL]
    assert {"backbone", "lr", "macro-F1", "small_cnn", "resnet18"} <= set(labels)
    assert "vgg16" not in labels
    assert "not set" not in labels
    # The best of all: its line ends at the top of the last axis.
    assert points(html, "parallel-chosen")[-1][1] == min(
        y for _, y in points(html, "parallel-axis2")
    )


def test_the_parallel_axis_of_a_loss_has_the_lowest_on_top(tmp_path: Path) -> None:
    trials = study()
    html = page(tmp_path, trials, trials[2], objectives=(LOSS,))
    assert points(html, "parallel-chosen")[-1][1] == min(
        y for _, y in points(html, "parallel-axis2")
    )


def test_a_conditional_parameter_is_not_set_for_the_others(tmp_path: Path) -> None:
    trials = [
        trial(0, (0.7,), **{"backbone": "small_cnn", "lr@small_cnn": 0.01}),
        trial(1, (0.8,), **{"backbone": "resnet18", "lr@resnet18": 0.02}),
        trial(2, (0.9,), **{"backbone": "resnet18", "lr@resnet18": 0.04}),
    ]
    html = page(tmp_path, trials, trials[2])
    reader = Reader(html)
    assert reader.plots[PARALLEL].count("not set") == 2
    assert "@small_cnn" in reader.plots[PARALLEL]
    assert "A line at “not set”" in reader.words
    _, lacking, _, _ = points(html, "parallel-chosen")
    # Below the lower end of every axis.
    assert lacking[1] > max(y for _, y in points(html, "parallel-axis3"))


def test_parallel_coordinates_keep_to_the_most_important(tmp_path: Path) -> None:
    keys = [f"p{index}" for index in range(PARALLEL_PARAMETERS + 1)]
    trials = [
        trial(n, (0.9 - 0.4 * (n % 2),), **dict.fromkeys(keys, n // 4), last=n % 2)
        for n in range(IMPORTANCE_TRIALS)
    ]
    reader = Reader(page(tmp_path, trials, trials[0]))
    labels = reader.plots[PARALLEL]
    assert "last" in labels
    assert len({*keys} & set(labels)) == PARALLEL_PARAMETERS - 1
    assert re.search(r"Not drawn for want of room: p\d+, p\d+\.", reader.words)


def test_it_is_one_file_whose_references_all_resolve(tmp_path: Path) -> None:
    trials = [
        replace(trial(n, (0.5 + n / 50,), lr=10.0**-n, size=n), latency_ms=2.0 + n, size_mb=3.0)
        for n in range(IMPORTANCE_TRIALS)
    ]
    objectives = (MACRO_F1, LATENCY, SIZE)
    html = page(tmp_path, trials, trials[-1], objectives=objectives, latency_budget_ms=30.0)
    reader = Reader(html)
    assert not {"script", "link", "img", "iframe", "object", "base"} & set(reader.tags)
    assert "http://" not in html
    assert "https://" not in html
    assert "@import" not in html
    ids = [value for name, value in reader.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    wanted = {value[1:] for name, value in reader.attributes if name.endswith("href")}
    wanted |= set(re.findall(r"url\(#([^)]*)\)", html))
    assert wanted
    assert wanted <= set(ids)
    # The stand-ins of the page's colours must all have been replaced.
    assert "#0000a" not in html
    assert html.count("<style") == 1


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    evil = "<script>alert('1')</script>\" onload=\"x"
    maths = "a$b$c #0000a1"
    params: dict[str, Any] = {"backbone": evil, evil: 1.0, "plain": maths}
    trials = [
        replace(trial(0, **params), latency_ms=3.0),
        trial(1, (), "failed", evil, backbone=evil),
        trial(2, (0.2,), "failed", "\udcff is no text", backbone="x"),
    ]
    html = page(
        tmp_path,
        trials,
        trials[0],
        **{key: evil for key in ("data", "fingerprint", "plan", "command", "created", "bundle")},
        rule=evil,
        space={evil: [evil]},
        versions={evil: evil},
    )
    reader = Reader(html)
    assert "script" not in reader.tags
    assert not [name for name, _ in reader.attributes if name.startswith("on")]
    assert reader.rows[2][-1] == f"backbone={evil} {evil}"
    assert reader.rows[3][-1] == "backbone=x \\udcff is no text"
    assert reader.front[0][-1] == f"backbone={evil} {evil}=1 plain={maths}"
    assert f"Trial 0 is deployed : {evil}." in " ".join(reader.words.split())
    assert reader.plots["Validation macro-F1 against plain"][0] == maths
    assert reader.plots["Validation macro-F1 against backbone"][0] == '<script>a…oad="x'
    assert {'<script>a…oad="x', maths} <= set(reader.plots[PARALLEL])
    name = "".join(reader.plots[PARALLEL])
    assert evil[:13] in name
    assert f"Validation macro-F1 against {evil}" in reader.plots


@pytest.mark.parametrize("objective", [MACRO_F1, LOSS])
def test_a_single_trial_is_a_study(tmp_path: Path, objective: Objective) -> None:
    only = replace(trial(0, (0.7,)), latency_ms=2.5, size_mb=3.5)
    objectives = (objective, LATENCY, SIZE)
    reader = Reader(page(tmp_path, [only], only, objectives=objectives, latency_budget_ms=2.5))
    assert "1 trial of at most 2 epochs" in reader.words
    assert "trial 0 is the recipe as it was" in reader.words
    assert "1 scored trial cannot tell parameters apart" in reader.words
    assert [row[0] for row in reader.rows[1:]] == ["0 chosen"]
    assert [row[0] for row in reader.front] == ["0 chosen"]
    assert PARALLEL not in reader.plots


def test_all_but_one_may_fail(tmp_path: Path) -> None:
    trials = [trial(n, (), "failed", f"broke {n}", lr=0.1) for n in range(9)]
    trials[5] = trial(5, (0.3, 0.4), "pruned", "too slow", lr=0.2)
    reader = Reader(page(tmp_path, trials, trials[5]))
    assert "1 pruned, 8 failed; 1 with a score" in reader.words
    assert re.search(r"at epoch 1; pruned: too slow", reader.words)
    # One line alone compares nothing.
    assert PARALLEL not in reader.plots
    assert all(
        row[-1].endswith(one.reason) for row, one in zip(reader.rows[1:], trials, strict=True)
    )


def test_importances_put_the_deciding_parameter_first(tmp_path: Path) -> None:
    trials = [
        trial(n, (0.9 - 0.4 * (n % 2),), backbone=("good", "bad")[n % 2], lr=10.0 ** -(n % 5))
        for n in range(12)
    ]
    trials[3].params["augment.strength"] = 0.5
    reader = Reader(page(tmp_path, trials, trials[0]))
    across = reader.plots[PARALLEL]
    assert across.index("backbone") < across.index("lr") < across.index("augment")
    labels = reader.plots["Importance by parameter"]
    assert labels.index("lr") < labels.index("backbone")  # from the lowest bar up
    shares = [int(label[:-2]) for label in labels if re.fullmatch(r"\d+ %", label)]
    assert shares[1] > 80
    assert 99 <= sum(shares) <= 101
    assert "from 12 trials" in reader.words
    assert re.search(r"Left out, .*: augment\.strength\.", reader.words)


@pytest.mark.parametrize(
    ("trials", "reason"),
    [
        ([trial(n, (0.5 + n / 99,), x=n) for n in range(7)], "7 scored trials cannot tell"),
        ([trial(n, (0.5,), x=n) for n in range(8)], "every scored trial has the same score"),
        ([trial(0, x=1), *(trial(n, (n / 99,), y=n) for n in range(1, 8))], "no parameter was"),
        ([trial(n, (0.5 + n / 99,), x=1) for n in range(8)], "no parameter was"),
    ],
    ids=["few", "same score", "nothing in common", "nothing differs"],
)
def test_importances_that_cannot_be_told_are_not_shown(
    tmp_path: Path, trials: list[Trial], reason: str
) -> None:
    reader = Reader(page(tmp_path, trials, trials[-1]))
    assert reason in reader.words
    assert "Importance by parameter" not in reader.plots


def test_a_parameter_of_some_trials_is_plotted_for_those(tmp_path: Path) -> None:
    trials = [trial(0, policy="none"), trial(1), trial(2, (0.9,), policy=True, depth=3)]
    plots = Reader(page(tmp_path, trials, trials[2])).plots
    assert {"None", "True", "none"} & set(plots["Validation macro-F1 against policy"]) == {
        "none",
        "True",
    }
    assert "3" in plots["Validation macro-F1 against depth"]


@pytest.mark.parametrize("chosen", [trial(7), trial(3, (), "failed", "broke")])
def test_the_chosen_one_must_be_a_scored_trial_of_the_study(tmp_path: Path, chosen: Trial) -> None:
    with pytest.raises(ValueError, match=f"trial {chosen.number} is not a scored trial"):
        write_study(tmp_path / "study.html", study(), chosen, context())
    assert list(tmp_path.iterdir()) == []
