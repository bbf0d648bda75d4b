"""Every private name of Ray that is used is in the Ray that is pinned, and in one module only."""

import ast
import importlib.metadata
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement

from ctray import ray_internals
from ctray.ray_internals import NAMES, Internal, look_up

pytestmark = pytest.mark.fast

REPOSITORY = Path(__file__).parents[2]
# What Ray calls its own, by an underscore or by the documented modules that stand before it.
PRIVATE = re.compile(
    r"ray\.(.+\.)?_[a-z]\w*(\..*)?|ray\.(train|autoscaler)\.v2(\..*)?|ray\.core\.generated(\..*)?"
)


class Use(NamedTuple):
    """A private name where it is used."""

    file: str
    line: int
    module: str
    name: str


def private_uses(file: Path) -> Iterator[Use]:
    """The private modules and names of Ray that a file imports, or reaches by `ray._…`."""
    text = file.read_text()
    # Programs that a test hands to another process are strings.
    for tree in (ast.parse(text), *programs(text)):
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                found = [(node.module, alias.name) for alias in node.names]
            elif isinstance(node, ast.Import):
                found = [(alias.name, "") for alias in node.names]
            elif isinstance(node, ast.Attribute):
                path, _, name = ast.unparse(node).rpartition(".")
                found = [(path, name)]
            else:
                continue
            for module, name in found:
                if module.partition(".")[0] == "ray" and PRIVATE.fullmatch(f"{module}.{name}"):
                    where = file.relative_to(REPOSITORY).as_posix()
                    yield Use(where, getattr(node, "lineno", 0), module, name)


def programs(text: str) -> Iterator[ast.AST]:
    """The strings of a file that are Python with an import of Ray."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and "from ray." in str(node.value):
            try:
                yield ast.parse(str(node.value))
            except SyntaxError:
                continue


def uses_in(*folders: str) -> list[Use]:
    files = [file for folder in folders for file in sorted((REPOSITORY / folder).rglob("*.py"))]
    return [use for file in files for use in private_uses(file)]


def missing(internal: Internal) -> str | None:
    """A sentence when the installed Ray has not got it."""
    try:
        look_up(internal)
    except (ImportError, AttributeError) as error:
        version = importlib.metadata.version("ray")
        return (
            f"Ray {version} has no {internal.name} in {internal.module} ({error}); it is needed "
            f"for this: {internal.why}"
        )
    return None


def test_the_pinned_ray_has_every_private_name() -> None:
    sentences = [sentence for sentence in map(missing, NAMES) if sentence]
    assert not sentences, "\n".join(sentences)


def test_a_missing_name_is_told_with_its_use() -> None:
    gone = Internal("ray.data._internal.stats", "nothing_like_it", "the reason why")
    sentence = missing(gone)
    assert sentence is not None
    assert "nothing_like_it in ray.data._internal.stats" in sentence
    assert "the reason why" in sentence
    assert missing(Internal("ray.data._internal.no_module", "x", "y")) is not None


def test_ray_is_pinned_to_one_minor_version() -> None:
    """Private names come and go from one minor version to the next."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    (ray,) = (
        requirement
        for requirement in map(Requirement, project["dependencies"])
        if requirement.name == "ray"
    )
    installed = importlib.metadata.version("ray")
    major, minor = map(int, installed.split(".")[:2])
    assert ray.specifier.contains(installed), f"Ray {installed} is not within {ray}"
    assert not ray.specifier.contains(f"{major}.{minor + 1}.0"), f"{ray} is more than one minor"
    assert not ray.specifier.contains(f"{major}.{minor - 1}.0"), f"{ray} is more than one minor"


def test_no_other_module_touches_a_private_name() -> None:
    elsewhere = [
        use for use in uses_in("ctray", "tuning", "serve") if use.file != "ctray/ray_internals.py"
    ]
    assert not elsewhere, f"these belong into ctray/ray_internals.py: {elsewhere}"


def test_the_module_uses_what_it_lists_and_no_more() -> None:
    listed = {(internal.module, internal.name.partition(".")[0]) for internal in NAMES}
    for use in private_uses(REPOSITORY / "ctray/ray_internals.py"):
        modules = {module for module, _ in listed}
        assert (use.module, use.name) in listed or f"{use.module}.{use.name}" in modules, (
            f"{use} is not in NAMES"
        )
    names = [internal.name for internal in NAMES]
    assert len(set(names)) == len(names), "two private names are alike"
    assert all(internal.why for internal in NAMES)


def test_the_tests_and_benches_find_their_private_names() -> None:
    """They may touch what they test; the pinned Ray must have it all the same."""
    uses = uses_in("tests", "bench")
    assert uses, "the search for private names finds none"
    for use in uses:
        why = f"{use.file}, line {use.line}"
        path = use.name if use.name else "__name__"
        sentence = missing(Internal(use.module, path, why))
        assert sentence is None, sentence


def test_an_unlisted_name_is_an_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'DataIterator'"):
        ray_internals.DataIterator  # noqa: B018
