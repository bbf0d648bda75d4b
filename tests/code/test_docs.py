"""The pages are current, lead somewhere, and keep to their form."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.fast

REPOSITORY = Path(__file__).parents[2]
PAGES = sorted(
    [
        *REPOSITORY.glob("*.md"),
        *(REPOSITORY / "docs").rglob("*.md"),
    ]
)
# Names of a file, or of a folder with its slash, that is in the repository.
FILE_NAME = re.compile(r"[\w.-]+(/[\w.-]+)*(\.(py|md|ya?ml|toml|j2|html|png)|/)")
PACKAGES = ("ctray", "tuning", "serve")
WIDTH = 100
# Written by a script, which puts a fact on a line.
WRITTEN = {"benchmarks.md", "results.md"}
TROUBLES = REPOSITORY / "docs" / "troubleshooting.md"
# Sentences that were hard to read, and how they are said now.
STUMBLES = {
    "gone on with": "resumed",
    "goes on with": "resumes",
    "goes on from": "resumes from",
    "go on with": "resume",
    "going on with": "resuming",
}


def name_of(page: Path) -> str:
    """The name of a test's case."""
    return str(page.relative_to(REPOSITORY))


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M)


def settings_generator() -> ModuleType:
    """docs/make_settings.py, which is in no package."""
    spec = importlib.util.spec_from_file_location(
        "make_settings", REPOSITORY / "docs" / "make_settings.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_settings_is_current() -> None:
    generator = settings_generator()
    assert generator.PAGE.read_text() == generator.page(), "run `make docs`"


def anchors(page: Path) -> set[str]:
    """What a link into a page may end with, as GitHub makes it of the headings."""
    titles = re.findall(r"^#+ (.+)$", prose(page), flags=re.M)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_somewhere(page: Path) -> None:
    dead = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            dead.append(link)
    assert not dead


@pytest.mark.parametrize("index", ["docs/index.md", "docs/decisions/README.md"])
def test_every_page_is_in_its_index(index: str) -> None:
    page = REPOSITORY / index
    linked = {link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", prose(page))}
    assert {other.name for other in page.parent.glob("*.md")} - {page.name} <= linked


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_file_that_is_named_exists(page: Path) -> None:
    folders = {path.name for path in REPOSITORY.iterdir() if path.is_dir()}
    named = re.findall(r"`([^`\s]+)`", prose(page))
    ours = [n for n in named if FILE_NAME.fullmatch(n) and n.partition("/")[0] in folders]
    assert not [name for name in ours if not (REPOSITORY / name).exists()]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_module_that_is_named_exists(page: Path) -> None:
    missing = []
    for name in re.findall(r"`([a-z_]+(?:\.[A-Za-z_]+)+)(?:\(.*?\))?`", prose(page)):
        first, *rest = name.split(".")
        if first not in PACKAGES or rest == ["yaml"]:
            continue
        place = REPOSITORY / first
        for part in rest:
            if not place.is_dir():
                break
            if (place / part).is_dir():
                place = place / part
            elif (place / f"{part}.py").is_file():
                place = place / f"{part}.py"
            else:
                if part not in (place / "__init__.py").read_text():
                    missing.append(name)
                break
    assert not missing


@pytest.mark.parametrize("page", [p for p in PAGES if p.name not in WRITTEN], ids=name_of)
def test_lines_fit_a_screen(page: Path) -> None:
    long = [
        line
        for line in prose(page).splitlines()
        if len(line) > WIDTH and not line.lstrip().startswith("|")
    ]
    assert not long


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_sentences_do_not_stumble(page: Path) -> None:
    text = " ".join(page.read_text().split())
    assert not {words: better for words, better in STUMBLES.items() if words in text}


def test_the_error_sentences_are_those_of_the_code() -> None:
    files = [path for name in PACKAGES for path in (REPOSITORY / name).rglob("*.py")]
    # A sentence may run over several literals, with or without values.
    code = "".join(re.sub(r'"\s*\n\s*f?"', "", path.read_text()) for path in files)
    rows = re.findall(r"^\| (`.+?`(?:, `.+?`)*) \|", prose(TROUBLES), flags=re.M)
    sentences = [one for row in rows for one in re.findall(r"`(.+?)`", row)]
    # What stands between the dots is found in order, not far apart: in one sentence of the code.
    patterns = {
        one: ".{0,160}?".join(re.escape(part.strip(" :")) for part in one.split("…"))
        for one in sentences
    }
    assert len(rows) > 20
    assert not [one for one, pattern in patterns.items() if not re.search(pattern, code, re.S)]
