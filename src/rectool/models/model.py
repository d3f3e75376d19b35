"""The contract of collaborative models.

Shapes: B rows, L longest history of a batch, U users, I items, D embedding size.

A model is built from its settings and the sizes of the data set. It then observes the training rows
(`observe`: counts, priors, graphs), and, unless counting is all it does, has its parameters trained.
It scores pairs, ranks the catalogue, and leaves vectors of users and items behind.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rectool.models.priors import start_biases, zero_unknown

CatalogueScores = Callable[[int, int], Tensor]
"""Scores of the items from `start` to `stop` for each row of a batch: (B, stop - start)."""


@dataclass(frozen=True)
class Sequences:
    """Histories of a batch, oldest item first.

    Attributes:
        items: (B, L) int64, filled up on the right with item 0.
        lengths: (B,) int64, how many of a row's items count; may be 0.
    """

    items: Tensor
    lengths: Tensor

    @classmethod
    def gather(
        cls, items: NDArray[np.int32], start: NDArray[np.int64], stop: NDArray[np.int64], device: torch.device
    ) -> Sequences:
        """The slices `items[start:stop]`, for start and stop (B,)."""
        lengths = stop - start
        columns = np.arange(lengths.max(initial=0))
        places = np.minimum(start[:, None] + columns, len(items) - 1)
        chosen = np.where(columns < lengths[:, None], items[places], 0) if len(columns) else places
        return cls(
            torch.from_numpy(chosen.astype(np.int64)).to(device), torch.from_numpy(lengths.astype(np.int64)).to(device)
        )

    @property
    def mask(self) -> Tensor:
        """(B, L) bool, True where there is an item."""
        return torch.arange(self.items.shape[1], device=self.items.device) < self.lengths[:, None]


@dataclass(frozen=True)
class TrainingRows:
    """The training rows of a data set in the log's order, for what is counted rather than learned.

    Attributes:
        users, items: sizes of the data set.
        user, item: (N,) int64.
        label: (N,) int64, 1 liked, 0 not, -1 without a label.
        previous: (N,) int64, the last item of the row's history, -1 where there is none.
    """

    users: int
    items: int
    user: Tensor
    item: Tensor
    label: Tensor
    previous: Tensor

    @property
    def liked(self) -> Tensor:
        """(N,) bool: rows that are not disliked."""
        return self.label != 0


@dataclass(frozen=True)
class Size:
    """How many users and items a data set has."""

    users: int
    items: int


class Model(nn.Module, ABC):
    """What every collaborative model can do.

    Class attributes:
        Settings: its settings, a frozen dataclass with a default for each.
        tasks: what it can be trained for.
        reads_history: whether scores depend on the row's history.
        new_users: whether it scores users whom the data set does not have: by their histories, or all alike.
        counted: True where `observe` is all the training there is.
        stochastic: whether it may score the same row otherwise the next time.
        logits: whether scores for CTR are logits, of which a sigmoid makes probabilities of label 1.
        defaults: of its settings, by task, where they are not those of `Settings`.
        choices: what to try on validation for settings that are None; `observe` needs them chosen.
    """

    Settings: ClassVar[type[Any]]
    tasks: ClassVar[tuple[str, ...]] = ("ctr", "next-item")
    reads_history: ClassVar[bool] = False
    new_users: ClassVar[bool] = False
    counted: ClassVar[bool] = False
    stochastic: ClassVar[bool] = False
    logits: ClassVar[bool] = True
    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    choices: ClassVar[Mapping[str, tuple[float, ...]]] = {}

    def __init__(self, settings: Any, size: Size) -> None:
        super().__init__()
        self.settings = settings
        self.size = size

    def observe(self, rows: TrainingRows) -> None:
        """Take from the training rows what is counted rather than learned.

        Counts go into buffers, which may be of any size. A model that is then trained starts from
        zero vectors for users and items of no training row, so that these score by biases alone
        instead of by noise, and its biases from `priors.start_biases`. To be called before training,
        and before embeddings are given another start.
        """

    @abstractmethod
    def score(self, users: Tensor, items: Tensor, sequences: Sequences) -> Tensor:
        """Score pairs of a user and an item: a logit where the model is trained for CTR.

        Args:
            users, items: (B,) int64.
            sequences: the histories of the rows; ignored by models that read none.

        Returns:
            (B,) float.
        """

    @abstractmethod
    def rank(self, users: Tensor, sequences: Sequences) -> CatalogueScores:
        """Score the catalogue, slice by slice, for a batch of users with their histories.

        Args:
            users: (B,) int64.
        """

    @abstractmethod
    def user_vectors(self, users: Tensor, sequences: Sequences) -> Tensor:
        """What stands for users elsewhere (B, D); of a sequence model the last hidden state."""

    @abstractmethod
    def item_vectors(self) -> Tensor:
        """What stands for items elsewhere (I, D)."""

    def user_biases(self, users: Tensor) -> Tensor | None:
        """What scores of users (B,) have added to them, whatever the item: (B,); None in a model without.

        Not of models that read histories, whose users' vectors are of a history, whoever has it.
        """
        return None

    def item_biases(self) -> Tensor | None:
        """What scores of items have added to them, whoever the user: (I,); None in a model without."""
        return None

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over saved parameters and buffers; a buffer may be of any size.

        Raises:
            RuntimeError: names or shapes of parameters are not this model's.
        """
        for name, _ in list(self.named_buffers()):
            if name in tensors:
                owner, _, last = name.rpartition(".")
                self.replace(last, tensors[name], self.get_submodule(owner))
        self.load_state_dict(dict(tensors))

    def replace(self, name: str, value: Tensor, owner: nn.Module | None = None) -> None:
        """Put a tensor of any size in the place of a buffer, on its device and of its type."""
        old = getattr(owner or self, name)
        setattr(owner or self, name, value.to(old.device, old.dtype, copy=True))


