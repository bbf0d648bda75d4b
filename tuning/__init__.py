"""The search over backbones, augmentation and hyperparameters: `python -m tuning.search`."""
