"""Which rows share a prefix: against all clusters of a few rows, and on shapes that matter."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rectool.llm import sharing

Rows = Callable[[list[list[int]]], Any]


def common(rows: list[list[int]]) -> int:
    """Tokens that all rows begin with, less than any of them has."""
    least = min(len(row) for row in rows) - 1
    return next((n for n in range(least) if len({row[n] for row in rows}) > 1), least)


def most_saved_by_one(rows: list[list[int]]) -> int:
    """What the best single cluster saves: every set of two rows and more is tried."""
    sets = (part for count in range(2, len(rows) + 1) for part in combinations(rows, count))
    return max(((len(part) - 1) * common(list(part)) for part in sets), default=0)


def saved(clusters: sharing.Clusters) -> int:
    """How many tokens need not be encoded."""
    return int(((np.diff(clusters.bounds) - 1) * clusters.prefixes).sum())


def test_rows_of_a_group_that_begin_alike_are_one_cluster(token_rows: Rows) -> None:
    tokens = token_rows([[5, 6, 7, 8, 1], [9, 9, 9], [5, 6, 7, 8, 2, 3], [5, 6, 7, 8, 4]])
    clusters = sharing.find(tokens, np.zeros(4, np.int64))
    assert clusters.prefixes.tolist() == [4]
    assert sorted(clusters.members(np.array([0]))[0].tolist()) == [0, 2, 3]
    assert clusters.alone.tolist() == [1]
    assert saved(clusters) == 8


def test_groups_do_not_share(token_rows: Rows) -> None:
    tokens = token_rows([[5, 6, 7, 1]] * 4)
    clusters = sharing.find(tokens, np.array([0, 1, 0, 1]))
    parts = [set(clusters.members(np.array([place]))[0].tolist()) for place in range(2)]
    assert sorted(map(sorted, parts)) == [[0, 2], [1, 3]]


def test_references_are_tokens_like_others(token_rows: Rows) -> None:
    """Whatever their number, and never taken for the end of a row."""
    rows = [[5, -4, -900, 7, last] for last in (1, -5, -6)] + [[5, -4, -901, 7, 8], [5, -4], [5, -4]]
    clusters = sharing.find(token_rows(rows), np.array([0, 0, 0, 0, 1, 1]))
    sizes = np.diff(clusters.bounds).tolist()
    assert sorted(zip(clusters.prefixes.tolist(), sizes, strict=True)) == [(1, 2), (4, 3)]
    assert clusters.alone.tolist() == [3]


def test_equal_rows_keep_a_token_of_their_own(token_rows: Rows) -> None:
    clusters = sharing.find(token_rows([[5, 6, 7, 8]] * 3), np.zeros(3, np.int64))
    assert clusters.prefixes.tolist() == [3]


def test_a_prefix_that_is_hardly_worth_it_is_left_alone(token_rows: Rows) -> None:
    chance = np.random.default_rng(0)
    rows = [[5, *chance.integers(10, 800, 40).tolist()] for _ in range(30)]
    clusters = sharing.find(token_rows(rows), np.zeros(30, np.int64))
    assert len(clusters.prefixes) == 0
    assert sorted(clusters.alone.tolist()) == list(range(30))


def test_a_row_that_is_unlike_its_group_costs_the_others_nothing(token_rows: Rows) -> None:
    history = list(range(100, 180))
    rows = [[1, 2, *history, item] for item in range(3, 23)] + [[1, 2, *history[8:], 50, 51]]
    clusters = sharing.find(token_rows(rows), np.zeros(21, np.int64))
    assert clusters.prefixes.tolist() == [82]
    assert clusters.alone.tolist() == [20]


def test_users_with_prompts_of_their_own_do_not_keep_the_others_from_sharing(token_rows: Rows) -> None:
    many = [[1, 2, *range(100, 150), item] for item in range(20)]
    few = [[1, 2, *range(200 + 50 * user, 250 + 50 * user), 7] for user in range(10)]
    clusters = sharing.find(token_rows(many + few), np.zeros(30, np.int64))
    assert clusters.prefixes.tolist() == [52]
    assert sorted(clusters.alone.tolist()) == list(range(20, 30))


def test_nothing_to_share(token_rows: Rows) -> None:
    for rows in ([], [[4, 5]], [[4], [4]]):
        clusters = sharing.find(token_rows(rows), np.zeros(len(rows), np.int64))
        assert len(clusters.prefixes) == 0
        assert len(clusters.alone) == len(rows)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=7))
def test_at_least_what_one_cluster_can_save_is_saved(rows: list[list[int]]) -> None:
    ids = np.array([token for row in rows for token in row], np.int32)
    tokens = sharing.TokenRows(ids, np.cumsum([0, *map(len, rows)]))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sharing, "WORTH", 0)
        clusters = sharing.find(tokens, np.zeros(len(rows), np.int64))
    assert saved(clusters) >= most_saved_by_one(rows)
    assert sorted(clusters.rows.tolist()) == list(range(len(rows)))
    for cluster, prefix in enumerate(clusters.prefixes):
        members = clusters.members(np.array([cluster]))[0]
        assert len({tuple(rows[row][:prefix]) for row in members}) == 1
        assert min(len(rows[row]) for row in members) > prefix


def test_long_logs_are_cut_into_chunks(token_rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "CHUNK", 40)
    rows = [[user, user, user, item] for user in range(10) for item in range(10)]
    clusters = sharing.find(token_rows(rows), np.repeat(np.arange(10), 10))
    assert len(clusters.alone) == 0
    assert clusters.prefixes.tolist() == [3] * 10
