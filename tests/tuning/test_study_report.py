"""The study's page: every trial on it, self-contained, safe with hostile names, sound when thin."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tuning.report import IMPORTANCE_TRIALS, write_study
from tuning.trials import State, Trial

pytestmark = pytest.mark.fast

VOID = {"meta", "br"}


def trial(
    number: int = 0,
    scores: tuple[float, ...] = (0.5, 0.7),
    state: State = "finished",
    reason: str = "",
    **params: Any,
) -> Trial:
    rows = tuple(
        {"epoch": (i + 1) / 2, "val_macro_f1": score, "val_accuracy": score + 0.04}
        for i, score in enumerate(scores)
    )
    return Trial(number, state, reason, params, rows, started=20.0 * number, seconds=25.5)


def context(**changes: Any) -> dict[str, Any]:
    return {
        "data": "clinic/store",
        "synthetic": False,
        "fingerprint": "f" * 64,
        "space": {"backbone": {"choice": ["small_cnn", "resnet18"]}},
        "seed": 11,
        "max_epochs": 2,
        "seconds": 754.0,
        "plan": "2 trials at a time, each with 1 CPU",
        "command": "python -m tuning.search --data clinic/store",
        "created": "2030-01-02T03:04:05+00:00",
        "versions": {"ray": "2.60.0"},
        "bundle": "study/best/bundle",
        **changes,
    }


def page(tmp_path: Path, trials: list[Trial], best: Trial, **changes: Any) -> str:
    path = tmp_path / "new" / "study.html"
    write_study(path, trials, best, context(**changes))
    assert [file.name for file in path.parent.iterdir()] == ["study.html"]
    return path.read_text("utf-8")


class Reader(HTMLParser):
    """What a browser would make of a page: its rows, words, tags and attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.rows: list[list[str]] = []
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
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
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
            self.rows[-1][-1] = " ".join(f"{self.rows[-1][-1]} {data}".split())


def study() -> list[Trial]:
    return [
        trial(0, (0.5, 0.61), backbone="small_cnn", lr=1e-4),
        trial(1, (0.4,), "pruned", "pruned by ASHA at epoch 0.5", backbone="resnet18", lr=2e-2),
        trial(2, (0.6, 0.81, 0.79), backbone="resnet18", lr=1e-3),
        trial(3, (), "failed", "OSError: no route to the hub", backbone="vgg16", lr=3e-3),
        trial(4, (0.66,), "stopped", "the time budget ran out", backbone="resnet18", lr=2e-3),
    ]


def test_every_trial_is_listed_with_its_state_score_and_reason(tmp_path: Path) -> None:
    trials = study()
    rows = Reader(page(tmp_path, trials, trials[2])).rows[1:]
    assert [row[:6] for row in rows] == [
        ["0", "finished", "0.610", "0.650", "1", "25.5"],
        ["1", "pruned", "0.400", "0.440", "0.5", "25.5"],
        ["2 best", "finished", "0.810", "0.850", "1.5", "25.5"],
        ["3", "failed", "–", "–", "0", "25.5"],
        ["4", "stopped", "0.660", "0.700", "0.5", "25.5"],
    ]
    assert [row[7] for row in rows] == [one.reason or "–" for one in trials]
    assert rows[3][6] == "backbone=vgg16 lr=0.003"


def test_the_headline_names_the_winner_and_the_figure_to_quote(tmp_path: Path) -> None:
    trials = study()
    words = Reader(page(tmp_path, trials, trials[2], bundle="my study/best/bundle")).words
    assert re.search(r"Best trial\s+2\s+resnet18\s*, at epoch 1; finished", words)
    assert re.search(r"Validation macro-F1\s+0\.810", words)
    assert re.search(r"Validation accuracy\s+85\.0 %", words)
    assert "2 finished, 1 pruned, 1 stopped, 1 failed; 4 with a score" in words
    assert "12 min 34 s" in words
    assert "the search itself optimised them" in words
    assert "ctray evaluate 'my study/best/bundle'" in words


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
    assert {"trial 2, the best", "finished", "pruned", "stopped"} <= set(curves)
    assert "failed" not in curves
    timeline = plots["When each trial ran"]
    assert {"0 finished", "1 pruned", "2 finished, best", "3 failed", "4 stopped"} <= set(timeline)
    backbones = plots["Validation macro-F1 against backbone"]
    assert {"small_cnn", "resnet18"} <= set(backbones)
    assert "vgg16" not in backbones
    # Values over two decades: a logarithmic axis, with the decades for ticks.
    assert {"1e-4", "0.001", "0.01"} <= set(plots["Validation macro-F1 against lr"])


