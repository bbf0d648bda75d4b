"""What all reports share: the base page, its style, thumbnails, numbers, writing."""

import base64
import json
import re
import sys
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from typing import Literal

import cv2
import jinja2
import numpy as np
import pytest

from ctray.pages.rendering import count, percent, plural, render
from ctray.pages.thumbnails import thumbnail
from ctray.pages.writing import write_json, write_page

pytestmark = pytest.mark.fast

TEMPLATES = {
    "ctray.evaluation": "report.html.j2",
    "ctray.data.ingest": "report.html.j2",
    "tuning": "study.html.j2",
}
PAGE = """{% extends "base.html.j2" %}
{% block title %}{{ name }}{% endblock %}
{% block kind %}Kind{% endblock %}
{% block heading %}{{ name }}{% endblock %}
{% block lead %}{{ n | count }} record{{ n | plural }}, {{ share | percent }}{% endblock %}
{% block content %}<p>{{ name }}</p>{% endblock %}
"""
BANNER = "Synthetic data: these numbers say nothing about patients."


class Page(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.style = ""
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] == ["style"]:
            self.style += data
        else:
            self.text += data


def made(
    folder: Path, monkeypatch: pytest.MonkeyPatch, template: str = PAGE, **changes: object
) -> str:
    """A page from a template of a package of its own."""
    package = folder / "made_up_pages"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "page.html.j2").write_text(template)
    monkeypatch.delitem(sys.modules, "made_up_pages", raising=False)
    monkeypatch.syspath_prepend(folder)
    values = {"name": "lungs", "n": 1234, "share": 0.5, "synthetic": False} | changes
    return render("made_up_pages", "page.html.j2", values)


def styles() -> dict[str, str]:
    """The style of the base, and of each template beside it."""
    found = {"base": resources.files("ctray.pages").joinpath("style.css").read_text("utf-8")}
    for package, name in TEMPLATES.items():
        template = resources.files(package).joinpath(name).read_text("utf-8")
        block = re.search(r"{% block style %}(.*?){% endblock %}", template, re.DOTALL)
        assert block is not None
        found[package] = block[1]
    return found


def test_a_page_has_the_style_and_the_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = made(tmp_path, monkeypatch)
    parsed = Page(page)
    assert page.startswith("<!DOCTYPE html>")
    assert "1,234 records, 50.0\N{NO-BREAK SPACE}%" in parsed.text
    assert styles()["base"].strip() in parsed.style
    assert parsed.tags.count("style") == parsed.tags.count("h1") == 1


def test_values_are_escaped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evil = "\"><script>alert('1')</script>"
    parsed = Page(made(tmp_path, monkeypatch, name=evil))
    assert "script" not in parsed.tags
    assert parsed.text.count(evil) == 3


@pytest.mark.parametrize("synthetic", [True, False])
def test_synthetic_data_is_called_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, synthetic: bool
) -> None:
    assert (BANNER in made(tmp_path, monkeypatch, synthetic=synthetic)) == synthetic


def test_what_is_not_said_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    template = PAGE.replace("{{ name }}</p>", "{{ forgotten }}</p>")
    with pytest.raises(jinja2.UndefinedError, match="forgotten"):
        made(tmp_path, monkeypatch, template)


def test_a_page_without_a_heading_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = PAGE.replace("{% block heading %}{{ name }}{% endblock %}", "")
    with pytest.raises(jinja2.TemplateRuntimeError, match="heading"):
        made(tmp_path, monkeypatch, template)


def test_a_page_needs_nothing_outside_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = made(tmp_path, monkeypatch)
    parsed = Page(page)
    outside = {"script", "link", "img", "iframe", "object", "embed", "base"}
    assert not outside & set(parsed.tags)
    assert "://" not in page
    assert not [name for name, _ in parsed.attributes if name in ("src", "href")]
    policy = next(value for name, value in parsed.attributes if "default-src" in value)
    assert policy.startswith("default-src 'none';")
    for style in styles().values():
        assert not re.search(r"@import|url\(", style)


