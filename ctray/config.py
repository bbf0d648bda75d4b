"""Every setting: typed, strict and documented per field.

A recipe is what a training run is made from; a PreprocessSpec is what travels in the bundle so
that serving sees the same tensor as training. Unknown keys are errors that name the nearest key.
"""

import difflib
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ctray.errors import UserError

Tone = Literal["none", "equalise", "percentile"]
AugmentPolicy = Literal["none", "light", "standard", "strong"]

Sampling = Literal["natural", "balanced"]

# What may differ when a run is resumed: the records, their pixels and the learning rate of every
# step stay.
_MAY_CHANGE = ("accumulate", "checkpoint_every", "evaluate_every", "compile", "refit_epochs")
# A refit starts from trained weights, so its rate is lower.
_REFIT_LR = 0.4

# The transforms of each augmentation policy.
POLICIES: dict[AugmentPolicy, tuple[str, ...]] = {
    "none": (),
    "light": ("crop", "brightness_contrast"),
    "standard": ("crop", "affine", "flip", "brightness_contrast", "gamma"),
    "strong": (
        "crop",
        "affine",
        "flip",
        "brightness_contrast",
        "gamma",
        "clahe",
        "blur",
        "noise",
        "dropout",
    ),
}

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


class Strict(BaseModel):
    """A frozen model that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


Settings = TypeVar("Settings", bound=Strict)


class PreprocessSpec(Strict):
    """How a canonical image (uint8, H×W) becomes model input; read from the bundle when serving."""

    store_size: int = Field(
        256, ge=32, le=2048, description="side in px of the stored square image"
    )
    tone: Tone = Field(
        "equalise",
        description="grey scale before the model: none, equalise (histogram), percentile (1–99)",
    )
    image_size: int = Field(160, ge=32, le=1024, description="side in px of the model input")
    channels: Literal[1, 3] = Field(3, description="1, or 3 copies of the grey channel")
    mean: tuple[float, ...] = Field(IMAGENET_MEAN, description="per channel, on the 0–255 scale")
    std: tuple[float, ...] = Field(IMAGENET_STD, description="per channel, on the 0–255 scale")

    @classmethod
    def of(cls, recipe: "Recipe", store_size: int) -> Self:
        """What follows from a recipe and the store: all until the image enters the network.

        Channels, mean and std are the network's: `ctray.models.backbones.preprocess_spec` adds
        them, for which it has to import timm.
        """
        return cls(store_size=store_size, tone=recipe.tone, image_size=recipe.image_size)


class Transform(Strict):
    """One random change. What is unset follows from the policy and the strength."""

    p: float | None = Field(None, ge=0.0, le=1.0, description="how often it happens, 0–1")


class Crop(Transform):
    """A random part of the image, resized to the model's input (A.RandomResizedCrop)."""

    area: float | None = Field(None, ge=0.1, le=1.0, description="smallest share of the area")
    aspect: float | None = Field(None, ge=1.0, le=2.0, description="largest change of aspect")


class Affine(Transform):
    """Rotation, shift, scale and shear about the centre (A.Affine)."""

    rotate: float | None = Field(None, ge=0.0, le=180.0, description="at most, degrees")
    shift: float | None = Field(None, ge=0.0, le=0.5, description="at most, share of the side")
    scale: float | None = Field(None, ge=0.0, le=0.5, description="at most, 0.1: 0.9 to 1.1 times")
    shear: float | None = Field(None, ge=0.0, le=45.0, description="at most, degrees")


class Flip(Transform):
    """Left and right swapped; `light` keeps the heart on its side."""


class BrightnessContrast(Transform):
    """Grey levels times a gain plus an offset (A.RandomBrightnessContrast)."""

    brightness: float | None = Field(None, ge=0.0, le=1.0, description="offset, share of 255")
    contrast: float | None = Field(None, ge=0.0, le=1.0, description="gain, 0.2: 0.8 to 1.2 times")


class Gamma(Transform):
    """Grey levels to a power (A.RandomGamma)."""

    low: float | None = Field(None, gt=0.0, le=1.0, description="smallest power, brightens")
    high: float | None = Field(None, ge=1.0, le=5.0, description="largest power, darkens")


class Clahe(Transform):
    """Contrast-limited adaptive histogram equalisation (A.CLAHE)."""

    clip: float | None = Field(None, ge=1.0, le=40.0, description="largest clip limit")


class Blur(Transform):
    """Gaussian blur (A.GaussianBlur)."""

    sigma: float | None = Field(None, gt=0.0, le=10.0, description="largest, px")


class Noise(Transform):
    """Gaussian noise (A.GaussNoise)."""

    std: float | None = Field(None, gt=0.0, le=1.0, description="largest, share of 255")


class Dropout(Transform):
    """Black rectangles (A.CoarseDropout)."""

    holes: int | None = Field(None, ge=1, le=64, description="at most")
    size: float | None = Field(None, gt=0.0, le=1.0, description="largest side, share of the side")


