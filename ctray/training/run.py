"""A run's folder: new, to be resumed, or finished already."""

import contextlib
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
from pydantic import ValidationError

from ctray import storage
from ctray.artefact.parts import BundleInfo, is_bundle
from ctray.config import Recipe
from ctray.data.store import Store, is_store
from ctray.errors import UserError
from ctray.provenance import versions
from ctray.training.plan import Plan

_BUNDLE, _CONFIG, _LOCK = "bundle", "config.json", ".lock"


def finished_bundle(out: Path, recipe: Recipe, data: Path) -> BundleInfo | None:
    """What the bundle that this run has written already says of itself; None without one.

    Raises:
        UserError: the folder holds a finished run of another recipe or on other data.
    """
    settings = _settings(out)
    if settings is None or not is_bundle(str(out / _BUNDLE)):
        return None
    from ctray.artefact.bundle import Bundle

    recorded = recorded_recipe(settings["recipe"])
    alike = recorded.as_resumed(recipe).model_copy(update={"refit_epochs": recorded.refit_epochs})
    difference = recipe.difference(alike)
    if not difference and settings["data"] != str(data.resolve()):
        difference = f"data {settings['data']}, not {data.resolve()}"
    if not difference and is_store(data):
        now = Store.open(data, columns=["split"]).fingerprint
        if now != settings["fingerprint"]:
            difference = f"an earlier version of {data}"
    if difference:
        raise UserError(
            f"{out} holds a finished run with {difference}: choose another folder", "out"
        )
    return Bundle.load(str(out / _BUNDLE)).info


@contextlib.contextmanager
def run_folder(
    out: Path, recipe: Recipe, data: Path, checkpoints: str, resume: bool
) -> Iterator[None]:
    """A run's folder for a block; if it fails before its first checkpoint, nothing is left.

    Args:
        out: the folder.
        recipe: of the run.
        data: as it was given.
        checkpoints: folder or URI of the run's checkpoints.
        resume: whether an unfinished run that is there is resumed.

    Raises:
        UserError: there is something else, or an unfinished run and `resume` is not set, or
            another training is at work there; or `checkpoints` cannot be written to.
    """
    begun = _settings(out) is not None
    if not resume and (begun or _has_checkpoints(checkpoints)):
        place, argument = (out, "out") if begun else (checkpoints, "checkpoints")
        raise UserError(
            f"{place} holds an unfinished run: resume it, or choose another folder",
            "resume",
            argument,
        )
    taken = f"another training is at work in {out}: wait for it, or choose another folder"
    is_ours = False

    def is_kept() -> bool:
        # What fails after the bundle must not cost hours of training.
        return not is_ours or is_bundle(str(out / _BUNDLE)) or _has_checkpoints(checkpoints)

    new = storage.new_folder(out, is_kept)
    # Two would delete each other's checkpoints.
    with (
        contextlib.nullcontext() if begun else new,
        storage.locked(out / _LOCK, taken, "out"),
    ):
        is_ours = True
        if not begun:
            # Before anything takes long: by this file a killed run is known as one.
            _write(out, _values(recipe) | {"data": str(data.resolve())})
        _check_writable(checkpoints)
        yield
        (out / _LOCK).unlink()


def write_config(out: Path, recipe: Recipe, store: Store, plan: Plan) -> str:
    """Complete `config.json`: what the run is made from; returns the run's id, kept in a resume."""
    more = {"store": str(store.root), "fingerprint": store.fingerprint, "plan": vars(plan)}
    settings = {"id": uuid.uuid4().hex} | (_settings(out) or {}) | _values(recipe) | more
    _write(out, settings | {"versions": versions()})
    return str(settings["id"])


def recorded_recipe(values: dict[str, Any]) -> Recipe:
    """A recipe as a run wrote it.

    Raises:
        UserError: this version of ctray has other settings.
    """
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise UserError(
            "the run was begun by another version of ctray: choose another folder", "out"
        ) from error


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
            f"checkpoints cannot be written to {uri}: {storage.cause(error)}; choose another place",
            "checkpoints",
        ) from error


def _values(recipe: Recipe) -> dict[str, Any]:
    return {"recipe": recipe.model_dump()}


def _write(out: Path, settings: dict[str, Any]) -> None:
    text = json.dumps(settings, indent=2) + "\n"
    storage.write_bytes(str(out / _CONFIG), text.encode())


def _has_checkpoints(checkpoints: str) -> bool:
    try:
        names = storage.files(checkpoints)
    except OSError as error:
        raise UserError(
            f"checkpoints cannot be read from {checkpoints}: {storage.cause(error)}; choose "
            "another place",
            "checkpoints",
        ) from error
    return any(name.startswith("step-") for name in names)


def _settings(out: Path) -> dict[str, Any] | None:
    file = out / _CONFIG
    return json.loads(file.read_text()) if file.is_file() else None
