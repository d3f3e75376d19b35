"""Reading hidden states off a language model: its body, without the head that would make logits of them.

Where a row has an embedding of its own in place of a token, its id is a reference: -1 - k is row k of a table of
vectors. The same reference is the same vector, so that rows are told apart by their ids alone.

Shapes: B rows   L tokens of the longest   H hidden size   S tokens of a packed line   W lines   K vectors
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from rectool.errors import RectoolError
from rectool.prompts.tokens import TokenRows

BOUNDLESS = 1 << 30
"""The context of a model that names none."""
_POSITIONS_AFTER_PADDING = {"roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet", "longformer"}
"""Architectures whose first position is the one after the padding id."""

Soft = Tensor | Callable[[NDArray[np.int64]], Tensor]
"""The vectors (K, H) that references stand for, or what makes those (K', H) of some references (K',), from 0, each
once. Ids below 0 with no such vectors are an error."""
Masks = Mapping[str, Any]
"""Which tokens see which in each layer: `masks.mask_inputs`, for a model that `masks.masked` has prepared."""
LAYERED = "rectool_layers"
"""The attention of such a model, by the name that transformers knows it by."""


def causal_of(model: nn.Module) -> PreTrainedModel:
    """The Hugging Face model itself; of a PEFT model the one that the adapter was put into."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def body_of(model: nn.Module) -> nn.Module:
    """The model without its head, live adapters included; a model without a head is its own body."""
    body: nn.Module = causal_of(model).base_model
    return body


def context_of(config: PretrainedConfig) -> int:
    """How many tokens a model of this configuration can read at once."""
    text = config.get_text_config(decoder=True)
    said = getattr(text, "max_position_embeddings", None)
    if not isinstance(said, int) or said <= 0:
        return BOUNDLESS
    return said - text.pad_token_id - 1 if text.model_type in _POSITIONS_AFTER_PADDING else said


def refuse_too_long(tokens: TokenRows, config: PretrainedConfig) -> None:
    """Raises RectoolError if a row has more tokens than the model can read, or none."""
    lengths, most = tokens.lengths, context_of(config)
    if len(lengths) and lengths.max() > most:
        raise RectoolError(
            f"a prompt has {lengths.max():,} tokens, but the model reads {most:,} at most; "
            f"shorten prompts with --max-tokens {most} or a smaller --history"
        )
    if len(lengths) and lengths.min() == 0:
        raise RectoolError(f"prompt {int(lengths.argmin())} has no token; give the template some text")


def read_inputs(model: nn.Module, ids: Tensor, soft: Soft | None) -> dict[str, Tensor]:
    """What the body is to be called with: `input_ids` where nothing is soft, else `inputs_embeds` (B, L, H).

    Gradients reach the vectors, zeros where no id is a reference: a callable is asked for none of them then.

    Args:
        ids: (B, L) int64; below 0 a reference, whose vector stands there in the dtype of the model's embeddings.
    """
    if soft is None:
        return {"input_ids": ids}
    places = (ids < 0).nonzero(as_tuple=True)
    references = -1 - ids[places]
    if not isinstance(soft, Tensor):
        wanted, references = torch.unique(references, return_inverse=True)
        soft = soft(wanted.cpu().numpy())
    embedded: Tensor = causal_of(model).get_input_embeddings()(ids.clamp(min=0))
    return {"inputs_embeds": embedded.index_put(places, soft[references].to(embedded))}


def last_hidden(
    model: nn.Module, ids: Tensor, lengths: Tensor, soft: Soft | None = None, masks: Masks | None = None
) -> Tensor:
    """The hidden state at each row's last token (B, H), after the final norm.

    Rows are padded on the right and no mask is given for that: a causal model never looks there, and without `masks`
    keeps its fast path.

    Args:
        ids: (B, L) int64, padded with any id of the vocabulary; below 0 a reference.
        lengths: (B,) int64, at least 1.
        soft: what references stand for.
        masks: which tokens see which in each layer; None: causal.
    """
    inputs = read_inputs(model, ids, soft) | heeded(model, masks)
    states: Tensor = body_of(model)(**inputs, use_cache=False).last_hidden_state  # (B, L, H)
    return states[torch.arange(len(ids), device=ids.device), lengths - 1]


