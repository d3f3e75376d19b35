"""The answer head: two logits of the whole model's, with gradients, and models it cannot read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from rectool.errors import RectoolError
from rectool.llm.adapter import peft_of_today
from rectool.llm.body import last_hidden, on
from rectool.llm.head import AnswerHead
from rectool.prompts.layout import Answers

CPU = torch.device("cpu")
ANSWERS = Answers((" Yes", " No"), (301, 17))

Loaded = Callable[..., Any]
Rows = Callable[..., Any]


def logits(model: Any, tokens: Any) -> torch.Tensor:
    """Of the last position (N, V), by the whole model."""
    found = []
    for start, stop in zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True):
        found.append(model(input_ids=torch.from_numpy(tokens.ids[start:stop].astype(np.int64))[None]).logits[0, -1])
    return torch.stack(found)


def hidden(model: Any, tokens: Any) -> torch.Tensor:
    return last_hidden(model, *on(CPU, *tokens.padded(np.arange(len(tokens)))))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "mistral", "gpt2"])
def test_scores_are_those_of_the_model(
    loaded: Loaded, adapted: Loaded, prompts_of_groups: Rows, architecture: str, tied: bool
) -> None:
    model = adapted(loaded(architecture, tied=tied))
    tokens, _ = prompts_of_groups([5], [3])
    expected = logits(model, tokens)
    margin = AnswerHead(model, ANSWERS, "softmax").scores(hidden(model, tokens))
    torch.testing.assert_close(margin, expected[:, 301] - expected[:, 17], atol=1e-5, rtol=0)
    torch.testing.assert_close(margin.sigmoid(), expected[:, [301, 17]].softmax(1)[:, 0], atol=1e-5, rtol=0)
    single = AnswerHead(model, ANSWERS, "yes-logit").scores(hidden(model, tokens))
    torch.testing.assert_close(single, expected[:, 301], atol=1e-5, rtol=0)


@pytest.mark.parametrize("tied", [False, True])
def test_gradients_reach_the_rows(loaded: Loaded, prompts_of_groups: Rows, tied: bool) -> None:
    model = loaded("llama", tied=tied)
    tokens, _ = prompts_of_groups([5], [3])
    whole = logits(model, tokens)
    (whole[:, 301] - whole[:, 17]).square().sum().backward()
    expected = {name: part.grad.clone() for name, part in model.named_parameters()}
    model.zero_grad()
    AnswerHead(model, ANSWERS, "softmax").scores(hidden(model, tokens)).square().sum().backward()
    for name, part in model.named_parameters():
        torch.testing.assert_close(part.grad, expected[name], atol=1e-4, rtol=1e-4)


def test_rows_are_looked_up_at_each_call(loaded: Loaded) -> None:
    model = loaded("llama")
    head = AnswerHead(model, ANSWERS, "yes-logit")
    states = torch.ones(1, 32)
    with torch.no_grad():
        model.lm_head.weight[301] = 2.0
        assert head.scores(states).tolist() == [64.0]


def test_a_head_with_a_bias(loaded: Loaded, prompts_of_groups: Rows) -> None:
    model = loaded("llama")
    biased = nn.Linear(32, model.config.vocab_size)
    nn.init.normal_(biased.bias)
    model.set_output_embeddings(biased)
    tokens, _ = prompts_of_groups([3], [3])
    expected = logits(model, tokens)[:, [301, 17]]
    found = AnswerHead(model, ANSWERS, "softmax").scores(hidden(model, tokens))
    torch.testing.assert_close(found, expected[:, 0] - expected[:, 1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("how", [{"target_modules": ["lm_head"]}, {"modules_to_save": ["lm_head"]}])
def test_a_head_that_is_adapted_or_copied_by_peft(loaded: Loaded, prompts_of_groups: Rows, how: dict[str, Any]) -> None:
    with peft_of_today():
        model = get_peft_model(loaded("llama"), LoraConfig(**{"r": 2, "target_modules": ["q_proj"], **how})).eval()
    for name, part in model.named_parameters():
        if part.requires_grad:
            nn.init.normal_(part, std=0.2)
        assert part.requires_grad == ("lora" in name or "modules_to_save" in name)
    tokens, _ = prompts_of_groups([3], [3])
    expected = logits(model, tokens)[:, [301, 17]]
    found = AnswerHead(model, ANSWERS, "softmax").scores(hidden(model, tokens))
    torch.testing.assert_close(found, expected[:, 0] - expected[:, 1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_scores_are_float32_whatever_the_model(loaded: Loaded, prompts_of_groups: Rows, dtype: torch.dtype) -> None:
    model = loaded("llama")
    tokens, _ = prompts_of_groups([5], [3])
    exact = AnswerHead(model, ANSWERS, "softmax").scores(hidden(model, tokens))
    model.to(dtype)
    head = AnswerHead(model, ANSWERS, "softmax")
    states = hidden(model, tokens)
    with torch.autocast("cpu", torch.bfloat16):
        found = head.scores(states)
    assert found.dtype == torch.float32
    rows = model.lm_head.weight[[301, 17]].double()
    torch.testing.assert_close(found.double(), states.double() @ (rows[0] - rows[1]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found, exact, atol=0.1, rtol=0.1)


def test_capped_and_scaled_logits_are_refused() -> None:
    from transformers import CohereConfig, CohereForCausalLM, Gemma2Config, Gemma2ForCausalLM

    sizes = {"vocab_size": 400, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "head_dim": 8}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2}
    torch.manual_seed(0)
    for model in (Gemma2ForCausalLM(Gemma2Config(**sizes)), CohereForCausalLM(CohereConfig(**sizes))):
        with pytest.raises(RectoolError, match=r"logits of (gemma2|cohere) models are scaled or capped"):
            AnswerHead(model, ANSWERS, "softmax")
    uncapped = Gemma2ForCausalLM(Gemma2Config(**sizes, final_logit_softcapping=None))
    AnswerHead(uncapped, ANSWERS, "softmax")


def test_an_answer_the_model_does_not_know(loaded: Loaded) -> None:
    with pytest.raises(RectoolError, match=r"the answer ' No' is token 4000, but the model has 8..: its tokenizer"):
        AnswerHead(loaded("llama"), Answers((" Yes", " No"), (3, 4000)), "softmax")


def test_a_model_without_a_head(tiny_encoder: Any) -> None:
    from transformers import AutoModel

    with pytest.raises(RectoolError, match="bert models have no output head to answer with"):
        AnswerHead(AutoModel.from_pretrained(tiny_encoder), ANSWERS, "softmax")
