"""A search is set by options, by a file, or by both; the model is the one source of all of it."""

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from ctray.errors import UserError
from tuning.options import takes
from tuning.search import main
from tuning.settings import SearchSettings

pytestmark = pytest.mark.fast

# Everything but the default.
FILE = """
data: xrays
out: elsewhere
space: quick
trials: 3
max_epochs: 2
time_budget: 30m
recipe: default
objective: [accuracy, latency_ms]
latency_budget_ms: 20
choose: best
sampler: random
pruner: none
concurrency: 2
workers_per_trial: 2
gpus_per_trial: 0.5
storage: sqlite:///x.db
study_name: mine
warm_start: [earlier]
refit: true
promote: true
registry: here
name: lungs
seed: 7
verbose: true
"""


def given(*words: str) -> dict[str, Any]:
    """What the command hands on to its settings for these words."""
    heard: dict[str, Any] = {}
    program = typer.Typer()

    @program.command()
    @takes(SearchSettings, spelled={"verbose": ("--verbose", "-v")})
    def hear(config: Path | None = None, **options: Any) -> None:
        heard.update(options)

    result = CliRunner().invoke(program, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return heard


def test_every_field_is_an_option_and_every_option_a_field() -> None:
    options = inspect.signature(main).parameters
    assert set(options) == {"config", *SearchSettings.model_fields}
    program = typer.Typer(add_completion=False, rich_markup_mode=None)
    program.command()(main)
    shown = CliRunner().invoke(program, ["--help"], terminal_width=400).output
    entries = [" ".join(entry.split()) for entry in re.split(r"\n  (?=-)", shown)[1:]]
    helps = {re.findall(r"--([a-z-]+)", entry)[0].replace("-", "_"): entry for entry in entries}
    assert set(helps) == {"help", *options}
    for name, field in SearchSettings.model_fields.items():
        assert field.description
        assert " ".join(field.description.split()) in helps[name]
    assert "YAML file" in helps["config"]
    assert "[default: study]" in helps["out"]
    assert "[default: macro_f1]" in helps["objective"]
    assert "[x>=1]" in helps["trials"]
    assert "auto|tpe|gp|cmaes|random|grid" in helps["sampler"]
    assert "--refit / --no-refit" in helps["refit"]
    assert "-v, --verbose" in helps["verbose"]


def test_without_a_word_all_is_as_the_model_says() -> None:
    assert SearchSettings.load(None, given()) == SearchSettings()


def test_a_file_says_what_options_say(tmp_path: Path) -> None:
    (tmp_path / "search.yaml").write_text(FILE)
    by_file = SearchSettings.load(tmp_path / "search.yaml")
    words = (
        "--data xrays --out elsewhere --space quick --trials 3 --max-epochs 2 --time-budget 30m "
        "--recipe default --objective accuracy --objective latency_ms --latency-budget-ms 20 "
        "--choose best --sampler random --pruner none --concurrency 2 --workers-per-trial 2 "
        "--gpus-per-trial 0.5 --storage sqlite:///x.db --study-name mine --warm-start earlier "
        "--refit --promote --registry here --name lungs --seed 7 -v"
    )
    assert SearchSettings.load(None, given(*words.split())) == by_file
    unset = SearchSettings().model_dump()
    assert not [key for key, value in by_file.model_dump().items() if value == unset[key]]
    assert (by_file.time_budget_s, by_file.side_by_side) == (1800.0, 2)
    assert SearchSettings().time_budget_s is SearchSettings().side_by_side is None


def test_options_lie_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "search.yaml").write_text(FILE)
    words = ("--trials", "9", "--objective", "macro_f1", "--no-refit")
    both = SearchSettings.load(tmp_path / "search.yaml", given(*words))
    assert (both.trials, both.objective, both.refit, both.seed) == (9, ("macro_f1",), False, 7)


@pytest.mark.parametrize(
    ("text", "sentence", "arguments"),
    [
        ("trails: 3", "unknown setting 'trails'; did you mean 'trials'?", None),
        ("trials: 0", "trials=0: input should be greater than or equal to 1", ("trials",)),
        ("time_budget: 90", "'90' is not of the form 90s, 30m or 2h", ("time_budget",)),
        ("time_budget: 0s", "'0s' is not of the form 90s, 30m or 2h", ("time_budget",)),
        ("concurrency: many", "'many' is not auto or a number such as 4", ("concurrency",)),
        ("concurrency: 0", "0 is not auto or a number such as 4", ("concurrency",)),
        ("objective: [speed]", "unknown objective 'speed'", ("objective",)),
        ("objective: [loss, loss]", "the objective loss is given twice", ("objective",)),
        ("objective: [size_mb]", "the objective size_mb comes first", ("objective",)),
        (
            "objective: [loss]",
            "there is no interval for the objective loss: choose the best",
            ("objective", "choose"),
        ),
        ("choose: slowest", "choose='slowest': input should be 'fastest' or 'best'", ("choose",)),
    ],
)
def test_a_mistake_is_one_sentence(
    text: str, sentence: str, arguments: tuple[str, ...] | None, tmp_path: Path
) -> None:
    (tmp_path / "search.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        SearchSettings.load(tmp_path / "search.yaml")
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
    if arguments is not None:
        assert caught.value.arguments == arguments


def test_concurrency() -> None:
    known = [SearchSettings.load(None, {"concurrency": text}) for text in ("auto", "1", "12")]
    assert [one.side_by_side for one in known] == [None, 1, 12]
    for text in ("0", "many", "-1", "1.5"):
        with pytest.raises(UserError, match="is not auto or a number") as caught:
            SearchSettings.load(None, {"concurrency": text})
        assert caught.value.arguments == ("concurrency",)


def test_durations() -> None:
    known = [SearchSettings(time_budget=text).time_budget_s for text in ("90s", "30m", "1.5h")]
    assert known == [90, 1800, 5400]
    for text in ("30", "0m", "soon", "-3m"):
        with pytest.raises(UserError, match="the time budget") as caught:
            SearchSettings(time_budget=text)
        assert caught.value.arguments == ("time_budget",)


def test_a_loss_is_chosen_by_the_best() -> None:
    assert SearchSettings(objective=("loss",), choose="best").choose == "best"
