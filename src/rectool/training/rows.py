"""Training samples that are rows of the log, each with its own history."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rectool.data.batches import shuffled_batches
from rectool.data.dataset import Dataset
from rectool.data.histories import HistoryRule
from rectool.evaluation.score import sequences_of
from rectool.models.model import Sequences


class RowSamples:
    """Target rows (N,) of the log, to be cut into batches and brought to a device."""

    def __init__(
        self, dataset: Dataset, rows: NDArray[np.int64], rule: HistoryRule | None, device: torch.device
    ) -> None:
        self.dataset, self.rows, self.rule, self.device = dataset, rows, rule, device
        self.histories = dataset.histories(liked_only=rule.liked_only) if rule is not None else None
        self.lengths = np.ones(len(rows), np.int64)
        if self.histories is not None and rule is not None:
            start, stop = self.histories.slices(rows, rule.length)
            self.lengths = np.maximum(stop - start, 1)

    def batches(self, size: int, seed: tuple[int, ...]) -> list[NDArray[np.int64]]:
        return shuffled_batches(self.lengths, np.ones(len(self.rows), np.int64), size, seed)

    def targets(self, batch: NDArray[np.int64]) -> int:
        return len(batch)

    def column(self, values: NDArray[np.generic], samples: NDArray[np.int64]) -> Tensor:
        """A column of the log for some samples, (B,) int64."""
        return torch.from_numpy(values[self.rows[samples]]).to(self.device, torch.int64)

    def sequences(self, samples: NDArray[np.int64]) -> Sequences:
        return sequences_of(self.histories, self.rows[samples], self.rule, self.device)
