"""The projector against its formula, and on disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from rectool.errors import RectoolError
from rectool.models import projector as projectors
from rectool.models.projector import Activation, Projector


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_formula(activation: Activation) -> None:
    torch.manual_seed(0)
    projector = Projector(3, 5, 4, activation)
    x = torch.randn(2, 6, 3)
    act = getattr(functional, activation)
    expected = act(x @ projector.up.weight.T + projector.up.bias) @ projector.down.weight.T + projector.down.bias
    torch.testing.assert_close(projector(x), expected)
    assert projector(x).shape == (2, 6, 4)


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    projector = Projector(3, 5, 4, "relu")
    projectors.save(projector, tmp_path)
    loaded = projectors.load(tmp_path)
    assert (loaded.inputs, loaded.hidden, loaded.outputs, loaded.activation) == (3, 5, 4, "relu")
    torch.testing.assert_close(loaded.state_dict(), projector.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"inputs": 3, "hidden": 5, "outputs": 4, "activation": "tanh"}, "activation 'tanh' is none of relu, gelu"),
        ({"inputs": 3, "hidden": 5, "activation": "relu"}, "is not the config of a projector"),
        ({"inputs": -3, "hidden": 5, "outputs": 4, "activation": "relu"}, "is not the config of a projector"),
        ({"inputs": 2, "hidden": 5, "outputs": 4, "activation": "relu"}, "weights.safetensors does not fit"),
        (None, "is not the config of a projector"),
    ],
)
def test_what_is_no_projector_is_refused(tmp_path: Path, config: object, said: str) -> None:
    projectors.save(Projector(3, 5, 4, "relu"), tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(RectoolError, match=said):
        projectors.load(tmp_path)
