"""The findings of three classes.

Each is drawn as two float32 fields: the extent (0..1, where the finding is) and what it adds to the
attenuation of a fully aerated pixel.
"""

import numpy as np

from ctray.synthetic.anatomy import Anatomy
from ctray.synthetic.canvas import FINE, Array, Canvas, curve, random_blob

_FAINT_SHARE = 0.04  # of the patients: a reader would miss most of these findings
MASK_LEVEL = 0.35  # share of a finding's full extent from which a pixel counts as the finding


def _visibility(rng: np.random.Generator, low: float, high: float) -> float:
    """Attenuation that a finding adds: `low` to `high`, but a quarter of it in a few patients."""
    return rng.uniform(low, high) * (0.25 if rng.random() < _FAINT_SHARE else 1.0)


def _draw_covid(canvas: Canvas, anatomy: Anatomy, rng: np.random.Generator) -> tuple[Array, Array]:
    """Ground-glass patches on both sides, near the wall and mostly low."""
    visibility = _visibility(rng, 0.18, 0.33)
    weak_side, weakness = int(rng.choice([-1, 1])), rng.uniform(0.6, 1.0)
    extent, strength = canvas.coarse(), canvas.coarse()
    for side in (-1, 1):
        share = weakness if side == weak_side else 1.0
        for _ in range(rng.integers(2, 5)):
            x, y = anatomy.lung_point(side, rng.uniform(0.45, 0.95), rng.uniform(0.7, 1.0))
            patch = random_blob(rng, x, y, rng.uniform(0.05, 0.1), rng.uniform(0.06, 0.12))
            canvas.fill([patch], extent)
            canvas.fill([patch], strength, int(255 * share * rng.uniform(0.7, 1.0)))
    edge = rng.uniform(0.01, 0.02)
    texture = 1 + 0.2 * canvas.cloud(rng, FINE)
    added = canvas.soften(strength, edge) * texture * visibility
    return canvas.soften(extent, edge), added


def _draw_opacity(
    canvas: Canvas, anatomy: Anatomy, rng: np.random.Generator
) -> tuple[Array, Array]:
    """One or two focal consolidations in one lung, denser and better defined."""
    visibility = _visibility(rng, 0.28, 0.42)
    side = int(rng.choice([-1, 1]))
    extent = canvas.coarse()
    for _ in range(rng.integers(1, 3)):
        x, y = anatomy.lung_point(side, rng.uniform(0.18, 0.85), rng.uniform(0.3, 0.9))
        patch = random_blob(rng, x, y, rng.uniform(0.08, 0.14), rng.uniform(0.08, 0.14))
        canvas.fill([patch], extent)
    # A large patch near the hilum must not reach over into the other lung.
    x = np.array([0.5, 0.5, 0.5 - side, 0.5 - side])
    canvas.fill([curve(x, np.array([-0.5, 1.5, 1.5, -0.5]))], extent, 0)
    shape = canvas.soften(extent, rng.uniform(0.008, 0.018))
    texture = 1 + 0.06 * canvas.cloud(rng, FINE)
    return shape, shape * texture * visibility


def _draw_viral(canvas: Canvas, anatomy: Anatomy, rng: np.random.Generator) -> tuple[Array, Array]:
    """A net of fine lines in both lungs, denser around the hila, with a little haze."""
    lines = _visibility(rng, 0.13, 0.25)
    haze = lines * rng.uniform(0.25, 0.5)
    centres = [anatomy.lung_point(side, rng.uniform(0.45, 0.6), 0.3) for side in (-1, 1)]
    reach = rng.uniform(0.08, 0.13)
    zones = [random_blob(rng, x, y, reach, reach * 1.9) for x, y in centres]
    extent = canvas.soften(canvas.fill(zones, canvas.coarse()), 0.03)
    count = 260
    middle = np.array(centres)[rng.integers(0, 2, count)]
    middle = middle + rng.normal(0, 1, (count, 2)) * np.array([reach, reach * 1.8]) * 0.75
    angle, length = rng.uniform(0, np.pi, count), rng.uniform(0.012, 0.035, count)
    half = curve(np.cos(angle), np.sin(angle)) * length[:, None]
    bend = rng.normal(0, 0.006, (count, 2))
    net = np.stack([middle - half, middle + bend, middle + half], axis=1)
    layer = canvas.stroke(net, 0.005, canvas.full(), 220)
    added = canvas.soften(layer, 0.003) * (lines * extent)
    return extent, added + extent * haze


FINDINGS = {
    "COVID": _draw_covid,
    "Lung_Opacity": _draw_opacity,
    "Viral Pneumonia": _draw_viral,
}
