"""Random changes for training images, keyed by (seed, epoch, record).

The same triple gives the same pixels in any process, at any number of workers and after a resume.
The transforms and the distributions of their parameters are albumentations'. Crop, flip, rotation,
shift, scale and shear are done in one warp instead of two or three, brightness, contrast and gamma
in one table, and the parameters of a whole batch are drawn at once: twice as fast, and each pixel
is interpolated once (docs/decisions/augmentation.md). Nobody is filmed upside down: nothing is
flipped or turned that far.
"""

import functools
import hashlib
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from ctray.config import POLICIES, AugmentConfig
from ctray.data.image.preprocess import resize

if TYPE_CHECKING:
    import albumentations

# These change neighbourhoods or need their own noise: albumentations does them, one by one.
_PIXELWISE = ("clahe", "blur", "noise", "dropout")
_CROP_ATTEMPTS = 10
# One uniform number for each decision. A place of its own for each, so that switching one
# transform on does not change what the others do.
_DRAWS = (
    "crop.p",
    "affine.p",
    "flip.p",
    "brightness_contrast.p",
    "gamma.p",
    *(f"{name}.p" for name in _PIXELWISE),
    "rotate",
    "shift_x",
    "shift_y",
    "scale",
    "shear_x",
    "shear_y",
    "brightness",
    "contrast",
    "gamma",
    "crop_x",
    "crop_y",
    *(f"crop_{what}_{attempt}" for attempt in range(_CROP_ATTEMPTS) for what in ("area", "aspect")),
)
_SLOT = {name: slot for slot, name in enumerate(_DRAWS)}

Settings = dict[str, dict[str, float]]


def settings(config: AugmentConfig) -> Settings:
    """What every transform does under this policy, strength and explicit settings, by name."""
    s = config.strength
    # The ranges at this strength; the probabilities do not depend on it.
    scaled: Settings = {
        "crop": {"p": 1.0, "area": 1 - 0.5 * s, "aspect": 1 / (1 - 0.2 * s)},
        "affine": {"p": 0.7, "rotate": 20 * s, "shift": 0.1 * s, "scale": 0.1 * s, "shear": 6 * s},
        "flip": {"p": 0.5},
        "brightness_contrast": {"p": 0.5, "brightness": 0.4 * s, "contrast": 0.4 * s},
        "gamma": {"p": 0.3, "low": 1 - 0.4 * s, "high": 1 + 0.6 * s},
        "clahe": {"p": 0.2, "clip": 1 + 4 * s},
        "blur": {"p": 0.2, "sigma": 0.1 + 2 * s},
        "noise": {"p": 0.2, "std": 0.01 + 0.1 * s},
        "dropout": {"p": 0.5, "holes": 1 + int(6 * s), "size": 0.2},
    }
    active = POLICIES[config.policy] if s > 0 else ()
    for name, values in scaled.items():
        if name not in active:
            values["p"] = 0.0
        values |= getattr(config, name).model_dump(exclude_none=True)
    return scaled


def record_key(seed: int, epoch: int, record_id: str) -> int:
    """The 64-bit key of one record in one epoch of one run."""
    text = f"{seed}/{epoch}/{record_id}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest())


@dataclass(frozen=True)
class Parameters:
    """The parameters drawn for n images: what happens to each of them.

    Attributes:
        boxes: int (n, 4), the crop's left, top, right and bottom in the stored image, px.
        matrices: float64 (n, 2, 3), pixel of the output to pixel of the crop.
        cropped: bool (n,); where False the box is the whole image.
        warped: bool (n,); where False the box is only resized.
        flipped: bool (n,), left and right swapped.
        tables: uint8 (n, 256), grey to grey.
        toned: bool (n,); where False the table changes nothing.
        extra: bool (n, 4), which of clahe, blur, noise and dropout follow.
    """

    boxes: np.ndarray
    matrices: np.ndarray
    cropped: np.ndarray
    warped: np.ndarray
    flipped: np.ndarray
    tables: np.ndarray
    toned: np.ndarray
    extra: np.ndarray


