"""Synthetic chest radiographs: the data that ships with ctray.

Nothing here comes from a patient. Every picture is drawn: body, lungs, heart, ribs, vessels and,
for three of the four reference classes, a finding whose extent is known exactly (the mask).
Structures are summed as X-ray attenuation in unit coordinates (x to the right, y down, both 0..1
over the image; the patient's left is on the right), then a simulated scanner turns the sum into
8-bit grey levels.

The classes overlap on purpose: findings reach from obvious to nearly invisible, a COVID pattern
may be much weaker on one side, viral reticulation resembles busy vessels, and every class has
normal structures (breasts, prominent hila, scars, leads) that mimic a finding.

Random numbers come from named streams keyed by (seed, class, stream, number), so that an image
depends on nothing but its own index: not on how many are drawn, nor on their order, and drawing
without the finding leaves every other pixel as it was.
"""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ctray.errors import UserError

CLASSES: tuple[str, ...] = ("COVID", "Lung_Opacity", "Normal", "Viral Pneumonia")
SHORTCUTS: tuple[str, ...] = ("none", "marker", "tone")
MARKER_FILE = "SYNTHETIC"

Array = NDArray[np.floating]  # float32 all through
Bytes = NDArray[np.uint8]
Numbers = NDArray[np.float64]
Points = NDArray[np.float64]  # (..., 2): x and y in unit coordinates

_STREAMS = (
    *("patients", "anatomy", "vessels", "finding", "progress"),
    *("pose", "extras", "noise", "shortcut"),
)
_BLOCK = 8
# Every way here sums to _BLOCK, so that an index alone says which patient it belongs to.
_IMAGES_A_PATIENT = ((1, 2, 1, 4), (3, 2, 3), (4, 3, 1), (2, 1, 2, 3), (1, 3, 4), (2, 2, 4))
_SUBPIXEL_BITS = 4
_TURN = np.linspace(0, 2 * np.pi, 32, endpoint=False)  # the corners of a round outline
_BROAD, _FINE = 5, 32  # bumps of the smooth random fields across an image
_TONE_LEVELS = 4096  # the scanners digitise to 12 bits before their tone curve
_FAINT_SHARE = 0.04  # of the patients: a reader would miss most of these findings
_MASK_LEVEL = 0.35  # share of a finding's full extent from which a pixel counts as the finding


@dataclass(frozen=True)
class PhantomSpec:
    """What to draw.

    Attributes:
        images_per_class: images of each class that `write_folder` writes, at least 1.
        size: side of the square images in pixels, 64 to 1024.
        seed: at least 0; another seed gives other patients.
        shortcut: a planted artefact: "none"; "marker" (a bright block with a letter in the lower
            left corner); "tone" (a darker, compressed tone curve, which histogram equalisation
            all but undoes).
        shortcut_class: the class that carries the artefact; the others never do.
        shortcut_strength: probability, 0 to 1, that an image of that class carries it.

    Raises:
        UserError: a value is outside its range.
    """

    images_per_class: int = 150
    size: int = 256
    seed: int = 0
    shortcut: str = "none"
    shortcut_class: str = "COVID"
    shortcut_strength: float = 1.0

    def __post_init__(self) -> None:
        if self.images_per_class < 1:
            raise UserError(f"images_per_class is {self.images_per_class}; give 1 or more.")
        if not 64 <= self.size <= 1024:
            raise UserError(f"size is {self.size}; give a size of 64 to 1024 pixels.")
        if self.seed < 0:
            raise UserError(f"seed is {self.seed}; give 0 or more.")
        if self.shortcut not in SHORTCUTS:
            raise UserError(f"shortcut is {self.shortcut!r}; give one of {', '.join(SHORTCUTS)}.")
        if self.shortcut_class not in CLASSES:
            known = ", ".join(CLASSES)
            raise UserError(f"shortcut_class is {self.shortcut_class!r}; give one of {known}.")
        if not 0.0 <= self.shortcut_strength <= 1.0:
            raise UserError(f"shortcut_strength is {self.shortcut_strength}; give 0 to 1.")


@dataclass(frozen=True)
class PhantomImage:
    """One synthetic radiograph.

    Attributes:
        image: uint8 (size, size), dense structures bright.
        mask: uint8 (size, size), 255 where the finding is, else 0; all 0 for "Normal".
        label: one of `CLASSES`.
        patient_id: shared by the images of one synthetic patient; a patient has one label.
        scanner: "A" or "B".
        name: file stem, unique within a seed.
    """

    image: Bytes
    mask: Bytes
    label: str
    patient_id: str
    scanner: str
    name: str


