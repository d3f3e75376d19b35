"""LoRA: which layers of a language model get adapters, how many parameters that makes, and putting them in."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from rectool.errors import RectoolError
from rectool.llm.adapter import peft_of_today
from rectool.training.lora_settings import Lora

USUAL_TARGETS = (("q_proj", "v_proj"), ("c_attn",), ("query_key_value",), ("qkv_proj",), ("Wqkv",))
"""The names of the layers of queries and values, by architecture."""


@dataclass(frozen=True)
class Anatomy:
    """What a language model is made of, and what of it is trained.

    Attributes:
        targets: names of the layers that get adapters; none where all weights are trained.
        parameters: of the model itself.
        quantizable: those of them in linear layers, the head aside.
        trained: parameters that are trained.
        adapted_width: inputs of all layers that get adapters, added up.
        normed_queries: whether queries and keys have a norm of their own.
    """

    targets: tuple[str, ...]
    parameters: int
    quantizable: int
    trained: int
    adapted_width: int
    normed_queries: bool

    def beside(self, *modules: nn.Module) -> Anatomy:
        """The same with modules of their own, as far as these are trained."""
        own = {parameter: parameter.numel() for module in modules for parameter in module.parameters()}
        trained = sum(count for parameter, count in own.items() if parameter.requires_grad)
        return replace(self, parameters=self.parameters + sum(own.values()), trained=self.trained + trained)

    def frozen(self) -> Anatomy:
        """The same with nothing of it trained."""
        return replace(self, trained=0, targets=(), adapted_width=0)


def outline(config: PretrainedConfig) -> PreTrainedModel:
    """A model of a configuration without its weights."""
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    return model


def dissect(model: PreTrainedModel, lora: Lora) -> Anatomy:
    """Count what a model is made of, with its weights or without.

    Raises:
        RectoolError: `--target-modules` matches nothing, or the usual layers are not there.
    """
    linear = _linear_layers(model)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    targets: tuple[str, ...] = ()
    adapted: list[tuple[int, int]] = []
    if not lora.full:
        targets = _targets(linear, lora, type(model).__name__)
        adapted = [_sizes(layer) for name, layer in linear.items() if _is_named(name, targets)]
    return Anatomy(
        targets=targets,
        parameters=parameters,
        quantizable=sum(math.prod(_sizes(layer)) for layer in linear.values()),
        trained=parameters if lora.full else sum(lora.rank * (inputs + outputs) for inputs, outputs in adapted),
        adapted_width=sum(inputs for inputs, _ in adapted),
        normed_queries=any(name.endswith("q_norm") for name, _ in model.named_modules()),
    )


def adapt(model: PreTrainedModel, lora: Lora, targets: tuple[str, ...]) -> PreTrainedModel | PeftModel:
    """The model to train: with adapters in float32 and all else frozen; with `--full` itself, all of it trained."""
    if lora.full:
        return model.requires_grad_(True)
    plain = any(isinstance(layer, Conv1D) for name, layer in _linear_layers(model).items() if _is_named(name, targets))
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(targets),
        fan_in_fan_out=plain,  # GPT-2 keeps its matrices the other way round
    )
    with peft_of_today():
        adapted: PeftModel = get_peft_model(model, config)
    return adapted


def _linear_layers(model: PreTrainedModel) -> dict[str, nn.Linear | Conv1D]:
    """By name; without the head, whose rows are the answers."""
    head = model.get_output_embeddings()
    return {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear | Conv1D) and layer is not head
    }


def _targets(linear: Mapping[str, nn.Module], lora: Lora, architecture: str) -> tuple[str, ...]:
    there = sorted({name.rpartition(".")[2] for name in linear})
    wanted = lora.targets()
    if wanted == ("all",):
        return tuple(there)
    for name in wanted:
        if not any(_is_named(layer, (name,)) for layer in linear):
            raise RectoolError(f"--target-modules {name}: {architecture} has the linear layers {', '.join(there)}")
    if wanted:
        return wanted
    for usual in USUAL_TARGETS:
        if set(usual) <= set(there):
            return usual
    raise RectoolError(
        f"{architecture} names its queries and values in no usual way; choose --target-modules from {', '.join(there)}"
    )


def _is_named(layer: str, names: tuple[str, ...]) -> bool:
    """As peft sees it: by the whole name or its end."""
    return any(layer == name or layer.endswith(f".{name}") for name in names)


def _sizes(layer: nn.Linear | Conv1D) -> tuple[int, int]:
    """Inputs and outputs of a linear layer."""
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    inputs, outputs = layer.weight.shape
    return inputs, outputs
