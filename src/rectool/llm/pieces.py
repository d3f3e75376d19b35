"""How long work with a language model is cut into pieces, between which it can stop."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from rectool import processes
from rectool.data.batches import cut
from rectool.llm.body import body_of

OPERATIONS = {"cpu": 6e12, "cuda": 6e14}
"""Of a piece, for each process: about a minute of two CPU cores, or of a small GPU."""
LEAST_TOKENS = 1 << 12


def pieces(lengths: NDArray[Any], model: nn.Module, device: torch.device) -> list[tuple[int, int]]:
    """Runs of rows that are read between two looks at the clock: (start, stop) of each.

    Args:
        lengths: (N,) tokens of each row.
    """
    body: Any = body_of(model)
    weights = sum(parameter.numel() for parameter in body.parameters()) - body.get_input_embeddings().weight.numel()
    tokens = max(LEAST_TOKENS, int(OPERATIONS[device.type] / (2 * weights)))
    return cut(lengths, tokens * processes.world_size())