class FactorModel(Model):
    """A model whose score is an inner product of a query of the row and a key of the item."""

    @abstractmethod
    def queries(self, users: Tensor, sequences: Sequences) -> Tensor:
        """(B, D') for each row."""

    @abstractmethod
    def keys(self, items: Tensor | None = None) -> Tensor:
        """(N, D') for the items asked for, or for the whole catalogue."""

    def factors(self, users: Tensor, sequences: Sequences, items: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Queries and keys at once, for models in which both come out of the same work."""
        return self.queries(users, sequences), self.keys(items)

    def score(self, users: Tensor, items: Tensor, sequences: Sequences) -> Tensor:
        queries, keys = self.factors(users, sequences, items)
        return (queries * keys).sum(-1)

    def rank(self, users: Tensor, sequences: Sequences) -> CatalogueScores:
        queries, keys = self.factors(users, sequences)
        return lambda start, stop: queries @ keys[start:stop].T


class SequenceModel(FactorModel):
    """A model that encodes a history, each position from what stands before it.

    With item biases, which CTR wants, queries get a last column of ones and keys one of biases.
    """

    reads_history: ClassVar[bool] = True
    new_users: ClassVar[bool] = True
    item: nn.Embedding
    empty: nn.Parameter
    """(D,) what stands for a history without items."""
    bias: ItemBias | None

    def observe(self, rows: TrainingRows) -> None:
        zero_unknown(self.item, rows.item)
        if self.bias is not None:
            start_biases(rows, self.bias)

    @abstractmethod
    def encode(self, sequences: Sequences) -> Tensor:
        """Hidden states (B, L, D): position t has seen the items up to and with t; what lies beyond a
        row's length is undefined."""

    def queries(self, users: Tensor, sequences: Sequences) -> Tensor:
        return self.with_ones(self.user_vectors(users, sequences))

    def with_ones(self, hidden: Tensor) -> Tensor:
        """Hidden states (..., D) as queries (..., D')."""
        if self.bias is None:
            return hidden
        return torch.cat((hidden, hidden.new_ones(*hidden.shape[:-1], 1)), -1)

    def keys(self, items: Tensor | None = None) -> Tensor:
        keys = self.item.weight if items is None else self.item(items)
        if self.bias is None:
            return keys
        return torch.cat((keys, self.bias(items).to(keys.dtype)[:, None]), -1)

    def user_vectors(self, users: Tensor, sequences: Sequences) -> Tensor:
        if sequences.items.shape[1] == 0:
            return self.empty.expand(len(sequences.lengths), -1)
        last = (sequences.lengths - 1).clamp(min=0)
        hidden = self.encode(sequences)[torch.arange(len(last), device=last.device), last]  # (B, D)
        return torch.where(sequences.lengths[:, None] > 0, hidden, self.empty.to(hidden.dtype))

    def item_vectors(self) -> Tensor:
        return self.item.weight

    def item_biases(self) -> Tensor | None:
        return None if self.bias is None else self.bias()


class ItemBias(nn.Module):
    """A number for each item and one for all, to be added to scores; `priors.start_biases` gives them a start."""

    def __init__(self, items: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(items))
        self.constant = nn.Parameter(torch.zeros(()))

    def forward(self, items: Tensor | None = None) -> Tensor:
        return self.constant + (self.weight if items is None else self.weight[items])


PAIRS_BYTES = {"cpu": 16 << 20, "cuda": 1 << 30}
"""Of what a model that scores pair by pair holds at a time; on a CPU what stays near its cache."""


def by_pairs(users: Tensor, width: int, scores: CatalogueScores) -> CatalogueScores:
    """The same scores, a few items at a time, so that memory stays bounded (see `PAIRS_BYTES`).

    Args:
        users: (B,), for whom.
        width: how many floats `scores` holds for a pair.
    """
    step = max(1, PAIRS_BYTES[users.device.type] // (4 * max(1, len(users) * width)))

    def sliced(start: int, stop: int) -> Tensor:
        parts = [scores(first, min(first + step, stop)) for first in range(start, stop, step)]
        return torch.cat(parts, 1) if parts else scores(start, stop)

    return sliced
