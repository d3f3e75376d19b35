"""Losses, each a sum over targets, to be divided by their number in the whole step.

Shapes: N targets, I items, D embedding size, K negatives.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

BUFFER_BYTES = {"cpu": 16 << 20, "cuda": 256 << 20}
"""Of logits that exist at a time: on a CPU what stays in the cache. Where keys are large, as much as they take."""


def pointwise_bce(scores: Tensor, labels: Tensor) -> Tensor:
    """-sum [y log sigma(s) + (1 - y) log(1 - sigma(s))] for scores and labels (N,)."""
    return functional.binary_cross_entropy_with_logits(scores.float(), labels.float(), reduction="sum")


def squared_error(scores: Tensor, labels: Tensor) -> Tensor:
    """sum (y - s)^2, SeLLa-Rec's eq. 6, for scores and labels (N,)."""
    return functional.mse_loss(scores.float(), labels.float(), reduction="sum")


def bce(positive: Tensor, negative: Tensor) -> Tensor:
    """-sum [log sigma(s+) + mean over K of log(1 - sigma(s-))], SASRec's loss, for (N,) and (N, K)."""
    return -(functional.logsigmoid(positive.float()) + functional.logsigmoid(-negative.float()).mean(-1)).sum()


def bpr(positive: Tensor, negative: Tensor) -> Tensor:
    """-sum mean over K of log sigma(s+ - s-) (Rendle et al. 2009), for (N,) and (N, K)."""
    return -functional.logsigmoid(positive.float()[:, None] - negative.float()).mean(-1).sum()


def sampled_softmax(positive: Tensor, negative: Tensor, hits: Tensor, log_expected: Tensor | None) -> Tensor:
    """Cross-entropy of the target among itself and sampled negatives.

    Args:
        positive: (N,) scores of the targets.
        negative: (N, K) scores of the negatives.
        hits: (N, K) bool, negatives that are the row's target: left out.
        log_expected: (K,) log of how often each negative is expected in the sample (K times its
            probability); taken from its score, it makes the sum over the sample an unbiased estimate
            of the one over the catalogue (Bengio and Senecal 2008). None leaves scores as they are.
    """
    negative = negative.float()
    if log_expected is not None:
        negative = negative - log_expected
    negative = negative.masked_fill(hits, float("-inf"))
    positive = positive.float()
    both = torch.cat((positive[:, None], negative), 1)  # (N, 1 + K)
    return (torch.logsumexp(both, 1) - positive).sum()


@dataclass(frozen=True)
class Robust:
    """DROS's term (Yang et al. 2023), as its authors compute it from the scores y of a row with target t:

        weight * log sum_i exp(popularity_i / temperature * (y_i - [i = t])^2)

    Attributes:
        popularity: (I,) each item's share of the training targets.
    """

    popularity: Tensor
    weight: float
    temperature: float


def catalogue_loss(
    queries: Tensor, keys: Tensor, targets: Tensor, *, cross_entropy: bool = True, robust: Robust | None = None
) -> Tensor:
    """Sum of cross-entropy over the whole catalogue, of `Robust`, or of both.

    Scores are queries @ keys.T. They are computed for a few rows at a time, and the gradient with
    them: memory does not grow with N x I, and three matrix products do the forward and backward pass,
    two where keys need no gradient.

    Args:
        queries: (N, D); keys: (I, D); targets: (N,) int64.
    """
    result: Tensor = _CatalogueLoss.apply(queries, keys, targets, cross_entropy, robust)  # type: ignore[no-untyped-call]
    return result


class _CatalogueLoss(torch.autograd.Function):
    @staticmethod
    @torch.amp.custom_fwd(device_type="cuda", cast_inputs=torch.float32)  # type: ignore[untyped-decorator]
    def forward(
        context: Any, queries: Tensor, keys: Tensor, targets: Tensor, cross_entropy: bool, robust: Robust | None
    ) -> Tensor:
        queries, keys = queries.detach().float(), keys.detach().float()
        rows = rows_at_a_time(len(queries), keys)
        buffer = queries.new_empty(rows, len(keys))
        queries_gradient = torch.empty_like(queries)
        keys_gradient = torch.zeros_like(keys) if context.needs_input_grad[1] else None
        total = queries.new_zeros((), dtype=torch.float64)
        for start in range(0, len(queries), rows):
            part = slice(start, start + rows)
            query, target = queries[part], targets[part][:, None]
            scores = torch.mm(query, keys.T, out=buffer[: len(query)])  # (n, I)
            gradient = _robust_gradient(scores, target, robust, total) if robust is not None else None
            if cross_entropy:
                scale = _exponentials(scores, target, total)  # scores are now exp(score - maximum)
                if gradient is not None:
                    gradient.addcmul_(scores, scale).scatter_add_(1, target, -torch.ones_like(scale))
                else:
                    # Softmax divides by its sum and takes 1 from the target: done on the small sides.
                    torch.mm(scores, keys, out=queries_gradient[part]).mul_(scale).sub_(keys[target[:, 0]])
                    if keys_gradient is not None:
                        keys_gradient.addmm_(scores.T, query * scale).index_add_(0, target[:, 0], query, alpha=-1)
                    continue
            assert gradient is not None
            torch.mm(gradient, keys, out=queries_gradient[part])
            if keys_gradient is not None:
                keys_gradient.addmm_(gradient.T, query)
        context.save_for_backward(queries_gradient, keys_gradient)
        return total.float()

    @staticmethod
    @torch.amp.custom_bwd(device_type="cuda")  # type: ignore[untyped-decorator]
    def backward(context: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        queries_gradient, keys_gradient = context.saved_tensors
        keys_gradient = keys_gradient.mul_(upstream) if keys_gradient is not None else None
        return queries_gradient.mul_(upstream), keys_gradient, None, None, None


def rows_at_a_time(count: int, keys: Tensor) -> int:
    """How many of `count` rows of logits to hold at a time: enough for quick products, in parts of like size."""
    items, width = keys.shape
    rows = max(1, width, BUFFER_BYTES[keys.device.type] // (4 * max(1, items)))
    parts = max(1, math.ceil(count / rows))
    return max(1, math.ceil(count / parts))


def _exponentials(scores: Tensor, target: Tensor, total: Tensor) -> Tensor:
    """Adds the cross-entropy to `total`, replaces scores by exp(score - maximum); one over their sum (n, 1)."""
    positive = scores.gather(1, target)
    largest = scores.amax(1, keepdim=True)
    sums = scores.sub_(largest).exp_().sum(1, keepdim=True)
    total += (sums.log() + largest - positive).sum()
    return sums.reciprocal()


def _robust_gradient(scores: Tensor, target: Tensor, robust: Robust, total: Tensor) -> Tensor:
    """Adds the robust term to `total`; its gradient by the scores (n, I)."""
    rate = robust.popularity / robust.temperature  # (I,)
    error = scores.scatter_add(1, target, -torch.ones_like(target, dtype=scores.dtype))
    exponent = error.square().mul_(rate)
    total += robust.weight * torch.logsumexp(exponent, 1).sum()
    return exponent.softmax(1).mul_(error).mul_(2 * robust.weight * rate)
