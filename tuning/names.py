"""What a search lets one choose by name. Nothing here imports Ray or Optuna: `--help` needs it."""

from typing import Literal

# Which model of a study is deployed (tuning/choice.py).
Choose = Literal["fastest", "best"]
# Who ends trials that are behind (tuning/judge.py).
Pruner = Literal["asha", "hyperband", "none"]
# How the next point of the space is chosen (tuning/samplers.py).
SamplerName = Literal["auto", "tpe", "gp", "cmaes", "random", "grid"]
