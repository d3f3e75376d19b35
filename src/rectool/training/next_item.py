"""The objectives of next-item prediction: each target item against the catalogue, or a sample of it.

Shapes: N targets, D embedding size, K negatives.
"""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import embedding

from rectool.data.dataset import Dataset
from rectool.models.model import FactorModel, Sequences
from rectool.models.saved import Trained
from rectool.training import losses
from rectool.training.blocks import BlockSamples
from rectool.training.losses import Robust, catalogue_loss
from rectool.training.negatives import Negatives
from rectool.training.rows import RowSamples
from rectool.training.samples import S, SampledObjective
from rectool.training.settings import Loss, Objective
from rectool.training.validation import Validation

NEGATIVES = {"bce": 1, "bpr": 1, "sampled-softmax": 512}
"""Per target, or shared by a batch."""


def training_targets(dataset: Dataset, autoregressive: bool) -> NDArray[np.int64]:
    """The rows to be predicted: train rows, and with `autoregressive` the context rows before a user's last one."""
    return dataset.known_rows if autoregressive else dataset.targets("train")


class CatalogueObjective(SampledObjective[S]):
    """What all next-item objectives share: the loss of queries (N, D) whose target items are known."""

    def __init__(
        self,
        trained: Trained,
        dataset: Dataset,
        settings: Objective,
        loss: Loss,
        validation: Validation,
        device: torch.device,
    ) -> None:
        rows = training_targets(dataset, settings.autoregressive)
        super().__init__(trained, self.made_of(trained, dataset, rows, device), validation)
        self.dataset, self.device = dataset, device
        self.loss_name, self.log_q = loss, settings.log_q
        counts = torch.from_numpy(np.bincount(dataset.item[rows], minlength=dataset.items)).to(device)
        self.sampler = Negatives(dataset.items, counts if settings.negatives_by == "popularity" else None)
        self.count = settings.negatives or NEGATIVES.get(loss, 0)
        self.robust = (
            Robust((counts / counts.sum()).float(), settings.robust, settings.robust_temperature)
            if settings.robust
            else None
        )

    @abstractmethod
    def made_of(self, trained: Trained, dataset: Dataset, rows: NDArray[np.int64], device: torch.device) -> S:
        """The samples that hold these target rows (N,) of the log."""

    @property
    def whole(self) -> bool:
        """Whether the loss needs the keys of the whole catalogue."""
        return self.loss_name == "full-softmax" or self.robust is not None

    def drawn(self, targets: Tensor) -> Tensor:
        """Negatives: (K,) for all targets of a sampled softmax, (N, K) for the others; none for the full one."""
        if self.loss_name == "full-softmax":
            return targets.new_empty(0)
        shape = (self.count,) if self.loss_name == "sampled-softmax" else (len(targets), self.count)
        return self.sampler.draw(shape, self.device)

    def needed(self, targets: Tensor, negatives: Tensor) -> Tensor | None:
        """The items whose keys the loss needs, targets first; None for the whole catalogue."""
        return None if self.whole else torch.cat((targets, negatives.flatten()))

    def from_keys(self, queries: Tensor, keys: Tensor, targets: Tensor, negatives: Tensor) -> Tensor:
        """The loss, given the keys of the items that `needed` names."""
        total = queries.new_zeros((), dtype=torch.float32)
        if self.whole:
            full = self.loss_name == "full-softmax"
            total = total + catalogue_loss(queries, keys, targets, cross_entropy=full, robust=self.robust)
            if full:
                return total
            keys = embedding(torch.cat((targets, negatives.flatten())), keys)
        positive_keys, negative_keys = keys[: len(targets)], keys[len(targets) :]  # (N, D), (K, D) or (N * K, D)
        positive = (queries * positive_keys).sum(-1)  # (N,)
        if negatives.ndim == 1:
            return total + self.from_scores(positive, queries @ negative_keys.T, targets, negatives)
        negative = (queries[:, None] * negative_keys.view(*negatives.shape, -1)).sum(-1)  # (N, K)
        return total + self.from_scores(positive, negative, targets, negatives)

    def from_scores(self, positive: Tensor, negative: Tensor, targets: Tensor, negatives: Tensor) -> Tensor:
        """The loss of scores (N,) and (N, K)."""
        if self.loss_name == "bce":
            return losses.bce(positive, negative)
        if self.loss_name == "bpr":
            return losses.bpr(positive, negative)
        expected = self.sampler.log_expected(negatives) if self.log_q else None
        return losses.sampled_softmax(positive, negative, negatives == targets[:, None], expected)


class RowObjective(CatalogueObjective[RowSamples]):
    """Models that read no history, or read it together with the item: each target row by itself."""

    def made_of(self, trained: Trained, dataset: Dataset, rows: NDArray[np.int64], device: torch.device) -> RowSamples:
        return RowSamples(dataset, rows, trained.history, device)

    def loss(self, samples: NDArray[np.int64]) -> Tensor:
        users = self.samples.column(self.dataset.user, samples)
        targets = self.samples.column(self.dataset.item, samples)
        sequences = self.samples.sequences(samples)
        negatives = self.drawn(targets)
        if isinstance(self.module, FactorModel):
            queries, keys = self.module.factors(users, sequences, self.needed(targets, negatives))
            return self.from_keys(queries, keys, targets, negatives)
        items = torch.cat((targets[:, None], negatives), 1)  # (N, 1 + K)
        copies = items.shape[1]
        repeated = Sequences(
            sequences.items.repeat_interleave(copies, 0), sequences.lengths.repeat_interleave(copies, 0)
        )
        scores = self.module.score(users.repeat_interleave(copies), items.flatten(), repeated).view_as(items)
        return self.from_scores(scores[:, 0], scores[:, 1:], targets, negatives)


class BlockObjective(CatalogueObjective[BlockSamples]):
    """Sequence models: one pass over a block of history predicts all of its targets."""

    def made_of(
        self, trained: Trained, dataset: Dataset, rows: NDArray[np.int64], device: torch.device
    ) -> BlockSamples:
        return BlockSamples(trained, dataset, rows, device)

    def loss(self, samples: NDArray[np.int64]) -> Tensor:
        queries, rows = self.samples.queries(samples)
        targets = self.samples.column(self.dataset.item, rows)
        negatives = self.drawn(targets)
        keys = self.samples.module.keys(self.needed(targets, negatives))
        return self.from_keys(queries, keys, targets, negatives)
