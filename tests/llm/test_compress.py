"""What is left of the tokens in deep layers is exactly what it was, with its gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers.modeling_layers import GradientCheckpointingLayer

from rectool.llm import compress
from rectool.llm.body import body_of, last_hidden, on, pack, packed_last_hidden
from rectool.llm.mask_plan import MaskKind
from rectool.llm.masks import mask_inputs, masked, packed_spans, spans_of
from rectool.prompts.tokens import TokenRows
from rectool.training.asking import compute_twice

CPU = torch.device("cpu")
ARCHITECTURES = ("llama", "qwen2", "qwen3", "mistral", "gpt2")
IN_LAST: tuple[MaskKind, ...] = ("in", "cr-last")

Loaded = Callable[..., Any]
Rows = Callable[..., TokenRows]


def test_which_layers_drop() -> None:
    assert compress.dropped_from(("cr-last", "or", "cr-last", "cr-last")) == 2
    assert compress.dropped_from(("cr-last", "or")) == 2
    assert compress.dropped_from(("cr-last", "cr-last")) == 0


@pytest.mark.parametrize("layers", [IN_LAST, ("cr-last", "cr-last"), ("or", "cr-last")])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_states_and_gradients(
    loaded: Loaded, adapted: Callable[..., Any], spanned: Rows, architecture: str, layers: tuple[MaskKind, ...]
) -> None:
    tokens = spanned([4, 1, 0, 6])
    places = np.arange(len(tokens))
    ids, lengths = on(CPU, *tokens.padded(places))
    spans = spans_of(tokens, places, ids.shape[1], CPU)
    keep = compress.kept(spans, lengths)
    weight = torch.randn(int(keep.sum()), 32, generator=torch.Generator().manual_seed(0))
    found = []
    for dropping in (False, True):
        model = adapted(loaded(architecture))
        masked(model)
        if dropping:
            with compress.compressed(model, layers, spans, lengths) as masks:
                states = body_of(model)(input_ids=ids, use_cache=False, **masks).last_hidden_state
        else:
            states = body_of(model)(input_ids=ids, use_cache=False, **mask_inputs(layers, spans)).last_hidden_state
        assert states.shape == (*ids.shape, 32)
        (states[keep] * weight).sum().backward()
        gradients = {name: part.grad for name, part in model.named_parameters() if part.grad is not None}
        assert gradients
        found.append((states[keep], gradients))
    (whole, slow), (less, fast) = found
    torch.testing.assert_close(less, whole, atol=1e-5, rtol=0)
    assert slow.keys() == fast.keys()
    for name, gradient in slow.items():
        torch.testing.assert_close(fast[name], gradient, atol=1e-5 * max(1.0, float(gradient.abs().max())), rtol=0)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_fewer_tokens_go_through_deep_layers(loaded: Loaded, spanned: Rows, architecture: str) -> None:
    tokens = spanned([4, 6])
    model = loaded(architecture)
    seen: list[tuple[int, ...]] = []
    layers = model.transformer.h if architecture == "gpt2" else model.model.layers
    for layer in layers:
        part = layer.mlp
        part.register_forward_hook(lambda layer, inputs, output: seen.append(tuple(output.shape[:2])))
    hidden = _read(model, tokens, IN_LAST, dropping=True)
    titles = tokens.spans[:, 1] - tokens.spans[:, 0]
    others = tokens.lengths - np.bincount(np.repeat([0, 1], [4, 6]), titles).astype(int) + [4, 6]
    assert seen[-2:] == [(2, int(tokens.lengths.max())), (2, int(others.max()))]
    assert hidden.shape == (2, 32)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_packed_rows(loaded: Loaded, spanned: Rows, architecture: str) -> None:
    tokens = spanned([2, 1, 0, 3, 4])
    expected = _read(loaded(architecture), tokens, IN_LAST, dropping=False)
    model = loaded(architecture)
    masked(model)
    places = np.arange(len(tokens))
    packed = pack(tokens, places, int(2.5 * tokens.lengths.max()), CPU)
    assert len(packed.ids) < len(tokens)
    with compress.compressed(model, IN_LAST, packed_spans(tokens, places, packed)) as masks:
        found = packed_last_hidden(model, packed, masks=masks)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_a_window_of_attention_goes_by_where_tokens_stood(loaded: Loaded, spanned: Rows) -> None:
    tokens = spanned([5, 3])
    wide, narrow = (loaded("mistral", sliding_window=size) for size in (512, 24))
    expected = _read(narrow, tokens, IN_LAST, dropping=False)
    assert (_read(wide, tokens, IN_LAST, dropping=False) - expected).abs().max() > 1e-3
    torch.testing.assert_close(_read(narrow, tokens, IN_LAST, dropping=True), expected, atol=1e-5, rtol=0)


def test_checkpointing(loaded: Loaded, adapted: Callable[..., Any], spanned: Rows) -> None:
    tokens = spanned([4, 2])
    gradients = []
    for checkpointing in (False, True):
        model = adapted(loaded("llama", attention_dropout=0.0))
        for part in model.modules():
            if type(part).__name__ == "Dropout":
                part.p = 0.0
        if checkpointing:
            compute_twice(model.get_base_model())
        model.train()
        _read(model, tokens, IN_LAST, dropping=True).square().sum().backward()
        gradients.append([weight.grad for weight in model.parameters() if weight.grad is not None])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_all_tokens_stay_where_checkpointing_would_run_hooks_again(
    loaded: Loaded, spanned: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it does in transformers before 5.23, where a layer's call as a whole is run again."""
    monkeypatch.setattr(GradientCheckpointingLayer, "__call__", torch.nn.Module.__call__, raising=False)
    tokens, model = spanned([4, 2]), loaded("llama")
    widths: list[int] = []
    model.model.layers[-1].mlp.register_forward_hook(lambda layer, inputs, output: widths.append(output.shape[1]))
    found = [_read(model, tokens, IN_LAST, dropping=True)]
    compute_twice(model)
    found.append(_read(model, tokens, IN_LAST, dropping=True))
    *_, fewer, all_ = widths  # after those of finding out that the model heeds masks
    assert fewer < all_ == tokens.lengths.max()
    torch.testing.assert_close(*found, atol=1e-5, rtol=1e-5)


def test_hooks_are_gone_afterwards(loaded: Loaded, spanned: Rows) -> None:
    tokens = spanned([4, 6])
    model = loaded("llama")
    before = _read(model, tokens, IN_LAST, dropping=False)
    _read(model, tokens, IN_LAST, dropping=True)
    torch.testing.assert_close(_read(model, tokens, IN_LAST, dropping=False), before, atol=0, rtol=0)


def _read(model: Any, tokens: TokenRows, layers: tuple[MaskKind, ...], *, dropping: bool) -> Tensor:
    masked(model)
    places = np.arange(len(tokens))
    ids, lengths = on(CPU, *tokens.padded(places))
    spans = spans_of(tokens, places, ids.shape[1], CPU)
    if not dropping:
        return last_hidden(model, ids, lengths, masks=mask_inputs(layers, spans))
    with compress.compressed(model, layers, spans, lengths) as masks:
        return last_hidden(model, ids, lengths, masks=masks)
