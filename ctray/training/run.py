"""A run's folder: new, to be resumed, or finished already."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from ctray import storage
from ctray.config import Recipe
from ctray.data.store import Store
from ctray.errors import UserError
from ctray.training.plan import Plan

_BUNDLE, _CONFIG, _STORE = "bundle", "config.json", "store"


def finished_metrics(out: Path, recipe: Recipe, data: Path) -> dict[str, float] | None:
    """The metrics of the bundle that this run has written already; None when it has not.

    Raises:
        UserError: the folder holds a finished run of another recipe or on other data.
    """
    settings = _settings(out)
    if settings is None or not (out / _BUNDLE / storage.SUMS).is_file():
        return None
    from ctray.bundle import Bundle

    difference = recipe.difference(Recipe.model_validate(settings["recipe"]))
    if not difference and settings["data"] != str(data.resolve()):
        difference = f"data {settings['data']}, not {data.resolve()}"
    if difference:
        raise UserError(
            f"--out {out} holds a finished run with {difference}: choose another folder"
        )
    return Bundle.load(str(out / _BUNDLE)).info.metrics


@contextlib.contextmanager
def run_folder(out: Path, checkpoints: str, resume: bool) -> Iterator[None]:
    """A run's folder for a block; if it fails before its first checkpoint, nothing is left.

    Args:
        out: the folder.
        checkpoints: folder or URI of the run's checkpoints.
        resume: go on with the unfinished run that is there.

    Raises:
        UserError: there is something else, or an unfinished run and `resume` is not set; or
            `checkpoints` cannot be written to.
    """
    begun = _settings(out) is not None
    if not resume and (begun or _any(checkpoints)):
        place = f"--out {out}" if begun else checkpoints
        raise UserError(
            f"{place} holds an unfinished run: add --resume to go on with it, or choose another "
            "folder"
        )
    with contextlib.nullcontext() if begun else storage.new_folder(out):
        _check_writable(checkpoints)
        yield


def write_config(out: Path, recipe: Recipe, data: Path, store: Store, plan: Plan) -> None:
    """Write `config.json`: what the run is made from."""
    from ctray.bundle import versions

    settings = {
        "recipe": recipe.model_dump(),
        "data": str(data.resolve()),
        "store": str(store.root),
        "fingerprint": store.fingerprint,
        "plan": vars(plan),
        "versions": versions(),
    }
    (out / _CONFIG).write_text(json.dumps(settings, indent=2) + "\n")


def start_of_process() -> float:
    """When this process began, in seconds since the epoch."""
    return psutil.Process().create_time()


def _check_writable(uri: str) -> None:
    probe = storage.join(uri, "writable")
    try:
        storage.write_bytes(probe, b"")
        storage.delete(probe)
    except OSError as error:
        raise UserError(
            f"checkpoints cannot be written to {uri}: {storage.cause(error)}; name another place "
            "with --checkpoints"
        ) from error


def _any(checkpoints: str) -> bool:
    try:
        names = storage.files(checkpoints)
    except OSError as error:
        raise UserError(
            f"checkpoints cannot be read from {checkpoints}: {storage.cause(error)}; name another "
            "place with --checkpoints"
        ) from error
    return any(name.startswith("step-") for name in names)


def _settings(out: Path) -> dict[str, Any] | None:
    file = out / _CONFIG
    return json.loads(file.read_text()) if file.is_file() else None
