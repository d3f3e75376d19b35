"""The objective of titles against the slow way: one prompt at a time, logits of the whole vocabulary everywhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.training.objectives import gradients, summed, tuned
from torch import Tensor, nn

from rectool.errors import RectoolError
from rectool.llm.body import body_of, causal_of
from rectool.llm.masks import mask_inputs, spans_of
from rectool.llm.title_head import TitleHead
from rectool.prompts.tokens import TokenRows, bounds
from rectool.training.lora_settings import Lora
from rectool.training.titles import TitleCriterion, TitleObjective
from rectool.training.token_parts import TokenParts

CPU = torch.device("cpu")
ROWS, ITEMS = 14, 6
CHANCE = np.random.default_rng(1)
TARGETS = CHANCE.integers(0, ITEMS, ROWS).astype(np.int32)


def random_rows(seed: int, count: int, shortest: int, longest: int) -> TokenRows:
    chance = np.random.default_rng(seed)
    lengths = chance.integers(shortest, longest, count)
    return TokenRows(chance.integers(3, 300, lengths.sum()).astype(np.int32), bounds(lengths))


@pytest.fixture(scope="module")
def tokens() -> TokenRows:
    """Prompts of 9 to 40 tokens, with two items each."""
    rows = random_rows(0, ROWS, 9, 40)
    spans = np.tile(np.array([[1, 4, 0], [5, 7, 1]], np.int32), (ROWS, 1))
    return TokenRows(rows.ids, rows.offsets, spans, np.arange(ROWS + 1) * 2)


@pytest.fixture(scope="module")
def outputs() -> TokenRows:
    return random_rows(2, ITEMS, 1, 8)


def made(
    folder: Path, tokens: TokenRows, outputs: TokenRows, parts: TokenParts, lora: Lora, plan: str = "causal"
) -> TitleObjective:
    model, layers = tuned(folder, lora, plan)
    criterion = TitleCriterion(TitleHead(model), outputs, TARGETS, CPU)
    return TitleObjective(model, model, tokens, criterion, parts, dict, CPU, layers)


def slow(objective: TitleObjective, outputs: TokenRows, batch: Any) -> tuple[float, dict[str, Tensor]]:
    model: Any = objective.module

    def loss(sample: int) -> Tensor:
        prompt = objective.tokens.take(np.array([sample]))
        title = outputs.take(TARGETS[[sample]])
        whole = prompt.followed_by(title)
        ids = torch.from_numpy(whole.padded(np.array([0]))[0])
        masks = {}
        if objective.layers:
            masks = mask_inputs(objective.layers, spans_of(whole, np.array([0]), ids.shape[1], CPU))
        states = body_of(model)(input_ids=ids, use_cache=False, **masks).last_hidden_state
        logits = causal_of(model).get_output_embeddings()(states)[0]
        first = len(prompt.ids)
        return nn.functional.cross_entropy(logits[first - 1 : -1], ids[0, first:], reduction="sum")

    return summed(model, map(loss, batch))


@pytest.mark.parametrize("plan", ["causal", "in:1,cr:1", "isolate:1,cr-last:1"])
@pytest.mark.parametrize("parts", [TokenParts(10_000), TokenParts(90), TokenParts(90, packed=True)], ids=str)
@pytest.mark.parametrize(
    ("architecture", "tied", "lora"),
    [
        ("llama", False, Lora(dropout=0.0)),
        ("qwen3", True, Lora(full=True)),
        ("gpt2", True, Lora(dropout=0.0)),
        ("mistral", False, Lora(dropout=0.0)),
    ],
    ids=str,
)
def test_loss_and_gradients_are_those_of_the_slow_way(
    tiny_llm: Callable[..., Path],
    tokens: TokenRows,
    outputs: TokenRows,
    architecture: str,
    tied: bool,
    lora: Lora,
    parts: TokenParts,
    plan: str,
) -> None:
    objective = made(tiny_llm(architecture, tied=tied), tokens, outputs, parts, lora, plan)
    batch = np.array([3, 1, 8, 13, 0, 7])
    expected, slow_gradients = slow(objective, outputs, batch)
    found, own = gradients(objective, batch, 2)
    assert found == pytest.approx(expected, rel=1e-5)
    assert own.keys() == slow_gradients.keys()
    for name, gradient in own.items():
        torch.testing.assert_close(gradient, slow_gradients[name], atol=2e-4, rtol=1e-3)


def test_a_batch_has_so_many_prompts_and_their_tokens_are_targets(
    tiny_llm: Callable[..., Path], tokens: TokenRows, outputs: TokenRows
) -> None:
    objective = made(tiny_llm(), tokens, outputs, TokenParts(1000), Lora())
    batches = objective.batches(4, (0, 1))
    assert sorted(np.concatenate(batches).tolist()) == list(range(ROWS))
    assert max(map(len, batches)) == 4
    assert objective.targets(batches[0]) == sum(int(outputs.lengths[TARGETS[sample]]) for sample in batches[0])
    assert (objective.lengths == tokens.lengths + outputs.lengths[TARGETS]).all()


def test_no_room_for_titles(tiny_llm: Callable[..., Path], tokens: TokenRows, outputs: TokenRows) -> None:
    with pytest.raises(RectoolError, match="the model reads 30 at most; leave room for titles with --max-tokens 24"):
        made(tiny_llm(max_position_embeddings=30), tokens, outputs, TokenParts(1000), Lora())
