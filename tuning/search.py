"""`python -m tuning.search`: the search's command line."""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ctray.console import promote_and_print, run_cli
from tuning.options import takes
from tuning.settings import SearchSettings

# Ray and Optuna wait inside `main`: `--help` and mistakes in a setting answer at once.

# Options of this command for what the library calls otherwise.
OTHER_NAMES = {
    "workers": ("workers_per_trial",),
    "runs": ("concurrency",),
    "gpu_share": ("gpus_per_trial",),
    "epochs": ("max_epochs",),
    "checkpoints": ("out",),
}


@takes(SearchSettings, spelled={"verbose": ("--verbose", "-v")})
def main(
    config: Annotated[
        Path | None, typer.Option(help="YAML file of these settings; options lie over it.")
    ] = None,
    **given: Any,
) -> None:
    """Search backbone, augmentation and training; keep the model one would deploy.

    The same command resumes a study that was stopped or killed.

    Example: python -m tuning.search --data xrays --trials 20 --max-epochs 8 --time-budget 2h
    """
    settings = SearchSettings.load(config, given)
    from tuning.command import search
    from tuning.memory import shown

    command = "python -m tuning.search " + shlex.join(map(shown, sys.argv[1:]))
    bundle = search(settings, command)
    if settings.promote:
        promote_and_print(str(bundle), settings.registry, settings.name)


if __name__ == "__main__":
    run_cli(main, OTHER_NAMES)
