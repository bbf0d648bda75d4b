"""Versions of bundles on any filesystem URI; a pointer says which one is in production.

Layout: `REGISTRY/NAME/versions/1/<bundle files + registered.json>` and
`REGISTRY/NAME/production.json`. A version is never rewritten; the pointer is one small file.
"""

import difflib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from ctray import storage
from ctray.artefact import DEFAULT_NAME
from ctray.artefact.bundle import REGISTERED, Bundle, Registration, copy_bundle
from ctray.artefact.parts import is_bundle
from ctray.errors import UserError
from ctray.provenance import now

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Version:
    """One registered bundle."""

    name: str
    version: str
    uri: str
    backbone: str
    macro_f1: float
    promoted: str
    production: bool


def default_registry() -> str:
    """`$CTRAY_REGISTRY`, or a folder in the user's home."""
    return os.environ.get("CTRAY_REGISTRY", str(Path.home() / ".ctray" / "registry"))


def promote(bundle_uri: str, registry: str, name: str = DEFAULT_NAME) -> Version:
    """Copy a bundle into the registry as the next version of `name` and point production at it.

    Promoting the bundle that already is in production changes nothing.

    Raises:
        UserError: not a bundle, a damaged one, or a name that cannot be a folder.
    """
    if not _NAME.fullmatch(name):
        raise UserError(
            f"the name {name!r} may hold letters, digits, dot, dash and underscore only", "name"
        )
    bundle = Bundle.load(bundle_uri)
    for known in list_versions(registry, name):
        if known.production and Bundle.load(known.uri).digest == bundle.digest:
            return known
    taken = _numbers(registry, name)
    version = str(max(taken, default=0) + 1)
    target = storage.join(_versions(registry, name), version)
    entry = Registration(
        name=name,
        version=version,
        digest=bundle.digest,
        backbone=bundle.info.backbone,
        macro_f1=bundle.info.metrics["val_macro_f1"],
        promoted=now(),
    )
    storage.write_bytes(storage.join(target, REGISTERED), entry.sealed().model_dump_json().encode())
    copy_bundle(bundle_uri, target)
    storage.write_bytes(_pointer(registry, name), json.dumps({"version": version}).encode())
    return next(v for v in list_versions(registry, name) if v.version == version)


def list_versions(registry: str, name: str = DEFAULT_NAME) -> list[Version]:
    """All versions of a name, oldest first; empty when there are none."""
    current = _production(registry, name)
    found = []
    for number in _numbers(registry, name):
        version = str(number)
        uri = storage.join(_versions(registry, name), version)
        if not is_bundle(uri):
            continue  # a copy that was cut short
        entry = Registration.model_validate_json(storage.read_bytes(storage.join(uri, REGISTERED)))
        found.append(
            Version(
                name=name,
                version=version,
                uri=uri,
                backbone=entry.backbone,
                macro_f1=entry.macro_f1,
                promoted=entry.promoted,
                production=version == current,
            )
        )
    return found


def names(registry: str) -> list[str]:
    """Names of the registered models."""
    return storage.folders(registry)


def check_name(registry: str, name: str) -> None:
    """Raise UserError, with the names that there are, when nothing has this one."""
    known = names(registry)
    if name in known:
        return
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        hint = f"did you mean {near[0]!r}?"
    elif known:
        hint = "there are " + ", ".join(known)
    else:
        hint = "run `ctray promote BUNDLE`"
    arguments = ("name",) if known else ()
    raise UserError(f"nothing was promoted as {name!r} in {registry}: {hint}", *arguments)


def production(registry: str, name: str = DEFAULT_NAME) -> str:
    """URI of the bundle in production.

    Raises:
        UserError: nothing was promoted under that name.
    """
    check_name(registry, name)
    version = _production(registry, name)
    if version is None:
        raise UserError(
            f"nothing was promoted as {name!r} in {registry}: run `ctray promote BUNDLE` or name "
            "a bundle"
        )
    return storage.join(_versions(registry, name), version)


def _numbers(registry: str, name: str) -> list[int]:
    folders = storage.folders(_versions(registry, name))
    return sorted(int(folder) for folder in folders if folder.isdigit())


def _production(registry: str, name: str) -> str | None:
    pointer = _pointer(registry, name)
    if not storage.exists(pointer):
        return None
    return str(json.loads(storage.read_bytes(pointer))["version"])


def _pointer(registry: str, name: str) -> str:
    return storage.join(registry, name, "production.json")


def _versions(registry: str, name: str) -> str:
    return storage.join(registry, name, "versions")
