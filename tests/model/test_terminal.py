"""The lines of a run go where they are sent, also when a bar is drawn elsewhere."""

import os
import pty
import subprocess
import sys

import pytest

pytestmark = pytest.mark.fast

_SAYS = """
from rich.console import Console
from ctray.training.terminal import Terminal
with Terminal(Console(stderr=True)) as terminal:
    terminal.progress(1, 10)
    for number in range(3):
        terminal.say(f"line {number} {'x' * 90}")
"""


def test_lines_reach_the_pipe_when_only_stderr_is_a_terminal() -> None:
    ours, theirs = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-c", _SAYS], stdout=subprocess.PIPE, stderr=theirs, text=True, check=True
    )
    os.close(theirs)
    os.close(ours)
    assert done.stdout.count("\n") == 3
    assert done.stdout.endswith(f"line 2 {'x' * 90}\n")


@pytest.mark.parametrize("both", [False, True])
def test_a_run_continues_when_nobody_reads_it(both: bool) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    errors = theirs if both else subprocess.PIPE
    done = subprocess.run(
        [sys.executable, "-c", _SAYS], stdout=theirs, stderr=errors, text=True, check=False
    )
    os.close(theirs)
    assert done.returncode == 0, done.stderr
    assert both or done.stderr == "warning: Broken pipe: the run continues unseen\n"
