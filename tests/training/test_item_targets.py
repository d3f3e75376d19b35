"""Objectives over items against the slow way: all logits, one prompt at a time; however steps are cut and packed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.training.objectives import gradients, summed, tuned
from torch import Tensor, nn

from rectool.llm.body import body_of
from rectool.llm.item_head import ItemHead
from rectool.llm.mask_plan import MaskPlan
from rectool.llm.masks import mask_inputs, spans_of
from rectool.prompts.tokens import TokenRows, bounds
from rectool.training import losses
from rectool.training.item_targets import ItemCriterion
from rectool.training.lora_settings import Lora
from rectool.training.prompted import PromptObjective, Trainable
from rectool.training.token_parts import TokenParts

CPU = torch.device("cpu")
ROWS, ITEMS = 12, 30
TARGETS = np.random.default_rng(1).integers(0, ITEMS, ROWS).astype(np.int32)
WAYS = [TokenParts(10_000), TokenParts(90), TokenParts(90, packed=True)]


@pytest.fixture(scope="module")
def tokens() -> TokenRows:
    """Prompts of 12 to 30 tokens, each with three items of two to three tokens from the fourth token on."""
    chance = np.random.default_rng(0)
    lengths = chance.integers(12, 30, ROWS)
    spans = []
    for _ in range(ROWS):
        first = 3
        for item in chance.integers(0, ITEMS, 3):
            last = first + int(chance.integers(2, 4))
            spans.append((first, last, item))
            first = last
    ids = chance.integers(3, 300, lengths.sum()).astype(np.int32)
    return TokenRows(ids, bounds(lengths), np.array(spans, np.int32), np.arange(0, 3 * ROWS + 1, 3))


def made(folder: Path, tokens: TokenRows, parts: TokenParts, head: ItemHead, plan: str) -> PromptObjective:
    model, layers = tuned(folder, Lora(dropout=0.0), plan)
    criterion = ItemCriterion(head, TARGETS, CPU)
    return PromptObjective(Trainable(model, head=head), model, tokens, criterion, parts, dict, CPU, layers)


def slow(objective: PromptObjective, batch: Any, plan: str) -> tuple[float, dict[str, Tensor]]:
    """One prompt at a time, logits of all items, and nothing dropped."""
    head = objective.module.head

    def loss(sample: int) -> Tensor:
        places = np.array([sample])
        ids = torch.from_numpy(objective.tokens.padded(places)[0])
        masks = mask_inputs(MaskPlan.parse(plan).layers(2), spans_of(objective.tokens, places, ids.shape[1], CPU))
        hidden = body_of(objective.model)(input_ids=ids, use_cache=False, **masks).last_hidden_state[0, -1]
        logits = head.keys() @ hidden
        return nn.functional.cross_entropy(logits[None], torch.tensor([int(TARGETS[sample])]))

    return summed(objective.module, map(loss, batch))


@pytest.mark.parametrize("parts", WAYS)
@pytest.mark.parametrize("plan", ["causal", "in:1,cr:*", "in:1,cr-last:1"])
@pytest.mark.parametrize(("architecture", "kind"), [("llama", "random"), ("qwen3", "tied"), ("gpt2", "random")])
def test_loss_and_gradients_are_those_of_the_slow_way(
    parts: TokenParts, plan: str, architecture: str, kind: str, tokens: TokenRows, tiny_llm: Callable[..., Path]
) -> None:
    table = torch.randn(ITEMS, 5, generator=torch.Generator().manual_seed(3))
    head = ItemHead.random(ITEMS, 32, 1) if kind == "random" else ItemHead.tied(table, 32, 1)
    objective = made(tiny_llm(architecture), tokens, parts, head, plan)
    batch = np.array([3, 0, 7, 5, 6, 11, 2, 9])
    loss, own = gradients(objective, batch)
    expected_loss, expected = slow(objective, batch, plan)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert own.keys() == expected.keys()
    assert any(name.startswith("head.") for name in own)
    torch.testing.assert_close(own, expected, rtol=1e-3, atol=1e-5)


def test_logits_of_all_rows_never_exist_at_once(
    tokens: TokenRows, tiny_llm: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = made(tiny_llm("llama"), tokens, WAYS[0], ItemHead.random(ITEMS, 32, 1), "causal")
    expected_loss, expected = gradients(objective, np.arange(ROWS))
    monkeypatch.setattr(losses, "rows_at_a_time", lambda count, keys: 5)
    loss, own = gradients(objective, np.arange(ROWS))
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-6)
