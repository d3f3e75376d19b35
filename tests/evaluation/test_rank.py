"""Full ranking, against a sort of all scores of each row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from rectool.data.dataset import Dataset
from rectool.data.histories import HistoryRule
from rectool.errors import RectoolError
from rectool.evaluation import rank, sweep
from rectool.evaluation.rank import Ranking, rank_rows, rank_scores
from rectool.models.model import CatalogueScores, FactorModel, Model, Sequences, Size

CPU = torch.device("cpu")
RULE = HistoryRule(liked_only=True, length=5)


@dataclass(frozen=True)
class NoSettings:
    """There is nothing to set."""


class TableModel(Model):
    """Scores of each user for each item as the test wrote them down."""

    Settings: ClassVar = NoSettings

    def __init__(self, table: Any) -> None:
        self.table = torch.as_tensor(table, dtype=torch.float32)
        super().__init__(NoSettings(), Size(*self.table.shape))

    def score(self, users: Tensor, items: Tensor, sequences: Sequences) -> Tensor:
        return self.table[users, items]

    def rank(self, users: Tensor, sequences: Sequences) -> CatalogueScores:
        return lambda start, stop: self.table[users, start:stop]

    def user_vectors(self, users: Tensor, sequences: Sequences) -> Tensor:
        return self.table[users]

    def item_vectors(self) -> Tensor:
        return self.table.T


class TableFactors(TableModel, FactorModel):
    """The same as an inner product: a user's scores with the row of an identity."""

    rank = FactorModel.rank

    def queries(self, users: Tensor, sequences: Sequences) -> Tensor:
        return self.table[users]

    def keys(self, items: Tensor | None = None) -> Tensor:
        identity = torch.eye(self.size.items)
        return identity if items is None else identity[items]


KINDS = [TableModel, TableFactors]


def naive(table: NDArray[np.float32], dataset: Dataset, rows: Any, k: int, exclude: str) -> Ranking:
    """By definition, one row at a time."""
    ranks, scores, items, values = [], [], [], []
    for row in rows:
        user, target = dataset.user[row], dataset.item[row]
        mine = np.flatnonzero(dataset.user == user)
        gone = {"none": mine[:0], "history": mine[mine < row], "train": mine[dataset.split[mine] == 0]}[exclude]
        candidates = [item for item in range(table.shape[1]) if item == target or item not in dataset.item[gone]]
        own = table[user]
        others = np.array([item for item in candidates if item != target], int)
        ranks.append(1 + (own[others] > own[target]).sum() + (own[others] == own[target]).sum() // 2)
        scores.append(own[target])
        best = sorted(candidates, key=lambda item: (-own[item], item))[:k]
        missing = k - len(best)
        items.append(best + [-1] * missing)
        values.append([own[item] for item in best] + [-np.inf] * missing)
    shape = (len(rows), k)
    return Ranking(
        np.array(ranks, int),
        np.array(scores, np.float32),
        np.array(items, np.int32).reshape(shape),
        np.array(values, np.float32).reshape(shape),
    )


def assert_same(found: Ranking, expected: Ranking) -> None:
    np.testing.assert_array_equal(found.rank, expected.rank)
    np.testing.assert_array_equal(found.score, expected.score)
    np.testing.assert_array_equal(found.top_items, expected.top_items)
    np.testing.assert_array_equal(found.top_scores, expected.top_scores)
    assert (found.rank.dtype, found.score.dtype) == (np.int64, np.float32)
    assert (found.top_items.dtype, found.top_scores.dtype) == (np.int32, np.float32)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("exclude", ["none", "history", "train"])
@pytest.mark.parametrize("values", [1, 4, 10_000])
@pytest.mark.parametrize("memory", [1, 2000, None])
def test_equals_a_sort_of_all_scores(
    random_log: Any, monkeypatch: Any, kind: Any, exclude: Any, values: int, memory: int | None
) -> None:
    """From constant scores to hardly any tie, in slices of one item to all of them."""
    monkeypatch.setattr(sweep, "GROUP", 3)
    monkeypatch.setattr(rank, "ROWS", 7)
    dataset = random_log(values, rows=90, users=6, items=53)
    table = np.random.default_rng(values).integers(0, values, (6, 53)).astype(np.float32) - values // 2
    rows = np.random.default_rng(0).permutation(90)[:40]
    for k in (1, 5, 53):
        found = rank_rows(
            kind(table), None, dataset, rows, k=k, exclude=exclude, device=CPU, memory_bytes=memory, batch_tokens=9
        )
        assert_same(found, naive(table, dataset, rows, k, exclude))


@pytest.mark.parametrize("exclude", ["none", "history", "train"])
def test_scores_in_batches_of_any_order(random_log: Any, exclude: Any) -> None:
    dataset = random_log(4, rows=90, users=6, items=53)
    table = np.random.default_rng(4).integers(0, 4, (6, 53)).astype(np.float32)
    rows = np.random.default_rng(0).permutation(90)[:40]
    batches = np.array_split(np.random.default_rng(1).permutation(40), 4)
    scores = [(places, torch.from_numpy(table[dataset.user[rows[places]]])) for places in batches]
    found = rank_scores(dataset, rows, scores, k=5, exclude=exclude, device=CPU)
    assert_same(found, naive(table, dataset, rows, 5, exclude))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([5, 3, 3, 3, 3, 3], 4),
        ([5, 3, 3, 3, 3, 0], 3),
        ([5, 3, 0, 0, 0, 0], 2),
        ([3, 3, 3, 3, 3, 3], 3),
        ([0, 3, 0, 0, 0, 0], 1),
        ([0.0, -0.0, -1, -1, -1, -1], 1),
        ([0.0, -0.0, 0.0, -1, -1, -1], 2),
    ],
)
def test_a_tie_counts_one_half(log: Any, kind: Any, scores: list[float], expected: int) -> None:
    found = rank_rows(kind([scores]), None, log([0], [1], items=6), np.array([0]), k=2, device=CPU)
    assert found.rank.tolist() == [expected]


