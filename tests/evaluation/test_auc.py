from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from rectool.errors import RectoolError
from rectool.evaluation import auc as engine
from rectool.evaluation.auc import UserAUC, auc, uauc, user_auc

INTERESTING = [0.0, -0.0, 1.0, -1.0, 0.1, 0.1 + 1e-17, 0.1 + 2e-17, 1e300, -1e300, 5e-324, -1e-45, 3e38, 1e39]
INTERESTING += [float("inf"), float("-inf"), 1 + 2**-52, 1 + 2**-23]


@pytest.fixture(params=[4, 1 << 16])
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks that cut through users and ties, and as they are."""
    monkeypatch.setattr(engine, "_CHUNK", request.param)


def pairs(labels: NDArray[Any], scores: NDArray[Any]) -> float:
    """The definition: each pair of a positive and a negative, compared as Python numbers."""
    positives = [score for score, label in zip(scores.tolist(), labels.tolist(), strict=True) if label == 1]
    negatives = [score for score, label in zip(scores.tolist(), labels.tolist(), strict=True) if label == 0]
    if not positives or not negatives:
        return float("nan")
    won = sum(1.0 if p > n else 0.5 if p == n else 0.0 for p, n in itertools.product(positives, negatives))
    return won / (len(positives) * len(negatives))


def naive_uauc(users: NDArray[Any], labels: NDArray[Any], scores: NDArray[Any]) -> UserAUC:
    values = [pairs(labels[users == user], scores[users == user]) for user in np.unique(users)]
    counted = [value for value in values if value == value]
    return UserAUC(
        value=sum(counted) / len(counted) if counted else float("nan"),
        users=len(counted),
        skipped=len(values) - len(counted),
    )


def same(result: UserAUC, expected: UserAUC) -> bool:
    alike = result.value == pytest.approx(expected.value, abs=1e-12, nan_ok=True)
    return bool(alike) and (result.users, result.skipped) == (expected.users, expected.skipped)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([-(2**63), -3, 0, 1, 2, 2**63 - 1]),
            st.booleans(),
            st.sampled_from(INTERESTING) | st.floats(allow_nan=False),
        ),
        max_size=30,
    ),
    st.sampled_from([np.float32, np.float64]),
)
def test_the_definition_at_the_edges_of_floats(
    rows: list[tuple[int, bool, float]], dtype: type[np.floating[Any]]
) -> None:
    users = np.array([row[0] for row in rows], dtype=np.int64)
    labels = np.array([row[1] for row in rows], dtype=np.int8)
    with np.errstate(over="ignore"):
        scores = np.array([row[2] for row in rows], dtype=np.float64).astype(dtype)

    assert auc(labels, scores) == pytest.approx(pairs(labels, scores), abs=1e-12, nan_ok=True)
    assert same(uauc(users, labels, scores), naive_uauc(users, labels, scores))


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize("decimals", [0, 1, 6])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_scikit_learn_agrees(decimals: int, dtype: type[np.floating[Any]]) -> None:
    random = np.random.default_rng(decimals)
    users = random.integers(0, 40, 900)
    labels = (random.random(900) < users / 40).astype(np.int8)  # the first users have one class only
    scores = np.round(random.standard_normal(900) + 0.5 * labels, decimals).astype(dtype)

    values, skipped = [], 0
    for user in np.unique(users):
        mine = users == user
        if 0 < labels[mine].sum() < mine.sum():
            values.append(roc_auc_score(labels[mine], scores[mine]))
        else:
            skipped += 1
    result = uauc(users, labels, scores)

    assert skipped > 0
    assert result.value == pytest.approx(np.mean(values), abs=1e-12)
    assert (result.users, result.skipped) == (len(values), skipped)
    assert auc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


def test_a_small_case_by_hand() -> None:
    users = np.array([7, 7, 7, 9, 9, 5])
    labels = np.array([1, 0, 1, 0, 1, 1])
    scores = np.array([0.9, 0.5, 0.5, 0.8, 0.2, 0.7], dtype=np.float32)

    # User 7: one pair won, one tied; user 9: the only pair lost; user 5 has no negative.
    assert uauc(users, labels, scores) == UserAUC(value=(0.75 + 0.0) / 2, users=2, skipped=1)


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_constant_scores_are_one_half_whatever_the_order_of_labels(order: list[int]) -> None:
    labels = np.array(order * 10)
    users = np.repeat([1, 2], 10)

    assert auc(labels, np.full(20, -3.5)) == 0.5
    assert uauc(users, labels, np.full(20, 0.1)) == UserAUC(value=0.5, users=2, skipped=0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("signs", [(0.0, -0.0), (-0.0, 0.0)])
def test_zero_and_minus_zero_tie(signs: tuple[float, float], dtype: type[np.generic]) -> None:
    scores = np.array([*signs, 1e300]).astype(dtype) if dtype is np.float64 else np.array([*signs, 1], dtype)

    assert auc(np.array([1, 0, 0]), scores) == 0.25


def test_negative_scores_and_infinities_are_in_order() -> None:
    scores = np.array([-np.inf, -3e38, -2.0, -1e-45, 0.0, 1e-45, 2.0, 3e38, np.inf], dtype=np.float32)
    for split in range(1, 9):
        labels = (np.arange(9) >= split).astype(int)
        assert auc(labels, scores) == 1.0
        assert auc(labels, -scores) == 0.0


def test_float64_scores_are_compared_exactly() -> None:
    labels = np.array([0, 1])
    assert auc(labels, np.array([0.1, np.nextafter(0.1, 1)])) == 1.0
    assert auc(labels, np.array([0.1, np.nextafter(0.1, 0)])) == 0.0
    assert auc(labels, np.array([1e300, 2e300])) == 1.0  # both infinite as float32
    assert auc(labels, np.array([2e-300, 1e-300])) == 0.0


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize("step", [0.0, 2**-52, 2**-40, 2**-20])
@pytest.mark.parametrize("highest", [3, 2**31 - 2])
def test_scores_of_more_bits_than_a_key_has_left(highest: int, step: float) -> None:
    """Users take up to 31 bits, so that scores lose up to 32 of their 64: ties, near ties and none."""
    random = np.random.default_rng(0)
    users = random.choice([0, 1, 2, highest], 300)
    labels = random.integers(0, 2, 300)
    scores = random.choice([-1.0, 0.1, 1.0], 300) * (1 + step * random.integers(0, 4, 300))

    assert same(uauc(users, labels, scores), naive_uauc(users, labels, scores))


def test_the_auc_of_each_user() -> None:
    users = np.array([9, -4, 9, -4, 7], dtype=np.int16)
    found, values = user_auc(users, np.array([0, 1, 1, 0, 1]), np.array([0.5, 0.5, 0.5, 0.9, 0.1]))

    assert found.tolist() == [-4, 7, 9]
    assert found.dtype == np.int16
    assert np.array_equal(values, [0.0, np.nan, 0.5], equal_nan=True)


@pytest.mark.parametrize(
    "scores",
    [
        np.array([2**62, 2**62 + 1]),
        np.array([2**24, 2**24 + 1]),
        np.array([-(2**63), -(2**63) + 1]),
        np.array([2**64 - 2, 2**64 - 1], dtype=np.uint64),
        np.array([-128, 127], dtype=np.int8),
        np.array([False, True]),
    ],
)
def test_whole_numbers_are_compared_exactly(scores: NDArray[Any]) -> None:
    assert auc(np.array([0, 1]), scores) == 1.0
    assert auc(np.array([1, 0]), scores) == 0.0


@pytest.mark.parametrize(
    "users",
    [
        np.array([-128, 127, -128, 127], dtype=np.int8),
        np.array([0, 255, 0, 255], dtype=np.uint8),
        np.array([-(2**63), 2**63 - 1, -(2**63), 2**63 - 1]),
        np.array([2**64 - 1, 0, 2**64 - 1, 0], dtype=np.uint64),
        np.array([2**64 - 1, 2**64 - 9, 2**64 - 1, 2**64 - 9], dtype=np.uint64),
        np.array([-(2**30), 2**30 - 1, -(2**30), 2**30 - 1]),
        np.array([-(2**30), 2**30, -(2**30), 2**30]),
    ],
)
def test_users_may_be_any_integers(users: NDArray[Any]) -> None:
    scores = np.array([1, 1, 2, 0], dtype=np.float32)

    assert uauc(users, np.array([0, 0, 1, 1]), scores) == UserAUC(value=0.5, users=2, skipped=0)


@pytest.mark.parametrize("dtype", [np.bool_, np.int8, np.int64, np.float32])
def test_labels_may_be_of_any_numeric_type(dtype: type[np.generic]) -> None:
    assert auc(np.array([0, 1, 1]).astype(dtype), np.array([1.0, 2.0, 0.0])) == 0.5


def test_one_class_or_no_rows_is_nan() -> None:
    none = np.empty(0)
    assert np.isnan(auc(np.ones(3), np.arange(3)))
    assert np.isnan(auc(np.zeros(3), np.arange(3)))
    assert np.isnan(auc(none, none))
    for result, skipped in (
        (uauc(np.array([1, 2]), np.array([0, 1]), np.array([0.5, 0.5])), 2),
        (uauc(none, none, none), 0),
    ):
        assert np.isnan(result.value)
        assert (result.users, result.skipped) == (0, skipped)


@pytest.mark.parametrize(
    ("users", "labels", "scores", "message"),
    [
        ([1, 1, 1], [0, 1, 0], [0.0, np.nan, np.nan], "score of row 1 .* is NaN"),
        ([1, 1, 1], [0, 1, 2], [0.0, 1.0, 2.0], "label of row 2 .* is 2, not 0 or 1"),
        ([1, 1, 1], [0.0, np.nan, 1.0], [0.0, 1.0, 2.0], "label of row 1 .* is nan"),
        ([1, 1, 1], ["a", "b", "c"], [0.0, 1.0, 2.0], "labels must be numbers"),
        ([1, 1, 1], [0, 1, 1], ["a", "b", "c"], "scores must be numbers"),
        ([1.5, 1, 1], [0, 1, 1], [0.0, 1.0, 2.0], "users must be integers"),
        ([1, 1], [0, 1, 1], [0.0, 1.0, 2.0], "users must be as many"),
        ([1, 1, 1], [0, 1, 1], [0.0, 1.0], "one length"),
        ([[1, 1]], [[0, 1]], [[0.0, 1.0]], "one length"),
    ],
)
def test_bad_input_is_refused(users: Any, labels: Any, scores: Any, message: str) -> None:
    for dtype in (np.float32, np.float64):
        values = np.array(scores)
        values = values.astype(dtype) if values.dtype.kind == "f" else values
        with pytest.raises(RectoolError, match=message):
            uauc(np.array(users), np.array(labels), values)
        if not message.startswith("users"):
            with pytest.raises(RectoolError, match=message):
                auc(np.array(labels), values)
