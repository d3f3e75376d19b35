"""One pass over the catalogue for rows that are ranked together: who is higher, and who is best.

Shapes: R rows that are ranked together, I items, C items of a slice of the catalogue, K best items.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from rectool.evaluation.score import Rows
from rectool.models.model import CatalogueScores

LARGEST_SLICE = 1 << 24
"""Items up to which a sum of signs is exact in float32."""
GROUP = 64
"""Neighbouring items of which only the highest score is looked at, as long as it is not high enough."""
LOWEST = torch.iinfo(torch.int64).min


@dataclass(frozen=True)
class Swept:
    """What one pass over the catalogue finds for a block.

    Attributes:
        rank: (R,) int64.
        own: (R,) score of the row's item, as it came in its slice.
        greatest: (R,) the highest score of a candidate; NaN if any score is.
        best: (R, K) int64, packed.
    """

    rank: Tensor
    own: Tensor
    greatest: Tensor
    best: Tensor


@dataclass(frozen=True)
class Block:
    """Rows that are ranked together.

    Attributes:
        own: the item of each row.
        excluded: items that are no candidates of rows.
    """

    items: int
    k: int
    own: Pairs
    excluded: Pairs

    def sweep(self, scores: CatalogueScores, target: Tensor, spare: Tensor) -> Swept:
        """Go through the catalogue once.

        Counts by signs: the sum of sign(score - target) + 1 over all other items is twice the higher
        ones plus the equal ones. An excluded item, at -inf, adds nothing.

        Args:
            target: (R,) scores to count against.
            spare: (R, C), to be written over; its width is that of the slices.
        """
        width = spare.shape[1]
        own, twice = torch.empty_like(target), torch.zeros_like(target, dtype=torch.int64)
        greatest = torch.full_like(target, -torch.inf)
        best = Best(len(target), self.k, target.device)
        for start in range(0, self.items, width):
            stop = min(start + width, self.items)
            part = scores(start, stop)  # (R, C)
            part[self.excluded.within(start, stop)] = -torch.inf
            row, column = self.own.within(start, stop)
            own[row] = part[row, column]
            signs = torch.sub(part, target[:, None], out=spare[:, : stop - start]).sign_()
            twice += signs.sum(1).long() + (stop - start)
            greatest = torch.maximum(greatest, best.add(part, start))
        twice -= (own - target).sign().long() + 1
        return Swept(1 + twice // 2, own, greatest, best.packed)


class Best:
    """The best K items of each row of a block, as slices of the catalogue come by in order.

    Attributes:
        packed: (R, K) int64.
        enough: (R,) the lowest score that is still among them.
    """

    def __init__(self, rows: int, k: int, device: torch.device) -> None:
        self.packed = torch.full((rows, k), LOWEST, device=device)
        self.enough = torch.full((rows,), torch.finfo(torch.float32).min, device=device)

    def add(self, scores: Tensor, start: int) -> Tensor:
        """Look at a slice (R, C) whose first item is `start`; returns its highest scores (R,)."""
        k = self.packed.shape[1]
        if scores.shape[1] % GROUP:
            scores = functional.pad(scores, (0, -scores.shape[1] % GROUP), value=-torch.inf)
        groups = scores.view(len(scores), -1, GROUP)
        highest = groups.amax(-1)  # (R, C / GROUP)
        if start == 0 and highest.shape[1] >= k:  # K groups hold K items at least as high as the lowest of theirs
            self.enough = torch.maximum(self.enough, highest.topk(k).values[:, -1])
        row, group = (highest >= self.enough[:, None]).nonzero(as_tuple=True)
        if len(row):
            found = groups[row, group]  # (groups found, GROUP)
            place, column = (found >= self.enough[row, None]).nonzero(as_tuple=True)
            self._merge(row[place], _packed(found[place, column], start + group[place] * GROUP + column))
        return highest.amax(1)

    def _merge(self, row: Tensor, new: Tensor) -> None:
        """Let items in: their rows (T,), in order, and themselves (T,), packed."""
        rows, nth, counts = torch.unique_consecutive(row, return_inverse=True, return_counts=True)
        k = self.packed.shape[1]
        together = new.new_full((len(rows), k + int(counts.max())), LOWEST)
        together[:, :k] = self.packed[rows]
        place = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[nth]
        together[nth, k + place] = new
        self.packed[rows] = best = together.topk(k).values
        # What equals the last of them comes too late: those before it have lower numbers.
        last = unpacked(best[:, -1])[0]
        self.enough[rows] = torch.nextafter(last, torch.full_like(last, torch.inf))


class Pairs:
    """Pairs of a row of a block and an item, by slices of the catalogue."""

    def __init__(self, row: Rows, item: NDArray[np.int32], device: torch.device) -> None:
        order = np.argsort(item, kind="stable")
        self._sorted = item[order]
        self._row = torch.from_numpy(row[order]).to(device)
        self._item = torch.from_numpy(self._sorted).to(device).long()

    def within(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Row, and place in the slice, of the pairs whose item is from `start` to below `stop`."""
        first, last = np.searchsorted(self._sorted, (start, stop))
        return self._row[first:last], self._item[first:last] - start


def slice_width(items: int, rows: int, most_bytes: int) -> int:
    """Items of a slice, of which two buffers for some rows take no more than `most_bytes`."""
    width = min(LARGEST_SLICE, most_bytes // (8 * max(1, rows)))
    return max(1, min(items, width // GROUP * GROUP or width))


def _packed(scores: Tensor, items: Tensor) -> Tensor:
    """Score (float32) and item in one int64: greater for the higher score, then for the lower item."""
    bits = (scores + 0.0).view(torch.int32)  # + 0.0: -0.0 equals 0.0
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (ordered.long() << 32) - items


def unpacked(packed: Tensor) -> tuple[Tensor, Tensor]:
    """Scores float32 and items int32; -inf and -1 for what is not there, or excluded."""
    items = -packed & 0xFFFFFFFF
    ordered = ((packed + items) >> 32).int()
    scores = (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).view(torch.float32)
    nothing = (packed == LOWEST) | (scores == -torch.inf)
    return scores.masked_fill(nothing, -torch.inf), items.masked_fill(nothing, -1).int()
