"""Distances and meetings of tokens, against loops over all pairs."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from rectool.figures import token_pairs
from rectool.figures.token_pairs import distances, meetings, statistics
from rectool.prompts.tokens import TokenRows, bounds

ROW = some.lists(some.tuples(some.integers(0, 2), some.lists(some.integers(3, 9), max_size=4)), max_size=4)
"""Items of a prompt: how many tokens of the template stand before, and the title's tokens."""


def made(rows: list[list[tuple[int, list[int]]]]) -> TokenRows:
    ids, spans, lengths = [], [], []
    for row in rows:
        before = len(ids)
        for gap, title in row:
            ids += [3] * (gap + 1)
            start = len(ids) - before
            ids += title
            spans.append((start, start + len(title), 0))
        ids.append(4)
        lengths.append(len(ids) - before)
    counts = np.array([len(row) for row in rows], np.int64)
    return TokenRows(
        np.array(ids, np.int32),
        bounds(np.array(lengths, np.int64)),
        np.array(spans, np.int32).reshape(-1, 3),
        bounds(counts),
    )


def naive(rows: TokenRows) -> tuple[dict[str, list[int]], dict[str, Counter[tuple[int, int]]]]:
    """Distances of all pairs, and in how many rows two different tokens meet."""
    far: dict[str, list[int]] = {"inside": [], "across": []}
    met: dict[str, Counter[tuple[int, int]]] = {"inside": Counter(), "across": Counter()}
    assert rows.spans is not None
    assert rows.span_offsets is not None
    for row in range(len(rows)):
        ids = rows.ids[rows.offsets[row] : rows.offsets[row + 1]].tolist()
        spans = rows.spans[rows.span_offsets[row] : rows.span_offsets[row + 1]].tolist()
        tokens = [(place, number) for number, (first, stop, _) in enumerate(spans) for place in range(first, stop)]
        pairs: dict[str, set[tuple[int, int]]] = {"inside": set(), "across": set()}
        for (one, first), (other, second) in combinations(tokens, 2):
            kind = "inside" if first == second else "across"
            far[kind].append(other - one)
            if ids[one] != ids[other]:
                pairs[kind].add((min(ids[one], ids[other]), max(ids[one], ids[other])))
        for kind, found in pairs.items():
            met[kind].update(found)
    return far, met


@given(some.lists(ROW, max_size=6))
def test_sums_are_those_of_all_pairs(rows: list[list[tuple[int, list[int]]]]) -> None:
    tokens = made(rows)
    far, met = naive(tokens)
    assert distances(tokens) == {kind: (sum(each), len(each)) for kind, each in far.items()}
    assert meetings(tokens) == {kind: (each.total(), len(each)) for kind, each in met.items()}


def test_parts_of_any_size_count_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    rows = [
        [(1, generator.integers(5, 30, generator.integers(1, 6)).tolist()) for _ in range(generator.integers(0, 5))]
        for _ in range(40)
    ]
    tokens = made(rows)
    whole = meetings(tokens)
    monkeypatch.setattr(token_pairs, "CELLS", 100)
    assert meetings(tokens) == whole
    assert whole == {kind: (each.total(), len(each)) for kind, each in naive(tokens)[1].items()}


def test_means_and_what_is_not_defined() -> None:
    one = made([[(0, [5, 6]), (0, [7])]])
    lines = statistics("prompt", one, TokenRows.joined([one, one, made([[(0, [5, 6])]])]))
    assert [(line["distance"], line["prompts_per_pair"]) for line in lines] == [(1, 3), (2.5, 2)]
    nothing = statistics("prompt", made([[(0, [5])]]), made([[(0, [5])]]))
    assert [(line["distance"], line["prompts_per_pair"]) for line in nothing] == [(None, None)] * 2
