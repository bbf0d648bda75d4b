"""A person at a terminal sees one table of the trials; a pipe gets a line an event."""

import io

import pytest
from rich.console import Console

from tuning.board import Board
from tuning.objectives import OBJECTIVES
from tuning.trials import Trial

pytestmark = pytest.mark.fast

ROW = {
    "epoch": 1.0,
    "val_macro_f1": 0.8123,
    "image_size": 192,
    "val_accuracy": 0.8,
    "val_loss": 0.5,
    "seconds": 41.0,
    "images_per_s": 40.5,
}
FAILED = "its process died twice: [Errno 12] no memory"


def follow(console: Console) -> None:
    """A study of three trials, one of each fate."""
    with Board(console, OBJECTIVES["macro_f1"], epochs=8) as board:
        for number in range(3):
            board.begin(number, {"lr": 0.00123456, "backbone": "small_cnn"})
        board.row(0, ROW)
        board.row(1, ROW | {"val_macro_f1": 0.7})
        board.resume(0, 52)
        board.end(Trial(1, "pruned", "behind", {}, (ROW,), 0.0, 41.0, latency_ms=3.14))
        board.end(Trial(2, "failed", FAILED, {}, (), 0.0, 2.0))


def test_a_terminal_gets_a_table_of_all_trials_and_the_best_so_far() -> None:
    screen = io.StringIO()
    follow(Console(file=screen, force_terminal=True, width=160, color_system=None))
    # After the table the last event, and the line that shows the cursor again.
    *last, event, _ = screen.getvalue().splitlines()[-5:]
    rows = {line.split()[0]: line for line in last}
    assert event.startswith("trial 2: failed")
    assert "running, from step 52" in rows["0"]
    assert rows["0"].split()[-2:] == ["lr=0.00123", "backbone=small_cnn"]
    # Its own score, and the best until then.
    assert rows["1"].split()[1:7] == ["pruned", "1/8", "0.7000", "0.8123", "3.1", "41"]
    assert "41  behind: lr=0.00123" in rows["1"]
    # Brackets are not taken for markup.
    assert FAILED in rows["2"]


def test_a_small_terminal_shows_the_last_trials_a_line_each() -> None:
    screen = io.StringIO()
    small = Console(file=screen, force_terminal=True, width=80, height=12, color_system=None)
    many = {f"augment.{name}": 0.123 for name in ("rotate", "scale", "shift", "noise", "blur")}
    with Board(small, OBJECTIVES["macro_f1"], epochs=8) as board:
        for number in range(9):
            board.begin(number, many)
            board.row(number, ROW)
    *_, event, _ = lines = screen.getvalue().splitlines()
    assert event.startswith("trial 8: epoch 1 of 8")
    assert [line.split()[0] for line in lines[-8:-2]] == ["3", "4", "5", "6", "7", "8"]


def test_a_pipe_gets_lines(capsys: pytest.CaptureFixture[str]) -> None:
    follow(Console(file=io.StringIO(), force_terminal=False))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "trial 0: begins  lr=0.00123 backbone=small_cnn"
    assert "trial 0: epoch 1 of 8, macro-F1 0.8123, 40.5 images/s" in lines
    assert "trial 0: resumed from step 52" in lines
    assert lines[-2] == "trial 1: pruned (behind), macro-F1 0.8123, 3.1 ms, 1 epochs, 41 s"
    assert lines[-1] == f"trial 2: failed ({FAILED}), no evaluation, 0 epochs, 2 s"
