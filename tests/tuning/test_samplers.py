"""Every sampler draws points of a conditional space, and says what it cannot do."""

import importlib.util
from pathlib import Path
from typing import get_args

import optuna
import pytest

from ctray.config import Recipe
from ctray.errors import UserError
from tuning.names import SamplerName
from tuning.samplers import make_sampler
from tuning.space import Space

pytestmark = pytest.mark.fast

SPACE = """
backbone: {choice: [small_cnn, resnet18]}
lr: {low: 1.0e-3, high: 1.0e-2, log: true}
when:
  backbone:
    small_cnn:
      lr: {low: 2.0e-3, high: 3.0e-2, log: true}
    resnet18:
      layer_decay: {low: 0.6, high: 1.0}
"""
MODELS = [name for name in get_args(SamplerName) if name not in ("auto", "grid", "cmaes")]


@pytest.mark.parametrize("name", MODELS)
def test_what_the_first_trials_showed_guides_the_next(name: SamplerName, tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(SPACE)
    space = Space.load(tmp_path / "space.yaml", Recipe())
    study = optuna.create_study(direction="maximize", sampler=make_sampler(name, 0, ["macro_f1"]))
    networks = []
    for _ in range(24):
        trial = study.ask()
        params = space.suggest(trial)
        assert set(params) == set(space.active(params))
        networks.append(params["backbone"])
        study.tell(trial, float(params["backbone"] == "resnet18"))
    later = networks[12:].count("resnet18")
    assert later >= 9 if name != "random" else 3 <= later <= 9


def test_cmaes_says_what_it_lacks() -> None:
    with pytest.raises(UserError, match="takes one objective: use tpe or gp"):
        make_sampler("cmaes", 0, ["macro_f1", "latency_ms"])
    if importlib.util.find_spec("cmaes") is None:
        with pytest.raises(UserError, match="pip install cmaes"):
            make_sampler("cmaes", 0, ["macro_f1"])