class AugmentConfig(Strict):
    """Which random changes a training image goes through.

    The policy names the transforms and the strength scales their ranges; each can be set by itself,
    such as `noise: {p: 0.3, std: 0.05}`, whether or not the policy has it.
    """

    policy: AugmentPolicy = Field("standard", description="which transforms")
    strength: float = Field(0.5, ge=0.0, le=1.0, description="how far each transform goes, 0–1")
    crop: Crop = Field(Crop(), description="light, standard, strong: always")
    affine: Affine = Field(Affine(), description="standard, strong: 0.7")
    flip: Flip = Field(Flip(), description="standard, strong: 0.5")
    brightness_contrast: BrightnessContrast = Field(
        BrightnessContrast(), description="light, standard, strong: 0.5"
    )
    gamma: Gamma = Field(Gamma(), description="standard, strong: 0.3")
    clahe: Clahe = Field(Clahe(), description="strong: 0.2")
    blur: Blur = Field(Blur(), description="strong: 0.2")
    noise: Noise = Field(Noise(), description="strong: 0.2")
    dropout: Dropout = Field(Dropout(), description="strong: 0.5")

    @model_validator(mode="after")
    def _nothing_without_effect(self) -> Self:
        for name in type(self).model_fields.keys() - {"policy", "strength"}:
            given = getattr(self, name).model_dump(exclude_none=True)
            if given and "p" not in given and name not in POLICIES[self.policy]:
                raise ValueError(f"the policy {self.policy!r} has no {name}: give it a p, too")
        return self


class Recipe(Strict):
    """What one training run is made from.

    The defaults are the recipe `default`; docs/decisions/recipes.md shows what was measured.
    """

    backbone: str = Field("tf_efficientnet_lite0", description="small_cnn or any timm model name")
    weights: str | None = Field(
        None,
        description="hub, package, none or a file; unset: package for tf_efficientnet_lite0, "
        "none for small_cnn, hub for the rest",
    )
    seed: int = Field(0, ge=0, description="of weights, order and augmentation")
    epochs: int = Field(12, ge=1, description="passes over the training split")
    batch_size: int = Field(
        32,
        ge=1,
        description="records an optimizer step, over all workers; unset: fewer where the training "
        "split has fewer",
    )
    accumulate: int = Field(
        1, ge=1, description="parts a worker's share of a batch is computed in, to save memory"
    )
    image_size: int = Field(224, ge=32, le=1024, description="side in px of the model input")
    small_share: float = Field(
        0.5,
        ge=0.0,
        lt=1.0,
        description="share of the epochs, the first, on smaller images (progressive resizing)",
    )
    small_size: int = Field(
        192, ge=32, le=1024, description="side in px of those; at most image_size"
    )
    tone: Tone = Field("equalise", description="grey scale before augmentation and the model")
    augment: AugmentConfig = Field(AugmentConfig(), description="random changes while training")
    mixup: float = Field(
        0.0, ge=0.0, le=10.0, description="alpha of the Beta that blends two images; 0: off"
    )
    cutmix: float = Field(
        0.0, ge=0.0, le=10.0, description="alpha of the Beta that pastes a part; 0: off"
    )
    sampling: Sampling = Field(
        "natural", description="natural: each record once an epoch; balanced: classes equally often"
    )
    class_weights: Literal["none", "balanced"] = Field(
        "none", description="balanced: a record counts by the inverse of its class's share"
    )
    focal_gamma: float = Field(
        0.0, ge=0.0, le=5.0, description="of the focal loss; 0: cross entropy"
    )
    label_smoothing: float = Field(0.05, ge=0.0, lt=1.0, description="of the loss's targets")
    lr: float = Field(1e-3, gt=0.0, le=1.0, description="peak learning rate of AdamW")
    layer_decay: float = Field(
        1.0, gt=0.0, le=1.0, description="factor on the learning rate from each layer to the next"
    )
    weight_decay: float = Field(0.02, ge=0.0, description="on weights, not on biases and norms")
    warmup: float = Field(0.15, ge=0.0, lt=1.0, description="share of the steps that warm up")
    freeze_epochs: int = Field(0, ge=0, description="first epochs that train the classifier only")
    clip_norm: float = Field(5.0, gt=0.0, description="largest gradient norm")
    dropout: float = Field(0.1, ge=0.0, lt=1.0, description="before the classifier")
    drop_path: float = Field(
        0.0, ge=0.0, lt=1.0, description="share of residual branches left out, at the last block"
    )
    ema: float = Field(
        0.99, ge=0.0, lt=1.0, description="decay a step of the averaged weights; 0: no average"
    )
    tta: Literal["none", "flip"] = Field(
        "flip", description="flip: the logits of an image and its mirror image, averaged"
    )
    patience: int = Field(
        0, ge=0, description="epochs without a better evaluation that end the run; 0: none do"
    )
    refit_epochs: int = Field(
        4,
        ge=0,
        description="passes over training and validation records that follow, from the best "
        "weights; the bundle is of them; 0: none; unset: at most `epochs`",
    )
    evaluate_every: int | None = Field(
        None, ge=1, description="steps between evaluations, beside the one after each epoch"
    )
    checkpoint_every: int | None = Field(
        None, ge=1, description="steps between checkpoints, beside the one at each evaluation"
    )
    precision: Literal["auto", "bf16", "fp32"] = Field(
        "auto", description="auto: bf16 where the processor has it"
    )
    compile: bool = Field(False, description="torch.compile; on CPUs it did not pay")

    @model_validator(mode="after")
    def _parts_fit_the_whole(self) -> Self:
        if self.freeze_epochs > self.epochs:
            raise ValueError(
                f"freeze_epochs={self.freeze_epochs} is more than epochs={self.epochs}"
            )
        if (self.mixup or self.cutmix) and self.batch_size % 2:
            raise ValueError(f"mixing takes pairs: batch_size={self.batch_size} must be even")
        return self

    @classmethod
    def load(cls, path: Path | None = None, overrides: dict[str, Any] | None = None) -> Self:
        """Read a YAML recipe and lay `key=value` overrides (dotted keys reach inside) over it.

        Raises:
            UserError: no such file, not YAML, an unknown key or an impossible value.
        """
        return load_settings(cls, path, overrides)

    def for_refit(self) -> "Recipe":
        """The recipe of the refit: short, at a lower rate, all of it at the full image size."""
        changes = {
            "epochs": self.refit_epochs,
            "refit_epochs": 0,
            "lr": self.lr * _REFIT_LR,
            # Other draws than those of the first epochs.
            "seed": self.seed + 1,
            "small_share": 0.0,
            "freeze_epochs": 0,
            "patience": 0,
        }
        return self.model_copy(update=changes)

    def as_resumed(self, now: "Recipe") -> "Recipe":
        """This recipe, with what may differ in a resumed run as it is in `now`."""
        return self.model_copy(update={key: getattr(now, key) for key in _MAY_CHANGE})

    def difference(self, other: "Recipe") -> str:
        """The first setting of `other` that differs, as `key=value, not value`; "" without one."""
        mine, theirs = self.model_dump(), other.model_dump()
        for key, value in theirs.items():
            if value != mine[key]:
                return f"{key}={value}, not {mine[key]}"
        return ""


