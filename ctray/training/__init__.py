"""The training loop, its resource plan and the Ray Train trainer."""