class Augmenter:
    """One policy at one strength for one output size.

    Args:
        config: the policy.
        image_size: side of the output in px.
    """

    def __init__(self, config: AugmentConfig, image_size: int) -> None:
        self._settings = settings(config)
        self._size = image_size

    def __call__(self, image: np.ndarray, key: int) -> np.ndarray:
        """Change one image (uint8, H×W, tone applied); returns uint8 (image_size, image_size)."""
        return self.batch([image], np.array([key], np.uint64))[0]

    def batch(self, images: Sequence[np.ndarray], keys: np.ndarray) -> np.ndarray:
        """Change images of one shape.

        Args:
            images: n times uint8 (H, W), tone applied.
            keys: uint64 (n,), see `record_key`; the same key gives the same pixels.

        Returns:
            uint8 (n, image_size, image_size).
        """
        height, width = images[0].shape
        drawn = self.draw(keys, width, height)
        out = np.empty((len(images), self._size, self._size), np.uint8)
        for i, image in enumerate(images):
            left, top, right, bottom = drawn.boxes[i]
            self._move(image[top:bottom, left:right], drawn, i, out[i])
            if drawn.toned[i]:
                cv2.LUT(out[i], drawn.tables[i], dst=out[i])
            if drawn.extra[i].any():
                out[i] = self._pixelwise(out[i], drawn.extra[i], int(keys[i]))
        return out

    def draw(self, keys: np.ndarray, width: int, height: int) -> Parameters:
        """Draw the parameters for images of this size from their keys (uint64 (n,))."""
        draws = _uniform(keys, len(_DRAWS))
        chosen = self._settings
        fires = {name: draws[:, _SLOT[f"{name}.p"]] < chosen[name]["p"] for name in chosen}
        boxes = np.tile([0, 0, width, height], (len(keys), 1))
        crop = fires["crop"]
        boxes[crop] = _crop_boxes(draws[crop], chosen["crop"], width, height)
        affine = _affine_matrices(draws, chosen["affine"], self._size)
        identity = np.tile(np.eye(3), (len(keys), 1, 1))
        moved = np.where(fires["affine"][:, None, None], affine, identity)
        # Output to crop: undo the affine, then the resize.
        matrices = _resize_matrices(boxes, self._size) @ np.linalg.inv(moved)
        bright, gamma = fires["brightness_contrast"], fires["gamma"]
        return Parameters(
            boxes=boxes,
            matrices=matrices[:, :2],
            cropped=crop,
            warped=fires["affine"],
            flipped=fires["flip"],
            tables=_tables(draws, chosen, bright, gamma),
            toned=bright | gamma,
            extra=np.stack([fires[name] for name in _PIXELWISE], axis=1),
        )

    def _move(self, crop: np.ndarray, drawn: Parameters, i: int, out: np.ndarray) -> None:
        if drawn.warped[i]:
            flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
            cv2.warpAffine(crop, drawn.matrices[i], (self._size, self._size), dst=out, flags=flags)
        elif not drawn.cropped[i]:
            out[:] = resize(crop, self._size)  # as when nothing is changed
        else:
            cv2.resize(crop, (self._size, self._size), dst=out)
        if drawn.flipped[i]:
            out[:] = out[:, ::-1].copy()

    def _pixelwise(self, image: np.ndarray, extra: np.ndarray, key: int) -> np.ndarray:
        transforms = _albumentations(
            tuple(tuple(self._settings[name].values()) for name in _PIXELWISE)
        )
        for place, (fires, transform) in enumerate(zip(extra, transforms, strict=True)):
            if fires:
                # Own numbers for each: with one stream, what fires would change what follows it;
                # with one seed, all would draw the same.
                seed = key * len(_PIXELWISE) + place
                transform.set_random_state(np.random.default_rng(seed), random.Random(seed))
                image = transform(image=image[..., None])["image"][..., 0]
        return image