def heeded(model: nn.Module, masks: Masks | None) -> dict[str, Any]:
    """The masks as the body is called with them. Raises ValueError for a model that would not heed them."""
    if masks and causal_of(model).config._attn_implementation != LAYERED:
        raise ValueError("the model has not been prepared for masks")
    return dict(masks or {})


@dataclass(frozen=True)
class Packed:
    """Rows one after the other in lines, each with positions of its own.

    Attributes:
        ids: (W, S) int64; below 0 a reference.
        positions: (W, S) int64, from 0 in each row; 0 where a line is filled up.
        lines, ends: (B,) int64, the line of each row and the place of its last token there.
    """

    ids: Tensor
    positions: Tensor
    lines: Tensor
    ends: Tensor


def pack(tokens: TokenRows, places: NDArray[Any], width: int, device: torch.device) -> Packed:
    """Put rows (B,) into lines of `width` tokens, the longest first, each into the first line that has room.

    Raises:
        ValueError: a row is longer than a line.
    """
    lengths = tokens.lengths[places]
    if len(lengths) and lengths.max() > width:
        raise ValueError(f"a row of {lengths.max()} tokens does not go into a line of {width}")
    room: list[int] = []
    lines, starts = np.empty(len(places), np.int64), np.empty(len(places), np.int64)
    for row in np.argsort(-lengths, kind="stable"):
        needed = int(lengths[row])
        line = next((line for line, left in enumerate(room) if left >= needed), len(room))
        if line == len(room):
            room.append(width)
        lines[row], starts[row] = line, width - room[line]
        room[line] -= needed
    rows, _ = tokens.padded(places)  # (B, L)
    real = np.arange(rows.shape[1]) < lengths[:, None]
    row, within = np.nonzero(real)
    ids, positions = np.zeros((2, len(room), width - min(room, default=0)), np.int64)
    ids[lines[row], starts[row] + within] = rows[real]
    positions[lines[row], starts[row] + within] = within
    arrays = (ids, positions, lines, starts + lengths - 1)
    return Packed(*(torch.from_numpy(array).to(device) for array in arrays))


def packed_last_hidden(
    model: nn.Module, packed: Packed, soft: Soft | None = None, masks: Masks | None = None
) -> Tensor:
    """The hidden state at each row's last token (B, H), like `last_hidden`; only where `can_pack` says so.

    No `attention_mask` and no cache are given: only then does transformers keep the rows of a line apart.
    """
    inputs = read_inputs(model, packed.ids, soft) | heeded(model, masks)
    states: Tensor = body_of(model)(
        **inputs, position_ids=packed.positions, attention_mask=None, use_cache=False
    ).last_hidden_state  # (W, S, H)
    return states[packed.lines, packed.ends]


def can_pack(model: nn.Module) -> bool:
    """Whether this model, with its attention, keeps packed rows apart; found by trying two short ones.

    True of softmax attention by sdpa, eager and flash attention; not of models with a recurrent state.
    """
    device = next(model.parameters()).device
    vocabulary = causal_of(model).config.get_text_config(decoder=True).vocab_size
    ids = np.arange(1, 13, dtype=np.int32) % vocabulary
    rows = TokenRows(ids, np.array([0, 7, 12]))
    whole = TokenRows(ids, np.array([0, 12]))

    def alone(some: TokenRows, place: int) -> Tensor:
        ids, lengths = on(device, *some.padded(np.array([place])))
        return last_hidden(model, ids, lengths)

    with reading(model):
        one, two, mixed = alone(rows, 0), alone(rows, 1), alone(whole, 0)
        try:
            packed = packed_last_hidden(model, pack(rows, np.arange(2), 12, device))
        except (TypeError, ValueError):  # it takes no position_ids
            return False
    apart = float((packed - torch.cat([one, two])).abs().max())
    seen = float((mixed - two).abs().max())
    return apart <= 0.1 * seen


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Without dropout and checkpointing; afterwards each part of the model is in the mode it was in."""
    before = [(part, part.training) for part in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for part, training in before:
            part.training = training


@contextmanager
def reading(model: nn.Module) -> Iterator[None]:
    """`evaluating`, and without gradients."""
    with evaluating(model), torch.no_grad():
        yield


def on(device: torch.device, *arrays: NDArray[Any]) -> tuple[Tensor, ...]:
    return tuple(torch.from_numpy(array).to(device) for array in arrays)
