"""The confound table against known answers: V, its correction, the sentences and the verdicts."""

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats.contingency import association

from ctray.data.ingest.confound import Confounds, Factor, cramers_v, find_confounds
from ctray.data.ingest.factors import MAX_LEVELS

pytestmark = pytest.mark.fast


def manifest(labels: list[str], **columns: Any) -> pd.DataFrame:
    """Usable records about which only what is given is known."""
    n = len(labels)
    rng = np.random.default_rng(0)
    empty = ("source", "patient", "scanner", "modality", "view", "age", "sex")
    return pd.DataFrame(
        {
            "label": labels,
            "group": [f"g{i}" for i in range(n)],
            **dict.fromkeys(empty, ""),
            "width": 64,
            "height": 64,
            "bits": 8,
            "format": "PNG",
            "mean": rng.normal(120, 20, n),
            "std": rng.normal(60, 10, n),
            "status": "ok",
        }
        | columns
    )


def factor(found: Confounds, key: str) -> Factor:
    return next(factor for factor in found.factors if factor.key == key)


def reason(found: Confounds, key: str) -> str:
    return next(item.reason for item in found.skipped if item.key == key)


@pytest.mark.parametrize("shape", [(2, 2), (2, 5), (4, 3)])
def test_v_is_bergsmas_correction_of_the_usual_one(shape: tuple[int, int]) -> None:
    table = np.random.default_rng(1).integers(5, 60, shape)
    rows, columns = shape
    n = table.sum()
    plain = association(table, method="cramer")
    phi2 = max(0.0, plain**2 * (min(shape) - 1) - (rows - 1) * (columns - 1) / (n - 1))
    side = min(rows - (rows - 1) ** 2 / (n - 1), columns - (columns - 1) ** 2 / (n - 1))
    assert cramers_v(table) == pytest.approx(np.sqrt(phi2 / (side - 1)))
    assert cramers_v(table) < plain


def test_v_of_the_extremes() -> None:
    assert cramers_v(np.diag([30, 40, 50])) == pytest.approx(1)
    assert cramers_v(np.full((3, 4), 20)) == 0
    padded = np.array([[30, 0, 10], [0, 0, 0], [5, 0, 40]])
    assert cramers_v(padded) == cramers_v(padded[[0, 2]][:, [0, 2]])


def test_a_source_of_its_own_gives_the_class_away() -> None:
    labels = ["COVID"] * 62 + ["Normal"] * 62 + ["Viral"] * 62
    source = ["lundis"] * 62 + ["ward"] * 124
    found = find_confounds(manifest(labels, source=source), ["COVID", "Normal", "Viral"])
    first = found.factors[0]
    assert (first.key, first.verdict) == ("source", "strong")
    assert first.sentences == (
        "All 62 COVID images come from 'lundis' and no image of another class does: "
        "a model can name COVID from the source alone.",
        "Each image's best guess from the source alone would be right 66.7 % of the time, "
        "against 33.3 % by always naming the largest class.",
    )
    assert first.levels == ("ward", "lundis")
    assert first.counts == ((0, 62, 62), (62, 0, 0))
    assert first.v == pytest.approx(1, abs=0.01)
    assert first.p == pytest.approx(1 / 200)
    assert (first.guess, first.blind) == (pytest.approx(2 / 3), pytest.approx(1 / 3))


def test_sentences_say_all_only_where_it_is_all() -> None:
    labels = ["a"] * 2000 + ["b"] * 2000
    source = ["x"] * 1999 + ["y"] + ["y"] * 1920 + ["x"] * 80
    found = find_confounds(manifest(labels, source=source), ["a", "b"])
    sentences = factor(found, "source").sentences
    assert sentences[0].startswith(
        "99.9 % of the 2,000 a images come from 'x', and 96.2 % of all that do are a: "
        "a model can nearly name a from the source alone."
    )
    assert sentences[1].startswith("96.0 % of the 2,000 b images come from 'y', and 99.9 % of all")


