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

from dataclasses import dataclass

import numpy as np

from ctray.errors import UserError
from ctray.synthetic.anatomy import (
    draw_body,
    draw_bones,
    draw_lungs,
    draw_mimics,
    draw_vessels,
    heart_shapes,
    sample_anatomy,
)
from ctray.synthetic.canvas import Bytes, Canvas
from ctray.synthetic.findings import FINDINGS, MASK_LEVEL
from ctray.synthetic.scanner import expose, stamp_marker, stamp_side_letter

CLASSES: tuple[str, ...] = ("COVID", "Lung_Opacity", "Normal", "Viral Pneumonia")
SHORTCUTS: tuple[str, ...] = ("none", "marker", "tone")

_STREAMS = (
    "patients",
    "anatomy",
    "vessels",
    "finding",
    "progress",
    "pose",
    "extras",
    "noise",
    "shortcut",
)
_BLOCK = 8
# Every way here sums to _BLOCK, so that an index alone says which patient it belongs to.
_IMAGES_A_PATIENT = ((1, 2, 1, 4), (3, 2, 3), (4, 3, 1), (2, 1, 2, 3), (1, 3, 4), (2, 2, 4))


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
    canvas = Canvas(spec.size, pose)
    anatomy = sample_anatomy(streams.open("anatomy", patient), breath=pose.uniform(-0.02, 0.02))

    heart = canvas.soften(canvas.fill(heart_shapes(anatomy), canvas.coarse()), 0.008)
    air = draw_lungs(canvas, anatomy, heart)
    attenuation = draw_body(canvas, anatomy, heart, air)
    attenuation += draw_bones(canvas, anatomy)
    attenuation += draw_vessels(canvas, anatomy, streams.open("vessels", patient)) * air
    extras = streams.open("extras", index)
    attenuation += draw_mimics(canvas, anatomy, extras, air)
    mask = np.zeros((spec.size, spec.size), np.uint8)
    if with_finding and label in FINDINGS:
        change = _progress(streams, index)
        extent, added = FINDINGS[label](canvas, anatomy, streams.open("finding", patient))
        attenuation += added * air * change
        mask[extent * air > MASK_LEVEL] = 255

    planted = spec.shortcut if _is_planted(spec, streams, label, index) else "none"
    image = expose(attenuation, scanner, planted == "tone", streams.open("noise", index))
    stamp_side_letter(image, extras)
    if planted == "marker":
        stamp_marker(image)
    return PhantomImage(
        image=image,
        mask=mask,
        label=label,
        patient_id=f"synthetic-{label.replace(' ', '_')}-{patient:05d}",
        scanner=scanner,
        name=f"{label}-{index:05d}",
    )


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
