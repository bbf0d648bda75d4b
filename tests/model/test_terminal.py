"""The lines of a run go where they are sent, also when a bar is drawn elsewhere."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from ctray.config import Recipe
from ctray.training.run import run_folder

pytestmark = pytest.mark.fast

_SAYS = """
from rich.console import Console
from ctray.training.terminal import Terminal
with Terminal(Console(stderr=True)) as terminal:
    terminal.progress(1, 10)
    for number in range(1000):
        terminal.say(f"line {number} {'x' * 90}")
"""


def test_lines_reach_the_pipe_when_only_stderr_is_a_terminal() -> None:
    ours, theirs = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-c", _SAYS], stdout=subprocess.PIPE, stderr=theirs, text=True, check=True
    )
    os.close(theirs)
    os.close(ours)
    assert done.stdout.count("\n") == 1000
    assert done.stdout.endswith(f"line 999 {'x' * 90}\n")


def test_a_run_goes_on_when_nobody_reads_it() -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    done = subprocess.run(
        [sys.executable, "-c", _SAYS], stdout=theirs, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(theirs)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "warning: Broken pipe: the run goes on unseen\n"


def test_a_resume_leaves_the_record_of_the_recipe(tmp_path: Path) -> None:
    out, checkpoints = tmp_path / "run", tmp_path / "run" / "checkpoints"
    with run_folder(out, Recipe(), tmp_path, str(checkpoints), resume=False):
        (checkpoints / "step-000000001-0123456789abcdef.safetensors").write_bytes(b"")
    before = (out / "config.json").read_bytes()
    with run_folder(out, Recipe(lr=0.1), tmp_path, str(checkpoints), resume=True):
        pass
    assert (out / "config.json").read_bytes() == before
