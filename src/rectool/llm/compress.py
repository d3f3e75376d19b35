"""Deep layers without the tokens that nobody sees in them.

Where the top layers of a plan are all `cr-last`, an item's tokens but the last are seen by nobody there, and nothing is
read of them: the first of these layers gets the others alone, where they stood. States and gradients are the same;
dropout, which is drawn token by token, draws differently.

Shapes: B rows or lines   L tokens   H hidden size
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from rectool.llm.layers import Change, Chosen, changing, runs_hooks_again
from rectool.llm.mask_plan import MaskKind
from rectool.llm.masks import Spans, mask_inputs


def dropped_from(layers: Sequence[MaskKind]) -> int:
    """The lowest layer from which on all are `cr-last`; the number of layers if the top one is not."""
    first = len(layers)
    while first and layers[first - 1] == "cr-last":
        first -= 1
    return first


@contextmanager
def compressed(
    model: nn.Module, layers: Sequence[MaskKind], spans: Spans, lengths: Tensor | None = None
) -> Iterator[dict[str, Any]]:
    """What a body is to be called with besides, within: `masks.mask_inputs`, tokens dropped where the plan allows it.

    The body gives as many states (B, L, H) as without. Those of tokens that have been dropped mean nothing; nor do keys
    and values of the layers above fit those below, so that the body is to be called without a cache.

    Args:
        layers: `MaskPlan.layers` of the model's depth.
        lengths: (B,) tokens of each row where a line is one; padding is dropped too then.
    """
    first = dropped_from(layers)
    chosen = Chosen.of(kept(spans, lengths))
    if first == len(layers) or chosen.places.shape == chosen.stands.shape or runs_hooks_again(model):
        yield mask_inputs(layers, spans)
        return
    change = Change(
        first,
        states=chosen.of_states,
        rotary=chosen.of_rotary,
        mask=lambda layer, mask: None if mask is None else chosen.of_mask(mask),
    )
    with changing(model, [change], back=chosen.back):
        yield mask_inputs([kind if layer < first else "or" for layer, kind in enumerate(layers)], spans)


def kept(spans: Spans, lengths: Tensor | None = None) -> Tensor:
    """(B, L) which tokens are of no item, or an item's last."""
    keep = (spans.item < 0) | spans.last
    if lengths is None:
        return keep
    return keep & (torch.arange(keep.shape[1], device=keep.device) < lengths[:, None])
