"""The smoothed mean logits of user and item, added up (`priors.mean_logits`): what any model must beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rectool.models import priors
from rectool.models.model import FactorModel, Sequences, Size, TrainingRows


@dataclass(frozen=True)
class BiasSettings:
    """How many rows' worth of the overall mean each user and item gets (None is chosen on validation), and
    whether users have a part or it is the item's mean alone."""

    smoothing: float | None = None
    users: bool = True

    def __post_init__(self) -> None:
        priors.check_smoothing(self.smoothing)


class Bias(FactorModel):
    """Users' vectors are (l_u, 1), those of items (1, l_i + logit(mean))."""

    Settings: ClassVar = BiasSettings
    tasks: ClassVar = ("ctr",)
    counted: ClassVar = True
    choices: ClassVar = {"smoothing": priors.SMOOTHINGS}
    settings: BiasSettings
    user: Tensor  # (U,)
    item: Tensor  # (I,)

    def __init__(self, settings: BiasSettings, size: Size) -> None:
        super().__init__(settings, size)
        self.register_buffer("user", torch.zeros(size.users))
        self.register_buffer("item", torch.zeros(size.items))

    def observe(self, rows: TrainingRows) -> None:
        users, items, mean = priors.mean_logits(rows, priors.chosen_smoothing(self.settings.smoothing))
        self.replace("user", users if self.settings.users else torch.zeros_like(users))
        self.replace("item", items + mean)

    def queries(self, users: Tensor, sequences: Sequences) -> Tensor:
        biases = self.user[users]
        return torch.stack((biases, torch.ones_like(biases)), -1)

    def keys(self, items: Tensor | None = None) -> Tensor:
        biases = self.item if items is None else self.item[items]
        return torch.stack((torch.ones_like(biases), biases), -1)

    def user_vectors(self, users: Tensor, sequences: Sequences) -> Tensor:
        return self.queries(users, sequences)

    def item_vectors(self) -> Tensor:
        return self.keys()
