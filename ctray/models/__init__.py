"""Backbones by name and their pretrained weights."""
