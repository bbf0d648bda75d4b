"""Models by name: `small_cnn` is ours, every other name is timm's."""

from typing import Any, Literal

import timm
import torch
from timm.data import resolve_data_config
from torch import nn

from ctray.config import PreprocessSpec, Recipe
from ctray.errors import UserError
from ctray.models.names import SMALL_CNN, check_backbone, timm_name
from ctray.models.small_cnn import SmallCNN
from ctray.models.weights import load_pretrained

# The weights of the pip package were trained on (x − 127) / 128, not on ImageNet's mean and std.
LITE0_MEAN, LITE0_STD = (127.0,) * 3, (128.0,) * 3


def build_model(
    backbone: str,
    num_classes: int,
    image_size: int,
    dropout: float = 0.0,
    drop_path: float = 0.0,
) -> nn.Module:
    """A randomly initialised model: float (N, channels, S, S) to float (N, num_classes) logits.

    Raises:
        UserError: an unknown name, or one that cannot take images of that size.
    """
    check_backbone(backbone)
    if backbone == SMALL_CNN:
        if drop_path:
            raise UserError("small_cnn has no drop_path: set it to 0", "drop_path")
        return SmallCNN(num_classes, dropout)
    extra: dict[str, Any] = {} if takes_any_size(backbone) else {"img_size": image_size}
    extra |= {"drop_path_rate": drop_path} if drop_path else {}
    try:
        model = timm.create_model(
            timm_name(backbone), num_classes=num_classes, drop_rate=dropout, **extra
        )
    except (AssertionError, TypeError) as error:
        if "drop_path_rate" in str(error):
            raise UserError(f"{backbone} has no drop_path: set it to 0", "drop_path") from error
        raise UserError(
            f"{backbone} cannot be built for {image_size} px images: {error}"
        ) from error
    if not isinstance(model.get_classifier(), nn.Module):  # type: ignore[operator]
        raise UserError(f"{backbone} has several classifiers, and ctray trains one: take another")
    return model


def initial_model(recipe: Recipe, num_classes: int) -> nn.Module:
    """The model a run starts from: seeded, with the recipe's pretrained weights in place."""
    torch.manual_seed(recipe.seed)
    model = build_model(
        recipe.backbone, num_classes, recipe.image_size, recipe.dropout, recipe.drop_path
    )
    source = resolve_weights(recipe)
    load_pretrained(model, timm_name(recipe.backbone), source)
    if source != "none":
        # A random classifier on pretrained features starts with a loss of about twice chance, and
        # its gradients spoil the features before it has learnt anything.
        for parameter in model.get_classifier().parameters():  # type: ignore[operator]
            nn.init.zeros_(parameter)
    return model


def resolve_weights(recipe: Recipe) -> str:
    """Where the pretrained weights come from: hub, package, none or a file."""
    if recipe.weights is not None:
        return recipe.weights
    return {SMALL_CNN: "none", "tf_efficientnet_lite0": "package"}.get(recipe.backbone, "hub")


def preprocess_spec(recipe: Recipe, store_size: int) -> PreprocessSpec:
    """The preprocessing this backbone expects.

    A grey image enters a pretrained RGB stem as three equal channels, each scaled as the
    pretrained weights saw it, so that the stem's filters mean what they meant.
    """
    channels: Literal[1, 3] = 3
    mean: tuple[float, ...]
    std: tuple[float, ...]
    if recipe.backbone == SMALL_CNN:
        channels, mean, std = 1, (127.5,), (64.0,)
    elif resolve_weights(recipe) == "package":
        mean, std = LITE0_MEAN, LITE0_STD
    else:
        config = timm.get_pretrained_cfg(timm_name(recipe.backbone))
        data = resolve_data_config(pretrained_cfg=config.to_dict() if config else {})
        mean = tuple(round(255 * value, 4) for value in data["mean"])
        std = tuple(round(255 * value, 4) for value in data["std"])
    network = {"channels": channels, "mean": mean, "std": std}
    return PreprocessSpec.of(recipe, store_size).model_copy(update=network)


def last_feature_layer(model: nn.Module, spec: PreprocessSpec) -> nn.Module:
    """The deepest convolution whose output still is a map: what Grad-CAM looks at.

    Found by one forward pass: VGG's fully connected layers are 1×1 convolutions in timm, and
    squeeze-and-excitation has some too.

    Raises:
        UserError: the model has none (a transformer).
    """
    found: list[nn.Module] = []

    def remember(module: nn.Module, _: object, output: torch.Tensor) -> None:
        if output.ndim == 4 and min(output.shape[2:]) > 1:
            found.append(module)

    hooks = [
        module.register_forward_hook(remember)
        for module in model.modules()
        if isinstance(module, nn.Conv2d)
    ]
    with torch.no_grad():
        model(torch.zeros(1, spec.channels, spec.image_size, spec.image_size))
    for hook in hooks:
        hook.remove()
    if not found:
        raise UserError("this backbone has no convolution map: Grad-CAM cannot explain it")
    return found[-1]


def takes_any_size(backbone: str) -> bool:
    """Whether a built model runs on images of other sizes, too; a vision transformer does not."""
    if backbone == SMALL_CNN:
        return True
    return not timm.get_pretrained_cfg_value(timm_name(backbone), "fixed_input_size")
