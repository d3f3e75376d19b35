"""Training samples that are blocks of a user's history: one pass over a block serves all of its targets.

Shapes: B blocks, N targets, L longest block, D embedding size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rectool.data.batches import shuffled_batches
from rectool.data.dataset import Dataset
from rectool.data.histories import Histories
from rectool.models.model import SequenceModel, Sequences
from rectool.models.saved import Trained


@dataclass(frozen=True)
class Blocks:
    """The users' histories cut into blocks of at most L items, with the targets that each block predicts.

    A target is predicted from the hidden state of the last item before it. Blocks are counted from the
    end of what a user's targets need, so that the last one is full; each target is in one block.

    Attributes:
        start, stop: (B,) a block's items, as places in the histories' items.
        first: (B + 1,) a block's targets are those from its `first` to the next one's.
        place: (N,) of each target, how many items of its block come before it; 0 is an empty history.
        row: (N,) the target row itself.
    """

    start: NDArray[np.int64]
    stop: NDArray[np.int64]
    first: NDArray[np.int64]
    place: NDArray[np.int64]
    row: NDArray[np.int64]

    @classmethod
    def cut(cls, histories: Histories, user: NDArray[np.int32], rows: NDArray[np.int64], length: int) -> Blocks:
        """Blocks of at most `length` items for target rows (N,), sorted, of a log with these users (R,)."""
        begin, end = histories.slices(rows)  # (N,)
        owners = user[rows]
        ends = np.append(np.flatnonzero(np.diff(owners)), len(rows) - 1)  # each user's last target
        needed = np.repeat(end[ends], np.diff(ends, prepend=-1))  # (N,) where the user's last history ends
        back = np.where(end > begin, (needed - end) // length, -1)  # blocks from the last one; -1: no history
        order = np.lexsort((end, -back, owners))
        owners, back, begin, end, needed = owners[order], back[order], begin[order], end[order], needed[order]
        new = np.flatnonzero((np.diff(owners, prepend=-1) != 0) | (np.diff(back, prepend=-2) != 0))
        stop = np.where(back[new] < 0, begin[new], needed[new] - back[new] * length)
        start = np.where(back[new] < 0, begin[new], np.maximum(begin[new], stop - length))
        first = np.append(new, len(rows))
        place = np.where(back < 0, 0, end - np.repeat(start, np.diff(first)))
        return cls(start, stop, first, place, rows[order])


class BlockSamples:
    """Target rows (N,) of the log, in blocks to be cut into batches and encoded."""

    def __init__(self, trained: Trained, dataset: Dataset, rows: NDArray[np.int64], device: torch.device) -> None:
        assert isinstance(trained.model, SequenceModel)
        assert trained.history is not None
        self.module: SequenceModel = trained.model
        self.device = device
        histories = dataset.histories(liked_only=trained.history.liked_only)
        self.items = histories.items
        self.blocks = Blocks.cut(histories, dataset.user, rows, trained.history.length)

    def batches(self, size: int, seed: tuple[int, ...]) -> list[NDArray[np.int64]]:
        return shuffled_batches(self.blocks.stop - self.blocks.start, np.diff(self.blocks.first), size, seed)

    def targets(self, batch: NDArray[np.int64]) -> int:
        return int((self.blocks.first[batch + 1] - self.blocks.first[batch]).sum())

    def column(self, values: NDArray[np.generic], rows: NDArray[np.int64]) -> Tensor:
        """A column of the log for some rows, (N,) int64."""
        return torch.from_numpy(values[rows]).to(self.device, torch.int64)

    def queries(self, samples: NDArray[np.int64]) -> tuple[Tensor, NDArray[np.int64]]:
        """Queries (N, D') of all targets of some blocks, from what stands before each, and their rows (N,)."""
        blocks = self.blocks
        sequences = Sequences.gather(self.items, blocks.start[samples], blocks.stop[samples], self.device)
        width = 1 + sequences.items.shape[1]
        hidden = self.module.empty.expand(len(samples), 1, -1)  # place 0
        if width > 1:
            hidden = torch.cat((hidden, self.module.encode(sequences)), 1)  # (B, 1 + L, D)
        counts = blocks.first[samples + 1] - blocks.first[samples]
        ends = np.cumsum(counts)
        chosen = np.arange(ends[-1]) + np.repeat(blocks.first[samples] - (ends - counts), counts)  # (N,)
        places = blocks.place[chosen] + np.repeat(np.arange(len(samples)) * width, counts)
        states = hidden.flatten(0, 1).index_select(0, torch.from_numpy(places).to(self.device))
        return self.module.with_ones(states), blocks.row[chosen]
