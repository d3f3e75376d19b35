"""Cutting samples into batches of like length, so that hardly anything is padding."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

POOL = 64
"""Batches' worth of shuffled samples that are sorted by length together."""


def shuffled_batches(
    lengths: NDArray[np.int64], targets: NDArray[np.int64], size: int, seed: tuple[int, ...]
) -> list[NDArray[np.int64]]:
    """Cut samples into batches that hold about `size` targets each, for one epoch.

    Samples are shuffled, sorted by length within pools of many batches, cut where the targets add up
    to `size`, and the batches are shuffled. Lengths rise and fall by turns from pool to pool: a batch
    across two pools is of one length, too. The same seed gives the same batches.

    Args:
        lengths: (N,) padded width that each sample asks for.
        targets: (N,) how many targets each sample has, at least 1.
        size: targets per batch; a batch has at most that many, unless one sample has more.

    Returns:
        Each batch's samples, as positions in `lengths`.
    """
    random = np.random.default_rng(seed)
    order = random.permutation(len(lengths))
    pool = np.cumsum(targets[order]) // (size * POOL)
    order = order[np.lexsort((np.where(pool % 2, -lengths[order], lengths[order]), pool))]
    batches = cut(targets[order], size)
    random.shuffle(batches)
    return [order[start:stop] for start, stop in batches]


def cut(weights: NDArray[np.int64], size: int) -> list[tuple[int, int]]:
    """Cut a sequence into runs whose weights add up to at most `size`, each run of one at least."""
    sums = np.concatenate(([0], np.cumsum(weights)))
    bounds = [0]
    while bounds[-1] < len(weights):
        stop = int(np.searchsorted(sums, sums[bounds[-1]] + size, side="right")) - 1
        bounds.append(max(stop, bounds[-1] + 1))
    return list(pairwise(bounds))
