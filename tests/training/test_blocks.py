"""Blocks: every target once, from what stands before it and nothing else, and no item encoded twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rectool.data.dataset import Dataset
from rectool.data.histories import Histories
from rectool.models.gru4rec import GRU4Rec
from rectool.models.model import Sequences
from rectool.training.blocks import Blocks, BlockSamples
from rectool.training.run import Run
from rectool.training.train_cf import untrained

CPU = torch.device("cpu")


@st.composite
def logs(draw: st.DrawFn) -> tuple[NDArray[np.int32], NDArray[np.bool_] | None, NDArray[np.int64]]:
    """Users (R,), which rows enter histories (R,), target rows (N,)."""
    per_user = draw(st.lists(st.integers(0, 12), min_size=1, max_size=5).filter(any))
    user = np.repeat(np.arange(len(per_user), dtype=np.int32), per_user)
    flags = st.lists(st.booleans(), min_size=len(user), max_size=len(user))
    counts = draw(st.none() | flags.map(np.array))
    targets = np.flatnonzero(draw(flags.filter(any)))
    return user, counts, targets


def history(user: NDArray[np.int32], counts: NDArray[np.bool_] | None, row: int) -> list[int]:
    """The rows that a row's history is made of."""
    return [other for other in range(row) if user[other] == user[row] and (counts is None or counts[other])]


@settings(deadline=None, max_examples=200)
@given(drawn=logs(), length=st.integers(1, 6))
def test_each_target_is_predicted_once_from_the_last_items_before_it(drawn: Any, length: int) -> None:
    user, counts, targets = drawn
    item = np.arange(len(user), dtype=np.int32)  # an item for each row, by which it is found again
    view = Histories(user, item, counts)
    blocks = Blocks.cut(view, user, targets, length)

    assert sorted(blocks.row.tolist()) == targets.tolist()
    assert blocks.first[0] == 0
    assert blocks.first[-1] == len(targets)
    assert (np.diff(blocks.first) > 0).all()
    encoded: list[int] = []
    for block, (start, stop) in enumerate(zip(blocks.start.tolist(), blocks.stop.tolist(), strict=True)):
        assert 0 <= stop - start <= length
        within = view.items[start:stop].tolist()
        encoded += within
        for at in range(blocks.first[block], blocks.first[block + 1]):
            before, place = history(user, counts, blocks.row[at]), blocks.place[at]
            assert (place == 0) == (not before)
            assert within[:place] == (before[-place:] if place else [])
    assert len(set(encoded)) == len(encoded)


@settings(deadline=None, max_examples=200)
@given(drawn=logs(), length=st.integers(1, 6))
def test_the_last_target_of_a_user_sees_all_that_it_may(drawn: Any, length: int) -> None:
    user, counts, targets = drawn
    view = Histories(user, np.arange(len(user), dtype=np.int32), counts)
    blocks = Blocks.cut(view, user, targets, length)
    for row in targets:
        if row == max(targets[user[targets] == user[row]]):
            assert blocks.place[blocks.row == row] == min(length, len(history(user, counts, row)))


def test_a_long_history_by_hand(log: Callable[..., Dataset]) -> None:
    """Ten rows, all of them targets but the first two, in blocks of four."""
    data = log([0] * 10, range(10))
    rows = np.arange(2, 10)
    blocks = Blocks.cut(data.histories(liked_only=False), data.user, rows, 4)
    assert blocks.start.tolist() == [1, 5]
    assert blocks.stop.tolist() == [5, 9]
    assert blocks.first.tolist() == [0, 4, 8]
    assert blocks.row.tolist() == rows.tolist()
    assert blocks.place.tolist() == [1, 2, 3, 4, 1, 2, 3, 4]


@pytest.mark.parametrize("model", ["gru4rec", "sasrec"])
@pytest.mark.parametrize("history", ["liked", "all"])
def test_queries_know_what_stands_before_and_nothing_else(
    model: str, history: str, random_log: Callable[..., Dataset], chosen: Callable[..., Any]
) -> None:
    data = random_log(3, rows=80, users=6)
    choice, _ = chosen(data, model, task="ctr", history=history, embedding_size=8, max_length=5, layers=2)
    trained = untrained(data, choice, Run(0, CPU))
    torch.nn.init.normal_(trained.model.empty)
    trained.model.eval()
    rows = data.targets("train")
    samples = BlockSamples(trained, data, rows, CPU)
    batches = samples.batches(16, (0, 0))
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(samples.blocks.start)))

    seen: list[int] = []
    for batch in batches:
        queries, found = samples.queries(batch)
        assert samples.targets(batch) == len(found) == len(queries)
        seen += found.tolist()
        for query, row in zip(queries, found.tolist(), strict=True):
            torch.testing.assert_close(query, alone(trained.model, samples, row), rtol=1e-4, atol=1e-5)
    assert sorted(seen) == rows.tolist()


def alone(model: Any, samples: BlockSamples, row: int) -> torch.Tensor:
    """The query of a row, its block encoded by itself, with other items from the target on."""
    at = int(np.flatnonzero(samples.blocks.row == row)[0])
    block = int(np.searchsorted(samples.blocks.first, at, side="right")) - 1
    items = samples.items[samples.blocks.start[block] : samples.blocks.stop[block]].astype(np.int64)
    place = int(samples.blocks.place[at])
    if place == 0:
        return model.with_ones(model.empty)
    items[place:] = (items[place:] + 1) % model.size.items
    if isinstance(model, GRU4Rec):  # which counts no positions from the end
        items = items[:place]
    sequences = Sequences(torch.from_numpy(items)[None], torch.tensor([len(items)]))
    return model.with_ones(model.encode(sequences)[0, place - 1])


@pytest.mark.parametrize("model", ["gru4rec", "sasrec"])
def test_users_without_any_history(model: str, log: Callable[..., Dataset], chosen: Callable[..., Any]) -> None:
    data = log([0, 1, 2], [0, 1, 0])
    choice, _ = chosen(data, model, task="ctr", embedding_size=4, **({"heads": 2} if model == "sasrec" else {}))
    samples = BlockSamples(untrained(data, choice, Run(0, CPU)), data, data.targets("train"), CPU)
    queries, rows = samples.queries(np.arange(3))
    assert rows.tolist() == [0, 1, 2]
    assert queries.shape == (3, 5)
    assert queries[:, -1].tolist() == [1, 1, 1]
