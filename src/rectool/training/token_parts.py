"""Cutting a step of prompts into parts that are computed one after the other, of at most so many tokens each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rectool.data.batches import cut

Longs = NDArray[np.int64]

LINE_TOKENS = 512
"""Of a line that prompts are packed into, unless one of them is longer: attention grows with its square."""


@dataclass(frozen=True)
class TokenParts:
    """How prompts are cut into parts.

    Attributes:
        tokens: of a part at most, padding included; a longer prompt is a part by itself.
        packed: whether prompts share lines, so that only what they hold counts.
    """

    tokens: int
    packed: bool = False

    def cut(self, lengths: Longs, count: int = 1) -> list[Longs]:
        """Parts of rows of these lengths (N,), the longest first; `count` divides the tokens of a part."""
        order = np.argsort(-lengths, kind="stable")
        budget = max(1, self.tokens // count)
        cuts = cut(lengths[order], budget) if self.packed else _padded_cuts(lengths[order], budget)
        return [order[start:stop] for start, stop in cuts]


def padding_share(lengths: Longs, batches: Iterable[Longs], parts: TokenParts) -> float:
    """The share of padding among the tokens that are computed, each part as wide as its longest row.

    Args:
        lengths: (N,) of all rows.
        batches: rows whose parts are cut together.
    """
    computed = real = 0
    for batch in batches:
        own = lengths[batch]
        computed += sum(len(part) * int(own[part].max()) for part in parts.cut(own))
        real += int(own.sum())
    return 1 - real / computed if computed else 0.0


def _padded_cuts(lengths: Longs, budget: int) -> list[tuple[int, int]]:
    """As few runs as it takes of lengths that fall, of at most `budget` tokens when padded, and as even as can be."""
    cuts = _greedy(lengths, budget)
    least, enough = int(lengths.max(initial=1)), budget
    while least < enough:  # the smallest budget for which as many runs do
        middle = (least + enough) // 2
        if len(_greedy(lengths, middle)) > len(cuts):
            least = middle + 1
        else:
            enough = middle
    return _greedy(lengths, enough)


def _greedy(lengths: Longs, budget: int) -> list[tuple[int, int]]:
    cuts, start = [], 0
    while start < len(lengths):
        stop = min(len(lengths), start + max(1, budget // int(lengths[start])))
        cuts.append((start, stop))
        start = stop
    return cuts
