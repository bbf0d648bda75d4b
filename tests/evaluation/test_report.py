"""The report's files: complete, self-contained, safe with hostile names, honest in its banners."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from browser_kit import TELEPHONE, laid_out

from ctray.evaluation.metrics import Metrics, score
from ctray.evaluation.report import THUMBNAIL_PIXELS, write_report
from ctray.evaluation.summary import (
    Basis,
    BundleName,
    LeftOut,
    Unreadable,
    page_figures,
    scored_rows,
    summarise,
)

pytestmark = pytest.mark.fast

CLASSES = ["COVID", "Normal", "Viral Pneumonia"]


def made_up(
    classes: list[str] = CLASSES, n: int = 90, skill: float = 2.0, sources: tuple[str, ...] = ()
) -> tuple[pd.DataFrame, Metrics]:
    """Predictions of `n` records in groups of two, and their score."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, len(classes), n)
    logits = rng.normal(size=(n, len(classes)))
    logits[np.arange(n), labels] += skill
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    groups = [f"g{i // 2}" for i in range(n)]
    frame = pd.DataFrame(
        {
            "file": [f"{i:03}.png" for i in range(n)],
            "id": [f"{i:064x}" for i in range(n)],
            "label": [classes[i] for i in labels],
            "predicted": [classes[i] for i in p.argmax(axis=1)],
            "decision": "answer",
            "confidence": p.max(axis=1),
            **{f"p_{name}": p[:, i] for i, name in enumerate(classes)},
            "error": None,
            "group": groups,
        }
    )
    if sources:
        frame["source"] = [sources[i % len(sources)] for i in range(n)]
    return frame, score(labels, p, classes, groups, replicates=100)


BASIS = Basis(
    data="a folder",
    split="test",
    synthetic=False,
    fingerprint="f" * 64,
    bundle=BundleName("lungs", "7", "small_cnn"),
    include_training=False,
    left_out=LeftOut(trained_on=1234, chosen_on=56),
    unreadable=(),
    versions={"ctray": "0.1.0"},
)


def written(
    out: Path,
    frame: pd.DataFrame,
    metrics: Metrics,
    thumbnails: dict[str, np.ndarray] | None = None,
    **changes: Any,
) -> tuple[dict[str, Any], str]:
    """The report's JSON and its page."""
    scored = scored_rows(frame, metrics)
    summary = summarise(metrics, scored, replace(BASIS, **changes))
    write_report(out, summary, page_figures(summary, scored), thumbnails or {})
    page = (out / "report.html").read_text("utf-8")
    return json.loads((out / "report.json").read_text("utf-8")), page


