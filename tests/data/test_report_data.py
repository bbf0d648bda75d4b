"""The data report: complete, self-contained, of bounded size, true to the manifest."""

import base64
import json
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest

from ctray.data.ingest.confound import find_confounds
from ctray.data.ingest.report import MOSAIC_ALL, THUMBNAIL_PIXELS, write_report
from ctray.data.ingest.summary import PAIRS_SHOWN, QUARANTINE_A_STATUS

pytestmark = pytest.mark.fast

CLASSES = ["COVID", "Normal", "Viral Pneumonia"]
SIZE = 128
SECTIONS = (
    "headline",
    "classes",
    "images",
    "sizes",
    "grey",
    "confounds",
    "duplicates",
    "left-out",
    "warnings",
    "balance",
    "origin",
)
VOID = {"meta", "img", "br"}
PAIR_COLUMNS = ["first", "second", "kind", "similarity", "flipped", "conflict"]


def made_up(classes: Sequence[str] = CLASSES, a_class: int = 40) -> pd.DataFrame:
    """A manifest of usable records in groups of two, train, val and test in turn."""
    n = a_class * len(classes)
    return pd.DataFrame(
        {
            "id": [f"{i:064x}" for i in range(n)],
            "path": [f"{i:05}.png" for i in range(n)],
            "label": np.repeat(classes, a_class),
            "group": [f"g{i // 2}" for i in range(n)],
            "source": "ward",
            "split": [("train", "train", "val", "test")[i // 2 % 4] for i in range(n)],
            **{"width": 300, "height": 200, "bits": 8, "format": "PNG", "colour": False},
            "bytes": 40_000,
            "mean": np.linspace(90, 140, n),
            "std": np.linspace(50, 70, n)[::-1],
            **dict.fromkeys(("patient", "modality", "scanner", "age", "sex", "view"), ""),
            **{"status": "ok", "reason": "", "warning": "", "shard": 0, "row": np.arange(n)},
        }
    )


def left_out(frame: pd.DataFrame, rows: Sequence[int], status: str, **more: Any) -> pd.DataFrame:
    """The same manifest with these records left out and not stored."""
    changes = {"status": status, "split": "", "row": -1, "reason": f"it is {status}"} | more
    for column, value in changes.items():
        frame.loc[list(rows), column] = value
    return frame


def no_pairs() -> pd.DataFrame:
    return pd.DataFrame(columns=PAIR_COLUMNS)


def stored(rows: pd.DataFrame) -> np.ndarray:
    assert (rows["row"] >= 0).all()
    ramp = np.arange(SIZE * SIZE, dtype=np.uint32).reshape(SIZE, SIZE)
    return np.stack([((ramp * (7 + row)) % 251).astype(np.uint8) for row in rows["row"]])


def written(
    root: Path, frame: pd.DataFrame, pairs: pd.DataFrame | None = None, **changes: Any
) -> tuple[dict[str, Any], str]:
    """The report's JSON and its page."""
    arguments: dict[str, Any] = {
        "classes": CLASSES,
        "size": SIZE,
        "fingerprint": "f" * 64,
        "synthetic": False,
        "ignored": [],
        "images": stored,
        "picture": lambda row: None,
        "info": {"name": "a folder", "version": "1", "inputs": ["in"], "date": "2026-01-01"},
    }
    arguments |= changes
    confounds = find_confounds(frame, arguments["classes"])
    pairs = no_pairs() if pairs is None else pairs
    write_report(root, frame, pairs, confounds=confounds, **arguments)
    page = (root / "report.html").read_text("utf-8")
    return json.loads((root / "report.json").read_text("utf-8")), page


class Page(HTMLParser):
    """Tags with their attributes and the visible text; every tag must be closed in its order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(page)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs)
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def images(self) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == "img"]


def test_every_section_is_there_and_the_links_lead_to_them(tmp_path: Path) -> None:
    _, page = written(tmp_path, made_up())
    parsed = Page(page)
    ids = [attributes["id"] for _, attributes in parsed.tags if "id" in attributes]
    assert ids == list(SECTIONS)
    links = {attributes["href"] for tag, attributes in parsed.tags if tag == "a"}
    assert links <= {f"#{name}" for name in SECTIONS}
    assert len(links) >= 10


def test_wild_what_is_said_of_the_whole_set_is_on_the_page(tmp_path: Path) -> None:
    said = ["1 row of <b>.csv has no file here", "the store has no val records"]
    got, page = written(tmp_path, made_up(), notices=said)
    assert got["notices"] == said
    assert all(sentence in Page(page).text for sentence in said)
    assert "<b>.csv" not in page


def test_json_agrees_with_the_manifest(tmp_path: Path) -> None:
    frame = made_up()
    frame.loc[:29, "patient"] = [f"rsna-{i % 10}" for i in range(30)]
    frame.loc[frame.index % 3 == 0, "source"] = "archive"
    left_out(frame, range(40, 43), "truncated")
    left_out(frame, [100], "unlabelled", label="")
    frame.loc[[1, 2, 3], "warning"] = ["12 px of border", "7 px of border", "wrong suffix"]
    got, page = written(tmp_path, frame, ignored=["notes.txt"])
    usable = frame[frame["status"] == "ok"]
    assert got["records"] == {
        "listed": 120,
        "usable": 116,
        "left_out": 4,
        "groups": usable["group"].nunique(),
        "patients": 10,
        "patient_known": 30,
    }
    for row in got["class_table"]:
        rows = usable[usable["label"] == row["class"]]
        assert (row["n"], row["groups"]) == (len(rows), rows["group"].nunique())
        for split, part in row["splits"].items():
            assert part["n"] == (rows["split"] == split).sum()
    assert sum(row["share"] for row in got["class_table"]) == pytest.approx(1)
    assert got["left_out"] == [
        {"status": "unlabelled", "n": 1, "by_class": [0, 0, 0], "no_class": 1},
        {"status": "truncated", "n": 3, "by_class": [0, 3, 0], "no_class": 0},
    ]
    assert [kind["n"] for kind in got["quarantine"]] == [1, 3]
    assert got["quarantine"][1]["shown"][0] == {
        "path": "00040.png",
        "label": "Normal",
        "reason": "it is truncated",
    }
    assert got["warnings"]["n"] == 3
    assert [kind["n"] for kind in got["warnings"]["shown"]] == [2, 1]
    assert got["image_sizes"]["dots"] == [{"width": 300, "height": 200, "n": 116}]
    assert got["encodings"] == [
        {"format": "PNG", "bits": 8, "colour": False, "n": 116, "mean_bytes": 40_000.0}
    ]
    for row in got["split_table"]:
        rows = usable[(usable["label"] == row["class"]) & (usable["source"] == row["source"])]
        assert row["n"] == len(rows)
        assert row["off"]["train"] == pytest.approx((rows["split"] == "train").mean() - 0.7)
    assert sum(row["n"] for row in got["split_table"]) == 116
    assert got["ignored"] == {"n": 1, "shown": ["notes.txt"]}
    assert got["leaks"] == {"groups": 0, "pairs": 0}
    text = Page(page).text
    assert "120 records listed, 116 usable, stored at 128×128 px" in text
    assert "10 known patients behind 30 records" in text
    assert "The patient is not known for 86 of 116 records" in text
    assert "notes.txt" in text


def test_deviations_are_from_the_fractions_asked_for(tmp_path: Path) -> None:
    info = {
        "name": "a",
        "version": "1",
        "inputs": [],
        "date": "today",
        "fractions": (0.5, 0.3, 0.2),
    }
    got, page = written(tmp_path, made_up(), info=info)
    assert got["split_table"][0]["off"]["val"] == pytest.approx(0.25 - 0.3)
    assert "off 50/30/20." in Page(page).text


def test_page_needs_nothing_outside_itself(tmp_path: Path) -> None:
    _, page = written(tmp_path, made_up())
    tags = Page(page).tags
    assert "img" in {tag for tag, _ in tags}
    assert not {tag for tag, _ in tags} & {"script", "link", "iframe", "object", "embed", "base"}
    for _, attributes in tags:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "srcset", "data", "xlink:href"):
                assert (value or "").startswith("data:image/jpeg;base64,")
    assert "://" not in page
    assert not re.search(r"@import|url\(", page)


def test_hostile_names_are_shown_as_text(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    quote = "\"><img src=x onerror='alert(1)'>"
    frame = made_up([evil, quote], a_class=60)
    frame["path"] = [f"{quote}{i}" for i in range(len(frame))]
    frame["source"] = frame["label"]
    frame["warning"] = evil
    frame["meta." + quote] = frame["label"].map({evil: quote, quote: evil})
    left_out(frame, range(6), "unreadable", reason=evil)
    pairs = pd.DataFrame([(*frame["path"][5:7], "near", 0.9, True, True)], columns=PAIR_COLUMNS)
    got, page = written(
        tmp_path,
        frame,
        pairs,
        classes=[evil, quote],
        ignored=[evil],
        fingerprint=evil,
        info={"name": evil, "version": evil, "inputs": [quote], "date": quote, quote: evil},
    )
    parsed = Page(page)
    assert "script" not in {tag for tag, _ in parsed.tags}
    for attributes in parsed.images():
        assert set(attributes) == {"src", "alt"}
        assert (attributes["src"] or "").startswith("data:")
    assert evil in parsed.text
    assert quote in parsed.text
    assert got["classes"] == [evil, quote]


@pytest.mark.parametrize("synthetic", [False, True])
def test_synthetic_data_is_called_so_at_the_top(tmp_path: Path, synthetic: bool) -> None:
    got, page = written(tmp_path, made_up(), synthetic=synthetic)
    text = Page(page).text
    assert got["synthetic"] == synthetic
    assert ("Synthetic data: these images were drawn by a program" in text) == synthetic
    if synthetic:
        assert text.index("Synthetic data") < text.index("Usable records")


def test_the_gravest_giveaway_comes_first(tmp_path: Path) -> None:
    frame = made_up()
    frame.loc[frame["label"] == "COVID", "source"] = "lundis"
    _, page = written(tmp_path, frame)
    headline = Page(page).text.split("Usable records, and under them")[0]
    assert (
        "All 40 COVID images come from 'lundis' and no image of another class does: "
        "a model can name COVID from the source alone." in headline
    )


def test_a_set_without_a_confound_is_said_to_have_none(tmp_path: Path) -> None:
    frame = made_up()
    frame[["mean", "std"]] = 100.0
    frame["source"] = ["ward", "archive"] * 60
    _, page = written(tmp_path / "source", frame)
    assert "None of the 1 known factor goes with the class: source." in Page(page).text
    _, page = written(tmp_path / "nothing", frame.assign(source=""))
    text = Page(page).text
    assert "Nothing is known about the images by which a give-away could be looked for" in text
    assert "No source is known." in text
    assert "not recorded" in text


def test_leaks_between_the_splits_are_found(tmp_path: Path) -> None:
    frame = made_up()
    pairs = pd.DataFrame(
        [
            ("00000.png", "00004.png", "near", 0.95, False, False),  # train and val
            ("00000.png", "00001.png", "near", 0.95, False, False),  # both train
            ("00006.png", "00118.png", "exact", 1.0, False, False),  # the second is left out
        ],
        columns=PAIR_COLUMNS,
    )
    left_out(frame, [118], "duplicate")
    got, page = written(tmp_path / "pair", frame, pairs)
    assert got["leaks"] == {"groups": 0, "pairs": 1}
    assert "0 groups and 1 pair of like pictures lie in more than one split" in Page(page).text

    frame["group"] = frame["group"].replace("g2", "g1")  # val and train
    got, _ = written(tmp_path / "group", frame)
    assert got["leaks"] == {"groups": 1, "pairs": 0}


def test_one_group_is_too_few_and_a_leak(tmp_path: Path) -> None:
    got, page = written(tmp_path, made_up().assign(group="one"))
    assert got["records"]["groups"] == 1
    assert got["leaks"]["groups"] == 1
    assert "Few independent groups in COVID (1), Normal (1)" in Page(page).text


def test_pairs_are_shown_conflicts_first_and_capped(tmp_path: Path) -> None:
    frame = made_up(a_class=100)
    rows = [
        (f"{i:05}.png", f"{i + 1:05}.png", kind, similarity, False, conflict)
        for i, (kind, similarity, conflict) in enumerate(
            [("exact", 1.0, False)] * 70
            + [("near", 0.99, False), ("near", 0.92, False)]
            + [("near", 0.97, True), ("exact", 1.0, True)]
        )
    ]
    got, page = written(tmp_path, frame, pd.DataFrame(rows, columns=PAIR_COLUMNS))
    shown = got["duplicates"]["shown"]
    assert got["duplicates"]["by_kind"] == {"conflict": 2, "near": 2, "exact": 70}
    assert [pair["conflict"] for pair in shown[:3]] == [True, True, False]
    assert [pair["similarity"] for pair in shown[:5]] == [0.97, 1.0, 0.92, 0.99, 1.0]
    assert len(shown) == PAIRS_SHOWN
    text = Page(page).text
    assert f"The first {PAIRS_SHOWN}; {74 - PAIRS_SHOWN} more are in duplicates.parquet." in text
    assert "2 pairs of like pictures under different labels" in text
    assert page.count('<div class="sides">') == PAIRS_SHOWN


def test_pictures_come_from_the_store_or_from_the_file(tmp_path: Path) -> None:
    frame = left_out(made_up(), [3, 4], "too large")
    asked: list[str] = []

    def picture(row: pd.Series) -> np.ndarray | None:
        asked.append(str(row["path"]))
        return np.full((600, 300), 200, np.uint8) if row["path"] == "00003.png" else None

    _, page = written(tmp_path, frame, picture=picture)
    parsed = Page(page)
    assert asked == ["00003.png", "00004.png"]
    address = next(str(image["src"]) for image in parsed.images() if image["alt"] == "00003.png")
    data = np.frombuffer(base64.b64decode(address.partition(",")[2]), np.uint8)
    assert cv2.imdecode(data, cv2.IMREAD_GRAYSCALE).shape == (
        THUMBNAIL_PIXELS,
        THUMBNAIL_PIXELS // 2,
    )
    assert page.count('<span class="blank">no picture</span>') == 1
    assert not [image for image in parsed.images() if not image["alt"]]


def test_a_status_without_any_picture_is_a_list(tmp_path: Path) -> None:
    frame = left_out(made_up(), range(QUARANTINE_A_STATUS + 5), "unreadable")
    _, page = written(tmp_path, frame)
    text = Page(page).text
    assert "File (no picture)" in text
    assert f"00{QUARANTINE_A_STATUS - 1:03}.png" in text
    assert f"The first {QUARANTINE_A_STATUS}; 5 more are in manifest.parquet." in text
    assert '<span class="blank">' not in page


def test_many_sizes_and_sources_are_drawn(tmp_path: Path) -> None:
    frame = made_up(a_class=80)
    frame["width"] = 500 + np.arange(len(frame)) * 7
    frame["height"] = 900 - np.arange(len(frame))
    frame["source"] = [f"s{i % 8}" for i in range(len(frame))]
    got, page = written(tmp_path, frame)
    assert got["image_sizes"]["different"] == len(frame)
    assert got["image_sizes"]["binned"]
    assert sum(dot["n"] for dot in got["image_sizes"]["dots"]) == len(frame)
    assert page.count('<circle class="dot"') == len(got["image_sizes"]["dots"]) < len(frame)
    assert [curve["n"] for curve in got["grey"]["by_class"]] == [80] * 3
    assert len(got["grey"]["by_source"]) == 6
    for curve in (*got["grey"]["by_class"], *got["grey"]["by_source"]):
        assert sum(curve["shares"]) == pytest.approx(1, abs=1e-4)


def test_size_does_not_grow_with_the_set(tmp_path: Path) -> None:
    asked: list[int] = []

    def images(rows: pd.DataFrame) -> np.ndarray:
        asked.append(len(rows))
        return stored(rows)

    frame = made_up(a_class=2000)
    for start, status in enumerate(("unreadable", "truncated", "blank", "wrong type")):
        left_out(frame, range(start * 500, (start + 1) * 500), status)
    frame["warning"] = [f"warning {'x' * (i % 300)}" for i in range(len(frame))]
    noise = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE)).astype(np.uint8)
    rows = [(f"{i:05}.png", f"{i + 1:05}.png", "near", 0.9, False, False) for i in range(1000)]
    written(
        tmp_path,
        frame,
        pd.DataFrame(rows, columns=PAIR_COLUMNS),
        images=images,
        picture=lambda row: noise,
        ignored=[f"masks/{i}.txt" for i in range(50_000)],
    )
    assert max(asked) == 200
    assert (tmp_path / "report.html").stat().st_size < 4_000_000
    assert (tmp_path / "report.json").stat().st_size < 400_000


def test_many_classes_share_the_mosaic(tmp_path: Path) -> None:
    classes = [f"class {i:02}" for i in range(40)]
    _, page = written(tmp_path, made_up(classes, a_class=8), classes=classes)
    assert len(Page(page).images()) == MOSAIC_ALL


def test_the_same_set_gives_the_same_report(tmp_path: Path) -> None:
    first = written(tmp_path / "a", made_up())
    assert written(tmp_path / "b", made_up()) == first
    assert written(tmp_path / "c", made_up(), fingerprint="e" * 64)[1] != first[1]


def test_a_missing_piece_of_provenance_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="inputs"):
        written(tmp_path, made_up(), info={"name": "a", "version": "1", "date": "today"})
    assert not list(tmp_path.iterdir())


def test_a_file_name_that_is_no_valid_text_can_be_reported(tmp_path: Path) -> None:
    name = b"caf\xe9.png".decode("utf-8", "surrogateescape")
    got, page = written(tmp_path, made_up(), ignored=[name])
    assert got["ignored"]["shown"] == [name]
    assert "caf\\udce9.png" in page
