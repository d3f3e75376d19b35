"""Negative items, drawn by the thousand."""

from __future__ import annotations

import torch
from torch import Tensor


class Negatives:
    """Draws items with replacement, all alike or as often as they are training targets.

    Args:
        weights: (I,) how often each item is to be drawn, relative to the others; None for all alike.
    """

    def __init__(self, items: int, weights: Tensor | None = None) -> None:
        self.items = items
        self._sums = weights.double().cumsum(0) if weights is not None else None
        self._log_shares = (weights.double() / weights.double().sum()).log().float() if weights is not None else None

    def draw(self, shape: tuple[int, ...], device: torch.device) -> Tensor:
        """Items of that shape, int64, from torch's own generator."""
        if self._sums is None:
            return torch.randint(self.items, shape, device=device)
        places = torch.rand(shape, dtype=torch.float64, device=device) * self._sums[-1]
        return torch.searchsorted(self._sums, places, right=True).clamp(max=self.items - 1)

    def log_expected(self, drawn: Tensor) -> Tensor:
        """Log of how often each drawn item is expected among as many draws: log(K q) for (K,)."""
        count = torch.tensor(float(len(drawn)), device=drawn.device).log()
        if self._log_shares is None:
            return (count - torch.tensor(float(self.items)).log()).expand(len(drawn))
        return count + self._log_shares[drawn]