@pytest.mark.parametrize("owner", ["base", *TEMPLATES])
def test_nothing_is_wider_than_a_telephone(owner: str) -> None:
    # What scrolls by itself, or is bounded by `min(…, 100%)`, may be wider.
    style = re.sub(r"min\([^()]*100(?:%|vw)[^()]*\)", "", styles()[owner])
    style = style.replace("figure .scroll svg { min-width: 40rem; }", "")
    rules = re.sub(r"@media \([^)]*\)", "", style)
    # Not `max-width` or `stroke-width`.
    fixed = r"(?:(?<![\w-])(?:min-)?width: |minmax\(|--tile: )([\d.]+)(px|rem)"
    for number, unit in re.findall(fixed, rules):
        margins = 2 * 16
        assert float(number) * {"px": 1, "rem": 16}[unit] <= 390 - margins, (number, unit)
    assert ".scroll { overflow-x: auto;" in styles()["base"]


@pytest.mark.parametrize("owner", ["base", *TEMPLATES])
def test_paper_is_light(owner: str) -> None:
    for media in re.findall(r"@media ([^{]*)prefers-color-scheme: dark", styles()[owner]):
        assert media == "screen and ("


def decoded(address: str, kind: str) -> np.ndarray:
    head, data = address.split(",")
    assert head == f"data:image/{kind};base64"
    image = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_UNCHANGED)
    assert image is not None
    return image


@pytest.mark.parametrize("kind", ["png", "jpeg"])
@pytest.mark.parametrize(
    ("shape", "shown"),
    [((600, 300), (96, 48)), ((40, 60), (40, 60)), ((1, 500), (1, 96)), ((96, 96), (96, 96))],
)
def test_thumbnails_are_small(
    shape: tuple[int, int], shown: tuple[int, int], kind: Literal["png", "jpeg"]
) -> None:
    image = decoded(thumbnail(np.full(shape, 120, np.uint8), 96, kind), kind)
    assert image.shape == shown
    assert np.abs(image.astype(int) - 120).max() <= 2


def test_thumbnails_keep_their_colours() -> None:
    red = np.zeros((20, 20, 3), np.uint8)
    red[..., 0] = 200
    image = decoded(thumbnail(red, 96, "png"), "png")
    assert image[0, 0].tolist() == [0, 0, 200]  # cv2 reads blue, green, red


def test_numbers_are_for_people() -> None:
    assert [percent(0.1234), percent(1)] == ["12.3\N{NO-BREAK SPACE}%", "100.0\N{NO-BREAK SPACE}%"]
    assert [count(7), count(1_234_567)] == ["7", "1,234,567"]
    assert [plural(n) for n in (0, 1, 2)] == ["s", "", "s"]


def test_files_are_written_whole_into_a_new_folder(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    write_json(folder / "report.json", {"name": "é"})
    write_page(folder / "report.html", "<p>first, and longer</p>")
    write_page(folder / "report.html", "<p>second</p>")
    assert json.loads((folder / "report.json").read_text("utf-8")) == {"name": "é"}
    assert (folder / "report.html").read_text("utf-8") == "<p>second</p>"
    assert sorted(path.name for path in folder.iterdir()) == ["report.html", "report.json"]


def test_a_name_that_is_no_valid_text_can_be_written(tmp_path: Path) -> None:
    name = b"caf\xe9.png".decode("utf-8", "surrogateescape")
    write_page(tmp_path / "report.html", name)
    write_json(tmp_path / "report.json", name)
    assert (tmp_path / "report.html").read_text("utf-8") == "caf\\udce9.png"
    assert json.loads((tmp_path / "report.json").read_text("utf-8")) == name


def test_a_number_that_json_cannot_hold_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(tmp_path / "report.json", {"accuracy": float("nan")})
    assert not list(tmp_path.iterdir())
