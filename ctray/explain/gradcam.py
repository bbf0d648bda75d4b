"""Grad-CAM: where in the image the evidence for a class lies.

Selvaraju et al., Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization,
ICCV 2017, through the grad-cam package.
"""

import cv2
import numpy as np
import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

from ctray.artefact.bundle import Bundle
from ctray.data.image.preprocess import to_input
from ctray.engine.model import restore_model
from ctray.models.backbones import last_feature_layer


def heatmap(bundle: Bundle, image: np.ndarray, label: str) -> np.ndarray:
    """Evidence for a class.

    Args:
        bundle: a loaded bundle.
        image: canonical image, uint8 (H, W).
        label: one of the bundle's classes.

    Returns:
        float32 (H, W) in 0–1, scaled so that the strongest place is 1; all 0 where nothing speaks
        for the class.

    Raises:
        UserError: the backbone has no convolution map.
    """
    whole = restore_model(bundle)
    layer = last_feature_layer(whole.model, bundle.info.preprocess)
    inputs = torch.from_numpy(to_input(image, bundle.info.preprocess)).unsqueeze(0)
    target = ClassifierOutputTarget(bundle.info.classes.index(label))
    with GradCAM(model=whole.model, target_layers=[layer]) as cam:
        small = cam(input_tensor=whole.normalise(inputs), targets=[target])[0]
    height, width = image.shape
    return cv2.resize(
        small.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC
    ).clip(0, 1)


def overlay(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """The image beside itself with the heat laid over it: uint8 (H, 2 W, 3), BGR for OpenCV."""
    grey = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    colours = cv2.applyColorMap((heat * 255).astype(np.uint8), cv2.COLORMAP_TURBO)
    # Where there is no evidence the image stays as it is.
    share = 0.55 * heat[..., None]
    return np.hstack([grey, (grey * (1 - share) + colours * share).astype(np.uint8)])
