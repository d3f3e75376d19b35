"""Attention masks that differ from layer to layer (HatLLM, section 4), for any model with stock attention.

No model code is changed: an attention of ours is registered with transformers, which takes the mask of its layer out of
what the body was called with and hands it to the stock SDPA attention. What that was given besides (a sliding window,
padding, prompts that share a line) stays in force.

Shapes: B rows or lines   L tokens of the longest   Q tokens that ask, the last of the L
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from rectool.errors import RectoolError
from rectool.llm.body import LAYERED, Packed, body_of, causal_of, on, reading
from rectool.llm.mask_plan import MaskKind
from rectool.prompts.spans import refuse_lost_spans
from rectool.prompts.tokens import TokenRows, within

KEYWORD = "layer_masks"
"""What a body is called with: for each of its layers a mask (B, 1, Q or L, L), or None for causal."""


@dataclass(frozen=True)
class Spans:
    """Which tokens of a batch are of which item; the same item twice in a history is two.

    Attributes:
        item: (B, L) int64, the number of the item within its prompt; -1 where a token is of none, as padding is.
        last: (B, L) bool, the last token of its item.
        row: (B, L) int64, which prompt of its line a token is of; None where a line is one prompt.
    """

    item: Tensor
    last: Tensor
    row: Tensor | None = None


def spans_of(
    tokens: TokenRows,
    places: NDArray[Any],
    width: int,
    device: torch.device,
    names: Callable[[int], str] | None = None,
) -> Spans:
    """The spans of rows (B,), padded on the right to `width` tokens.

    Args:
        tokens: with spans.
        names: what an item is called in messages; None: by its number.

    Raises:
        RectoolError: a title has no token of its own, or shares one.
    """
    starts = np.zeros(len(places), np.int64)
    item, last = _placed(tokens, places, np.arange(len(places)), starts, (len(places), width), names)
    return Spans(*on(device, item, last))


def packed_spans(tokens: TokenRows, places: NDArray[Any], packed: Packed) -> Spans:
    """The spans of rows (B,) that have been packed into lines.

    Raises:
        RectoolError: as in `spans_of`.
    """
    device, shape = packed.ids.device, (packed.ids.shape[0], packed.ids.shape[1])
    lines, ends = packed.lines.cpu().numpy(), packed.ends.cpu().numpy()
    lengths = tokens.lengths[places]
    starts = ends - lengths + 1
    item, last = _placed(tokens, places, lines, starts, shape)
    row = np.full(shape, -1, np.int64)
    row[np.repeat(lines, lengths), np.repeat(starts, lengths) + within(lengths)] = np.repeat(
        np.arange(len(places)), lengths
    )
    return Spans(*on(device, item, last, row))


def _placed(
    tokens: TokenRows,
    places: NDArray[Any],
    lines: NDArray[np.int64],
    starts: NDArray[np.int64],
    shape: tuple[int, int],
    names: Callable[[int], str] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Number (W, S) of each token's span, and which is its last, of rows (B,) that start somewhere in lines."""
    batch = tokens.take(places)
    refuse_lost_spans(batch, names)
    assert batch.spans is not None
    assert batch.span_offsets is not None
    counts = np.diff(batch.span_offsets)
    line, start = np.repeat(lines, counts), np.repeat(starts, counts)
    first, stop = (batch.spans[:, column] + start for column in range(2))
    lengths = stop - first
    item, last = np.full(shape, -1, np.int64), np.zeros(shape, np.bool_)
    item[np.repeat(line, lengths), np.repeat(first, lengths) + within(lengths)] = np.repeat(within(counts), lengths)
    last[line, stop - 1] = True
    return item, last


