"""The plots of the study's page: what each shows of which trials, and what it leaves out."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from study_kit import (
    LATENCY,
    LOSS,
    MACRO_F1,
    PARALLEL,
    PARETO,
    SIZE,
    WEIGHTS,
    Reader,
    costly_study,
    page,
    points,
    study,
    trial,
)

from tuning.importance import IMPORTANCE_TRIALS
from tuning.plots import PARALLEL_PARAMETERS
from tuning.trials import Trial

pytestmark = pytest.mark.fast


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


def test_a_single_evaluation_is_seen_though_it_has_no_line(tmp_path: Path) -> None:
    trials = [trial(0, (0.7,)), trial(1, (0.6,)), trial(2, (0.5, 0.6))]
    html = page(tmp_path, trials, trials[0], max_epochs=1)
    assert points(html, "curves-chosen") != []
    # Circles by their radius, not the ticks: chosen and other alone, and one of a line.
    found = re.findall(r'<path id="curves-\w+" d="M 0 ([\d.]+)', html)
    assert sorted(float(radius) for radius in found if float(radius)) == [1.5, 3.0, 4.0]


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
