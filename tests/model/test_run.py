"""A run's folder: one training at a time."""

from pathlib import Path

import pytest

from ctray.config import Recipe
from ctray.errors import UserError
from ctray.training.run import run_folder

pytestmark = pytest.mark.fast


def test_a_second_training_in_the_folder_is_refused(tmp_path: Path) -> None:
    out, checkpoints = tmp_path / "run", str(tmp_path / "run" / "checkpoints")
    with run_folder(out, Recipe(), tmp_path, checkpoints, resume=False):
        before = sorted(out.rglob("*"))
        with (
            pytest.raises(UserError, match=f"another training is at work in {out}: wait") as caught,
            run_folder(out, Recipe(), tmp_path, checkpoints, resume=True),
        ):
            pytest.fail("two trainings would delete each other's checkpoints")
        assert caught.value.arguments == ("out",)
        assert sorted(out.rglob("*")) == before, "what the first has written stays"
