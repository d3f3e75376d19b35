"""AUC under weights of the users, against the same rows repeated."""

from __future__ import annotations

import numpy as np
import pytest

from rectool.errors import RectoolError
from rectool.evaluation import weighted_auc
from rectool.evaluation.auc import auc
from rectool.evaluation.weighted_auc import WeightedAUC


@pytest.mark.parametrize("blocks", [1, 3, 512])
@pytest.mark.parametrize("decimals", [0, 1, 9])
def test_a_weight_is_as_many_copies_of_the_rows(blocks: int, decimals: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weighted_auc, "_BLOCKS", blocks)
    random = np.random.default_rng(decimals)
    owner = random.integers(0, 12, 130)
    labels = (random.random(130) < owner / 12).astype(np.int8)
    scores = np.round(random.standard_normal(130), decimals).astype(np.float32)
    weights = random.integers(0, 4, (70, 12))
    weights[0] = 1
    weights[1] = 0
    weights[2] = owner[0] == np.arange(12)

    found = WeightedAUC(owner, 12, labels, scores)(weights)

    expected = [auc(np.repeat(labels, draw[owner]), np.repeat(scores, draw[owner])) for draw in weights]
    assert found == pytest.approx(expected, abs=1e-12, nan_ok=True)
    assert found[0] == auc(labels, scores)
    assert np.isnan(found[1])


def test_weights_need_not_be_whole_numbers() -> None:
    owner, labels, scores = np.array([0, 0, 1, 2]), np.array([1, 0, 0, 1]), np.array([0.5, 0.1, 0.5, 0.3])
    weights = np.array([[0.5, 0.25, 2.0]])
    won = 0.5 * 0.5 + 0.5 * 0.25 / 2 + 2 * 0.5
    assert WeightedAUC(owner, 3, labels, scores)(weights) == pytest.approx(won / (2.5 * 0.75))


def test_infinite_scores_are_in_order_and_tie() -> None:
    scores = np.array([np.inf, np.inf, -np.inf, -np.inf, 0.0])
    labels = np.array([1, 0, 0, 1, 0])
    found = WeightedAUC(np.zeros(5, int), 1, labels, scores)(np.ones((1, 1)))
    assert found.tolist() == [auc(labels, scores)]


def test_no_rows_and_nan_scores() -> None:
    none = np.empty(0)
    assert np.isnan(WeightedAUC(none.astype(int), 0, none, none)(np.ones((2, 0)))).tolist() == [True, True]
    with pytest.raises(RectoolError, match=r"row 1 .* is NaN"):
        WeightedAUC(np.array([0, 0]), 1, np.array([0, 1]), np.array([0.0, np.nan]))