def draw(spec: PhantomSpec, label: str, index: int, *, with_finding: bool = True) -> PhantomImage:
    """Draw image number `index` of a class.

    The pixels depend on (seed, size, shortcut settings, label, index) alone.

    Args:
        spec: what to draw; `images_per_class` plays no part here.
        label: one of `CLASSES`.
        index: 0 or more.
        with_finding: False draws the same picture of the same patient, noise included, without
            the finding and with an empty mask.

    Raises:
        UserError: unknown label or negative index.
    """
    if label not in CLASSES:
        raise UserError(f"label is {label!r}; give one of {', '.join(CLASSES)}.")
    if index < 0:
        raise UserError(f"index is {index}; give 0 or more.")
    streams = _Streams(spec.seed, CLASSES.index(label))
    patient, scanner = _assign(streams, index)
    pose = streams.open("pose", index)
    canvas = _Canvas(spec.size, pose)
    anatomy = _sample_anatomy(streams.open("anatomy", patient), breath=pose.uniform(-0.02, 0.02))

    heart = canvas.soften(canvas.fill(_heart_shapes(anatomy), canvas.coarse()), 0.008)
    air = _draw_lungs(canvas, anatomy, heart)
    attenuation = _draw_body(canvas, anatomy, heart, air)
    attenuation += _draw_bones(canvas, anatomy)
    attenuation += _draw_vessels(canvas, anatomy, streams.open("vessels", patient)) * air
    extras = streams.open("extras", index)
    attenuation += _draw_mimics(canvas, anatomy, extras, air)
    mask = np.zeros((spec.size, spec.size), np.uint8)
    if with_finding and label in _FINDINGS:
        change = _progress(streams, index)
        extent, added = _FINDINGS[label](canvas, anatomy, streams.open("finding", patient))
        attenuation += added * air * change
        mask[extent * air > _MASK_LEVEL] = 255

    planted = spec.shortcut if _is_planted(spec, streams, label, index) else "none"
    image = _expose(attenuation, scanner, planted == "tone", streams.open("noise", index))
    _stamp_side_letter(image, extras)
    if planted == "marker":
        _stamp_marker(image)
    return PhantomImage(
        image=image,
        mask=mask,
        label=label,
        patient_id=f"synthetic-{label.replace(' ', '_')}-{patient:05d}",
        scanner=scanner,
        name=f"{label}-{index:05d}",
    )


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
    (out / MARKER_FILE).write_text("Synthetic images drawn by ctray.synthetic.phantom.\n")
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


# --- who is in the picture -----------------------------------------------------------------


@dataclass(frozen=True)
class _Streams:
    """Independent random streams of one class under one seed."""

    seed: int
    label_number: int

    def open(self, name: str, number: int) -> np.random.Generator:
        seed = (self.seed, self.label_number, _STREAMS.index(name), number)
        return np.random.Generator(np.random.SFC64(seed))


