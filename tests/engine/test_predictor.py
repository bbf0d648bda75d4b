"""A predictor decides by what its bundle says."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ctray.decision.decide import DecisionParams
from ctray.engine.predictor import Predictor

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("kept", [None, DecisionParams()], ids=["none", "fitted"])
def test_it_decides_with_the_parameters_of_its_bundle(
    kept: DecisionParams | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[DecisionParams] = []

    def decide(params: DecisionParams, *_: object) -> list[Any]:
        used.append(params)
        return []

    monkeypatch.setattr("ctray.engine.predictor.decide", decide)
    bundle: Any = SimpleNamespace(decision=kept, info=SimpleNamespace(classes=("a", "b")))
    engine: Any = SimpleNamespace(logits=lambda batch: np.zeros((len(batch), 2), np.float32))
    Predictor(bundle, engine).predict([np.zeros((64, 64), np.uint8)])
    (params,) = used
    assert params == DecisionParams()
    assert kept is None or params is kept
