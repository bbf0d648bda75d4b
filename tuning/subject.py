"""What a study is about: a command that resumes it must give the same, and is told what differs."""

import json
from typing import Any, NamedTuple

from ctray.errors import UserError


class _Part(NamedTuple):
    """A part of the subject: what people call it, and the settings that it comes from."""

    words: str
    settings: tuple[str, ...]


_PARTS = {
    "data": _Part("data set", ("data",)),
    "fingerprint": _Part("content of its data set", ("data",)),
    "space": _Part("space", ("space",)),
    "base": _Part("recipe, number of epochs or seed", ("recipe", "max_epochs", "seed")),
    "objectives": _Part("objective", ("objective",)),
    "pruner": _Part("pruner", ("pruner",)),
    "owner": _Part("folder", ("out",)),
}


def as_json(subject: dict[str, Any]) -> dict[str, Any]:
    """A subject as JSON reads it: lists where there were tuples."""
    return json.loads(json.dumps(subject))


def check_same(
    whose: str, known: dict[str, Any], given: dict[str, Any], other: str, *settings: str
) -> None:
    """Compare the subject of a study with the one that is given.

    Args:
        whose: the beginning of a sentence, such as `the study 'x' has`.
        known: the study's.
        given: the command's; only its keys are compared.
        other: what else may be chosen otherwise, such as `folder`.
        settings: the settings of that.

    Raises:
        UserError: the first part that differs.
    """
    for key, value in as_json(given).items():
        if known.get(key) != value:
            part = _PARTS[key]
            raise UserError(
                f"{whose} another {part.words}: give it the same again, or choose another {other}",
                *dict.fromkeys((*part.settings, *settings)),
            )