RECIPES = Path(__file__).parent / "recipes"


def recipe_file(name: str) -> Path:
    """The file of a recipe that comes with ctray.

    Raises:
        UserError: there is none of that name.
    """
    names = sorted(file.stem for file in RECIPES.glob("*.yaml"))
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "known: " + ", ".join(names)
        raise UserError(f"unknown recipe {name!r}; {hint}", "recipe")
    return RECIPES / f"{name}.yaml"


def load_settings(
    kind: type[Settings], path: Path | None, overrides: dict[str, Any] | None = None
) -> Settings:
    """Build `kind` from a YAML file and dotted overrides; every mistake is one sentence."""
    values = read_yaml(path) if path is not None else {}
    for dotted, value in (overrides or {}).items():
        *parents, last = dotted.split(".")
        place = values
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise UserError(f"cannot set {dotted!r}: {parent!r} is not a group of settings")
        place[last] = value
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        setting = [str(part) for part in error.errors()[0]["loc"][:1]]
        raise UserError(_sentence(kind, error), *setting) from error


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Raises:
        UserError: the file is missing, is not YAML, or holds something else.
    """
    if not path.is_file():
        raise UserError(f"no such file: {path}")
    try:
        values = yaml.safe_load(path.read_text()) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} must hold `key: value` lines, not a {type(values).__name__}")
    return values


def parse_assignments(pairs: list[str]) -> dict[str, Any]:
    """Turn `["lr=1e-4", "augment.policy=light"]` into a mapping with YAML-typed values.

    Raises:
        UserError: a pair without `=` or without a key.
    """
    values: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise UserError(f"{pair!r} is not of the form key=value", "set")
        values[key.strip()] = _scalar(text)
    return values


def _scalar(text: str) -> Any:
    # YAML 1.1 reads 1e-3 as a string; a user who types it means a number.
    try:
        return float(text) if "e" in text.lower() else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError):
        return text


def _sentence(kind: type[BaseModel], error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = _keys(kind)
        near = difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "known: " + ", ".join(known)
        return f"unknown setting {key!r}; {hint}"
    if first["type"] == "missing":
        return f"setting {key!r} is missing"
    message = first["msg"].removeprefix("Value error, ")
    if not key:
        return message
    return f"{key}={first['input']!r}: {message[0].lower()}{message[1:]}"


def _keys(kind: type[BaseModel], prefix: str = "") -> list[str]:
    keys: list[str] = []
    for name, field in kind.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            keys += _keys(inner, f"{prefix}{name}.")
        else:
            keys.append(prefix + name)
    return keys
