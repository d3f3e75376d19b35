"""The objective of next items: cross-entropy over the catalogue, read off at the last token of each prompt."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rectool.llm.item_head import ItemHead
from rectool.training.losses import catalogue_loss


class ItemCriterion:
    """Each prompt is followed by one item, among all that the head has keys of.

    Logits are made for a few rows at a time, and gradients with them; see `losses.catalogue_loss`.

    Args:
        targets: (N,) items.
    """

    def __init__(self, head: ItemHead, targets: NDArray[np.int32], device: torch.device) -> None:
        self.head, self.device = head, device
        self.targets = torch.from_numpy(targets.astype(np.int64))

    def __call__(self, hidden: Tensor, samples: NDArray[np.int64]) -> Tensor:
        targets = self.targets[torch.from_numpy(samples)].to(self.device)
        return catalogue_loss(hidden, self.head.keys(), targets)
