"""Evidence for a prediction: Grad-CAM."""
