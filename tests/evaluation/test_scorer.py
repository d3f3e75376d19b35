"""Scorers give what scoring and ranking give, and cut their work so that each row is done once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from rectool.data.dataset import Dataset
from rectool.data.histories import HistoryRule
from rectool.evaluation import scorer
from rectool.evaluation.rank import rank_rows
from rectool.evaluation.score import score_rows
from rectool.evaluation.scorer import CollaborativeScorer, probabilities
from rectool.models.model import Model
from rectool.models.saved import Trained

CPU = torch.device("cpu")
ALL = HistoryRule(liked_only=False, length=10)


@pytest.fixture
def data(random_log: Callable[..., Dataset]) -> Dataset:
    return random_log(0, rows=60, users=8, items=12)


def assert_cut(pieces: Any, rows: int, size: int) -> None:
    assert (pieces[0][0], pieces[-1][1]) == (0, rows)
    assert all(stop == start for (_, stop), (start, _) in pairwise(pieces))
    assert all(0 < stop - start <= size for start, stop in pieces)


def test_pieces_make_the_whole(data: Dataset, sasrec: Callable[..., Model], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scorer, "ROWS", 7)
    model = sasrec(0, users=8, items=12)
    mine = CollaborativeScorer(Trained("sasrec", model, "ctr", ALL, "sigmoid"), CPU)
    rows = np.arange(5, 45)
    scoring, ranking = mine.scoring(data, rows), mine.ranking(data, rows, k=3, exclude="history")
    counted: list[int] = []
    for computation, whole in (
        (scoring, {"score": score_rows(model, ALL, data, rows, device=CPU)}),
        (ranking, vars(rank_rows(model, ALL, data, rows, k=3, exclude="history", device=CPU))),
    ):
        assert_cut(computation.pieces, 40, 7)
        parts = [computation.compute(start, stop, counted.append) for start, stop in computation.pieces]
        assert parts[0].keys() == whole.keys()
        for name, expected in whole.items():
            np.testing.assert_allclose(np.concatenate([part[name] for part in parts]), expected, atol=1e-5)
    assert sum(counted) == 80


def test_rows_that_cost_a_score_of_every_pair_make_small_pieces(
    data: Dataset, mf: Callable[..., Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scorer, "PAIRS", 5 * data.items)
    monkeypatch.setattr(scorer, "FactorModel", type("Another", (), {}))
    mine = CollaborativeScorer(Trained("mf", mf(0, users=8, items=12), "next-item", None, None), CPU)
    assert_cut(mine.ranking(data, np.arange(33), k=3, exclude="none").pieces, 33, 5)
    assert mine.scoring(data, np.arange(33)).pieces == [(0, 33)]


def test_probabilities(mf: Callable[..., Model]) -> None:
    scores = np.array([0.0, 2.0], np.float32)
    trained = Trained("mf", mf(0, users=8, items=12), "ctr", None, "sigmoid")
    found = probabilities(CollaborativeScorer(trained, CPU), scores)
    assert found is not None
    np.testing.assert_allclose(found, [0.5, 1 / (1 + np.exp(-2.0))])
    plain = Trained("mf", trained.model, "next-item", None, None)
    assert probabilities(CollaborativeScorer(plain, CPU), scores) is None


def test_collaborative_models_need_no_transformers() -> None:
    code = (
        "import sys; from rectool.commands import eval; from rectool.evaluation import evaluate, scorer, subjects; "
        "assert not {'transformers', 'peft', 'tokenizers'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
