"""InfoNCE between two views of the same items, and how well they agree, a few rows at a time.

Shapes: N anchors   K candidates   H width; all rows have length 1, so that products are cosines
"""

from __future__ import annotations

import torch
from torch import Tensor

from rectool.training.losses import catalogue_loss, rows_at_a_time


def info_nce(anchors: Tensor, candidates: Tensor, matches: Tensor, temperature: float) -> Tensor:
    """-sum log [ exp(cos(a, c_match) / tau) / sum_k exp(cos(a, c_k) / tau) ] (SeLLa-Rec's eq. 8, as it is meant).

    Memory is that of `losses.catalogue_loss`: (N, K) exists a few rows at a time.

    Args:
        anchors: (N, H); candidates: (K, H).
        matches: (N,) int64, which candidate belongs to each anchor; all others are its negatives.
    """
    return catalogue_loss(anchors / temperature, candidates, matches)


def agreement(anchors: Tensor, candidates: Tensor, matches: Tensor, temperature: float) -> dict[str, float]:
    """How near anchors are to their own candidates, and to the others.

    Returns:
        `align_loss`, the mean of `info_nce`; `matched_cosine` and `unmatched_cosine`, means over pairs;
        `retrieval@1`, the share of anchors to which no candidate is nearer than their own.
    """
    matched, unmatched, hits, loss = (torch.zeros((), dtype=torch.float64, device=anchors.device) for _ in range(4))
    rows = rows_at_a_time(len(anchors), candidates)
    for start in range(0, len(anchors), rows):
        part = slice(start, start + rows)
        cosines = anchors[part] @ candidates.T  # (n, K)
        own = cosines.gather(1, matches[part, None])[:, 0]
        matched += own.sum()
        unmatched += cosines.sum(1).sub_(own).sum()
        largest = cosines.amax(1, keepdim=True)
        hits += (largest[:, 0] <= own).sum()
        sums = cosines.sub_(largest).div_(temperature).exp_().sum(1)
        loss += (sums.log() + (largest[:, 0] - own) / temperature).sum()
    count, others = len(anchors), max(1, len(candidates) - 1)
    return {
        "align_loss": float(loss) / count,
        "matched_cosine": float(matched) / count,
        "unmatched_cosine": float(unmatched) / (count * others),
        "retrieval@1": float(hits) / count,
    }
