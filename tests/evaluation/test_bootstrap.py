"""The bootstrap against a loop that really resamples rows, and on data whose truth is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rectool.errors import RectoolError
from rectool.evaluation import bootstrap
from rectool.evaluation.bootstrap import Difference, differences, interval, replicates, weights
from rectool.evaluation.metrics import CTR, metric
from rectool.evaluation.predictions import Predictions


def predictions(seed: int, users: int = 25, rows: int = 300, skill: float = 0.2, noise: int = 0) -> Predictions:
    """Labels from `seed`; scores that follow them with `skill`, by chance of `noise`."""
    truth, chance = np.random.default_rng(seed), np.random.default_rng(1000 + noise)
    user = np.sort(truth.integers(0, users, rows)).astype(np.int32)
    label = truth.integers(0, 2, rows).astype(np.int8)
    probability = np.round(skill * label + (1 - skill) * chance.random(rows), 2).astype(np.float32)
    return Predictions(
        row=np.arange(rows) * 2,
        user=user,
        item=truth.integers(0, 9, rows).astype(np.int32),
        label=label,
        score=probability,
        probability=probability,
        rank=chance.integers(1, 20, rows),
    )


def resampled(found: Predictions, draw: NDArray[Any]) -> Predictions:
    """The rows of drawn users, once for each time, every copy of a user another user."""
    users = np.unique(found.user)
    parts = [np.flatnonzero(found.user == user) for user, times in zip(users, draw, strict=True) for _ in range(times)]
    rows = np.concatenate(parts)
    assert found.probability is not None
    assert found.rank is not None
    return Predictions(
        row=np.arange(len(rows)),
        user=np.repeat(np.arange(len(parts), dtype=np.int32), [len(part) for part in parts]),
        item=found.item[rows],
        label=found.label[rows],
        score=found.score[rows],
        probability=found.probability[rows],
        rank=found.rank[rows],
    )


@pytest.fixture(params=[40, 1 << 22])
def cells(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A draw or two at a time, and all of them."""
    monkeypatch.setattr(bootstrap, "_CELLS", request.param)


def paired(name: str, *of: Any, **more: Any) -> Difference:
    return differences([name], *of, **more)[name]


@pytest.mark.usefixtures("cells")
def test_draws_are_metrics_of_resampled_rows() -> None:
    found = predictions(0)
    names = [*CTR, "hr@5", "ndcg@5", "mrr@5", "recall@5"]
    targets = found.targets(threshold=0.55)

    drawn = replicates([metric(name).statistic(targets) for name in names], targets.users, 12, seed=3)

    expected = [
        [metric(name).of(resampled(found, draw.astype(int)).targets(threshold=0.55)) for name in names]
        for part in weights(targets.users, 12, 3)
        for draw in part
    ]
    assert drawn == pytest.approx(np.array(expected).T)


def test_weights_do_not_depend_on_how_many_are_made_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = np.concatenate(list(weights(7, 23, seed=5)))
    monkeypatch.setattr(bootstrap, "_CELLS", 21)
    parts = list(weights(7, 23, seed=5))

    assert [len(part) for part in parts] == [3] * 7 + [2]
    assert np.array_equal(np.concatenate(parts), whole)
    assert whole.sum(axis=1).tolist() == [7] * 23
    assert not np.array_equal(whole, np.concatenate(list(weights(7, 23, seed=6))))


def test_each_user_is_drawn_once_in_the_mean() -> None:
    drawn = np.concatenate(list(weights(50, 4000, seed=0)))
    assert drawn.mean(axis=0) == pytest.approx(1, abs=0.08)
    assert drawn.var(axis=0) == pytest.approx(1 - 1 / 50, abs=0.15)


def test_percentiles_leave_out_draws_without_a_value() -> None:
    drawn = np.array([np.nan, *np.linspace(0, 1, 101), np.nan])
    assert interval(drawn, 0.9) == pytest.approx((0.05, 0.95))
    assert np.isnan(interval(np.array([np.nan]))).all()


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    """Accuracy, users of different skill and number of rows; the true value is that of very many users."""
    random = np.random.default_rng(0)

    def sample(users: int) -> NDArray[np.float64]:
        rows = 1 + random.poisson(10, users)
        return np.stack([random.binomial(rows, random.beta(6, 3, users)), rows], axis=1).astype(np.float64)

    truth = 6 / 9
    held = 0
    for number in range(200):
        statistic = bootstrap.Sums(sample(60), lambda sums: sums[..., 0] / sums[..., 1])
        low, high = interval(replicates([statistic], 60, 300, seed=number)[0], 0.9)
        held += low <= truth <= high
    assert 0.83 <= held / 200 <= 0.96