@pytest.mark.parametrize("kind", KINDS)
def test_the_rows_own_item_is_never_excluded(log: Any, kind: Any) -> None:
    dataset = log([0, 0, 0], [1, 0, 1], items=3)
    found = rank_rows(kind([[3, 2, 1]]), None, dataset, np.array([2]), k=3, exclude="history", device=CPU)
    assert found.rank.tolist() == [1]
    assert found.top_items.tolist() == [[1, 2, -1]]
    assert found.top_scores.tolist() == [[2, 1, -np.inf]]


def test_history_is_all_that_came_before_whatever_the_model_reads(log: Any) -> None:
    """The disliked first item is excluded though the model reads liked ones only, and one at most."""
    dataset = log([0, 0, 0], [0, 1, 2], label=[0, 1, 1], items=4)
    rule = HistoryRule(liked_only=True, length=1)
    model = TableFactors([[4, 3, 2, 1]])
    assert rank_rows(model, rule, dataset, np.array([2]), k=1, exclude="history", device=CPU).rank.tolist() == [1]


@pytest.mark.parametrize("exclude", ["none", "history", "train"])
def test_sequence_models_are_ranked_by_their_own_scores(random_log: Any, sasrec: Any, exclude: Any) -> None:
    dataset = random_log(5, rows=80, users=6, items=30)
    model = sasrec(5, users=6, items=30)
    rows = np.arange(80)[::-1].copy()
    found = rank_rows(model, RULE, dataset, rows, k=7, exclude=exclude, device=CPU, batch_tokens=20)
    histories = dataset.histories(liked_only=True)
    model.eval()
    for place, row in enumerate(rows):
        history = torch.from_numpy(histories.padded(np.array([row]), 5, side="left")[0])
        history = history[history >= 0].long()[None]
        sequences = Sequences(history, torch.tensor([history.shape[1]]))
        with torch.inference_mode():
            scores = model.score(torch.zeros(30, dtype=torch.int64), torch.arange(30), _repeat(sequences, 30)).numpy()
        mine = np.flatnonzero(dataset.user == dataset.user[row])
        gone = {"none": mine[:0], "history": mine[mine < row], "train": mine[dataset.split[mine] == 0]}[exclude]
        out = np.isin(np.arange(30), dataset.item[gone]) & (np.arange(30) != dataset.item[row])
        scores[out] = -np.inf
        assert found.rank[place] == 1 + (scores > scores[dataset.item[row]]).sum()
        best = np.argsort(-scores, kind="stable")[:7]
        best = best[np.isfinite(scores[best])]
        assert found.top_items[place][: len(best)].tolist() == best.tolist()
        np.testing.assert_allclose(found.top_scores[place][: len(best)], scores[best], rtol=1e-4, atol=1e-5)


def _repeat(sequences: Sequences, times: int) -> Sequences:
    return Sequences(sequences.items.expand(times, -1), sequences.lengths.expand(times))