def _uniform(keys: np.ndarray, count: int) -> np.ndarray:
    """`count` numbers in [0, 1) for each key: SplitMix64 (Steele et al., OOPSLA 2014)."""
    steps = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = keys.astype(np.uint64)[:, None] + steps
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((z ^ (z >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53


def _between(draws: np.ndarray, name: str, low: float, high: float) -> np.ndarray:
    return low + (high - low) * draws[:, _SLOT[name]]


def _crop_boxes(draws: np.ndarray, chosen: dict[str, float], width: int, height: int) -> np.ndarray:
    """Boxes as A.RandomResizedCrop draws them: the first of ten attempts that fits, else all."""
    crop_width = np.full(len(draws), width)
    crop_height = np.full(len(draws), height)
    open_ = np.ones(len(draws), bool)
    for attempt in range(_CROP_ATTEMPTS):
        area = _between(draws, f"crop_area_{attempt}", chosen["area"], 1.0) * width * height
        bound = np.log(chosen["aspect"])
        aspect = np.exp(_between(draws, f"crop_aspect_{attempt}", -bound, bound))
        wide = np.rint(np.sqrt(area * aspect)).astype(int)
        high = np.rint(np.sqrt(area / aspect)).astype(int)
        fits = open_ & (wide <= width) & (high <= height) & (wide > 0) & (high > 0)
        crop_width[fits], crop_height[fits] = wide[fits], high[fits]
        open_ &= ~fits
        if not open_.any():
            break
    left = ((width - crop_width + 1) * draws[:, _SLOT["crop_x"]]).astype(int)
    top = ((height - crop_height + 1) * draws[:, _SLOT["crop_y"]]).astype(int)
    return np.stack([left, top, left + crop_width, top + crop_height], axis=1)


def _affine_matrices(draws: np.ndarray, chosen: dict[str, float], size: int) -> np.ndarray:
    """Pixel to pixel, about the centre: scale, rotate, shear, shift, as A.Affine orders them."""
    angle = np.deg2rad(_between(draws, "rotate", -chosen["rotate"], chosen["rotate"]))
    scale = _between(draws, "scale", 1 - chosen["scale"], 1 + chosen["scale"])
    lean_x, lean_y = (
        np.tan(np.deg2rad(_between(draws, name, -chosen["shear"], chosen["shear"])))
        for name in ("shear_x", "shear_y")
    )
    shift_x, shift_y = (
        size * _between(draws, name, -chosen["shift"], chosen["shift"])
        for name in ("shift_x", "shift_y")
    )
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    centre = (size - 1) / 2
    matrices = np.zeros((len(draws), 3, 3))
    matrices[:, 0, 0], matrices[:, 0, 1] = cos - lean_x * sin, sin + lean_x * cos
    matrices[:, 1, 0], matrices[:, 1, 1] = lean_y * cos - sin, lean_y * sin + cos
    turned = matrices[:, :2, :2].sum(axis=2) * centre
    matrices[:, 0, 2] = shift_x + centre - turned[:, 0]
    matrices[:, 1, 2] = shift_y + centre - turned[:, 1]
    matrices[:, 2, 2] = 1.0
    return matrices


def _resize_matrices(boxes: np.ndarray, size: int) -> np.ndarray:
    """Pixel of a `size` px square to pixel of the crop, pixel centres at halves as in OpenCV."""
    ratio_x = (boxes[:, 2] - boxes[:, 0]) / size
    ratio_y = (boxes[:, 3] - boxes[:, 1]) / size
    matrices = np.zeros((len(boxes), 3, 3))
    matrices[:, 0, 0], matrices[:, 0, 2] = ratio_x, (ratio_x - 1) / 2
    matrices[:, 1, 1], matrices[:, 1, 2] = ratio_y, (ratio_y - 1) / 2
    matrices[:, 2, 2] = 1.0
    return matrices


def _tables(
    draws: np.ndarray, chosen: Settings, bright: np.ndarray, gamma: np.ndarray
) -> np.ndarray:
    """Brightness and contrast, then gamma, as one table a record; uint8 (n, 256)."""
    grey = np.arange(256, dtype=np.float32)
    limits = chosen["brightness_contrast"]
    gain = 1 + _between(draws, "contrast", -limits["contrast"], limits["contrast"])
    offset = 255 * _between(draws, "brightness", -limits["brightness"], limits["brightness"])
    gain, offset = np.where(bright, gain, 1.0), np.where(bright, offset, 0.0)
    table = np.clip(grey * gain[:, None] + offset[:, None], 0, 255)
    power = _between(draws, "gamma", chosen["gamma"]["low"], chosen["gamma"]["high"])
    bent = 255 * (table[gamma] / 255) ** power[gamma, None]
    table[gamma] = bent
    return np.rint(table).astype(np.uint8)


@functools.lru_cache(maxsize=4)
def _albumentations(values: tuple[tuple[float, ...], ...]) -> "list[albumentations.Compose]":
    # Imported where it is needed: it takes a second, in every process; and it asks the network
    # for its newest version unless told not to.
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    import albumentations as A

    (_, clip), (_, sigma), (_, std), (_, holes, size) = values
    return [
        A.Compose([transform])
        for transform in (
            A.CLAHE(clip_limit=(1.0, clip), p=1),
            A.GaussianBlur(blur_limit=0, sigma_limit=(min(0.1, sigma), sigma), p=1),
            A.GaussNoise(std_range=(min(0.01, std), std), p=1),
            A.CoarseDropout(
                num_holes_range=(1, int(holes)),
                hole_height_range=(min(0.05, size), size),
                hole_width_range=(min(0.05, size), size),
                p=1,
            ),
        )
    ]
