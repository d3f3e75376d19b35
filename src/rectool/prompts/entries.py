"""Histories with embeddings: each entry is tokenised by itself, once for all rows of a chunk that tell it.

N rows of a chunk   M entries in all   K different ones
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rectool.prompts.catalogue import Catalogue
from rectool.prompts.filling import Column, Rows, titled
from rectool.prompts.tokens import Longs, bounds, within


@dataclass(frozen=True)
class Different:
    """The different entries of some rows, in the form of prompts to write.

    Attributes:
        items: (K,) int32.
        separators: (K,) what stands before the entry: nothing, if it is a row's first.
    """

    catalogue: Catalogue
    items: NDArray[np.int32]
    separators: list[str]

    def only(self, place: int) -> Different:
        """One of them."""
        return Different(self.catalogue, self.items[place : place + 1], self.separators[place : place + 1])

    def column(self, slot: str) -> Column:
        return titled(self.catalogue, self.items) if slot == "title" else Column(self.separators)


def different(filling: Rows) -> tuple[Different, Longs, Longs]:
    """The entries of rows.

    Returns:
        the K different ones; which of them each of the M is, K for a row that has none; and (N + 1,) where the
        entries of a row begin, at least one for each row.
    """
    items, offsets = filling.told("history")
    counts = np.diff(offsets)
    first = within(counts) == 0
    keys, which = np.unique(items.astype(np.int64) * 2 + first, return_inverse=True)
    places = np.full(int(np.maximum(counts, 1).sum()), len(keys), np.int64)
    places[np.repeat(counts > 0, np.maximum(counts, 1))] = which
    separators = ["" if key & 1 else filling.template.separator for key in keys.tolist()]
    entries = Different(filling.catalogue, (keys // 2).astype(np.int32), separators)
    return entries, places, bounds(np.maximum(counts, 1))
