"""Names of backbones; those of the recipes are known without importing timm."""

import difflib

from ctray.errors import UserError

SMALL_CNN = "small_cnn"
# timm's own `xception` is an alias it warns about.
_ALIASES = {"xception": "legacy_xception"}
_OF_THE_RECIPES = (
    SMALL_CNN,
    "tf_efficientnet_lite0",
    "efficientnet_b0",
    "resnet18",
    "vgg16",
    "xception",
)


def timm_name(name: str) -> str:
    """What timm calls a backbone of that name."""
    return _ALIASES.get(name, name)


def check_backbone(name: str) -> None:
    """Raise UserError naming the nearest known name when `name` is not a backbone."""
    if name in _OF_THE_RECIPES:
        return
    # Seconds, which a command with a known name does not wait for.
    import timm

    # timm names one architecture's weights after a dot: resnet18.a1_in1k.
    wanted = timm_name(name)
    known = timm.list_models(pretrained=True) if "." in wanted else timm.list_models()
    if wanted in known:
        return
    near = difflib.get_close_matches(name, [SMALL_CNN, *known], n=1)
    hint = f"did you mean {near[0]!r}?" if near else "use small_cnn or a name of timm.list_models()"
    raise UserError(f"unknown backbone {name!r}; {hint}")