def test_models_alike_have_p_1() -> None:
    found = predictions(0)
    for name, difference in differences([*CTR, "ndcg@5"], found, found, draws=50).items():
        assert (difference.value, difference.low, difference.high, difference.p_value) == (0, 0, 0, 1), name
        assert difference.users == 25


def test_a_planted_difference_is_found() -> None:
    better, worse = predictions(0, skill=0.4), predictions(0, skill=0.1)
    for name, difference in differences(["auc", "uauc", "log_loss", "f1"], better, worse, draws=400).items():
        of_each = [metric(name).of(found.targets(threshold=0.5)) for found in (better, worse)]
        assert difference.value == pytest.approx(of_each[0] - of_each[1])
        assert difference.p_value == pytest.approx(2 / 401), name
        assert difference.low < difference.value < difference.high
        assert (difference.low > 0) == (name != "log_loss")
    turned = paired("auc", worse, better, draws=400)
    straight = paired("auc", better, worse, draws=400)
    assert (turned.value, turned.low) == pytest.approx((-straight.value, -straight.high))
    assert turned.p_value == straight.p_value


def test_models_of_one_skill_seldom_differ() -> None:
    """A test at .1 rejects what is true about one time in ten."""
    rejected = 0
    for number in range(150):
        first, second = (predictions(number, skill=0.1, noise=2 * number + i) for i in range(2))
        rejected += paired("auc", first, second, draws=150).p_value < 0.1
    assert 7 <= rejected <= 27


def test_the_p_value_by_its_formula() -> None:
    first, second = predictions(0, noise=1), predictions(0, noise=2)
    statistics = [metric("auc").statistic(found.targets()) for found in (first, second)]
    drawn = replicates(statistics, 25, 99, seed=4)
    change = drawn[0] - drawn[1]
    expected = min(1, 2 * (1 + min((change <= 0).sum(), (change >= 0).sum())) / 100)
    assert paired("auc", first, second, draws=99, seed=4).p_value == pytest.approx(expected)


def test_rows_and_thresholds_of_each_model() -> None:
    first, second = predictions(0, noise=1), predictions(0, noise=2)
    chosen = first.user < 10
    difference = paired("f1", first, second, chosen, threshold=(0.3, 0.7), draws=20)
    of_each = [
        metric("f1").of(found.targets(chosen, threshold=limit)) for found, limit in ((first, 0.3), (second, 0.7))
    ]
    assert difference.value == pytest.approx(of_each[0] - of_each[1])
    assert difference.users == 10
    assert difference == paired("f1", first, second, np.flatnonzero(chosen), threshold=(0.3, 0.7), draws=20)


def test_what_is_not_defined_is_nan() -> None:
    first, second = predictions(0, noise=1), predictions(0, noise=2)
    for rows in (first.label == 1, np.zeros(300, bool)):
        difference = paired("auc", first, second, rows, draws=20)
        assert np.isnan([difference.value, difference.low, difference.high, difference.p_value]).all()
    assert difference.users == 0


def test_what_cannot_be_paired() -> None:
    first = predictions(0)
    with pytest.raises(RectoolError, match="the same rows"):
        paired("auc", first, predictions(0, rows=299))
    with pytest.raises(RectoolError, match="the same labels"):
        paired("auc", first, predictions(1))
    with pytest.raises(RectoolError, match="needs a lists"):
        paired("coverage@5", first, first)
    with pytest.raises(RectoolError, match="one draw at least"):
        paired("auc", first, first, draws=0)


def test_of_several_first_models_the_mean_is_tested() -> None:
    base, *seeds = (predictions(3, noise=noise) for noise in range(3))
    mean = differences(["auc", "f1"], seeds, base, draws=50, threshold=(0.4, 0.5, 0.6))
    for name in ("auc", "f1"):
        alone = [
            paired(name, each, base, draws=50, threshold=(limit, 0.6))
            for each, limit in zip(seeds, (0.4, 0.5), strict=True)
        ]
        assert mean[name].value == pytest.approx(np.mean([each.value for each in alone]))
        assert mean[name].low >= min(each.low for each in alone)
        assert mean[name].high <= max(each.high for each in alone)
    assert differences(["auc"], [base], seeds[0], draws=50) == differences(["auc"], base, seeds[0], draws=50)
