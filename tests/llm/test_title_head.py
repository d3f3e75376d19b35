"""The title head against the model's own logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from rectool.errors import RectoolError
from rectool.llm.adapter import peft_of_today
from rectool.llm.body import last_hidden
from rectool.llm.title_head import TitleHead

IDS = torch.tensor([[5, 9, 7], [8, 3, 1]])


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "mistral", "gpt2"])
@pytest.mark.parametrize("tied", [False, True])
def test_logits_are_the_models_own(loaded: Callable[..., Any], architecture: str, tied: bool) -> None:
    model = loaded(architecture, tied=tied)
    with torch.no_grad():
        found = TitleHead(model).logits(last_hidden(model, IDS, torch.tensor([3, 3])))
        torch.testing.assert_close(found, model(input_ids=IDS).logits[:, -1])


def test_a_head_that_is_trained_with_the_adapter(loaded: Callable[..., Any]) -> None:
    config = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"], task_type="CAUSAL_LM")
    with peft_of_today():
        model = get_peft_model(loaded("llama"), config)
    head = TitleHead(model)
    with torch.no_grad():
        model.get_base_model().lm_head.modules_to_save["default"].weight.normal_()
        found = head.logits(last_hidden(model, IDS, torch.tensor([3, 3])))
        torch.testing.assert_close(found, model(input_ids=IDS).logits[:, -1])
    assert head.keys.requires_grad


def test_heads_that_are_no_plain_matrix(loaded: Callable[..., Any]) -> None:
    with peft_of_today():
        adapted = get_peft_model(loaded("llama"), LoraConfig(r=2, target_modules=["lm_head"], task_type="CAUSAL_LM"))
    with pytest.raises(RectoolError, match=r"no plain matrix .* leave the head out of --target-modules"):
        TitleHead(adapted)
    model = loaded("llama")
    model.lm_head = nn.Linear(32, model.config.vocab_size)
    with pytest.raises(RectoolError, match="no plain matrix"):
        TitleHead(model)
    model = loaded("gpt2")
    model.config.final_logit_softcapping = 30.0
    with pytest.raises(RectoolError, match="scaled or capped"):
        TitleHead(model)