def test_unrelated_factors_are_no_confound() -> None:
    rng = np.random.default_rng(2)
    labels = ["a", "b", "c"] * 200
    found = find_confounds(
        manifest(labels, source=rng.choice(["x", "y", "z"], 600), sex=rng.choice(["F", "M"], 600)),
        ["a", "b", "c"],
    )
    assert {item.key for item in found.factors} == {"source", "sex", "tone", "contrast"}
    for item in found.factors:
        assert item.verdict == "none"
        assert item.v < 0.1
        assert item.p > 0.01
        assert "below 0.1" in item.sentences[0]


def test_nine_tenths_of_one_class_everywhere_is_no_giveaway() -> None:
    labels = (["a"] * 19 + ["b"]) * 40
    source = ["x"] * 600 + ["y"] * 200
    found = find_confounds(manifest(labels, source=source), ["a", "b"])
    assert factor(found, "source").verdict == "none"


def test_images_of_a_patient_are_one_witness() -> None:
    # Two patients a class, 50 images each: what looks overwhelming may be chance.
    labels = ["a"] * 100 + ["b"] * 100
    sex = ["F"] * 50 + ["M"] * 50 + ["M"] * 85 + ["F"] * 15
    groups = [f"p{i // 50}" for i in range(200)]
    alone = factor(find_confounds(manifest(labels, sex=sex), ["a", "b"]), "sex")
    together = factor(find_confounds(manifest(labels, sex=sex, group=groups), ["a", "b"]), "sex")
    assert alone.v == together.v > 0.3
    assert (alone.verdict, together.verdict) == ("weak", "none")
    assert together.p > 0.1
    assert together.sentences == (
        f"No more than chance can make of these few patients or groups: p is {together.p:.2f}.",
    )


def test_a_weak_link_names_the_cell_that_stands_out() -> None:
    labels = ["a"] * 200 + ["b"] * 200
    view = ["AP"] * 120 + ["PA"] * 80 + ["AP"] * 60 + ["PA"] * 140
    item = factor(find_confounds(manifest(labels, view=view), ["a", "b"]), "view")
    assert item.verdict == "weak"
    assert item.sentences[0] == (
        "a makes up 66.7 % of the images that have the view 'AP', against 50.0 % of all."
    )
    assert "in bed" in item.note


