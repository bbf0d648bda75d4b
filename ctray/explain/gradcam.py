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


class Evidence:
    """Grad-CAM of a bundle's model, which is built once for many images."""

    def __init__(self, bundle: Bundle) -> None:
        """Build the model.

        Raises:
            UserError: the backbone has no convolution map.
        """
        self._info = bundle.info
        self._whole = restore_model(bundle)
        self._layer = last_feature_layer(self._whole.model, bundle.info.preprocess)

    def heatmap(self, image: np.ndarray, label: str) -> np.ndarray:
        """Evidence for a class.

        Args:
            image: canonical image, uint8 (H, W).
            label: one of the bundle's classes.

        Returns:
            float32 (H, W) in 0–1, scaled so that the strongest place is 1; all 0 where nothing
            speaks for the class.
        """
        inputs = torch.from_numpy(to_input(image, self._info.preprocess)).unsqueeze(0)
        target = ClassifierOutputTarget(self._info.classes.index(label))
        with GradCAM(model=self._whole.model, target_layers=[self._layer]) as cam:
            small = cam(input_tensor=self._whole.normalise(inputs), targets=[target])[0]
        height, width = image.shape
        return cv2.resize(
            small.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC
        ).clip(0, 1)
