"""Scores of rows, against one row at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from rectool.data.dataset import Dataset
from rectool.data.histories import HistoryRule
from rectool.errors import RectoolError
from rectool.evaluation.score import Batch, in_batches, score_rows, scoring, sequences_of
from rectool.models.model import CatalogueScores, Model, Sequences, Size

CPU = torch.device("cpu")
RULES = [HistoryRule(liked_only=False, length=10), HistoryRule(liked_only=True, length=3)]


@dataclass(frozen=True)
class NoSettings:
    """There is nothing to set."""


class Written(Model):
    """Scores that the test writes down: of each item, whoever asks. Remembers the batches it was asked for."""

    Settings: ClassVar = NoSettings

    def __init__(self, scores: list[float], memory: int = 1 << 30) -> None:
        super().__init__(NoSettings(), Size(1, len(scores)))
        self.scores, self.memory = torch.tensor(scores), memory
        self.asked: list[tuple[int, ...]] = []

    def score(self, users: Tensor, items: Tensor, sequences: Sequences) -> Tensor:
        self.asked.append(tuple(sequences.items.shape))
        if len(items) * max(1, sequences.items.shape[1]) > self.memory:
            raise torch.OutOfMemoryError("out of memory")
        return self.scores[items]

    def rank(self, users: Tensor, sequences: Sequences) -> CatalogueScores:
        return lambda start, stop: self.scores[start:stop].expand(len(users), -1)

    def user_vectors(self, users: Tensor, sequences: Sequences) -> Tensor:
        return torch.ones(len(users), 1)

    def item_vectors(self) -> Tensor:
        return self.scores[:, None]


def one_by_one(model: Model, rule: HistoryRule | None, dataset: Dataset, rows: Any) -> list[float]:
    """The score of each row from a history gathered by hand."""
    scores = []
    for row in rows:
        earlier = [
            int(dataset.item[other])
            for other in range(row)
            if dataset.user[other] == dataset.user[row]
            and rule is not None
            and (not rule.liked_only or dataset.label[other] == 1)
        ]
        history = torch.tensor([earlier[-rule.length :] if rule else []], dtype=torch.int64)
        with torch.inference_mode():
            score = model.eval().score(
                torch.tensor([int(dataset.user[row])]),
                torch.tensor([int(dataset.item[row])]),
                Sequences(history, torch.tensor([history.shape[1]])),
            )
        scores.append(float(score))
    return scores


@pytest.mark.parametrize("tokens", [1, 7, 40, None])
@pytest.mark.parametrize("rule", RULES)
def test_scores_are_those_of_one_row_at_a_time(random_log: Any, sasrec: Any, rule: HistoryRule, tokens: int) -> None:
    dataset = random_log(1, rows=120, users=9, items=20)
    model = sasrec(1, users=9, items=20)
    rows = np.random.default_rng(0).integers(0, 120, 50)
    scores = score_rows(model, rule, dataset, rows, device=CPU, batch_tokens=tokens)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, one_by_one(model, rule, dataset, rows), rtol=1e-4, atol=1e-5)


def test_a_model_without_history_gets_none(random_log: Any, mf: Any) -> None:
    dataset = random_log(2, rows=60, users=5, items=9)
    model = mf(2, users=5, items=9)
    rows = np.arange(60)[::-1].copy()
    scores = score_rows(model, None, dataset, rows, device=CPU, batch_tokens=16)
    np.testing.assert_allclose(scores, one_by_one(model, None, dataset, rows), rtol=1e-5)


def test_what_comes_later_changes_no_score(random_log: Any, sasrec: Any) -> None:
    dataset = random_log(3, rows=100, users=4, items=15)
    model = sasrec(3, users=4, items=15)
    for row in range(100):
        changed = random_log(3, rows=100, users=4, items=15)
        changed.item[row + 1 :] = (changed.item[row + 1 :] + 7) % 15
        changed.label[row:] = 1 - changed.label[row:]
        before, after = (score_rows(model, RULES[1], data, np.array([row]), device=CPU) for data in (dataset, changed))
        assert before == after


def test_no_rows_have_no_scores(log: Any) -> None:
    model = Written([1.0])
    assert score_rows(model, RULES[0], log([0], [0]), np.empty(0, np.int64), device=CPU).shape == (0,)


def test_the_model_stays_in_the_mode_it_was_in(mf: Any) -> None:
    model = mf(0, users=1, items=1).train()
    with scoring(model):
        assert not model.training
        assert not torch.is_grad_enabled()
    assert model.training
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(("wrong", "said"), [(float("nan"), "nan"), (float("inf"), "inf"), (-float("inf"), "-inf")])
def test_a_score_that_is_no_number_is_refused_with_its_row(log: Any, wrong: float, said: str) -> None:
    dataset = log([0, 0, 0, 1], [0, 1, 2, 1])
    with pytest.raises(RectoolError) as problem:
        score_rows(Written([1.0, 2.0, wrong]), RULES[0], dataset, np.array([3, 2, 0]), device=CPU)
    assert f"scores for row 2 of data/interactions.parquet are not finite ({said});" in str(problem.value)


def test_batches_are_cut_by_tokens_with_hardly_any_padding(random_log: Any) -> None:
    dataset = random_log(4, rows=3000, users=60, items=9)
    rule = HistoryRule(liked_only=False, length=50)
    shapes, done = [], []
    rows = np.arange(3000)

    def look(batch: Batch) -> None:
        assert batch.sequences.items.shape[0] == len(batch.places) == len(batch.users) == len(batch.items)
        shapes.append((len(batch.places), batch.sequences.items.shape[1], int(batch.sequences.lengths.sum())))

    in_batches(look, rule, dataset, rows, device=CPU, tokens=500, progress=done.append)
    assert all(count * max(1, width) <= 500 for count, width, _ in shapes)
    padded, real = sum(count * width for count, width, _ in shapes), sum(length for _, _, length in shapes)
    assert padded < 1.05 * real
    assert done == [count for count, _, _ in shapes]
    assert sum(done) == 3000
    shapes.clear()
    in_batches(look, rule, dataset, rows, device=CPU, tokens=500, most_rows=4)
    assert max(count for count, _, _ in shapes) == 4


def test_too_little_memory_halves_the_batches(log: Any) -> None:
    rows = 64
    dataset = log([0] * rows, [0] * rows)
    model = Written([0.5], memory=40)
    done: list[int] = []
    rule = HistoryRule(liked_only=False, length=4)
    scores = score_rows(model, rule, dataset, np.arange(rows), device=CPU, batch_tokens=256, progress=done.append)
    assert (scores == 0.5).all()
    assert sum(done) == rows
    assert [count for count, width in model.asked if width == 4][:5] == [64, 32, 16, 8, 8]


def test_too_little_memory_for_one_row_is_an_error(log: Any) -> None:
    with pytest.raises(RectoolError, match="cpu has no memory for a single row"):
        score_rows(Written([0.5], memory=0), None, log([0, 0], [0, 0]), np.arange(2), device=CPU)


def test_sequences_are_as_wide_as_the_longest(log: Any) -> None:
    dataset = log([0, 0, 0, 1], [5, 6, 7, 8], label=[1, 0, 1, 1])
    all_earlier = sequences_of(dataset.histories(liked_only=False), np.array([2, 0, 1]), RULES[0], CPU)
    assert all_earlier.items.tolist() == [[5, 6], [0, 0], [5, 0]]
    assert all_earlier.lengths.tolist() == [2, 0, 1]
    assert all_earlier.items.dtype == all_earlier.lengths.dtype == torch.int64
    liked = sequences_of(dataset.histories(liked_only=True), np.array([2, 3]), RULES[1], CPU)
    assert liked.items.tolist() == [[5], [0]]
    assert sequences_of(None, np.array([2, 3]), None, CPU).items.shape == (2, 0)