def allowed(kind: MaskKind, spans: Spans, queries: int | None = None) -> Tensor:
    """Which token may see which: bool (B, 1, Q, L), True where the mask of HatLLM's equations is 0.

    With F(j): token j is of an item, B(j, k): of the same, L(j): its last, a token j does not see k where k comes after
    j, or is of another prompt, or j is not k and

    - in: F(j) and F(k) and not B(j, k)
    - cr: F(j) and F(k) and (not L(j) or not L(k))
    - cr-pre: F(j) and F(k) and B(j, k)
    - cr-last: F(k) and not L(k)
    - isolate: (F(j) or F(k)) and not B(j, k)

    Args:
        queries: as many of the last tokens ask, the others are in a cache; None: all.
    """
    length = spans.item.shape[1]
    first = 0 if queries is None else length - queries
    places = torch.arange(length, device=spans.item.device)
    seen = places <= places[first:, None]  # (Q, L)
    if kind != "or":
        seen = seen & (_related(kind, spans, first) | (places == places[first:, None]))  # (B, Q, L)
    if spans.row is not None:
        seen = seen & (spans.row[:, first:, None] == spans.row[:, None])
    return seen.expand(len(spans.item), -1, -1)[:, None]


def _related(kind: MaskKind, spans: Spans, first: int) -> Tensor:
    """(B, Q, L) of what the kind says of two different tokens, whichever comes first."""
    key, key_free = spans.item[:, None], spans.item[:, None] < 0
    query, query_free = key.mT[:, first:], key_free.mT[:, first:]
    match kind:
        case "in":
            return (query == key) | query_free | key_free
        case "cr":
            return query_free | key_free | (spans.last[:, first:, None] & spans.last[:, None])
        case "cr-pre":
            return query_free | (query != key)
        case "cr-last":
            return key_free | spans.last[:, None]
        case "isolate":
            return query == key
        case _:
            raise ValueError(f"{kind} relates no tokens")


def mask_inputs(layers: Sequence[MaskKind], spans: Spans, queries: int | None = None) -> dict[str, Any]:
    """What a body is to be called with besides, after `masked`; nothing where all layers are causal.

    Each kind's mask is built once for all of its layers.

    Args:
        layers: `MaskPlan.layers` of the model's depth.
        queries: see `allowed`.
    """
    masks = {kind: allowed(kind, spans, queries) for kind in set(layers) - {"or"}}
    return {KEYWORD: tuple(masks.get(kind) for kind in layers)} if masks else {}


def masked(model: nn.Module) -> None:
    """Make a loaded model heed masks by layer; whatever attention it had, it has SDPA now.

    Found by trying: with a mask that lets no token see another, a token must not matter to the next.

    Raises:
        RectoolError: its layers do not go by the mask, such as those with a recurrent state.
    """
    causal = causal_of(model)
    if causal.config._attn_implementation == LAYERED:
        return
    AttentionInterface.register(LAYERED, _attend)
    AttentionMaskInterface.register(LAYERED, sdpa_mask)
    before = causal.config._attn_implementation
    if getattr(causal, "_supports_attention_backend", False):
        causal.set_attn_implementation(LAYERED)
        if _heeds_masks(model):
            return
        causal.set_attn_implementation(before)
    raise RectoolError(f"{causal.config.model_type} models do not go by masks; leave --mask causal")


def _heeds_masks(model: nn.Module) -> bool:
    device = next(model.parameters()).device
    depth = causal_of(model).config.get_text_config(decoder=True).num_hidden_layers
    itself = torch.eye(3, dtype=torch.bool, device=device).expand(2, 1, 3, 3)
    ids = torch.tensor([[1, 2, 3], [4, 2, 3]], device=device)
    with reading(model):
        try:
            apart = body_of(model)(input_ids=ids, use_cache=False, **{KEYWORD: (itself,) * depth}).last_hidden_state
        except (TypeError, ValueError):  # it takes no such argument, or its attention is not to be had by SDPA
            return False
        seen = body_of(model)(input_ids=ids, use_cache=False).last_hidden_state
    return float((apart[0, 2] - apart[1, 2]).abs().max()) <= 0.01 * float((seen[0, 2] - seen[1, 2]).abs().max())


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Stock SDPA attention by the mask of this layer, and by the model's own where that has one."""
    masks = options.pop(KEYWORD, None)
    mask = None if masks is None else masks[module.layer_idx]
    if mask is not None:
        attention_mask = mask if attention_mask is None else mask & attention_mask
    attended: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    return attended
