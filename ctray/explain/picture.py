"""The evidence as a picture: the image, the evidence over it, and what the model answers."""

import io
import textwrap
import warnings
from typing import Any

import cv2
import numpy as np
from matplotlib.figure import Figure

from ctray.artefact.parts import BundleInfo
from ctray.decision.prediction import Prediction

# The longer side of each of the two images in the picture, px: larger ones are made smaller, and
# smaller ones are shown at a whole multiple of their size.
SIDE = 640
# Around the images, for the texts above and the colour bar at the right, px.
MARGIN, HEAD, BAR = 16, 76, 96
# The texts need so much.
_LEAST_WIDTH = 560
_DPI = 100
# Letters of a class's name; the rest is cut.
_NAME = 40
_SOFT = "#5a6875"


def draw(
    image: np.ndarray, heat: np.ndarray, prediction: Prediction, info: BundleInfo, model: str
) -> bytes:
    """The picture as PNG.

    Args:
        image: canonical image, uint8 (H, W).
        heat: evidence for the predicted class, float32 (H, W) in 0–1.
        prediction: of the image.
        info: of the bundle.
        model: its name and version.
    """
    shown = _sized(image)
    height, width = shown.shape
    strength = cv2.resize(heat, (width, height), interpolation=cv2.INTER_LINEAR).clip(0, 1)
    wide = max(3 * MARGIN + 2 * width + BAR, _LEAST_WIDTH)
    tall = HEAD + height + MARGIN
    figure = Figure(figsize=(wide / _DPI, tall / _DPI), dpi=_DPI)
    left, right = MARGIN, 2 * MARGIN + width
    grey = cv2.cvtColor(shown, cv2.COLOR_GRAY2RGB)
    figure.figimage(grey, left, MARGIN, origin="upper")
    figure.figimage(_overlaid(grey, strength), right, MARGIN, origin="upper")
    name = textwrap.shorten(prediction.predicted, _NAME, placeholder="…") or "…"
    said = f"{name}: probability {prediction.confidence:.3f}"

    def write(text: str, x: float, y: float, size: float, **style: Any) -> None:
        # From the lower left, px; a dollar sign in a name is a dollar sign, not mathematics.
        figure.text(x / wide, y / tall, text, fontsize=size, parse_math=False, **style)

    write(said, left, tall - 32, 15, weight="bold")
    drawn = "; trained on synthetic images" if info.synthetic else ""
    write(f"{model} ({info.backbone}){drawn}", left, tall - 48, 8, color=_SOFT)
    write("image", left, MARGIN + height + 5, 8, color=_SOFT)
    about = f"evidence for {name}" if heat.any() else f"no evidence for {name} found"
    write(about, right, MARGIN + height + 5, 8, color=_SOFT)
    _draw_bar(figure, right + width + MARGIN, height)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # The font lacks letters of some scripts; the command prints the name as it is.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return buffer.getvalue()


def _sized(image: np.ndarray) -> np.ndarray:
    """The image at the size that it is shown at, uint8."""
    longest = max(image.shape)
    if longest <= SIDE:
        return np.kron(image, np.ones((SIDE // longest,) * 2, np.uint8))
    height, width = (max(1, round(side * SIDE / longest)) for side in image.shape)
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def _overlaid(grey: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """The evidence over the image, uint8 (H, W, 3) in RGB."""
    # Where there is no evidence the image stays as it is.
    share = 0.55 * strength[..., None]
    return (grey * (1 - share) + _colours(strength) * share).astype(np.uint8)


def _colours(strength: np.ndarray) -> np.ndarray:
    """Colours of values in 0–1, uint8 (H, W, 3) in RGB."""
    levels = (strength * 255).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB)


def _draw_bar(figure: Figure, x: int, height: int) -> None:
    """What the colours mean, beside the images."""
    wide, tall = (round(inches * _DPI) for inches in figure.get_size_inches())
    axes = figure.add_axes((x / wide, MARGIN / tall, 14 / wide, height / tall))
    ramp = np.linspace(1, 0, 256, dtype=np.float32)[:, None]
    axes.imshow(_colours(ramp), aspect="auto", extent=(0, 1, 0, 1))
    axes.yaxis.tick_right()
    axes.set(xticks=[], yticks=[0, 0.5, 1])
    axes.tick_params(labelsize=8, colors=_SOFT)
    axes.yaxis.set_label_position("right")
    axes.set_ylabel("evidence, 1: its strongest place", fontsize=8, color=_SOFT)
