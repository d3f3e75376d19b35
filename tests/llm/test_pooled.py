"""Pooled states are those of Hugging Face's own models, one text at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel

from rectool.errors import RectoolError
from rectool.llm.distill_settings import Pooling
from rectool.llm.pooled import pooled_states
from rectool.prompts.tokens import TokenRows

CPU = torch.device("cpu")


@pytest.fixture
def rows() -> TokenRows:
    """Texts of 4 to 24 tokens that begin with the same three."""
    chance = np.random.default_rng(0)
    texts = [[5, 6, 7, *chance.integers(3, 200, chance.integers(1, 22))] for _ in range(30)]
    lengths = [len(text) for text in texts]
    return TokenRows(np.concatenate(texts).astype(np.int32), np.cumsum([0, *lengths]))


def read(model: Any, rows: TokenRows, pooling: Pooling, **how: Any) -> np.ndarray[Any, Any]:
    found = np.full((len(rows), 32), np.nan, np.float32)
    for places, states in pooled_states(model, rows, pooling, device=CPU, **how):
        assert np.isnan(found[places]).all(), "each row once"
        found[places] = states.numpy()
    return found


def naive(model: Any, rows: TokenRows, pooling: Pooling, layer: int = -1) -> np.ndarray[Any, Any]:
    found = []
    for row in range(len(rows)):
        ids = torch.from_numpy(rows.padded(np.array([row]))[0])
        with torch.no_grad():
            states = model(input_ids=ids, output_hidden_states=True).hidden_states[layer][0]
        found.append({"last": states[-1], "cls": states[0], "mean": states.mean(0)}[pooling].numpy())
    return np.stack(found)


@pytest.mark.parametrize("budget", [None, 30, 100])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_an_encoder(tiny_encoder: Path, rows: TokenRows, pooling: Pooling, budget: int | None) -> None:
    model = AutoModel.from_pretrained(tiny_encoder).eval()
    found = read(model, rows, pooling, causal=False, budget=budget)
    np.testing.assert_allclose(found, naive(model, rows, pooling), atol=1e-5)


@pytest.mark.parametrize("budget", [None, 30, 100])
@pytest.mark.parametrize("pooling", ["mean", "last"])
@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gpt2"])
def test_a_causal_model(
    tiny_llm: Callable[..., Path], rows: TokenRows, architecture: str, pooling: Pooling, budget: int | None
) -> None:
    model = AutoModel.from_pretrained(tiny_llm(architecture)).eval()
    told: list[int] = []
    found = read(model, rows, pooling, causal=True, budget=budget, progress=told.append)
    np.testing.assert_allclose(found, naive(model, rows, pooling), atol=1e-5)
    assert sum(told) == len(rows)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_layers(tiny_encoder: Path, tiny_llm: Callable[..., Path], rows: TokenRows, layer: int) -> None:
    encoder, causal = (AutoModel.from_pretrained(folder).eval() for folder in (tiny_encoder, tiny_llm("llama")))
    for pooling in ("mean", "cls"):
        found = read(encoder, rows, pooling, causal=False, layer=layer)
        np.testing.assert_allclose(found, naive(encoder, rows, pooling, layer), atol=1e-5)
    for pooling in ("mean", "last"):
        found = read(causal, rows, pooling, causal=True, layer=layer)
        np.testing.assert_allclose(found, naive(causal, rows, pooling, layer), atol=1e-5)


def test_a_layer_that_is_not_there(tiny_encoder: Path, rows: TokenRows) -> None:
    with pytest.raises(RectoolError, match=r"--layer 3: the model has layers 0 \(the embeddings\) to 2"):
        read(AutoModel.from_pretrained(tiny_encoder), rows, "cls", causal=False, layer=3)
