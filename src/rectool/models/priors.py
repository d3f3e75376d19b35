"""What is counted of users and items, as models that count it and as the start of those that learn.

Shapes: N training rows, U users, I items.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rectool.errors import RectoolError

if TYPE_CHECKING:
    from rectool.models.model import ItemBias, TrainingRows

SMOOTHINGS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0)
"""What is tried on validation: how many rows' worth of prior are added to the counts."""
START_SMOOTHING = 5.0
"""For the start of biases that are then learned."""


def check_smoothing(smoothing: float | None) -> None:
    """Raises RectoolError for what would take the logarithm of zero."""
    if smoothing is not None and not smoothing > 0:
        raise RectoolError(f"--smoothing {smoothing} must be above 0")


def chosen_smoothing(smoothing: float | None) -> float:
    """Raises ValueError where it has still to be chosen."""
    if smoothing is None:
        raise ValueError(f"smoothing is None; choose one of {SMOOTHINGS} on validation")
    return smoothing


def popularity(rows: TrainingRows) -> Tensor:
    """How many training rows that are not disliked each item has: (I,) int64."""
    return torch.bincount(rows.item[rows.liked], minlength=rows.items)


def mean_logits(rows: TrainingRows, smoothing: float) -> tuple[Tensor, Tensor, Tensor]:
    """How much users and items are given to likes, from the rows that have a label.

        mean = (liked rows + 1/2) / (rows + 1)
        l_u = logit((liked rows of u + k mean) / (rows of u + k)) - logit(mean), likewise l_i

    Who has no rows gets 0. logit(mean) + l_u + l_i is the logit of a like under the assumption that
    user and item bear on it independently.

    Args:
        smoothing: k.

    Returns:
        (U,), (I,) and () float64: l_u, l_i and logit(mean).
    """
    labelled = rows.label >= 0
    liked = (rows.label[labelled] == 1).double()
    mean = (liked.sum() + 0.5) / (len(liked) + 1)

    def deviations(ids: Tensor, size: int) -> Tensor:
        counts = torch.bincount(ids, minlength=size)
        likes = torch.bincount(ids, weights=liked, minlength=size)
        return torch.logit((likes + smoothing * mean) / (counts + smoothing)) - torch.logit(mean)

    return deviations(rows.user[labelled], rows.users), deviations(rows.item[labelled], rows.items), torch.logit(mean)


def start_biases(rows: TrainingRows, item_bias: ItemBias, user_bias: nn.Embedding | None = None) -> None:
    """Give biases their start: `mean_logits` where rows have labels, else the log of popularity.

    Without labels an item starts from log(I p_i), p_i its add-one smoothed share of the rows: the
    best constant score under a softmax over the catalogue, and against one uniform negative under
    BCE. Users then start from 0.
    """
    with torch.no_grad():
        if bool((rows.label >= 0).any()):
            users, items, mean = mean_logits(rows, START_SMOOTHING)
            item_bias.weight.copy_(items)
            item_bias.constant.copy_(mean)
            if user_bias is not None:
                user_bias.weight.copy_(users[:, None])
        else:
            item_bias.weight.copy_(log_shares(rows) + torch.tensor(float(rows.items)).log())


def log_shares(rows: TrainingRows) -> Tensor:
    """Log of each item's add-one smoothed share of the rows that are not disliked: (I,) float64."""
    counts = popularity(rows).double() + 1
    return counts.log() - counts.sum().log()


def zero_unknown(table: nn.Embedding, known: Tensor) -> None:
    """Zero the vectors of ids that are not among those known (N,)."""
    unknown = torch.ones(table.num_embeddings, dtype=torch.bool, device=table.weight.device)
    unknown[known.to(unknown.device)] = False
    with torch.no_grad():
        table.weight[unknown] = 0


def start_from_mean(model: nn.Module, rows: TrainingRows) -> None:
    """Start biases from the mean label instead of logits: for scores that are labels themselves."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "bias" not in name.split(".")[0]:
                continue
            constant = name.endswith("constant")
            parameter.fill_(float(rows.label.double().mean()) if constant else 0.0)
