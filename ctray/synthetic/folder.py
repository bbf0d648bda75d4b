"""A folder of synthetic radiographs, as people keep real ones."""

import csv
from pathlib import Path

import cv2

from ctray.errors import UserError
from ctray.synthetic.canvas import Bytes
from ctray.synthetic.marker import SYNTHETIC_MARKER
from ctray.synthetic.phantom import CLASSES, PhantomSpec, draw


def write_folder(spec: PhantomSpec, out: Path) -> Path:
    """Write `spec.images_per_class` images of every class in the Kaggle layout.

    Writes `<class>/images/<name>.png` and `<class>/masks/<name>.png` (both 8-bit grey),
    `metadata.csv` (file, class, patient_id, source), `README.md`, and the file `SYNTHETIC`,
    by which other code can tell that this data is not from patients.

    Args:
        spec: what to draw.
        out: a folder that is empty or does not exist; parents are made.

    Returns:
        `out`.

    Raises:
        UserError: `out` is a file or a folder that holds something.
        OSError: an image could not be written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists and is not an empty folder; name a new one.")
    out.mkdir(parents=True, exist_ok=True)
    # First, so that even a folder left behind by an interrupted call says what it holds.
    (out / SYNTHETIC_MARKER).write_text("Synthetic images drawn by ctray.synthetic.phantom.\n")
    (out / "README.md").write_text(
        "These images are synthetic: drawn by ctray.synthetic.phantom, they show nobody "
        "and must not be mistaken for patients' radiographs.\n"
        f"Drawn with {spec} (seed {spec.seed}).\n"
    )
    rows = [row for label in CLASSES for row in _write_class(spec, label, out)]
    with (out / "metadata.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("file", "class", "patient_id", "source"))
        writer.writerows(rows)
    return out


def _write_class(spec: PhantomSpec, label: str, out: Path) -> list[tuple[str, str, str, str]]:
    """Write one class; return its metadata rows."""
    for kind in ("images", "masks"):
        (out / label / kind).mkdir(parents=True)
    rows = []
    for index in range(spec.images_per_class):
        drawn = draw(spec, label, index)
        file = f"{label}/images/{drawn.name}.png"
        _write_png(out / file, drawn.image)
        _write_png(out / label / "masks" / f"{drawn.name}.png", drawn.mask)
        rows.append((file, label, drawn.patient_id, f"synthetic scanner {drawn.scanner}"))
    return rows


def _write_png(path: Path, image: Bytes) -> None:
    done, encoded = cv2.imencode(".png", image)
    if not done:
        raise OSError(f"OpenCV could not encode {path}.")
    path.write_bytes(encoded.tobytes())
