"""Attention that is read off layer by layer, against the maps of eager attention and against the masks' formulas."""

from __future__ import annotations

import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from rectool.data.dataset import Dataset
from rectool.errors import RectoolError
from rectool.figures.attended import told
from rectool.llm.mask_plan import MaskPlan
from rectool.llm.masks import allowed


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "mistral", "gpt2"])
def test_weights_are_those_of_eager_attention_of_padded_rows(
    dataset: Dataset, tiny_llm: Callable[..., Path], attended: Callable[..., Any], architecture: str
) -> None:
    options = {"sliding_window": 9} if architecture == "mistral" else {}
    folder = tiny_llm(architecture, **options)
    model = attended(folder)
    asked = model.asked(dataset, np.array([3, 30]))
    found: dict[int, Any] = {}
    places = np.arange(2)
    model.read(asked, places, lambda layer, weights: found.update({layer: weights}))
    plain = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    for row in places:
        ids = asked.tokens.ids[asked.tokens.offsets[row] : asked.tokens.offsets[row + 1]].astype(np.int64)
        with torch.no_grad():
            naive = plain(torch.from_numpy(ids)[None], output_attentions=True).attentions
        for layer, heads in enumerate(naive):
            mine = found[layer][row, : len(ids), : len(ids)]
            torch.testing.assert_close(mine, heads[0].mean(0), atol=1e-5, rtol=0)
    assert sorted(found) == [0, 1]


def test_masks_of_each_layer_are_in_force_and_outputs_as_ever(
    dataset: Dataset, tiny_llm: Callable[..., Path], attended: Callable[..., Any]
) -> None:
    model = attended(tiny_llm(), MaskPlan("in:1,cr:1"))
    asked, places = model.asked(dataset, np.array([3, 30, 31])), np.arange(3)
    spans = model.spans(asked, places)
    found: dict[int, Any] = {}
    model.read(asked, places, lambda layer, weights: found.update({layer: weights}))
    for layer, kind in enumerate(model.kinds()):
        assert ((found[layer] > 0) == allowed(kind, spans)[:, 0]).all()
        torch.testing.assert_close(found[layer].sum(2), torch.ones_like(found[layer][..., 0]))
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        before = model.model(ids).logits
        with told(model.model, lambda layer, weights: None):
            assert torch.equal(model.model(ids).logits, before)
    assert not ALL_ATTENTION_FUNCTIONS._local_mapping.keys() & {"rectool_layers"}


def test_a_model_that_does_not_tell_is_refused(
    dataset: Dataset, tiny_llm: Callable[..., Path], attended: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = attended(tiny_llm(), name="mine")
    asked = model.asked(dataset, np.array([3]))
    last = model.model.model.layers[-1].self_attn

    def silent(self: Any, hidden_states: torch.Tensor, **_: Any) -> tuple[torch.Tensor, None]:
        return hidden_states, None

    monkeypatch.setattr(last, "forward", types.MethodType(silent, last))
    with pytest.raises(RectoolError, match="mine does not tell the attention of its layers"):
        model.read(asked, np.arange(1), lambda layer, weights: None)
    model.model.config._attn_implementation = "eager"
    with pytest.raises(RectoolError, match="choose another architecture"):
        model.read(asked, np.arange(1), lambda layer, weights: None)