class Page(HTMLParser):
    """Tags with their attributes, and the visible text, of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def test_json_holds_everything_it_promises(tmp_path: Path) -> None:
    frame, metrics = made_up(sources=("ward", "archive"))
    torn = Unreadable("torn.png", "truncated")
    got, _ = written(tmp_path, frame, metrics, unreadable=(torn,))

    assert got["n"] == 90
    assert got["groups"] == 45
    assert got["classes"] == CLASSES
    assert got["fingerprint"] == "f" * 64
    assert got["bundle"] == {"name": "lungs", "version": "7", "backbone": "small_cnn"}
    assert got["confusion"] == metrics.confusion.tolist()
    for name in ("accuracy", "macro_f1"):
        interval = getattr(metrics, name)
        assert got["metrics"][name] == {
            "value": interval.value,
            "low": interval.low,
            "high": interval.high,
        }
    assert list(got["metrics"]["per_class"]) == CLASSES
    for name, part in metrics.per_class.items():
        row = got["metrics"]["per_class"][name]
        assert (row["precision"], row["recall"], row["f1"], row["support"]) == (
            part.precision.value,
            part.recall.value,
            part.f1.value,
            part.support,
        )
        assert row["intervals"]["f1"] == {"low": part.f1.low, "high": part.f1.high}
    assert got["averages"]["weighted"]["f1"] == metrics.weighted_f1.value
    assert got["left_out"] == {"trained_on": 1234, "chosen_on": 56}
    assert got["unreadable"] == [asdict(torn)]
    assert (got["include_training"], got["synthetic"]) == (False, False)
    assert (got["split"], got["data"]) == ("test", "a folder")
    assert got["interval"] == "95 % percentile bootstrap over groups, 100 replicates, seed 0"
    assert got["versions"] == {"ctray": "0.1.0"}
    assert sum(b["n"] for b in got["calibration"]["bins"]) == 90
    assert len(got["calibration"]["bins"]) == 15
    assert sum(pair["n"] for pair in got["confusions"]) == 90 - np.trace(metrics.confusion)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", got["created"])


def test_page_needs_nothing_outside_itself(tmp_path: Path) -> None:
    frame, metrics = made_up(sources=("ward", "archive"))
    picture = {str(frame["file"][i]): np.zeros((64, 64), np.uint8) for i in range(len(frame))}
    _, page = written(tmp_path, frame, metrics, thumbnails=picture)
    tags = Page(page).tags
    assert "img" in {tag for tag, _ in tags}
    assert not {tag for tag, _ in tags} & {"script", "link", "iframe", "object", "embed", "base"}
    for _, attributes in tags:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href", "srcset", "data", "xlink:href"):
                assert (value or "").startswith("data:image/png;base64,")
    assert "://" not in page
    assert not re.search(r"@import|url\(", page)


def test_hostile_names_are_shown_as_text(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    quote = "\"><img src=x onerror='alert(1)'>"
    frame, metrics = made_up([evil, quote], skill=0.5, sources=(evil, quote))
    frame["file"] = [f"{quote}{i}" for i in range(len(frame))]
    pictures = {str(name): np.zeros((8, 8), np.uint8) for name in frame["file"]}
    got, page = written(
        tmp_path,
        frame,
        metrics,
        thumbnails=pictures,
        data=evil,
        split=evil,
        fingerprint=evil,
        bundle=BundleName(evil, evil, evil),
        unreadable=(Unreadable(evil, quote),),
        versions={evil: quote},
    )
    parsed = Page(page)
    assert "script" not in {tag for tag, _ in parsed.tags}
    images = [attributes for tag, attributes in parsed.tags if tag == "img"]
    assert images
    for attributes in images:
        assert set(attributes) == {"src", "alt"}
        assert (attributes["src"] or "").startswith("data:")
    assert evil in parsed.text
    assert quote in parsed.text
    assert got["classes"] == [evil, quote]


@pytest.mark.parametrize("synthetic", [False, True])
@pytest.mark.parametrize("include_training", [False, True])
def test_banners_stand_only_where_they_are_true(
    tmp_path: Path, synthetic: bool, include_training: bool
) -> None:
    frame, metrics = made_up()
    _, page = written(
        tmp_path, frame, metrics, synthetic=synthetic, include_training=include_training
    )
    text = Page(page).text
    assert ("Synthetic data: these numbers say nothing about patients" in text) == synthetic
    banner = "includes records the model was trained on: optimistic"
    assert (banner in text) == include_training


def test_page_says_what_the_numbers_stand_on(tmp_path: Path) -> None:
    frame, metrics = made_up()
    unreadable = tuple(Unreadable(f"torn{i}.png", "truncated") for i in range(60))
    _, page = written(tmp_path, frame, metrics, unreadable=unreadable)
    text = Page(page).text
    accuracy = metrics.accuracy
    assert f"{100 * accuracy.value:.1f} %" in text
    assert f"95 % interval {100 * accuracy.low:.1f} % to {100 * accuracy.high:.1f} %" in text
    assert "records in 45 independent groups" in text
    assert "1,234 records it was trained on and 56 by which" in text
    assert "60 files could not be read" in text
    assert "torn49.png" in text
    assert "torn50.png" not in text
    assert "The first 50; report.json lists all." in text
    assert "75–82 % accuracy" in text
    assert "not a medical device" in text


def test_worst_mistakes_are_the_most_confident_wrong_ones(tmp_path: Path) -> None:
    frame, metrics = made_up(skill=0.5)
    wrong = frame[frame["label"] != frame["predicted"]]
    worst = wrong.sort_values("confidence", ascending=False)["file"].tolist()
    assert len(worst) > 12
    image = np.zeros((600, 300), np.uint8)
    _, page = written(tmp_path, frame, metrics, thumbnails={worst[0]: image})
    shown = re.findall(r'<span class="name soft">(.*?)</span>', page)
    assert shown == worst[:12]
    assert page.count('<div class="blank">') == 11

    encoded = re.search(r'src="data:image/png;base64,([^"]+)" alt="([^"]+)"', page)
    assert encoded is not None
    assert encoded[2] == worst[0]


def test_thumbnails_are_small_and_keep_their_colours(tmp_path: Path) -> None:
    frame, metrics = made_up(skill=0.5)
    red = np.zeros((600, 300, 3), np.uint8)
    red[..., 0] = 200
    _, page = written(tmp_path, frame, metrics, thumbnails=dict.fromkeys(frame["file"], red))
    encoded = re.search(r'src="data:image/png;base64,([^"]+)"', page)
    assert encoded is not None
    data = np.frombuffer(base64.b64decode(encoded[1]), np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert image.shape == (THUMBNAIL_PIXELS, THUMBNAIL_PIXELS // 2, 3)
    assert image[0, 0].tolist() == [0, 0, 200]  # cv2 reads blue, green, red


def test_faultless_predictions_are_not_called_faultless(tmp_path: Path) -> None:
    frame, metrics = made_up(skill=50.0)
    assert metrics.accuracy.value == 1.0
    _, page = written(tmp_path, frame, metrics)
    text = Page(page).text
    assert "There are none: every record was answered rightly." in text
    assert f"{100 * 0.025 ** (1 / 45):.1f} % to 100.0 %" in text


def test_sources_are_sliced_only_where_there_are_several(tmp_path: Path) -> None:
    frame, metrics = made_up(sources=("ward", "archive", ""))
    got, page = written(tmp_path / "several", frame, metrics)
    rows = {row["source"]: row for row in got["sources"]}
    assert set(rows) == {"ward", "archive", "not recorded"}
    for name, source in (("ward", "ward"), ("not recorded", "")):
        part = frame[frame["source"] == source]
        accuracy = rows[name]["accuracy"]
        assert rows[name]["n"] == len(part) == 30
        assert accuracy["value"] == pytest.approx((part["label"] == part["predicted"]).mean())
        assert accuracy["low"] < accuracy["value"] < accuracy["high"]
        assert rows[name]["most_common_share"] == part["label"].value_counts(normalize=True).max()
    assert "By source" in Page(page).text

    frame["source"] = "ward"
    got, page = written(tmp_path / "one", frame, metrics)
    assert got["sources"] == []
    assert "By source" not in Page(page).text


def test_a_source_that_gives_the_class_away_is_called_out(tmp_path: Path) -> None:
    frame, metrics = made_up(["A", "B"])
    frame["source"] = frame["label"].map({"A": "ward", "B": "archive"})
    _, page = written(tmp_path, frame, metrics)
    blind = frame["label"].value_counts(normalize=True).max()
    assert (
        f"would be right for {100 * blind:.1f} % of the records; "
        "knowing each record's source as well, for 100.0 %"
    ) in Page(page).text


def test_rows_with_an_error_are_not_in_the_charts(tmp_path: Path) -> None:
    frame, metrics = made_up()
    torn = {"file": "torn.png", "label": "COVID", "error": "truncated", "group": "g0"}
    more = pd.concat([frame, pd.DataFrame([torn])], ignore_index=True)
    got, _ = written(tmp_path, more, metrics)
    assert got["n"] == 90
    assert sum(b["n"] for b in got["calibration"]["bins"]) == 90


def test_predictions_of_other_records_are_refused(tmp_path: Path) -> None:
    frame, metrics = made_up()
    with pytest.raises(ValueError, match="the 89 readable predictions are not the 90 records"):
        written(tmp_path, frame.iloc[1:], metrics)
    strange = frame.assign(label="Someone else's class")
    with pytest.raises(ValueError, match="is not a class"):
        written(tmp_path, strange, metrics)
    assert not list(tmp_path.iterdir())


def test_files_replace_older_ones_and_leave_no_scraps(tmp_path: Path) -> None:
    frame, metrics = made_up()
    out = tmp_path / "new" / "folder"
    written(out, frame, metrics, data="first")
    got, page = written(out, frame, metrics, data="second")
    assert got["data"] == "second"
    assert "second" in page
    assert sorted(path.name for path in out.iterdir()) == ["report.html", "report.json"]


def test_a_file_name_that_is_no_valid_text_can_be_reported(tmp_path: Path) -> None:
    frame, metrics = made_up()
    name = b"caf\xe9.png".decode("utf-8", "surrogateescape")
    got, page = written(tmp_path, frame, metrics, unreadable=(Unreadable(name, "truncated"),))
    assert got["unreadable"][0]["file"] == name
    assert "caf\\udce9.png" in page


def test_on_a_telephone_nothing_is_cut(tmp_path: Path) -> None:
    frame, metrics = made_up(["COVID", "Lung_Opacity", "Normal", "Viral_Pneumonia_of_both_lungs"])
    data = "/home/somebody/data/stores/radiography-of-2026-11-24"
    _, page = written(tmp_path, frame, metrics, data=data)
    layout = laid_out(page)
    assert layout.width <= TELEPHONE
    # Not the table by class, and not the matrix.
    assert layout.scrolled == []


def test_on_a_desk_the_bars_are_shown(tmp_path: Path) -> None:
    _, page = written(tmp_path, *made_up())
    assert laid_out(page, 1200).bars == 2 + len(CLASSES) + 2
