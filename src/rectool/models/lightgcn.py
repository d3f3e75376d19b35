"""LightGCN (He et al. 2020): matrix factorisation with embeddings smoothed over the graph of likes.

    E(k+1) = D^-1/2 A D^-1/2 E(k)        A: users and items, an edge for each pair liked in training
    E = (E(0) + ... + E(K)) / (K + 1)

Who has no edges keeps E(0) / (K + 1): the later layers are zero there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from rectool.models.mf import MatrixFactorization, MatrixFactorizationSettings
from rectool.models.model import Size, TrainingRows


@dataclass(frozen=True)
class LightGCNSettings(MatrixFactorizationSettings):
    """As of matrix factorisation, and hops of the graph."""

    layers: int = 2
    biases: bool = False


class LightGCN(MatrixFactorization):
    """Its tables are the smoothed ones. E edges, from both sides, each sorted by who they belong to.

    In eval mode and without gradients they are computed once; train(), other weights, another
    device and another graph make them anew.
    """

    Settings: ClassVar = LightGCNSettings
    settings: LightGCNSettings
    items_of_users: Tensor  # (E,) int32
    user_offsets: Tensor  # (U + 1,) int32
    users_of_items: Tensor  # (E,) int32
    item_offsets: Tensor  # (I + 1,) int32

    def __init__(self, settings: LightGCNSettings, size: Size) -> None:
        super().__init__(settings, size)
        for name, length in (
            ("items_of_users", 0),
            ("user_offsets", size.users + 1),
            ("users_of_items", 0),
            ("item_offsets", size.items + 1),
        ):
            self.register_buffer(name, torch.zeros(length, dtype=torch.int32))
        self._kept: tuple[Tensor, Tensor] | None = None

    def observe(self, rows: TrainingRows) -> None:
        super().observe(rows)
        edges = torch.unique(rows.user[rows.liked] * rows.items + rows.item[rows.liked])
        users, items = edges // rows.items, edges % rows.items
        by_item = torch.argsort(items, stable=True)
        self.replace("items_of_users", items)
        self.replace("user_offsets", _offsets(users, rows.users))
        self.replace("users_of_items", users[by_item])
        self.replace("item_offsets", _offsets(items, rows.items))
        self._forget()

    def tables(self) -> tuple[Tensor, Tensor]:
        if self._kept is not None and not torch.is_grad_enabled():
            return self._kept
        tables = self.propagated()
        if not self.training and not torch.is_grad_enabled():
            self._kept = tables
        return tables

    def propagated(self) -> tuple[Tensor, Tensor]:
        """E, users and items apart. D^-1/2 before and after makes plain sums over neighbours of A."""
        of_users = (self.items_of_users, self.user_offsets)
        of_items = (self.users_of_items, self.item_offsets)
        user_scale, item_scale = _scale(self.user_offsets), _scale(self.item_offsets)
        user, item = self.user.weight, self.item.weight
        user_sum, item_sum = user, item
        for _ in range(self.settings.layers):
            user, item = (
                user_scale * _NeighbourSum.apply(item_scale * item, *of_users, *of_items),  # type: ignore[no-untyped-call]
                item_scale * _NeighbourSum.apply(user_scale * user, *of_items, *of_users),  # type: ignore[no-untyped-call]
            )
            user_sum, item_sum = user_sum + user, item_sum + item
        layers = self.settings.layers + 1
        return user_sum / layers, item_sum / layers

    def train(self, mode: bool = True) -> Any:
        self._forget()
        return super().train(mode)

    def load_state_dict(self, *arguments: Any, **named: Any) -> Any:
        self._forget()
        return super().load_state_dict(*arguments, **named)

    def _apply(self, *arguments: Any, **named: Any) -> Any:
        self._forget()
        return super()._apply(*arguments, **named)  # type: ignore[no-untyped-call]

    def _forget(self) -> None:
        self._kept = None


class _NeighbourSum(torch.autograd.Function):
    """Sums of the neighbours' rows of a table.

    Embedding bags gather where a sparse product would, and so does their gradient, taken by the edges
    from the other side: nothing is scattered, so that sums have one order. On one CPU core a
    bag takes about half the time of a product in CSR form, and a tenth of its own built-in gradient's.
    """

    @staticmethod
    def forward(
        context: Any, table: Tensor, neighbours: Tensor, offsets: Tensor, back: Tensor, back_offsets: Tensor
    ) -> Tensor:
        context.save_for_backward(back, back_offsets)
        return _bags(table, neighbours, offsets)

    @staticmethod
    def backward(context: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        return _bags(upstream.contiguous(), *context.saved_tensors), None, None, None, None


def _bags(table: Tensor, members: Tensor, offsets: Tensor) -> Tensor:
    return functional.embedding_bag(members, table, offsets, mode="sum", include_last_offset=True)


def _offsets(owners: Tensor, size: int) -> Tensor:
    """Where each one's edges begin, sorted by owner, and where the last one's end: (size + 1,)."""
    counts = torch.bincount(owners, minlength=size)
    return torch.cat((counts.new_zeros(1), counts.cumsum(0)))


def _scale(offsets: Tensor) -> Tensor:
    """Degree^-1/2, 0 without edges: (size, 1)."""
    degree = offsets.diff().float()
    return torch.where(degree > 0, degree.clamp(min=1).rsqrt(), 0.0)[:, None]