def test_what_cannot_be_tabled_says_why() -> None:
    n = 200
    labels = ["a", "b"] * (n // 2)
    found = find_confounds(
        manifest(
            labels,
            source=["x"] * n,
            scanner=["s", "t"] + [""] * (n - 2),
            patient=[f"{i}" for i in range(n)],
            view=["P", "", "L", ""] * (n // 4),
            **{
                "meta.file": [f"{i}.png" for i in range(n)],
                "meta.class": labels,
                "meta.ward": [str(i % 25) for i in range(n)],
            },
        ),
        ["a", "b"],
    )
    assert reason(found, "source") == "the same wherever it is known (200 images): x"
    assert reason(found, "scanner") == "known for only 2 of 200 images"
    assert reason(found, "modality") == "not known for any image"
    assert reason(found, "view") == "known for images of one class alone, a"
    assert reason(found, "meta.file") == "nearly every image has its own: 200 different values"
    assert reason(found, "meta.class") == "the label itself"
    assert reason(found, "meta.ward") == "25 different values, more than 20"
    assert reason(found, "collection").startswith("the same wherever it is known")
    assert {item.key for item in found.factors} == {"tone", "contrast"}


def test_unknown_values_are_counted_apart() -> None:
    labels = ["a"] * 100 + ["b"] * 100 + ["c"] * 100
    sex = ["F", "M"] * 50 + ["F"] * 60 + [""] * 40 + [""] * 100
    item = factor(find_confounds(manifest(labels, sex=sex), ["a", "b", "c"]), "sex")
    assert item.levels == ("F", "M")
    assert item.counts == ((50, 60, 0), (50, 0, 0))
    assert item.unknown == (0, 40, 100)
    assert item.coverage == pytest.approx(160 / 300)
    assert "Not known for any image of c." in item.note
    assert 0 < item.v < 1


def test_collections_ages_and_bands() -> None:
    labels = ["a"] * 60 + ["b"] * 60
    patients = [f"kermany-train-person{i}" for i in range(60)] + [f"rsna-{i}" for i in range(60)]
    ages = ["5", "17.5", "18", "39", "64", "65", "102", "-3", "unknown", ""] * 12
    found = find_confounds(
        manifest(labels, patient=patients, age=ages, width=range(100, 220), height=200),
        ["a", "b"],
    )
    assert set(factor(found, "collection").levels) == {"kermany…", "rsna…"}
    assert "name a from the patient collection alone" in factor(found, "collection").sentences[0]
    age = factor(found, "age")
    assert age.levels == ("0–17", "18–39", "40–64", "65+")
    assert [sum(row) for row in age.counts] == [24, 24, 12, 24]
    assert sum(age.unknown) == 36
    size = factor(found, "size")
    assert [sum(row) for row in size.counts] == pytest.approx([30] * 4, abs=2)
    assert size.levels[0].startswith("141–")
    tone = factor(found, "tone")
    assert [sum(row) for row in tone.counts] == pytest.approx([30] * 4, abs=5)


def test_rare_values_are_put_together() -> None:
    labels = ["a", "b"] * 300
    scanner = [f"s{min(i // 2 % 40, 30)}" for i in range(600)]
    item = factor(find_confounds(manifest(labels, scanner=scanner), ["a", "b"]), "scanner")
    assert len(item.levels) == MAX_LEVELS
    assert item.levels[0] == "s30"
    assert item.levels[-1] == "12 rarer values"
    assert np.sum(item.counts) == 600


def test_metadata_that_repeats_a_factor_is_named_with_it() -> None:
    labels = ["a", "b"] * 100
    source = ["x", "y"] * 100
    found = find_confounds(
        manifest(labels, source=source, **{"meta.origin": ["1", "2"] * 100}), ["a", "b"]
    )
    assert factor(found, "source").same == ("origin",)
    assert "meta.origin" not in {item.key for item in (*found.factors, *found.skipped)}


def test_metadata_names_with_braces_are_text() -> None:
    labels = ["a"] * 50 + ["b"] * 50
    found = find_confounds(manifest(labels, **{"meta.{0}": ["x"] * 50 + ["y"] * 50}), ["a", "b"])
    assert "have the {0} 'x'" in factor(found, "meta.{0}").sentences[0]


def test_records_left_out_play_no_part_and_the_answer_is_json() -> None:
    rng = np.random.default_rng(3)
    labels = ["a", "b"] * 100
    whole = manifest(labels, source=rng.choice(["x", "y"], 200))
    rest = whole.assign(status="unreadable", label="", source="z", width=0)
    both = pd.concat([whole, rest], ignore_index=True)
    assert find_confounds(both, ["a", "b"]) == find_confounds(whole, ["a", "b"])
    found = find_confounds(whole, ["a", "b"])
    assert found.records == 200
    assert json.loads(json.dumps(asdict(found), allow_nan=False))["classes"] == ["a", "b"]


def test_the_real_set_is_given_away_by_its_source(radiographs: Any) -> None:
    table = pd.read_csv(radiographs / "metadata.csv", dtype=str, keep_default_na=False)
    classes = sorted(table["class"].unique())
    frame = manifest(
        table["class"].tolist(),
        source=table["source"],
        patient=table["patient_id"],
        **{"meta.processing": table["processing"]},
    )
    first = find_confounds(frame, classes).factors[0]
    assert first.key == "source"
    assert first.sentences[0] == (
        "All 620 COVID images come from 'GitKentC/lundis' and no image of another class does: "
        "a model can name COVID from the source alone."
    )
    assert (first.guess, first.blind, first.same) == (0.5, 0.25, ("processing",))
