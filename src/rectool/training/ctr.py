"""The objectives of CTR: binary cross-entropy or squared error on the labelled train rows."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rectool.data.dataset import Dataset
from rectool.models.saved import Trained
from rectool.training import losses
from rectool.training.blocks import BlockSamples
from rectool.training.rows import RowSamples
from rectool.training.settings import Loss
from rectool.training.validation import Validation

LOSSES = {"bce": losses.pointwise_bce, "squared-error": losses.squared_error}


class PointwiseObjective:
    """Each row by itself, with its own history."""

    def __init__(
        self, trained: Trained, dataset: Dataset, loss: Loss, validation: Validation, device: torch.device
    ) -> None:
        self.trained, self.module, self.validation = trained, trained.model, validation
        self.dataset, self.minimise = dataset, LOSSES[loss]
        self.samples = RowSamples(dataset, labelled_rows(dataset), trained.history, device)

    def batches(self, size: int, seed: tuple[int, ...]) -> list[NDArray[np.int64]]:
        return self.samples.batches(size, seed)

    def targets(self, batch: NDArray[np.int64]) -> int:
        return len(batch)

    def loss(self, samples: NDArray[np.int64]) -> Tensor:
        columns = (self.dataset.user, self.dataset.item, self.dataset.label)
        users, items, labels = (self.samples.column(column, samples) for column in columns)
        return self.minimise(self.module.score(users, items, self.samples.sequences(samples)), labels)

    def validate(self) -> Mapping[str, float]:
        return self.validation(self.trained)


class BlockwiseObjective:
    """Sequence models: rows of a user share one pass over the history, each seeing what stands before it."""

    def __init__(
        self, trained: Trained, dataset: Dataset, loss: Loss, validation: Validation, device: torch.device
    ) -> None:
        self.trained, self.validation = trained, validation
        self.dataset, self.minimise = dataset, LOSSES[loss]
        self.samples = BlockSamples(trained, dataset, labelled_rows(dataset), device)
        self.module = self.samples.module

    def batches(self, size: int, seed: tuple[int, ...]) -> list[NDArray[np.int64]]:
        return self.samples.batches(size, seed)

    def targets(self, batch: NDArray[np.int64]) -> int:
        return self.samples.targets(batch)

    def loss(self, samples: NDArray[np.int64]) -> Tensor:
        queries, rows = self.samples.queries(samples)
        items, labels = (self.samples.column(column, rows) for column in (self.dataset.item, self.dataset.label))
        return self.minimise((queries * self.module.keys(items)).sum(-1), labels)

    def validate(self) -> Mapping[str, float]:
        return self.validation(self.trained)


def labelled_rows(dataset: Dataset) -> NDArray[np.int64]:
    """The train rows that have a label."""
    rows = dataset.targets("train")
    return rows[dataset.label[rows] >= 0]
