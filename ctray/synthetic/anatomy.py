"""A patient and the normal chest: lungs, heart, bones, vessels, and what mimics a finding.

Each `draw_…` gives the attenuation that its structures add, float32 (size, size).
"""

from dataclasses import dataclass

import numpy as np

from ctray.synthetic.canvas import (
    BROAD,
    FINE,
    Array,
    Bytes,
    Canvas,
    Numbers,
    Points,
    curve,
    ellipse,
    grid,
    random_blob,
)


@dataclass(frozen=True)
class Anatomy:
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


def sample_anatomy(rng: np.random.Generator, breath: float) -> Anatomy:
    """Draw a patient; `breath` lowers the diaphragm of this image, in unit coordinates."""
    uniform = rng.uniform
    return Anatomy(
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


def _lung_outline(anatomy: Anatomy, side: int) -> Points:
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
    return curve(0.5 + side * x, y)


def heart_shapes(anatomy: Anatomy) -> list[Points]:
    """Heart, great vessels and aortic knob; the apex points to the patient's left."""
    size, x = anatomy.heart, 0.5 + anatomy.heart_x
    y = anatomy.base_y - 0.17
    vessels = np.array(
        [[-0.04, 0.05], [0.04, 0.05], [0.062, 0.3], [0.075, y], [-0.07, y], [-0.055, 0.3]]
    )
    return [
        ellipse(x + 0.05 * size, y, 0.15 * size, 0.105 * size, 0.6),
        ellipse(x - 0.025 * size, y - 0.005, 0.075 * size, 0.11 * size),
        ellipse(x + 0.052, anatomy.apex_y + 0.22, 0.03, 0.036),
        vessels + np.array([x, 0.0]),
    ]


def draw_lungs(canvas: Canvas, anatomy: Anatomy, heart: Array) -> Array:
    """How much aerated lung lies behind each pixel, float32 0..1."""
    lungs = canvas.fill([_lung_outline(anatomy, side) for side in (-1, 1)], canvas.full())
    return canvas.soften(lungs, 0.006) * (1 - 0.8 * heart)


def draw_body(canvas: Canvas, anatomy: Anatomy, heart: Array, air: Array) -> Array:
    """Soft tissue of trunk, arms, heart and abdomen, hollowed by the lungs."""
    y, depth = grid(canvas.size)
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


def _trunk_outline(anatomy: Anatomy) -> Points:
    """Neck, sloping shoulders, raised arms and flanks; leaves the image at the bottom."""
    wall, arm = anatomy.half_width, anatomy.arm
    x = np.array([0.09, 0.09, 0.12, 0.28, wall + 0.06, wall + 0.12, 0.65, 0.65, wall + 0.10])
    y = np.array([-0.2, -0.02, 0.04, 0.09, 0.13, 0.2, 0.33, arm, arm - 0.09])
    flank_x, flank_y = [wall + 0.065, wall + 0.06, wall + 0.08], [arm + 0.02, 0.8, 1.25]
    x, y = np.concatenate([x, flank_x]), np.concatenate([y, flank_y])
    return np.concatenate([curve(0.5 + x, y), curve(0.5 - x, y)[::-1]])


def _abdomen_outline(anatomy: Anatomy) -> Points:
    """Everything under the two domes of the diaphragm."""
    parts = []
    for side in (-1, 1):
        inward = np.linspace(0, 1, 12)
        x = anatomy.half_width * (1.15 - 1.15 * inward)
        rise = anatomy.dome * np.sin(np.pi * inward * 0.93) ** 0.7 + 0.02 * inward
        part = curve(0.5 + side * x, anatomy.base(side) - rise)
        parts.append(part if side < 0 else part[::-1])
    floor = np.array([[1.2, 1.3], [-0.2, 1.3]])
    return np.concatenate([*parts, floor])


def draw_bones(canvas: Canvas, anatomy: Anatomy) -> Array:
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


def _draw_spine(canvas: Canvas, anatomy: Anatomy, layer: Bytes) -> None:
    """Vertebral column with its brighter end plates, darker where the windpipe crosses it."""
    half = anatomy.spine
    column = 0.5 + np.array([[-half, -0.7], [half, -0.7], [half, 0.7], [-half, 0.7]])
    canvas.fill([column], layer, 130)
    x, y = np.meshgrid(0.5 + np.array([-0.9, 0.9]) * half, np.arange(-0.02, 1.05, 0.062))
    canvas.stroke(curve(x, y), 0.009, layer, 175)
    windpipe = np.array([[[0.5, -0.1], [0.503, 0.2], [0.508, anatomy.apex_y + 0.22]]])
    canvas.stroke(windpipe, 0.034, layer, 40)


def _ribs(anatomy: Anatomy) -> tuple[Points, Points]:
    """Centre lines of the back and of the front parts of the ribs, each (ribs, points, 2)."""
    span = anatomy.base_y - anatomy.apex_y
    start = np.arange(anatomy.apex_y, anatomy.base_y, anatomy.rib_pitch)
    reach = (start + anatomy.rib_drop - anatomy.apex_y) / span
    start, reach = start[reach < 1], reach[reach < 1]
    side = np.repeat([-1, 1], len(start))[:, None]
    start, wall = np.tile(start, 2)[:, None], np.tile(anatomy.lateral(reach), 2)[:, None] + 0.008
    along = np.linspace(0, 1, 10)
    bend = anatomy.rib_drop * along**2.4 - 0.025 * np.sin(np.pi * along)
    back = curve(0.5 + side * (0.04 + (wall - 0.04) * np.sin(along * np.pi / 2)), start + bend)
    front_x = 0.5 + side * wall * (1 - 0.62 * along**1.3)
    front = curve(front_x, start + anatomy.rib_drop + 0.13 * along**0.8)
    return back, front[front[:, -1, 1] < anatomy.base_y]


def _clavicles(anatomy: Anatomy) -> Points:
    """Centre lines, (2, points, 2): they rise from the breastbone in a flat S."""
    along = np.linspace(0, 1, 10)
    x = 0.035 + 0.33 * along
    y = anatomy.clavicle_y + 0.04 - anatomy.clavicle_tilt * along
    y = y - 0.02 * np.sin(2 * np.pi * along * 0.85)
    return np.stack([curve(0.5 - x, y), curve(0.5 + x, y)])


def _shoulder_blades(anatomy: Anatomy) -> list[Points]:
    wall = anatomy.half_width
    x = np.array([wall + 0.07, wall - 0.05, wall - 0.055, wall + 0.01, wall + 0.12])
    y = np.array([0.16, 0.2, 0.27, 0.48, 0.24])
    return [curve(0.5 + side * x, y) for side in (-1, 1)]


def draw_vessels(canvas: Canvas, anatomy: Anatomy, rng: np.random.Generator) -> Array:
    """Hila and the vessels that branch from them, thinner towards the wall."""
    layer = canvas.full()
    lines = np.concatenate([_vessel_tree(anatomy, side, rng) for side in (-1, 1)])
    for end, width, value in ((11, 0.004, 120), (7, 0.007, 160), (4, 0.011, 200)):
        canvas.stroke(lines[:, :end], width, layer, value)
    roots = [anatomy.lung_point(side, 0.46, 0.14) for side in (-1, 1)]
    hila = canvas.fill([ellipse(x, y, 0.035, 0.065) for x, y in roots], canvas.coarse())
    added = canvas.soften(layer, 0.003) * (0.13 * anatomy.vessels)
    added += canvas.soften(hila, 0.02) * (0.14 * anatomy.hila)
    return added


def _vessel_tree(anatomy: Anatomy, side: int, rng: np.random.Generator) -> Points:
    """Vessel centre lines of one lung, (24, 11, 2), from the hilum outwards."""
    root = anatomy.lung_point(side, 0.46, 0.12)
    tips = anatomy.lung_point(side, rng.uniform(0.08, 1.0, 24), rng.uniform(0.25, 0.9, 24))
    along = np.linspace(0, 1, 11)[None, :, None]
    bow = rng.normal(0, 0.025, (24, 1, 2)) * np.sin(np.pi * along)
    wobble = rng.normal(0, 0.003, (24, 11, 2))
    return root + (tips[:, None] - root) * along + bow + wobble * along


def draw_mimics(canvas: Canvas, anatomy: Anatomy, rng: np.random.Generator, air: Array) -> Array:
    """Normal structures of any class that look a little like a finding."""
    added = canvas.cloud(rng, FINE) * rng.uniform(0.006, 0.014)
    added += canvas.cloud(rng, BROAD) * rng.uniform(0.005, 0.02)
    if rng.random() < 0.25:
        added += _draw_scar(canvas, anatomy, rng)
    added *= air
    if anatomy.breasts:
        shapes = [ellipse(0.5 + s * 0.22, anatomy.breast_y, 0.15, 0.15) for s in (-1, 1)]
        breasts = canvas.soften(canvas.fill(shapes, canvas.coarse()), 0.012)
        added += breasts * (0.06 * anatomy.breasts)
    if anatomy.stomach_gas:
        gas = random_blob(rng, 0.64, anatomy.base_y + 0.01, 0.06, 0.025)
        bubble = canvas.soften(canvas.fill([gas], canvas.coarse()), 0.008)
        added -= bubble * (1 - air) * (0.2 * anatomy.stomach_gas)
    if rng.random() < 0.15:
        added += _draw_leads(canvas, rng)
    return added


def _draw_scar(canvas: Canvas, anatomy: Anatomy, rng: np.random.Generator) -> Array:
    """A band of old scar or of poorly aerated lung, anywhere."""
    side = int(rng.choice([-1, 1]))
    x, y = anatomy.lung_point(side, rng.uniform(0.1, 0.9), rng.uniform(0.3, 0.9))
    shape = random_blob(rng, x, y, rng.uniform(0.03, 0.09), rng.uniform(0.008, 0.03))
    return canvas.soften(canvas.fill([shape], canvas.coarse()), 0.007) * rng.uniform(0.02, 0.06)


def _draw_leads(canvas: Canvas, rng: np.random.Generator) -> Array:
    """Monitoring leads: thin bright wires that end in round electrodes."""
    count = int(rng.integers(1, 4))
    ends = rng.uniform((0.15, 0.2), (0.85, 0.75), (count, 2))
    exits = np.stack([rng.choice([0.05, 0.95], count), rng.uniform(-0.1, 0.3, count)], axis=-1)
    along = np.linspace(0, 1, 12)[None, :, None]
    bow = rng.normal(0, 0.08, (count, 1, 2)) * np.sin(np.pi * along)
    wires = ends[:, None] + (exits - ends)[:, None] * along + bow
    layer = canvas.stroke(wires, 0.004, canvas.full(), 200)
    canvas.fill([ellipse(x, y, 0.014, 0.014) for x, y in ends], layer)
    return canvas.soften(layer, 0.002) * 0.22
