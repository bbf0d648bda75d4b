"""The folder of a study: whose it is, what is drawn into it, and what of its trials is kept.

Called from the main thread of a command only, which holds the folder's lock; the workers of the
lanes write into the folders of their own trials (`checkpoints`, `bundle`), and nowhere else.
"""

import contextlib
import json
import shutil
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from ctray.storage import locked, new_folder, write_bytes
from ctray.synthetic.folder import write_folder
from ctray.synthetic.phantom import PhantomSpec
from tuning.objectives import OBJECTIVES, best_of, front
from tuning.study import Study
from tuning.subject import check_same

# What a search without data shows takes some minutes on two cores.
_EMBEDDED_IMAGES_PER_CLASS = 90
_SUBJECT, _LOCK = "study.json", ".lock"
_FIRST_FILES = {_LOCK, f"{_SUBJECT}.partial"}
_LATENCY = OBJECTIVES["latency_ms"]


@contextlib.contextmanager
def study_folder(out: Path, subject: dict[str, Any]) -> Iterator[str]:
    """The folder of a study for a block, new or to be resumed; yields the study's id.

    Raises:
        UserError: it is not a study's, it is a study's about something else, or another search is
            at work in it.
    """
    file = out / _SUBJECT
    if file.is_file():
        known = json.loads(file.read_text())
        check_same(f"{out} holds a study with", known, subject, "folder", "out")
        with _alone(out):
            yield known["id"]
        return
    study_id = uuid.uuid4().hex[:12]
    if (out / _LOCK).exists() and {path.name for path in out.iterdir()} <= _FIRST_FILES:
        # Of a search that was killed before it had written anything.
        with _alone(out):
            for name in _FIRST_FILES:
                (out / name).unlink(missing_ok=True)
    with new_folder(out, is_kept=lambda: (out / "trials").exists()), _alone(out):
        text = json.dumps({"id": study_id} | subject, indent=2) + "\n"
        write_bytes(str(file), text.encode())
        yield study_id


def embedded_data(out: Path, seed: int) -> Path:
    """The embedded synthetic images in the study's folder; drawn whole or not at all."""
    place, half = out / "data", out / "data.partial"
    if not place.exists():
        shutil.rmtree(half, ignore_errors=True)
        spec = PhantomSpec(images_per_class=_EMBEDDED_IMAGES_PER_CLASS, seed=seed)
        write_folder(spec, half).rename(place)
    return place


def tidy(study: Study, just_ended: int | None = None) -> None:
    """Delete what can matter no more: all but the front's bundles and cut trials' checkpoints.

    Args:
        study: whose trials they are.
        just_ended: number of the trial that ended now. Unset, the folders of trials that ended
            before are looked at, too; then no lane may be at work.
    """
    trials = study.memory.trials()
    primary = study.objectives[0]
    # The deployed model is chosen by the first objective and latency, whatever the others are.
    fronts = ((primary, _LATENCY), (*study.objectives, _LATENCY))
    keep = {trial.number for by in fronts for trial in front(trials, by)}
    best = best_of(trials, primary)
    if best is not None:
        keep.add(best.number)
    for trial in trials:
        folder = study.folder(trial.number)
        if trial.state == "finished":
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
            if trial.number not in keep:
                shutil.rmtree(folder, ignore_errors=True)
        elif trial.state != "stopped" and just_ended in (None, trial.number):
            shutil.rmtree(folder, ignore_errors=True)


def _alone(out: Path) -> AbstractContextManager[None]:
    """Hold the lock of a study."""
    sentence = f"another search is at work in {out}: wait for it, or choose another folder"
    return locked(out / _LOCK, sentence, "out")
