"""The command line as a user meets it: processes, exit codes, one sentence, no leftovers."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from typer.core import TyperGroup
from typer.main import get_command
from typer.testing import CliRunner

from ctray.cli import app
from ctray.config import Recipe
from ctray.console import Command

SEARCH = "tuning.search"
# In the order of use: to try it, then from folders to a service.
COMMANDS = (
    "demo",
    "phantom",
    "prepare",
    "augment",
    "train",
    "search",
    "evaluate",
    "predict",
    "explain",
    "promote",
    "versions",
    "serve",
)
# Another program's: what follows the verb is handed to it, and the help is its own.
HANDED_OVER = {"search": "python -m tuning.search", "serve": "python -m serve"}


def ctray(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    module = () if arguments[0] == SEARCH else ("ctray",)
    command = [sys.executable, "-m", *module, *map(str, arguments)]
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | variables
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


def all_at_once(commands: Iterable[Sequence[object]]) -> list[subprocess.CompletedProcess[str]]:
    """What these commands came to, as many at a time as there are cores."""
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return list(threads.map(lambda arguments: ctray(*arguments), commands))


def assert_one_sentence(done: subprocess.CompletedProcess[str], sentence: str) -> None:
    assert done.returncode == 2, done.stderr
    assert sentence in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr + done.stdout


@pytest.fixture
def one_class(images: Path, tmp_path: Path) -> Path:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "Normal").symlink_to(images / "Normal")
    return tmp_path / "one"


@pytest.mark.fast
def test_every_verb_shows_an_example() -> None:
    ends = all_at_once((verb, "--help") for verb in COMMANDS)
    for verb, done in zip(COMMANDS, ends, strict=True):
        assert done.returncode == 0
        examples = (f"Example: ctray {verb}", f"Example: {HANDED_OVER.get(verb)} ")
        assert any(example in done.stdout for example in examples), verb


@pytest.mark.fast
def test_the_verbs_are_listed_in_the_order_of_use_each_with_a_whole_sentence() -> None:
    lines = ctray("--help").stdout.partition("Commands:")[2].splitlines()
    listed = [line.split() for line in lines if line.strip()]
    assert tuple(words[0] for words in listed) == COMMANDS
    assert all(words[-1].endswith(".") and "..." not in words[-1] for words in listed)


@pytest.mark.fast
def test_a_path_that_is_not_utf_8_is_printed(tmp_path: Path) -> None:
    out = tmp_path / os.fsdecode(b"r\xf6ntgen")
    strict = {"PYTHONIOENCODING": "utf-8:strict"}
    done = ctray("phantom", "--images-per-class", 1, "--out", out, **strict)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("r\\udcf6ntgen\n")


@pytest.mark.fast
@pytest.mark.parametrize(("verb", "module"), [("search", "tuning.search"), ("serve", "serve")])
def test_what_follows_another_programs_verb_is_handed_to_it_as_it_was_typed(
    verb: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    become: list[tuple[str, list[str]]] = []
    monkeypatch.setattr("os.execv", lambda *given: become.append(given))
    words = ["one/bundle", "-v", "--trials=3", "--out", "a b", "--help", "--", "--odd", "last"]
    CliRunner().invoke(app, [verb, *words])
    assert become == [(sys.executable, [sys.executable, "-m", module, *words])]


@pytest.mark.fast
def test_the_exit_code_of_another_program_is_the_verbs() -> None:
    for done in all_at_once([("search", "--trials", "none"), ("serve", "--port", "0")]):
        assert done.returncode == 2
        assert "Invalid value" in done.stderr


@pytest.mark.fast
@pytest.mark.parametrize(
    "arguments", [("--help",), ("train", "--help"), ("search", "--help")], ids=" ".join
)
def test_help_does_without_torch_and_ray(arguments: tuple[str, ...]) -> None:
    """They take seconds. Python says of each process what it imports, and of what it becomes."""
    done = ctray(*arguments, PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 0
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "ctray.console" in imported
    assert not imported & {"torch", "ray"}


@pytest.mark.fast
@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("ctray ", set(COMMANDS)),
        ("ctray pr", {"prepare", "predict", "promote"}),
        ("ctray train --re", {"--recipe", "--resume"}),
        # Of other programs.
        ("ctray search --max", {"--max-epochs"}),
        ("ctray search --space wide --sto", {"--storage"}),
        ("ctray serve --po", {"--port"}),
    ],
)
def test_the_shell_completes(typed: str, offered: set[str]) -> None:
    """As bash asks after `ctray --install-completion`, and without the heavy imports."""
    asked = {
        "_CTRAY_COMPLETE": "complete_bash",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(typed.count(" ")),
    }
    program = "import sys; sys.argv = ['ctray']; from ctray.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        # Of what the process becomes, too.
        env=os.environ | asked | {"PYTHONPROFILEIMPORTTIME": "1"},
        timeout=60,
    )
    assert set(done.stdout.split()) == offered
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not imported & {"torch", "ray"}


@pytest.mark.fast
def test_an_error_names_the_options_of_its_own_command() -> None:
    mistakes = [
        (("train", "--set", "lr"), "'lr' is not of the form key=value (--set)"),
        (("train", "--recipe", "fats"), "did you mean 'fast'? (--recipe)"),
        (("train", "--recipe", "mine.yaml"), "a recipe of your own goes with --config"),
        (("train", "--set", "lr=fast"), "a valid number, unable to parse string as a number"),
        (("train", "--set", "lr=fast"), "(--set lr=…)"),
        (("train", "--epochs", "0"), "greater than or equal to 1 (--epochs)"),
    ]
    place = ("--data", "/nowhere", "--out", "/nowhere/out")
    ends = all_at_once((*arguments, *place) for arguments, _ in mistakes)
    for done, (_, sentence) in zip(ends, mistakes, strict=True):
        assert_one_sentence(done, sentence)


@pytest.mark.fast
def test_a_setting_that_the_training_names_is_printed_as_it_is_typed() -> None:
    command = get_command(app)
    assert isinstance(command, TyperGroup)
    train = command.commands["train"]
    assert isinstance(train, Command)
    assert train._options(("lr", "out")) == ("--set lr=…", "--out")
    for name in ("small_share", "refit_epochs", "batch_size", "accumulate", "image_size"):
        assert train._options((name,)) == (f"--set {name}=…",)


@pytest.mark.fast
def test_mistakes_that_show_at_once(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    train = ("train", "--data", images, "--out", out)
    prepare = ("prepare", images, "--out", out)
    mistakes = [
        (("prepare", "/nowhere", "--out", out), "no such folder: /nowhere"),
        ((*prepare, "--map", "COVID"), "--map 'COVID' is not of the form A=B"),
        ((*prepare, "--map", "covid=X"), "did you mean 'COVID'?"),
        ((*prepare, "--column", "labl=x"), "'labl' is not a column to map"),
        ((*prepare, "--column", "label=x"), "'x' for label"),
        ((*prepare, "--group-regex", "("), "'('"),
        ((*prepare, "--fractions", "1,2"), "'1,2' are not of the form 0.7,0.15,0.15 (--fractions)"),
        ((*prepare, "--fractions", ".5,.5,.5"), "must add up to 1"),
        ((*prepare, "--append"), f"{out} is not a store"),
        (("augment", images, "--preview", tmp_path / "x.png"), "is not a store"),
        (("train", "--data", "/nowhere", "--out", out), "no such folder: /nowhere"),
        ((*train, "--set", "epoch=3"), "unknown setting 'epoch'; did you mean 'epochs'?"),
        ((*train, "--backbone", "resnet19"), "unknown backbone 'resnet19'; did you mean"),
        ((*train, "--config", "/nowhere.yaml"), "no such file: /nowhere.yaml"),
        ((*train, "--recipe", "fats"), "unknown recipe 'fats'; did you mean 'fast'?"),
        ((*train, "--recipe", "fast", "--config", "x.yaml"), "exclude each other"),
        ((*train, "--workers", "many"), "'many' is not auto, a number or MIN:MAX"),
        ((*train, "--set", "freeze_epochs=99"), "freeze_epochs=99 is more than epochs="),
        ((*train, "--checkpoints", "/dev/null/x"), "checkpoints cannot be written to /dev/null/x"),
        (("evaluate", "/nowhere", "--data", images, "--out", out), "/nowhere is not a bundle"),
        (("predict", "/nowhere", images, "--out", "/dev/null/x.csv"), "/dev/null is a file"),
        (("versions", "--registry", tmp_path), "no version in"),
        (("serve", "--registry", tmp_path), "nothing was promoted as 'chest'"),
        ((SEARCH, "--data", "/nowhere", "--out", out), "no such folder: /nowhere"),
        ((SEARCH, "--space", "/nowhere.yaml", "--out", out), "no such file: /nowhere.yaml"),
        ((SEARCH, "--time-budget", "soon", "--out", out), "30m or 2h (--time-budget)"),
        ((SEARCH, "--objective", "acuracy", "--out", out), "did you mean 'accuracy'?"),
        ((SEARCH, "--objective", "size_mb", "--out", out), "the objective size_mb comes first"),
        ((SEARCH, "--storage", "nosql://x", "--out", out), "storage nosql://x cannot be used"),
    ]
    ends = all_at_once(arguments for arguments, _ in mistakes)
    for done, (_, sentence) in zip(ends, mistakes, strict=True):
        assert_one_sentence(done, sentence)
    assert not out.exists()


def test_mistakes_that_show_when_the_data_is_read(
    images: Path, one_class: Path, tmp_path: Path
) -> None:
    outs = [tmp_path / name for name in ("store", "run", "other")]
    broken = Path(shutil.copytree(one_class, tmp_path / "broken"))
    (broken / "Broken").mkdir()
    (broken / "Broken" / "x.png").write_text("nothing")
    mistakes = [
        (("prepare", one_class, "--out", outs[0]), "one class, 'Normal'"),
        (("train", "--data", broken, "--out", outs[1]), "class 'Broken' has no usable image"),
        (
            ("train", "--data", images, "--out", outs[2], "--workers", "64"),
            "too few for 64 workers",
        ),
    ]
    ends = all_at_once(arguments for arguments, _ in mistakes)
    for done, (_, sentence) in zip(ends, mistakes, strict=True):
        assert_one_sentence(done, sentence)
    assert ends[-1].stderr.endswith("or fewer (--workers)\n")
    assert not any(out.exists() for out in outs)


def test_a_changed_byte_is_found_by_every_reader(run: Path, images: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "bundle"
    subprocess.run(["cp", "-r", run / "bundle", damaged], check=True)
    weights = bytearray((damaged / "weights.safetensors").read_bytes())
    weights[len(weights) // 2] ^= 1
    (damaged / "weights.safetensors").write_bytes(weights)
    picture = next((images / "COVID" / "images").iterdir())
    readers = [
        ("evaluate", damaged, "--data", images, "--out", tmp_path / "report"),
        ("predict", damaged, picture, "--out", tmp_path / "out.csv"),
        ("explain", damaged, picture, "--out", tmp_path / "out.png"),
        ("promote", damaged, "--registry", tmp_path / "registry"),
        ("serve", damaged),
    ]
    for done in all_at_once(readers):
        assert_one_sentence(done, "weights.safetensors does not match its checksum")
    assert {path.name for path in tmp_path.iterdir()} == {"bundle"}


def test_a_command_leaves_no_process(images: Path, tmp_path: Path) -> None:
    # Every process inherits the mark in its environment, however it is started.
    mark = f"CTRAY_TEST_MARK={tmp_path}"
    command = [sys.executable, "-m", "ctray", "prepare", str(images), "--out", str(tmp_path / "s")]
    name, value = mark.split("=", 1)
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | {name: value}
    subprocess.run(command, check=True, env=environment, capture_output=True)
    left = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and mark.encode() in (entry / "environ").read_bytes():
                left.append((entry / "cmdline").read_bytes())
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    assert left == []


@pytest.mark.fast
def test_the_defaults_in_the_help_are_the_recipes() -> None:
    assert Recipe().backbone == "tf_efficientnet_lite0"
    assert "small_cnn" in ctray("train", "--help").stdout
