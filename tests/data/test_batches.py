"""Batches: every sample once, of the size asked for, the same for the same seed, and with hardly any padding."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rectool.data.batches import cut, shuffled_batches

Longs = NDArray[np.int64]


def skewed(samples: int, seed: int = 0) -> tuple[Longs, Longs]:
    """Lengths like those of shop users, most of them short, and as many targets."""
    lengths = np.clip(np.random.default_rng(seed).lognormal(np.log(6), 1, samples).astype(np.int64), 1, 50)
    return lengths, lengths.copy()


def padding(lengths: Longs, batches: list[Longs]) -> float:
    """The share of the places of all batches that hold nothing."""
    places = sum(len(batch) * int(lengths[batch].max()) for batch in batches)
    return 1 - int(lengths.sum()) / places


@settings(deadline=None)
@given(
    targets=st.lists(st.integers(1, 9), min_size=1, max_size=200),
    size=st.integers(1, 12),
    seed=st.tuples(st.integers(0, 9), st.integers(0, 9)),
)
def test_every_sample_is_in_one_batch_of_at_most_the_size(targets: list[int], size: int, seed: tuple[int, int]) -> None:
    counts = np.array(targets)
    batches = shuffled_batches(counts, counts, size, seed)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(targets)))
    for batch in batches:
        assert len(batch) == 1 or counts[batch].sum() <= size


def test_batches_are_full() -> None:
    """But for the last one, each has no room for the sample that comes after it."""
    ones = np.ones(1000, np.int64)
    sizes = sorted(len(batch) for batch in shuffled_batches(ones, ones, 64, (0, 0)))
    assert sizes == [1000 % 64] + [64] * (1000 // 64)


def test_the_seed_alone_decides() -> None:
    lengths, targets = skewed(500)
    one, same, other, epoch = (
        [batch.tolist() for batch in shuffled_batches(lengths, targets, 100, seed)]
        for seed in ((3, 1), (3, 1), (4, 1), (3, 2))
    )
    assert one == same
    assert one not in (other, epoch)
    assert epoch != other


def test_hardly_anything_is_padding() -> None:
    lengths, targets = skewed(30_000)
    assert padding(lengths, shuffled_batches(lengths, targets, 1024, (0, 0))) < 0.05
    shuffled = np.random.default_rng(0).permutation(len(lengths))
    plain = [shuffled[start:stop] for start, stop in cut(targets[shuffled], 1024)]
    assert padding(lengths, plain) > 0.5


def test_batches_of_one_length_are_not_always_the_same() -> None:
    """Samples meet others in each epoch, and short ones do not come before long ones."""
    lengths, targets = skewed(20_000)
    epochs = [shuffled_batches(lengths, targets, 256, (0, epoch)) for epoch in range(2)]
    pairs = [{frozenset(batch[:2].tolist()) for batch in batches} for batches in epochs]
    assert len(pairs[0] & pairs[1]) < 0.05 * len(pairs[0])
    means = np.array([lengths[batch].mean() for batch in epochs[0]])
    assert abs(np.corrcoef(np.arange(len(means)), means)[0, 1]) < 0.2


@pytest.mark.parametrize(
    ("weights", "size", "runs"),
    [
        ([], 3, []),
        ([1, 1, 1, 1], 2, [(0, 2), (2, 4)]),
        ([1, 2, 1], 3, [(0, 2), (2, 3)]),
        ([9, 1, 9], 3, [(0, 1), (1, 2), (2, 3)]),
    ],
)
def test_cut(weights: list[int], size: int, runs: list[tuple[int, int]]) -> None:
    assert cut(np.array(weights, np.int64), size) == runs
