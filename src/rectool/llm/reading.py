"""Running a model's body in batches: up to a layer, without gradients, within the memory there is.

Shapes: N rows   B rows of a batch   L tokens of the longest   H hidden size
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PretrainedConfig

from rectool.devices import free_memory
from rectool.errors import RectoolError
from rectool.llm.body import Soft, body_of, causal_of, on, read_inputs, reading
from rectool.llm.compress import compressed
from rectool.llm.layers import layers_of
from rectool.llm.mask_plan import CAUSAL, MaskPlan
from rectool.llm.masks import mask_inputs, masked, spans_of
from rectool.prompts.tokens import TokenRows

BATCH_TOKENS = 1 << 10
"""Tokens encoded together on a CPU by default: what its caches hold."""
MOST_TOKENS = 1 << 16
"""The most on a GPU by default: more do not make it faster."""

Result = TypeVar("Result")
Longs = NDArray[np.int64]
Encoded = tuple[Longs, Tensor]
"""Which rows (B,), and what was read of them (B, H)."""


def token_bytes(config: PretrainedConfig, dtype: torch.dtype) -> tuple[float, float]:
    """What a token takes while a model is run without gradients, and what its keys and values take in one layer.

    The former is an estimate: a few hidden states and the inner layer of the feed-forward network.
    """
    text = config.get_text_config(decoder=True)
    hidden, heads = text.hidden_size, text.num_attention_heads
    inner = getattr(text, "intermediate_size", None) or getattr(text, "n_inner", None) or 4 * hidden
    width = getattr(text, "head_dim", None) or hidden // heads
    kept = 2 * (getattr(text, "num_key_value_heads", None) or heads) * width
    return dtype.itemsize * (10 * hidden + 4 * inner), dtype.itemsize * kept


def default_budget(config: PretrainedConfig, dtype: torch.dtype, device: torch.device) -> int:
    """Tokens of a batch: on a GPU those that take half of its free memory."""
    if device.type != "cuda":
        return BATCH_TOKENS
    return min(MOST_TOKENS, max(1, int(free_memory(device) / 2 / token_bytes(config, dtype)[0])))


def refuse_layer(layer: int | None, config: PretrainedConfig) -> None:
    """Raises RectoolError where a model has no such layer; None is its output."""
    depth = config.get_text_config(decoder=True).num_hidden_layers
    if layer is not None and not 0 <= layer <= depth:
        raise RectoolError(f"--layer {layer}: the model has layers 0 (the embeddings) to {depth}")


class Reader:
    """Runs a model's body up to a layer, in evaluation mode and without gradients.

    Args:
        soft: what ids below 0 stand for.
        mask: which tokens of rows, which have spans then, see which.

    Raises:
        RectoolError: there is no such layer, or the mask does not fit the model.
    """

    def __init__(
        self, model: nn.Module, layer: int | None = None, soft: Soft | None = None, mask: MaskPlan = CAUSAL
    ) -> None:
        self.model, self.soft = model, soft
        self.body: Any = body_of(model)
        self.layer = layer
        self.config: PretrainedConfig = causal_of(model).config
        self.depth: int = self.config.get_text_config(decoder=True).num_hidden_layers
        self.dtype: torch.dtype = causal_of(model).get_input_embeddings().weight.dtype
        refuse_layer(layer, self.config)
        self.is_masked, self.kinds = not mask.is_causal, mask.layers(self.depth)
        if self.is_masked:
            masked(model)
        self._next: nn.Module | None = None  # the layer whose input is read
        if layer is not None and layer < self.depth:
            self._next = layers_of(model)[layer]

    def last_hidden(self, tokens: TokenRows, device: torch.device, places: Longs) -> Tensor:
        """The hidden state at the last token (B, H) of rows (B,), padded on the right."""
        ids, lengths = on(device, *tokens.padded(places))
        with self._masks(tokens, places, lengths, ids.shape[1]) as masks:
            return self.states(ids, use_cache=False, **masks)[torch.arange(len(ids), device=device), lengths - 1]

    def _masks(
        self, tokens: TokenRows, places: Longs, lengths: Tensor, width: int
    ) -> AbstractContextManager[dict[str, Any]]:
        """What the body is called with besides, within."""
        if not self.is_masked:
            return nullcontext({})
        spans = spans_of(tokens, places, width, lengths.device)
        if self._next is not None:  # a layer below the top gives all tokens
            return nullcontext(mask_inputs(self.kinds, spans))
        return compressed(self.model, self.kinds, spans, lengths)

    def states(self, ids: Tensor, **options: Any) -> Tensor:
        """(B, L, H) of ids (B, L), and of what else the body is called with."""
        with reading(self.model):
            inputs = read_inputs(self.model, ids, self.soft) | options
            if self._next is None:
                states: Tensor = self.body(**inputs).last_hidden_state
                return states
            hook = self._next.register_forward_pre_hook(_reach, with_kwargs=True)
            try:
                self.body(**inputs)
            except _Reached as reached:
                return reached.states
            finally:
                hook.remove()
        raise AssertionError("the layer was not run")


class _Reached(Exception):
    """The layer to read has been reached: nothing after it is needed."""

    def __init__(self, states: Tensor) -> None:
        super().__init__()
        self.states = states


def _reach(layer: nn.Module, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
    raise _Reached(positional[0] if positional else named["hidden_states"])


@dataclass
class Budget:
    """How many tokens are encoded together; halved where the device has no memory for them."""

    tokens: int
    device: torch.device

    def attempt(self, work: Callable[[], Result]) -> Result | None:
        """The result of some work, or None if the device had no memory for it."""
        try:
            return work()
        except torch.OutOfMemoryError:
            pass
        torch.cuda.empty_cache()  # outside of `except`: the error holds the tensors of its frames
        return None

    def halve(self, rows: int) -> None:
        """Raises RectoolError if there was but one row to halve."""
        if rows == 1:
            raise RectoolError(f"{self.device} has no memory for a single prompt; lower --max-tokens or --history")
        self.tokens = max(1, self.tokens // 2)


def in_batches(rows: Longs, costs: NDArray[Any], work: Callable[[Longs], Tensor], room: Budget) -> Iterator[Encoded]:
    """Do some work for rows (N,), the costliest first, as many at a time as their budget allows.

    Args:
        costs: (N,) tokens of each row, which is padded to the costliest of its batch.
        work: (B,) rows -> (B, H).
    """
    order = np.argsort(-costs, kind="stable")
    done = 0
    while done < len(order):
        fitting = max(1, int(room.tokens / costs[order[done]]))
        places = rows[order[done : done + fitting]]
        result = room.attempt(partial(work, places))
        if result is None:
            room.halve(len(places))
            continue
        done += len(places)
        yield places, result