def test_it_is_one_file_whose_references_all_resolve(tmp_path: Path) -> None:
    trials = [trial(n, (0.5 + n / 50,), lr=10.0**-n, size=n) for n in range(IMPORTANCE_TRIALS)]
    html = page(tmp_path, trials, trials[-1])
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
        trial(0, **params),
        trial(1, (), "failed", evil, backbone=evil),
        trial(2, (0.2,), "failed", "\udcff is no text", backbone="x"),
    ]
    html = page(
        tmp_path,
        trials,
        trials[0],
        **{key: evil for key in ("data", "fingerprint", "plan", "command", "created", "bundle")},
        space={evil: [evil]},
        versions={evil: evil},
    )
    reader = Reader(html)
    assert "script" not in reader.tags
    assert not [name for name, _ in reader.attributes if name.startswith("on")]
    assert reader.rows[2][7] == evil
    assert reader.rows[3][7] == "\\udcff is no text"
    assert reader.plots["Validation macro-F1 against plain"][0] == maths
    assert reader.plots["Validation macro-F1 against backbone"][0] == "<script>alert('…"
    assert f"Validation macro-F1 against {evil}" in reader.plots


def test_a_single_trial_is_a_study(tmp_path: Path) -> None:
    only = trial(0, (0.7,))
    reader = Reader(page(tmp_path, [only], only))
    assert "1 trial of at most 2 epochs" in reader.words
    assert "trial 0 is the recipe as it was" in reader.words
    assert "1 scored trial cannot tell parameters apart" in reader.words
    assert [row[0] for row in reader.rows[1:]] == ["0 best"]


def test_all_but_one_may_fail(tmp_path: Path) -> None:
    trials = [trial(n, (), "failed", f"broke {n}", lr=0.1) for n in range(9)]
    trials[5] = trial(5, (0.3, 0.4), "pruned", "too slow", lr=0.2)
    reader = Reader(page(tmp_path, trials, trials[5]))
    assert "1 pruned, 8 failed; 1 with a score" in reader.words
    assert re.search(r"at epoch 1; pruned: too slow", reader.words)
    assert [row[7] for row in reader.rows[1:]] == [one.reason for one in trials]


def test_importances_put_the_deciding_parameter_first(tmp_path: Path) -> None:
    trials = [
        trial(n, (0.9 - 0.4 * (n % 2),), backbone=("good", "bad")[n % 2], lr=10.0 ** -(n % 5))
        for n in range(12)
    ]
    trials[3].params["augment.strength"] = 0.5
    reader = Reader(page(tmp_path, trials, trials[0]))
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


@pytest.mark.parametrize("best", [trial(7), trial(3, (), "failed", "broke")])
def test_the_best_must_be_a_scored_trial_of_the_study(tmp_path: Path, best: Trial) -> None:
    with pytest.raises(ValueError, match=f"trial {best.number} is not a scored trial"):
        write_study(tmp_path / "study.html", study(), best, context())
    assert list(tmp_path.iterdir()) == []


def test_a_context_without_a_key_is_refused(tmp_path: Path) -> None:
    short = context()
    del short["fingerprint"]
    trials = study()
    with pytest.raises(ValueError, match="fingerprint"):
        write_study(tmp_path / "study.html", trials, trials[2], short)
    assert list(tmp_path.iterdir()) == []
