"""Whoever deploys a bundle is told what speaks against it, and which names there are."""

from pathlib import Path

import pytest
from serve_kit import write_untrained
from typer.testing import CliRunner

from ctray.artefact.bundle import Bundle
from ctray.artefact.caveats import caveats
from ctray.artefact.parts import BundleInfo
from ctray.cli import app
from ctray.errors import UserError

pytestmark = pytest.mark.fast


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of synthetic images, three classes and a macro-F1 of 0.5."""
    return write_untrained(tmp_path_factory.mktemp("deployed"), seed=1)


@pytest.fixture(scope="module")
def info(bundle: Path) -> BundleInfo:
    return Bundle.load(str(bundle)).info


def ctray(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(word) for word in arguments])
    if done.exception is not None:
        raise done.exception
    return done.stdout


@pytest.mark.parametrize(
    ("classes", "macro_f1", "is_weak"),
    [
        ("ab", 0.50, True),
        ("ab", 0.59, True),
        ("ab", 0.61, False),
        ("abcd", 0.10, True),
        ("abcd", 0.39, True),
        ("abcd", 0.41, False),
    ],
)
def test_a_score_near_that_of_guessing_is_said(
    classes: str, macro_f1: float, is_weak: bool, info: BundleInfo
) -> None:
    update = {
        "classes": tuple(classes),
        "metrics": {"val_macro_f1": macro_f1},
        "synthetic": False,
    }
    said = caveats(info.model_copy(update=update))
    assert len(said) == is_weak
    for sentence in said:
        assert f"its macro-F1 on validation records is {macro_f1:.2f}" in sentence
        assert f"guessing among {len(classes)} classes gives {1 / len(classes):.2f}" in sentence


def test_promote_says_that_the_data_are_synthetic(bundle: Path, tmp_path: Path) -> None:
    first, note = ctray("promote", bundle, "--registry", tmp_path).splitlines()
    assert first.startswith("chest version 1 is in production")
    assert note == (
        "note: it was trained on synthetic images: its answers say nothing about patients"
    )


def test_a_name_that_nothing_has_gets_those_that_there_are(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'nope' in .*: run `ctray promote BUNDLE`") as caught:
        ctray("versions", "--registry", tmp_path, "--name", "nope")
    assert caught.value.arguments == ()
    for name in ("chest", "ct"):
        ctray("promote", bundle, "--registry", tmp_path, "--name", name)
    for name, hint in (("nope", "there are chest, ct"), ("chets", "did you mean 'chest'")):
        with pytest.raises(UserError, match=f"as '{name}' in .*: {hint}") as caught:
            ctray("versions", "--registry", tmp_path, "--name", name)
        assert caught.value.arguments == ("name",)
    assert ctray("versions", "--registry", tmp_path, "--name", "ct").count("small_cnn") == 1
