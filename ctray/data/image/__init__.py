"""Encoded bytes to the canonical image, and the canonical image to the model's input."""