def _assign(streams: _Streams, index: int) -> tuple[int, str]:
    """Patient number and scanner of an image.

    Indices come in blocks; each block is cut into patients of 1 to 4 images and half of it goes
    to each scanner, so neither depends on how many images are drawn, and the scanner is balanced
    in every class.
    """
    block, place = divmod(index, _BLOCK)
    rng = streams.open("patients", block)
    counts = _IMAGES_A_PATIENT[rng.integers(len(_IMAGES_A_PATIENT))]
    scanners = rng.permutation(list("AB" * (_BLOCK // 2)))
    within = int(np.searchsorted(np.cumsum(counts), place, side="right"))
    return block * _BLOCK + within, str(scanners[place])


def _progress(streams: _Streams, index: int) -> float:
    """How much stronger or weaker the patient's finding is on this image."""
    return float(streams.open("progress", index).uniform(0.85, 1.15))


def _is_planted(spec: PhantomSpec, streams: _Streams, label: str, index: int) -> bool:
    if label != spec.shortcut_class:
        return False
    return bool(streams.open("shortcut", index).random() < spec.shortcut_strength)


@dataclass(frozen=True)
class _Anatomy:
    """One patient's build, in unit coordinates; `side` is -1 (image left) or +1 everywhere."""

    apex_x: float
    apex_y: float
    base_y: float
    half_width: float
    arm: float
    medial_x: float
    dome: float
    left_drop: float
    heart: float
    heart_x: float
    spine: float
    rib_pitch: float
    rib_drop: float
    rib_contrast: float
    clavicle_y: float
    clavicle_tilt: float
    thickness: float
    breasts: float
    breast_y: float
    vessels: float
    hila: float
    stomach_gas: float

    def lung_point(
        self, side: int | Numbers, down: float | Numbers, outward: float | Numbers
    ) -> Points:
        """Points (..., 2) a share `down` from apex to base, `outward` from mediastinum to wall."""
        x = self.medial_x + (self.lateral(down) - self.medial_x) * outward
        y = self.apex_y + (self.base_y - self.apex_y) * np.asarray(down)
        return np.stack([0.5 + side * x, y], axis=-1)

    def lateral(self, down: float | Numbers) -> Numbers:
        """Distance of the chest wall from the midline, `down` from apex (0) to base (1)."""
        return self.apex_x + (self.half_width - self.apex_x) * np.sqrt(1 - np.square(1 - down))

    def base(self, side: int) -> float:
        """Height of the costophrenic angle; the left diaphragm lies lower."""
        return self.base_y + (self.left_drop if side > 0 else 0.0)


def _sample_anatomy(rng: np.random.Generator, breath: float) -> _Anatomy:
    """Draw a patient; `breath` lowers the diaphragm of this image, in unit coordinates."""
    uniform = rng.uniform
    return _Anatomy(
        apex_x=uniform(0.085, 0.115),
        apex_y=uniform(0.09, 0.15),
        base_y=uniform(0.76, 0.86) + breath,
        half_width=uniform(0.32, 0.385),
        arm=uniform(0.42, 0.75),
        medial_x=uniform(0.03, 0.045),
        dome=uniform(0.07, 0.12),
        left_drop=uniform(0.0, 0.025),
        heart=uniform(0.85, 1.25),
        heart_x=uniform(-0.015, 0.02),
        spine=uniform(0.032, 0.042),
        rib_pitch=uniform(0.068, 0.082),
        rib_drop=uniform(0.05, 0.11),
        rib_contrast=uniform(0.4, 1.0),
        clavicle_y=uniform(0.11, 0.15),
        clavicle_tilt=uniform(0.01, 0.07),
        thickness=uniform(0.0, 1.0),
        breasts=float(rng.random() < 0.4) * uniform(0.4, 1.0),
        breast_y=uniform(0.58, 0.68),
        vessels=uniform(0.5, 1.4),
        hila=uniform(0.4, 1.3),
        stomach_gas=float(rng.random() < 0.5) * uniform(0.5, 1.0),
    )


# --- drawing in unit coordinates -------------------------------------------------------------


@lru_cache(maxsize=4)
def _grid(size: int) -> tuple[Array, Array]:
    """Unit y of every pixel, and the depth of the trunk there (1 at the midline); (size, size)."""
    line = ((np.arange(size) + 0.5) / size).astype(np.float32)
    x, y = np.meshgrid(line, line)
    return y, 1 - np.square((x - 0.5) * 1.7)


@lru_cache(maxsize=8)
def _cloud_tile(size: int, cells: int) -> Array:
    """Smooth random field, about standard normal, (2 size, 2 size), `cells` bumps a size."""
    coarse = np.random.default_rng(cells).standard_normal((2 * cells, 2 * cells), np.float32)
    return _resize(coarse, 2 * size, cv2.INTER_CUBIC)


def _resize(field: Array, side: int, kind: int) -> Array:
    return np.asarray(cv2.resize(field, (side, side), interpolation=kind), np.float32)


def _blur(field: Array, sigma: float) -> Array:
    """Gaussian blur, `sigma` in pixels."""
    return np.asarray(cv2.GaussianBlur(field, (0, 0), sigma), np.float32)


class _Canvas:
    """Draws shapes given in unit coordinates, seen from this image's position of the patient.

    Shapes go on uint8 layers: full ones (size, size) for fine lines, and coarse ones of half the
    side for what is blurred anyway, at a quarter of the time.
    """

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        self.size = size
        angle, scale = np.deg2rad(rng.uniform(-3.0, 3.0)), rng.uniform(0.94, 1.08)
        cos, sin = scale * np.cos(angle), scale * np.sin(angle)
        self._turn = np.array([[cos, sin], [-sin, cos]])
        self._shift = 0.5 + rng.uniform(-0.03, 0.03, 2)

    def full(self) -> Bytes:
        return np.zeros((self.size, self.size), np.uint8)

    def coarse(self) -> Bytes:
        return np.zeros((self.size // 2, self.size // 2), np.uint8)

    def fill(self, shapes: Sequence[Points], layer: Bytes, value: int = 255) -> Bytes:
        """Fill polygons, each (points, 2), on `layer`."""
        for shape in shapes:
            pixels = self._pixels(shape, layer)
            cv2.fillPoly(layer, [pixels], value, cv2.LINE_8, _SUBPIXEL_BITS)
        return layer

    def stroke(self, lines: Points, width: float, layer: Bytes, value: int = 255) -> Bytes:
        """Draw polylines (lines, points, 2), `width` in unit coordinates, on `layer`."""
        thickness = max(1, round(width * layer.shape[0]))
        pixels = list(self._pixels(lines, layer))
        # Smoothing a wide line costs more than all else here, and every layer is blurred anyway.
        kind = cv2.LINE_AA if thickness == 1 else cv2.LINE_8
        cv2.polylines(layer, pixels, False, value, thickness, kind, _SUBPIXEL_BITS)
        return layer

    def soften(self, layer: Bytes, sigma: float) -> Array:
        """Blur by `sigma` (unit coordinates); float32 0..1 (size, size)."""
        # In floats: OpenCV blurs them in less than half the time that it takes for bytes.
        field = np.multiply(layer, 1 / 255, dtype=np.float32)
        field = _blur(field, max(0.5, sigma * layer.shape[0]))
        return field if len(layer) == self.size else _resize(field, self.size, cv2.INTER_LINEAR)

    def cloud(self, rng: np.random.Generator, cells: int) -> Array:
        """A random cut of a smooth random field, about standard normal, (size, size)."""
        top, left = rng.integers(0, self.size, 2)
        return _cloud_tile(self.size, cells)[top : top + self.size, left : left + self.size]

    def _pixels(self, points: Points, layer: Bytes) -> NDArray[np.int32]:
        placed = (points - 0.5) @ self._turn + self._shift
        # Pixel centres lie at half a pixel in unit coordinates, at whole numbers in OpenCV.
        scaled = (placed * layer.shape[0] - 0.5) * (1 << _SUBPIXEL_BITS)
        return np.rint(scaled).astype(np.int32)


def _curve(x: Numbers, y: Numbers) -> Points:
    return np.stack([x, y], axis=-1)


def _ellipse(x: float, y: float, rx: float, ry: float, tilt: float = 0.0) -> Points:
    """Ellipse outline, (32, 2); `tilt` in radians."""
    return _place(x, y, rx * np.cos(_TURN), ry * np.sin(_TURN), tilt)


def _random_blob(rng: np.random.Generator, x: float, y: float, rx: float, ry: float) -> Points:
    """Outline of an irregular patch, (32, 2): an ellipse with a radius that swings."""
    waves, phases = rng.normal(0, 0.08, (4, 1)), rng.uniform(0, 2 * np.pi, (4, 1))
    radius = 1 + (waves * np.cos(np.arange(2, 6)[:, None] * _TURN + phases)).sum(axis=0)
    along, across = rx * radius * np.cos(_TURN), ry * radius * np.sin(_TURN)
    return _place(x, y, along, across, rng.uniform(-0.5, 0.5))


def _place(x: float, y: float, along: Numbers, across: Numbers, tilt: float) -> Points:
    cos, sin = np.cos(tilt), np.sin(tilt)
    return _curve(x + along * cos - across * sin, y + along * sin + across * cos)


# --- the normal chest ------------------------------------------------------------------------


def _lung_outline(anatomy: _Anatomy, side: int) -> Points:
    """Outline of one lung: down the chest wall, along the diaphragm, up the mediastinum."""
    base = anatomy.base(side)
    down = np.linspace(0, 1, 16) ** 1.5
    wall_x = anatomy.lateral(down)
    wall_y = anatomy.apex_y + (base - anatomy.apex_y) * down
    inward = np.linspace(0, 1, 14)[1:]
    dome_x = anatomy.half_width + (anatomy.medial_x - anatomy.half_width) * inward
    dome_y = base - anatomy.dome * np.sin(np.pi * inward * 0.93) ** 0.7 - 0.02 * inward
    x = np.concatenate([wall_x, dome_x, [anatomy.medial_x, anatomy.medial_x + 0.02]])
    y = np.concatenate([wall_y, dome_y, [anatomy.apex_y + 0.08, anatomy.apex_y + 0.01]])
    return _curve(0.5 + side * x, y)


def _heart_shapes(anatomy: _Anatomy) -> list[Points]:
    """Heart, great vessels and aortic knob; the apex points to the patient's left."""
    size, x = anatomy.heart, 0.5 + anatomy.heart_x
    y = anatomy.base_y - 0.17
    vessels = np.array(
        [[-0.04, 0.05], [0.04, 0.05], [0.062, 0.3], [0.075, y], [-0.07, y], [-0.055, 0.3]]
    )
    return [
        _ellipse(x + 0.05 * size, y, 0.15 * size, 0.105 * size, 0.6),
        _ellipse(x - 0.025 * size, y - 0.005, 0.075 * size, 0.11 * size),
        _ellipse(x + 0.052, anatomy.apex_y + 0.22, 0.03, 0.036),
        vessels + np.array([x, 0.0]),
    ]


def _draw_lungs(canvas: _Canvas, anatomy: _Anatomy, heart: Array) -> Array:
    """How much aerated lung lies behind each pixel, float32 0..1."""
    lungs = canvas.fill([_lung_outline(anatomy, side) for side in (-1, 1)], canvas.full())
    return canvas.soften(lungs, 0.006) * (1 - 0.8 * heart)


def _draw_body(canvas: _Canvas, anatomy: _Anatomy, heart: Array, air: Array) -> Array:
    """Soft tissue of trunk, arms, heart and abdomen, hollowed by the lungs."""
    y, depth = _grid(canvas.size)
    body = canvas.soften(canvas.fill([_trunk_outline(anatomy)], canvas.coarse()), 0.02)
    below = canvas.soften(canvas.fill([_abdomen_outline(anatomy)], canvas.coarse()), 0.01)
    thick = anatomy.thickness
    tissue = 0.2 * depth + (0.34 + 0.05 * thick)
    tissue += below * (0.17 + 0.08 * thick)
    tissue += heart * (1 - below) * 0.14
    tissue *= body
    hollow = 0.3 * depth - 0.1 * y + 0.62
    hollow *= air
    return tissue - hollow * (0.42 - 0.07 * thick)


def _trunk_outline(anatomy: _Anatomy) -> Points:
    """Neck, sloping shoulders, raised arms and flanks; leaves the image at the bottom."""
    wall, arm = anatomy.half_width, anatomy.arm
    x = np.array([0.09, 0.09, 0.12, 0.28, wall + 0.06, wall + 0.12, 0.65, 0.65, wall + 0.10])
    y = np.array([-0.2, -0.02, 0.04, 0.09, 0.13, 0.2, 0.33, arm, arm - 0.09])
    flank_x, flank_y = [wall + 0.065, wall + 0.06, wall + 0.08], [arm + 0.02, 0.8, 1.25]
    x, y = np.concatenate([x, flank_x]), np.concatenate([y, flank_y])
    return np.concatenate([_curve(0.5 + x, y), _curve(0.5 - x, y)[::-1]])


def _abdomen_outline(anatomy: _Anatomy) -> Points:
    """Everything under the two domes of the diaphragm."""
    parts = []
    for side in (-1, 1):
        inward = np.linspace(0, 1, 12)
        x = anatomy.half_width * (1.15 - 1.15 * inward)
        rise = anatomy.dome * np.sin(np.pi * inward * 0.93) ** 0.7 + 0.02 * inward
        part = _curve(0.5 + side * x, anatomy.base(side) - rise)
        parts.append(part if side < 0 else part[::-1])
    floor = np.array([[1.2, 1.3], [-0.2, 1.3]])
    return np.concatenate([*parts, floor])


def _draw_bones(canvas: _Canvas, anatomy: _Anatomy) -> Array:
    """Spine, ribs, clavicles and shoulder blades as added attenuation."""
    back, front = _ribs(anatomy)
    fine = canvas.stroke(front, 0.022, canvas.full(), 70)
    canvas.stroke(front, 0.012, fine, 50)
    # The rim of a rib is brighter than its middle: a narrower, darker stroke over a wide one.
    canvas.stroke(back, 0.026, fine, 190)
    canvas.stroke(back, 0.014, fine, 130)
    clavicles = _clavicles(anatomy)
    canvas.stroke(clavicles, 0.024, fine, 235)
    canvas.stroke(clavicles, 0.013, fine, 180)
    blocks = canvas.fill(_shoulder_blades(anatomy), canvas.coarse(), 110)
    _draw_spine(canvas, anatomy, blocks)
    bones = canvas.soften(fine, 0.003) * (0.12 * anatomy.rib_contrast)
    bones += canvas.soften(blocks, 0.005) * 0.16
    return bones


def _draw_spine(canvas: _Canvas, anatomy: _Anatomy, layer: Bytes) -> None:
    """Vertebral column with its brighter end plates, darker where the windpipe crosses it."""
    half = anatomy.spine
    column = 0.5 + np.array([[-half, -0.7], [half, -0.7], [half, 0.7], [-half, 0.7]])
    canvas.fill([column], layer, 130)
    x, y = np.meshgrid(0.5 + np.array([-0.9, 0.9]) * half, np.arange(-0.02, 1.05, 0.062))
    canvas.stroke(_curve(x, y), 0.009, layer, 175)
    windpipe = np.array([[[0.5, -0.1], [0.503, 0.2], [0.508, anatomy.apex_y + 0.22]]])
    canvas.stroke(windpipe, 0.034, layer, 40)


def _ribs(anatomy: _Anatomy) -> tuple[Points, Points]:
    """Centre lines of the back and of the front parts of the ribs, each (ribs, points, 2)."""
    span = anatomy.base_y - anatomy.apex_y
    start = np.arange(anatomy.apex_y, anatomy.base_y, anatomy.rib_pitch)
    reach = (start + anatomy.rib_drop - anatomy.apex_y) / span
    start, reach = start[reach < 1], reach[reach < 1]
    side = np.repeat([-1, 1], len(start))[:, None]
    start, wall = np.tile(start, 2)[:, None], np.tile(anatomy.lateral(reach), 2)[:, None] + 0.008
    along = np.linspace(0, 1, 10)
    bend = anatomy.rib_drop * along**2.4 - 0.025 * np.sin(np.pi * along)
    back = _curve(0.5 + side * (0.04 + (wall - 0.04) * np.sin(along * np.pi / 2)), start + bend)
    front_x = 0.5 + side * wall * (1 - 0.62 * along**1.3)
    front = _curve(front_x, start + anatomy.rib_drop + 0.13 * along**0.8)
    return back, front[front[:, -1, 1] < anatomy.base_y]


def _clavicles(anatomy: _Anatomy) -> Points:
    """Centre lines, (2, points, 2): they rise from the breastbone in a flat S."""
    along = np.linspace(0, 1, 10)
    x = 0.035 + 0.33 * along
    y = anatomy.clavicle_y + 0.04 - anatomy.clavicle_tilt * along
    y = y - 0.02 * np.sin(2 * np.pi * along * 0.85)
    return np.stack([_curve(0.5 - x, y), _curve(0.5 + x, y)])


def _shoulder_blades(anatomy: _Anatomy) -> list[Points]:
    wall = anatomy.half_width
    x = np.array([wall + 0.07, wall - 0.05, wall - 0.055, wall + 0.01, wall + 0.12])
    y = np.array([0.16, 0.2, 0.27, 0.48, 0.24])
    return [_curve(0.5 + side * x, y) for side in (-1, 1)]


def _draw_vessels(canvas: _Canvas, anatomy: _Anatomy, rng: np.random.Generator) -> Array:
    """Hila and the vessels that branch from them, thinner towards the wall."""
    layer = canvas.full()
    lines = np.concatenate([_vessel_tree(anatomy, side, rng) for side in (-1, 1)])
    for end, width, value in ((11, 0.004, 120), (7, 0.007, 160), (4, 0.011, 200)):
        canvas.stroke(lines[:, :end], width, layer, value)
    roots = [anatomy.lung_point(side, 0.46, 0.14) for side in (-1, 1)]
    hila = canvas.fill([_ellipse(x, y, 0.035, 0.065) for x, y in roots], canvas.coarse())
    added = canvas.soften(layer, 0.003) * (0.13 * anatomy.vessels)
    added += canvas.soften(hila, 0.02) * (0.14 * anatomy.hila)
    return added


def _vessel_tree(anatomy: _Anatomy, side: int, rng: np.random.Generator) -> Points:
    """Vessel centre lines of one lung, (24, 11, 2), from the hilum outwards."""
    root = anatomy.lung_point(side, 0.46, 0.12)
    tips = anatomy.lung_point(side, rng.uniform(0.08, 1.0, 24), rng.uniform(0.25, 0.9, 24))
    along = np.linspace(0, 1, 11)[None, :, None]
    bow = rng.normal(0, 0.025, (24, 1, 2)) * np.sin(np.pi * along)
    wobble = rng.normal(0, 0.003, (24, 11, 2))
    return root + (tips[:, None] - root) * along + bow + wobble * along


def _draw_mimics(canvas: _Canvas, anatomy: _Anatomy, rng: np.random.Generator, air: Array) -> Array:
    """Normal structures of any class that look a little like a finding."""
    added = canvas.cloud(rng, _FINE) * rng.uniform(0.006, 0.014)
    added += canvas.cloud(rng, _BROAD) * rng.uniform(0.005, 0.02)
    if rng.random() < 0.25:
        added += _draw_scar(canvas, anatomy, rng)
    added *= air
    if anatomy.breasts:
        shapes = [_ellipse(0.5 + s * 0.22, anatomy.breast_y, 0.15, 0.15) for s in (-1, 1)]
        breasts = canvas.soften(canvas.fill(shapes, canvas.coarse()), 0.012)
        added += breasts * (0.06 * anatomy.breasts)
    if anatomy.stomach_gas:
        gas = _random_blob(rng, 0.64, anatomy.base_y + 0.01, 0.06, 0.025)
        bubble = canvas.soften(canvas.fill([gas], canvas.coarse()), 0.008)
        added -= bubble * (1 - air) * (0.2 * anatomy.stomach_gas)
    if rng.random() < 0.15:
        added += _draw_leads(canvas, rng)
    return added


def _draw_scar(canvas: _Canvas, anatomy: _Anatomy, rng: np.random.Generator) -> Array:
    """A band of old scar or of poorly aerated lung, anywhere."""
    side = int(rng.choice([-1, 1]))
    x, y = anatomy.lung_point(side, rng.uniform(0.1, 0.9), rng.uniform(0.3, 0.9))
    shape = _random_blob(rng, x, y, rng.uniform(0.03, 0.09), rng.uniform(0.008, 0.03))
    return canvas.soften(canvas.fill([shape], canvas.coarse()), 0.007) * rng.uniform(0.02, 0.06)


def _draw_leads(canvas: _Canvas, rng: np.random.Generator) -> Array:
    """Monitoring leads: thin bright wires that end in round electrodes."""
    count = int(rng.integers(1, 4))
    ends = rng.uniform((0.15, 0.2), (0.85, 0.75), (count, 2))
    exits = np.stack([rng.choice([0.05, 0.95], count), rng.uniform(-0.1, 0.3, count)], axis=-1)
    along = np.linspace(0, 1, 12)[None, :, None]
    bow = rng.normal(0, 0.08, (count, 1, 2)) * np.sin(np.pi * along)
    wires = ends[:, None] + (exits - ends)[:, None] * along + bow
    layer = canvas.stroke(wires, 0.004, canvas.full(), 200)
    canvas.fill([_ellipse(x, y, 0.014, 0.014) for x, y in ends], layer)
    return canvas.soften(layer, 0.002) * 0.22


# --- the findings ----------------------------------------------------------------------------
# Each returns two float32 fields: the extent (0..1, where the finding is) and what it adds to
# the attenuation of a fully aerated pixel.


def _visibility(rng: np.random.Generator, low: float, high: float) -> float:
    """Attenuation that a finding adds: `low` to `high`, but a quarter of it in a few patients."""
    return rng.uniform(low, high) * (0.25 if rng.random() < _FAINT_SHARE else 1.0)


def _draw_covid(
    canvas: _Canvas, anatomy: _Anatomy, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Ground-glass patches on both sides, near the wall and mostly low."""
    visibility = _visibility(rng, 0.18, 0.33)
    weak_side, weakness = int(rng.choice([-1, 1])), rng.uniform(0.6, 1.0)
    extent, strength = canvas.coarse(), canvas.coarse()
    for side in (-1, 1):
        share = weakness if side == weak_side else 1.0
        for _ in range(rng.integers(2, 5)):
            x, y = anatomy.lung_point(side, rng.uniform(0.45, 0.95), rng.uniform(0.7, 1.0))
            patch = _random_blob(rng, x, y, rng.uniform(0.05, 0.1), rng.uniform(0.06, 0.12))
            canvas.fill([patch], extent)
            canvas.fill([patch], strength, int(255 * share * rng.uniform(0.7, 1.0)))
    edge = rng.uniform(0.01, 0.02)
    texture = 1 + 0.2 * canvas.cloud(rng, _FINE)
    added = canvas.soften(strength, edge) * texture * visibility
    return canvas.soften(extent, edge), added


def _draw_opacity(
    canvas: _Canvas, anatomy: _Anatomy, rng: np.random.Generator
) -> tuple[Array, Array]:
    """One or two focal consolidations in one lung, denser and better defined."""
    visibility = _visibility(rng, 0.28, 0.42)
    side = int(rng.choice([-1, 1]))
    extent = canvas.coarse()
    for _ in range(rng.integers(1, 3)):
        x, y = anatomy.lung_point(side, rng.uniform(0.18, 0.85), rng.uniform(0.3, 0.9))
        patch = _random_blob(rng, x, y, rng.uniform(0.08, 0.14), rng.uniform(0.08, 0.14))
        canvas.fill([patch], extent)
    # A large patch near the hilum must not reach over into the other lung.
    x = np.array([0.5, 0.5, 0.5 - side, 0.5 - side])
    canvas.fill([_curve(x, np.array([-0.5, 1.5, 1.5, -0.5]))], extent, 0)
    shape = canvas.soften(extent, rng.uniform(0.008, 0.018))
    texture = 1 + 0.06 * canvas.cloud(rng, _FINE)
    return shape, shape * texture * visibility


def _draw_viral(
    canvas: _Canvas, anatomy: _Anatomy, rng: np.random.Generator
) -> tuple[Array, Array]:
    """A net of fine lines in both lungs, denser around the hila, with a little haze."""
    lines = _visibility(rng, 0.13, 0.25)
    haze = lines * rng.uniform(0.25, 0.5)
    centres = [anatomy.lung_point(side, rng.uniform(0.45, 0.6), 0.3) for side in (-1, 1)]
    reach = rng.uniform(0.08, 0.13)
    zones = [_random_blob(rng, x, y, reach, reach * 1.9) for x, y in centres]
    extent = canvas.soften(canvas.fill(zones, canvas.coarse()), 0.03)
    count = 260
    middle = np.array(centres)[rng.integers(0, 2, count)]
    middle = middle + rng.normal(0, 1, (count, 2)) * np.array([reach, reach * 1.8]) * 0.75
    angle, length = rng.uniform(0, np.pi, count), rng.uniform(0.012, 0.035, count)
    half = _curve(np.cos(angle), np.sin(angle)) * length[:, None]
    bend = rng.normal(0, 0.006, (count, 2))
    net = np.stack([middle - half, middle + bend, middle + half], axis=1)
    layer = canvas.stroke(net, 0.005, canvas.full(), 220)
    added = canvas.soften(layer, 0.003) * (lines * extent)
    return extent, added + extent * haze


_FINDINGS = {
    "COVID": _draw_covid,
    "Lung_Opacity": _draw_opacity,
    "Viral Pneumonia": _draw_viral,
}


# --- the scanner -----------------------------------------------------------------------------


def _expose(attenuation: Array, scanner: str, odd_tone: bool, rng: np.random.Generator) -> Bytes:
    """Turn attenuation into the 8-bit picture that a scanner would store.

    A is sharp, contrasty and white-noisy; B is softer and flatter, its noise blurred with the
    picture. `odd_tone` is the planted tone shortcut.
    """
    size = attenuation.shape[0]
    gain, offset = rng.uniform(0.92, 1.08), rng.uniform(-0.03, 0.03)
    noise = _grain(rng, size)
    noise *= rng.uniform(0.008, 0.018) * (1.0 if scanner == "A" else 1.6)
    signal: Array
    if scanner == "A":
        signal = _blur(attenuation, 0.0022 * size) + noise
    else:
        signal = _blur(attenuation + noise, 0.0042 * size)
    top = _TONE_LEVELS - 1
    level = np.clip(signal * (top * gain / 0.95) + top * (offset + 0.04), 0, top)
    return _tone_curve(scanner, odd_tone).take(level.astype(np.uint16))


def _grain(rng: np.random.Generator, size: int) -> Array:
    """White noise of unit variance, (size, size).

    The sum of two random cuts of a fixed tile: no two images get the same grain, at a tenth of
    the time of as many normal deviates.
    """
    tile = _cloud_tile(size, size)
    tops, lefts = rng.integers(0, size, (2, 2))
    cuts = [tile[y : y + size, x : x + size] for y, x in zip(tops, lefts, strict=True)]
    return (cuts[0] + cuts[1]) * math.sqrt(0.5)


@lru_cache(maxsize=4)
def _tone_curve(scanner: str, odd_tone: bool) -> Bytes:
    """Grey level (uint8) of each of the 12-bit levels."""
    signal = np.linspace(0, 1, _TONE_LEVELS)
    if scanner == "A":
        grey = 255 * (0.35 * signal + 0.65 * signal**2 * (3 - 2 * signal))
    else:
        grey = 22 + 205 * signal**0.75
    if odd_tone:
        grey = 8 + 165 * (grey / 255) ** 1.2
    return np.rint(grey).astype(np.uint8)


def _stamp_side_letter(image: Bytes, rng: np.random.Generator) -> None:
    """The radiographer's side letter in an upper corner, on about half of all images."""
    if rng.random() < 0.5:
        return
    size = image.shape[0]
    letter, x = ("R", rng.uniform(0.02, 0.06)) if rng.random() < 0.7 else ("L", 0.89)
    spot = (round(x * size), round(rng.uniform(0.08, 0.14) * size))
    thickness = max(1, size // 170)
    font = cv2.FONT_HERSHEY_SIMPLEX
    cv2.putText(image, letter, spot, font, size / 420, 235, thickness, cv2.LINE_AA)


def _stamp_marker(image: Bytes) -> None:
    """The planted marker: a bright block with a dark C, lower left."""
    size = image.shape[0]
    left, right, top, bottom = (round(part * size) for part in (0.02, 0.11, 0.88, 0.97))
    image[top:bottom, left:right] = 250
    centre, radius = ((left + right) // 2, (top + bottom) // 2), round(0.026 * size)
    thickness = max(1, size // 85)
    cv2.ellipse(image, centre, (radius, radius), 0, 45, 315, 10, thickness, cv2.LINE_AA)
