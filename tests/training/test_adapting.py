"""LoRA in models of all kinds: where it goes, what it counts, what it leaves alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from rectool.errors import RectoolError
from rectool.training.adapting import adapt, dissect, outline
from rectool.training.lora_settings import Lora

ARCHITECTURES = ("llama", "qwen2", "qwen3", "mistral", "gpt2")


def load(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder)


@pytest.mark.parametrize("given", [{}, {"target_modules": "all", "rank": 3}, {"full": True}])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_is_counted_without_weights_is_what_is_trained(
    architecture: str, tied: bool, given: dict[str, object], tiny_llm: Callable[..., Path]
) -> None:
    lora, folder = Lora(**given), tiny_llm(architecture, tied=tied)
    found = dissect(outline(AutoConfig.from_pretrained(folder)), lora)
    model = load(folder)
    assert found == dissect(model, lora)
    assert found.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert found.quantizable < found.parameters
    assert found.normed_queries == (architecture == "qwen3")
    adapted = adapt(model, lora, found.targets)
    trained = {name: parameter for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert found.trained == sum(parameter.numel() for parameter in trained.values())
    if lora.full:
        assert found.targets == ()
    else:
        assert all(".lora_" in name for name in trained)
        assert not any("lm_head" in name for name in trained)
        inputs = [parameter.shape[1] for name, parameter in trained.items() if ".lora_A." in name]
        assert sum(inputs) == found.adapted_width


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_queries_and_values_get_adapters_by_default(architecture: str, tiny_llm: Callable[..., Path]) -> None:
    targets = dissect(load(tiny_llm(architecture)), Lora()).targets
    assert targets == (("c_attn",) if architecture == "gpt2" else ("q_proj", "v_proj"))


def test_adapters_are_of_full_precision_on_a_base_of_half(tiny_llm: Callable[..., Path]) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_llm("llama"), dtype=torch.bfloat16)
    kinds = {parameter.requires_grad: parameter.dtype for parameter in adapt(model, Lora(), ("q_proj",)).parameters()}
    assert kinds == {True: torch.float32, False: torch.bfloat16}


def test_an_adapter_starts_by_changing_nothing(tiny_llm: Callable[..., Path]) -> None:
    ids = torch.arange(3, 9)[None]
    before = load(tiny_llm("llama"))(ids).logits
    after = adapt(load(tiny_llm("llama")), Lora(dropout=0.0), ("q_proj",))(ids).logits
    assert before.equal(after)


@pytest.mark.parametrize(
    ("architecture", "wanted", "unknown", "there"),
    [
        ("llama", "q_proj,c_attn", "c_attn", "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"),
        ("llama", "lm_head", "lm_head", "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"),
        ("gpt2", "proj", "proj", "c_attn, c_fc, c_proj"),
    ],
)
def test_layers_that_are_not_there(
    architecture: str, wanted: str, unknown: str, there: str, tiny_llm: Callable[..., Path]
) -> None:
    with pytest.raises(RectoolError) as error:
        dissect(load(tiny_llm(architecture)), Lora(target_modules=wanted))
    assert str(error.value).startswith(f"--target-modules {unknown}: ")
    assert str(error.value).endswith(f" has the linear layers {there}")


def test_one_layer_of_many(tiny_llm: Callable[..., Path]) -> None:
    lora = Lora(target_modules="layers.1.self_attn.q_proj")
    model = load(tiny_llm("llama"))
    adapted = adapt(model, lora, dissect(model, lora).targets)
    assert sum(parameter.requires_grad for parameter in adapted.parameters()) == 2
