"""What tests of language models' objectives share: a model that is tuned, and the gradients of losses."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from rectool.llm.mask_plan import MaskKind, MaskPlan
from rectool.llm.masks import masked
from rectool.training.adapting import adapt, dissect
from rectool.training.lora_settings import Lora


def tuned(folder: Path, lora: Lora, plan: str = "causal") -> tuple[Any, tuple[MaskKind, ...]]:
    """A model of two layers in training, its adapter's weights random, without dropout; and the masks of its layers."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    torch.manual_seed(0)
    adapted = adapt(model, lora, dissect(model, lora).targets)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.1)
    adapted.train()
    for part in adapted.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    mask = MaskPlan(plan)
    if mask.is_causal:
        return adapted, ()
    masked(adapted)
    return adapted, mask.layers(2)


def gradients(objective: Any, batch: Any, count: int = 1) -> tuple[float, dict[str, Tensor]]:
    """The loss of a batch and its gradients, computed as the loop does."""
    return summed(objective.module, map(objective.loss, objective.parts(batch, count)))


def summed(module: nn.Module, losses: Iterable[Tensor]) -> tuple[float, dict[str, Tensor]]:
    """The sum of losses, and its gradients by parameter; one loss at a time."""
    module.zero_grad()
    total = 0.0
    for loss in losses:
        loss.backward()
        total += float(loss.detach())
    return total, {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
