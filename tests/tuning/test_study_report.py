"""The study's page: every trial on it, self-contained, safe with hostile names, sound when thin."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from browser_kit import TELEPHONE, laid_out
from study_kit import (
    LATENCY,
    LOSS,
    MACRO_F1,
    PARALLEL,
    SIZE,
    Reader,
    context,
    costly_study,
    page,
    study,
    trial,
)

from tuning.importance import IMPORTANCE_TRIALS
from tuning.objectives import OBJECTIVES, Objective
from tuning.report import write_study
from tuning.trials import Trial

pytestmark = pytest.mark.fast


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


@pytest.mark.parametrize("chosen", [trial(7), trial(3, (), "failed", "broke")])
def test_the_chosen_one_must_be_a_scored_trial_of_the_study(tmp_path: Path, chosen: Trial) -> None:
    with pytest.raises(ValueError, match=f"trial {chosen.number} is not a scored trial"):
        write_study(tmp_path / "study.html", study(), chosen, context())
    assert list(tmp_path.iterdir()) == []


def test_on_a_telephone_the_page_is_no_wider_and_wide_plots_scroll(tmp_path: Path) -> None:
    trials = costly_study()
    html = page(tmp_path, trials, trials[1], objectives=(MACRO_F1, LATENCY, SIZE))
    layout = laid_out(html)
    assert layout.width <= TELEPHONE
    # Score against latency, progress, curves, parallel coordinates, timeline; two tables.
    assert len(layout.scrolled) == 7
    assert laid_out(html, 1200).scrolled == []
