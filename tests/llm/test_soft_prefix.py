"""What stands before the first soft vector is run without gradient, and kept: the same states and gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rectool.llm.body import last_hidden, on
from rectool.llm.soft_prefix import PrefixCache, cache_bytes, can_prefix, prefix_lengths, prefixed_last_hidden
from rectool.prompts.tokens import TokenRows
from rectool.training.asking import compute_twice

CPU = torch.device("cpu")
ARCHITECTURES = ("llama", "qwen2", "qwen3", "mistral", "gpt2")

Loaded = Callable[..., Any]
Rows = Callable[..., Any]


@pytest.fixture
def tokens(token_rows: Rows) -> TokenRows:
    """Long and short prefixes, twice the same, none at all, no reference, and references that rows share."""
    return token_rows(
        [
            [*range(10, 40), -1, 7, 8, -2, 9],
            [*range(50, 55), -3, 7, -2, -2, 30, 31, 32, 9],
            [*range(10, 40), -5, 7],
            [-1, 4, 5, 6],
            [*range(60, 70)],
            [70],
            [*range(10, 40), 41, -1],
        ]
    )


@pytest.fixture
def gradients(vectors: Tensor) -> Callable[[Tensor], Tensor]:
    def of(states: Tensor) -> Tensor:
        vectors.grad = None
        (states * torch.linspace(-1, 1, states.shape[1])).square().sum().backward()
        assert vectors.grad is not None
        return vectors.grad.clone()

    return of


@pytest.mark.parametrize("how", ["bare", "adapted", "eager", "training"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_same_states_and_gradients(
    loaded: Loaded,
    adapted: Loaded,
    tokens: TokenRows,
    vectors: Tensor,
    gradients: Callable[[Tensor], Tensor],
    architecture: str,
    how: str,
) -> None:
    model = loaded(architecture)
    if how == "adapted":
        model = adapted(model)
    if how == "eager":
        model.set_attn_implementation("eager")
    model.requires_grad_(False)
    assert can_prefix(model)
    cache = PrefixCache(1 << 30, CPU)
    for samples in (np.arange(7), np.array([3, 0, 0]), np.array([4, 1, 5]), np.array([3]), np.array([4])):
        expected = last_hidden(model.eval(), *on(CPU, *tokens.padded(samples)), vectors)
        model.train(how == "training")
        for kept in (None, cache, cache):
            found = prefixed_last_hidden(model, tokens, samples, vectors, CPU, kept)
            assert model.training == (how == "training")
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
            if (tokens.take(samples).ids < 0).any():
                torch.testing.assert_close(gradients(found), gradients(expected), atol=1e-4, rtol=1e-5)
                expected = last_hidden(model.eval(), *on(CPU, *tokens.padded(samples)), vectors)
                model.train(how == "training")


def test_only_what_follows_has_a_gradient(loaded: Loaded, tokens: TokenRows, vectors: Tensor) -> None:
    model = loaded("llama").requires_grad_(False)
    seen: list[tuple[int, bool]] = []
    model.model.layers[1].register_forward_hook(
        lambda layer, inputs, output: seen.append((output.shape[0] * output.shape[1], output.requires_grad))
    )
    prefixed_last_hidden(model, tokens, np.array([0, 2]), vectors, CPU)
    assert seen == [(30, False), (2 * 5, True)]


def test_what_is_kept_is_not_run_again(loaded: Loaded, tokens: TokenRows, vectors: Tensor) -> None:
    model = loaded("llama").requires_grad_(False)
    seen: list[int] = []
    model.model.layers[1].register_forward_hook(lambda layer, inputs, output: seen.append(output[..., 0].numel()))
    cache = PrefixCache(1 << 30, CPU)
    prefixed_last_hidden(model, tokens, np.array([0, 1]), vectors, CPU, cache)
    assert (seen, cache.hits, cache.misses) == ([30, 5, 2 * 8], 0, 2)
    seen.clear()
    prefixed_last_hidden(model, tokens, np.array([1, 2, 3, 6]), vectors, CPU, cache)
    assert (seen, cache.hits, cache.misses) == ([31, 4 * 8], 2, 3)
    states = 2 * 2 * 2 * 8  # keys and values, layers, heads, width
    assert cache.taken == (30 + 5 + 31) * 4 * (states + 1)


def test_a_cache_has_room_for_the_first(
    loaded: Loaded, tokens: TokenRows, vectors: Tensor, gradients: Callable[[Tensor], Tensor]
) -> None:
    model = loaded("llama").requires_grad_(False)
    samples = np.array([1, 0, 3, 6])
    expected = gradients(last_hidden(model, *on(CPU, *tokens.padded(samples)), vectors))
    cache = PrefixCache(4 * 65 * (5 + 31) - 1, CPU)
    for _ in range(3):
        found = gradients(prefixed_last_hidden(model, tokens, samples, vectors, CPU, cache))
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)
    assert (cache.hits, cache.misses) == (2 * 2, 3 + 2 * 1)
    assert cache.taken == 4 * 65 * (5 + 30)


def test_an_estimate_counts_each_prefix_once(loaded: Loaded, tokens: TokenRows, vectors: Tensor) -> None:
    model = loaded("llama").requires_grad_(False)
    cache = PrefixCache(1 << 30, CPU)
    prefixed_last_hidden(model, tokens, np.arange(7), vectors, CPU, cache)
    assert cache_bytes(model, tokens) == cache.taken


def test_lengths_of_prefixes(tokens: TokenRows, token_rows: Rows) -> None:
    assert prefix_lengths(tokens).tolist() == [30, 5, 30, 0, 9, 0, 31]
    assert prefix_lengths(token_rows([])).tolist() == []


def test_not_where_something_is_trained(loaded: Loaded, adapted: Loaded) -> None:
    model = adapted(loaded("llama"))
    assert not can_prefix(model)
    assert can_prefix(model.requires_grad_(False))
    model.base_model.model.model.norm.weight.requires_grad_()
    assert not can_prefix(model)


def test_not_with_checkpointing(loaded: Loaded) -> None:
    model = loaded("llama").requires_grad_(False)
    compute_twice(model)
    assert not can_prefix(model)


def test_not_with_a_short_window(loaded: Loaded) -> None:
    model = loaded("mistral", sliding_window=64).requires_grad_(False)
    assert not can_prefix(model)
    assert not can_prefix(model, 33)
    assert can_prefix(model, 32)


def test_a_callable_makes_vectors(loaded: Loaded, tokens: TokenRows, vectors: Tensor) -> None:
    model = loaded("llama").requires_grad_(False)
    samples = np.array([0, 1, 4])
    asked: list[list[int]] = []

    def made(references: Any) -> Tensor:
        asked.append(references.tolist())
        return vectors[references]

    found = prefixed_last_hidden(model, tokens, samples, made, CPU)
    torch.testing.assert_close(found, prefixed_last_hidden(model, tokens, samples, vectors, CPU))
    assert asked == [[0, 1, 2]]


def test_half_precision_keeps_its_type(loaded: Loaded, tokens: TokenRows, vectors: Tensor) -> None:
    model = loaded("llama").to(torch.bfloat16).requires_grad_(False)
    assert can_prefix(model)
    cache = PrefixCache(1 << 30, CPU)
    found = [prefixed_last_hidden(model, tokens, np.arange(7), vectors, CPU, kept) for kept in (None, cache, cache)]
    assert found[0].dtype == torch.bfloat16
    torch.testing.assert_close(found[1], found[0], atol=0.1, rtol=0.1)
    torch.testing.assert_close(found[2], found[1], atol=0, rtol=0)
    assert cache_bytes(model, tokens) == cache.taken