def test_equal_items_are_equal_in_whichever_slices_they_stand(random_log: Any, mf: Any) -> None:
    """Every item stands in the catalogue four times, far apart: each rank is 1 + 4 n + 1."""
    dataset = random_log(6, rows=700, users=40, items=4 * 301)
    model = mf(6, users=40, items=4 * 301, embedding_size=33)
    for parameter in (model.item.weight, model.bias.weight):
        parameter.data = parameter.data[:301].repeat(4, *[1] * (parameter.ndim - 1))
    for memory in (1 << 19, 1 << 22, None):
        found = rank_rows(model, None, dataset, np.arange(700), k=8, device=CPU, memory_bytes=memory)
        assert (found.rank % 4 == 2).all()
        assert (found.top_items % 301 == found.top_items[:, ::4].repeat(4, 1) % 301).all()


def test_few_rows_are_ranked_as_many_are(random_log: Any, mf: Any) -> None:
    """The kernels of a matrix product depend on its shape, the ranks on its last bits alone where scores are equal."""
    dataset = random_log(7, rows=64, users=9, items=500)
    model = mf(7, users=9, items=500, embedding_size=64)
    many = rank_rows(model, None, dataset, np.arange(64), k=3, device=CPU)
    for rows in (np.arange(1), np.arange(5), np.arange(13)):
        few = rank_rows(model, None, dataset, rows, k=3, device=CPU, memory_bytes=1 << 13)
        assert few.rank.tolist() == many.rank[rows].tolist()
        assert few.top_items.tolist() == many.top_items[rows].tolist()


def test_ranks_in_full_precision_whatever_the_caller_computes_in(random_log: Any, mf: Any) -> None:
    dataset = random_log(10, rows=50, users=9, items=300)
    model = mf(10, users=9, items=300)
    plain = rank_rows(model, None, dataset, np.arange(50), k=3, device=CPU)
    with torch.autocast("cpu", torch.bfloat16):
        half = rank_rows(model, None, dataset, np.arange(50), k=3, device=CPU)
    assert_same(half, plain)


@pytest.mark.parametrize("exclude", ["none", "history"])
def test_what_comes_later_changes_no_rank(random_log: Any, sasrec: Any, exclude: Any) -> None:
    model = sasrec(8, users=4, items=25)
    dataset = random_log(8, rows=60, users=4, items=25)
    for row in range(0, 60, 3):
        changed = random_log(8, rows=60, users=4, items=25)
        changed.item[row + 1 :] = (changed.item[row + 1 :] + 7) % 25
        changed.label[row:] = 1 - changed.label[row:]
        before, after = (
            rank_rows(model, RULE, data, np.array([row]), k=4, exclude=exclude, device=CPU)
            for data in (dataset, changed)
        )
        assert_same(before, after)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wrong", [np.nan, np.inf])
@pytest.mark.parametrize("item", [0, 2])
def test_scores_that_are_no_numbers_are_refused_with_their_row(log: Any, kind: Any, wrong: float, item: int) -> None:
    """Be it that of the row's own item, or that of another."""
    table = np.zeros((2, 3), np.float32)
    table[1, item] = wrong
    model = kind(table)
    if kind is TableFactors:
        model.queries = lambda users, sequences: model.table[users].nan_to_num(nan=7, posinf=7)
        model.keys = lambda items=None: torch.eye(3).masked_fill(torch.arange(3)[:, None] == item, wrong)
    dataset = log([1, 1], [1, 2], items=3)
    with pytest.raises(RectoolError, match=r"row 1 of data/interactions\.parquet are not finite \((nan|inf)\)"):
        rank_rows(model, None, dataset, np.array([1]), k=1, device=CPU)


@pytest.mark.parametrize("kind", KINDS)
def test_no_rows_have_no_ranks(log: Any, kind: Any) -> None:
    found = rank_rows(kind([[1, 2]]), None, log([0], [1]), np.empty(0, np.int64), k=5, device=CPU)
    assert found.rank.shape == found.score.shape == (0,)
    assert found.top_items.shape == (0, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_progress_counts_all_rows(random_log: Any, kind: Any) -> None:
    done: list[int] = []
    dataset = random_log(9, rows=1100, users=3, items=5)
    table = np.zeros((3, 5), np.float32)
    rank_rows(kind(table), None, dataset, np.arange(1100), k=1, device=CPU, batch_tokens=100, progress=done.append)
    assert sum(done) == 1100
    assert len(done) > 2
