"""Titles that are encoded once give the states that the masks give, row by row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rectool.errors import RectoolError
from rectool.llm import isolate
from rectool.llm.body import last_hidden, on
from rectool.llm.encode import hidden_states
from rectool.llm.mask_plan import MaskPlan
from rectool.llm.masks import mask_inputs, spans_of
from rectool.llm.reading import Budget, Reader
from rectool.prompts.tokens import TokenRows

CPU = torch.device("cpu")
ROTARY = ("llama", "qwen2", "qwen3", "mistral")
COUNTS = [4, 1, 0, 7, 3, 7, 2]

Loaded = Callable[..., Any]
Rows = Callable[..., TokenRows]


@pytest.mark.parametrize(
    "mask",
    [
        "isolate:1,or:*",
        "isolate:2,cr-last:*",
        "isolate:1,in:1,cr:1,cr-pre:1",
        "isolate:1,cr-last:1,isolate:1,or:1",
        "isolate:2,or:1,cr-last:1",
    ],
)
@pytest.mark.parametrize("architecture", ROTARY)
def test_states_are_those_of_masks(
    loaded: Loaded, adapted: Callable[..., Any], spanned: Rows, architecture: str, mask: str
) -> None:
    tokens = spanned(COUNTS)
    model = adapted(loaded(architecture, num_hidden_layers=4))
    for budget in (30, 300):
        _compare(model, tokens, mask, budget=budget)


@pytest.mark.parametrize("beginning", [0, 1, 9])
def test_beginnings(loaded: Loaded, spanned: Rows, beginning: int) -> None:
    _compare(loaded("llama", num_hidden_layers=4), spanned(COUNTS, beginning=beginning), "isolate:2,or:1,cr-last:1")


def test_rows_that_begin_differently(loaded: Loaded, spanned: Rows) -> None:
    tokens = TokenRows.joined([spanned([3, 2]), spanned([4, 1], seed=1)])
    _compare(loaded("llama", num_hidden_layers=4), tokens, "isolate:2,or:1,cr-last:1")


def test_soft_tokens_in_titles(loaded: Loaded, spanned: Rows, vectors: Tensor) -> None:
    tokens = spanned(COUNTS, soft=True)
    assert tokens.ids.min() < 0
    _compare(loaded("qwen2", num_hidden_layers=4), tokens, "isolate:2,or:2", soft=vectors.detach())


def test_half_precision_is_as_near_as_that_of_masks(loaded: Loaded, spanned: Rows) -> None:
    tokens = spanned(COUNTS)
    exact, half = (loaded("llama", num_hidden_layers=4).to(dtype) for dtype in (torch.float32, torch.bfloat16))
    mask = MaskPlan("isolate:2,or:1,cr-last:1")
    expected, whole = (
        torch.cat([_whole(Reader(model, mask=mask), tokens, row) for row in range(len(tokens))])
        for model in (exact, half)
    )
    found = torch.empty_like(whole)
    for places, states in hidden_states(half, tokens, device=CPU, mask=mask):
        found[torch.from_numpy(places)] = states
    assert 0 < (found - expected).square().mean() < 2 * (whole - expected).square().mean()


@pytest.mark.parametrize("mask", ["isolate:2,or:2", "isolate:2,cr-last:2"])
def test_titles_that_are_too_many_are_held_piece_by_piece(
    loaded: Loaded, spanned: Rows, monkeypatch: pytest.MonkeyPatch, mask: str
) -> None:
    monkeypatch.setattr(isolate, "HELD_BYTES", 32 * 4 * 6)
    _compare(loaded("llama", num_hidden_layers=4), spanned(COUNTS), mask)


def test_each_title_is_encoded_once(loaded: Loaded, spanned: Rows) -> None:
    tokens = spanned([8] * 30)
    model = loaded("llama", num_hidden_layers=4)
    reader = Reader(model, mask=MaskPlan("isolate:3,cr-last:1"))
    assert isolate.can(reader, tokens)
    seen = [0] * 4
    for number, layer in enumerate(model.model.layers):
        layer.mlp.register_forward_hook(lambda layer, inputs, output, n=number: _add(seen, n, output))
    list(isolate.encoded(reader, tokens, Budget(10_000, CPU)))
    others = 8 * 2 + 3  # tokens of no item after what rows begin with, at most
    assert max(seen) > 0
    assert seen[0] == seen[1] == seen[2] <= 6 + 12 * 5 + 30 * others
    assert seen[3] <= 6 + 30 * (others + 8)
    assert len(tokens.ids) > 30 * 40


def test_what_it_cannot_do(loaded: Loaded, spanned: Rows) -> None:
    tokens = spanned(COUNTS)
    model = loaded("llama", num_hidden_layers=4)
    assert not isolate.can(Reader(model, mask=MaskPlan("in:2,or:*")), tokens)
    assert not isolate.can(Reader(model, mask=MaskPlan("isolate:*")), tokens)
    assert not isolate.can(Reader(model, 3, mask=MaskPlan("isolate:2,or:*")), tokens)
    assert not isolate.can(Reader(model, mask=MaskPlan("isolate:2,or:*")), spanned([0, 0]))
    assert isolate.can(Reader(model, 4, mask=MaskPlan("isolate:2,or:*")), tokens)
    for other in (loaded("gpt2", n_layer=4), loaded("mistral", num_hidden_layers=4, sliding_window=16)):
        assert not isolate.can(Reader(other, mask=MaskPlan("isolate:2,or:*")), tokens)


def test_positions_that_are_scaled_by_the_longest(loaded: Loaded, spanned: Rows) -> None:
    tokens = spanned(COUNTS)
    for original, is_relative in ((512, True), (16, False)):
        scaled = {
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "short_factor": [1.0] * 4,
            "long_factor": [1.5, 2.0, 3.0, 4.0],
            "factor": 1.0,
            "original_max_position_embeddings": original,
        }
        model = loaded("llama", num_hidden_layers=4, rope_parameters=scaled)
        assert isolate.can(Reader(model, mask=MaskPlan("isolate:2,or:*")), tokens) is is_relative


def test_absolute_positions_are_refused(loaded: Loaded) -> None:
    isolate.refuse_absolute(loaded("llama"))
    with pytest.raises(RectoolError, match=r"^--isolate-items: gpt2 models number their positions.*rotary"):
        isolate.refuse_absolute(loaded("gpt2"))


def _add(seen: list[int], number: int, output: Tensor) -> None:
    seen[number] += output.shape[0] * output.shape[1]


def _whole(reader: Reader, tokens: TokenRows, row: int) -> Tensor:
    """(1, H) of a row by itself, all of its tokens in all layers."""
    place = np.array([row])
    ids, lengths = on(CPU, *tokens.padded(place))
    masks = mask_inputs(reader.kinds, spans_of(tokens, place, ids.shape[1], CPU))
    with torch.no_grad():
        return last_hidden(reader.model, ids, lengths, reader.soft, masks)


def _compare(model: Any, tokens: TokenRows, mask: str, *, budget: int = 200, soft: Tensor | None = None) -> None:
    reader = Reader(model, soft=soft, mask=MaskPlan(mask))
    assert isolate.can(reader, tokens)
    expected = torch.cat([_whole(reader, tokens, row) for row in range(len(tokens))])
    found = torch.full_like(expected, torch.nan)
    for places, states in isolate.encoded(reader, tokens, Budget(budget, CPU)):
        assert torch.isnan(found[places]).all()
        found[torch.from_numpy(places)] = states
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
