"""The objectives of CTR: binary cross-entropy or squared error on the labelled train rows."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rectool.data.dataset import Dataset
from rectool.models.saved import Trained
from rectool.training import losses
from rectool.training.blocks import BlockSamples
from rectool.training.rows import RowSamples
from rectool.training.samples import SampledObjective
from rectool.training.settings import Loss
from rectool.training.validation import Validation

LOSSES = {"bce": losses.pointwise_bce, "squared-error": losses.squared_error}


class PointwiseObjective(SampledObjective[RowSamples]):
    """Each row by itself, with its own history."""

    def __init__(
        self, trained: Trained, dataset: Dataset, loss: Loss, validation: Validation, device: torch.device
    ) -> None:
        super().__init__(trained, RowSamples(dataset, labelled_rows(dataset), trained.history, device), validation)
        self.dataset, self.minimise = dataset, LOSSES[loss]

    def loss(self, samples: NDArray[np.int64]) -> Tensor:
        columns = (self.dataset.user, self.dataset.item, self.dataset.label)
        users, items, labels = (self.samples.column(column, samples) for column in columns)
        return self.minimise(self.module.score(users, items, self.samples.sequences(samples)), labels)


class BlockwiseObjective(SampledObjective[BlockSamples]):
    """Sequence models: rows of a user share one pass over the history, each seeing what stands before it."""

    def __init__(
        self, trained: Trained, dataset: Dataset, loss: Loss, validation: Validation, device: torch.device
    ) -> None:
        super().__init__(trained, BlockSamples(trained, dataset, labelled_rows(dataset), device), validation)
        self.dataset, self.minimise = dataset, LOSSES[loss]

    def loss(self, samples: NDArray[np.int64]) -> Tensor:
        queries, rows = self.samples.queries(samples)
        items, labels = (self.samples.column(column, rows) for column in (self.dataset.item, self.dataset.label))
        return self.minimise((queries * self.samples.module.keys(items)).sum(-1), labels)


def labelled_rows(dataset: Dataset) -> NDArray[np.int64]:
    """The train rows that have a label."""
    rows = dataset.targets("train")
    return rows[dataset.label[rows] >= 0]
