"""Ragged token rows against lists."""

from __future__ import annotations

import numpy as np
import pytest

from rectool.prompts.tokens import TokenRows, bounds, within

LISTS = [[3, -1, 5], [], [7], [8, 9, -2, 4, 1]]
SPANS = [[(0, 2, 11)], [], [], [(1, 2, 5), (3, 5, 6)]]


def rows(lists: list[list[int]] = LISTS, spans: list[list[tuple[int, int, int]]] | None = SPANS) -> TokenRows:
    ids = np.array([id for each in lists for id in each], np.int32)
    if spans is None:
        return TokenRows(ids, bounds(np.array(list(map(len, lists)))))
    flat = np.array([span for each in spans for span in each], np.int32).reshape(-1, 3)
    return TokenRows(ids, bounds(np.array(list(map(len, lists)))), flat, bounds(np.array(list(map(len, spans)))), 2)


def as_lists(tokens: TokenRows) -> list[list[int]]:
    return [tokens.ids[start:stop].tolist() for start, stop in zip(tokens.offsets, tokens.offsets[1:], strict=False)]


def spans_of(tokens: TokenRows) -> list[list[tuple[int, ...]]]:
    assert tokens.spans is not None
    assert tokens.span_offsets is not None
    pairs = zip(tokens.span_offsets, tokens.span_offsets[1:], strict=False)
    return [[tuple(span) for span in tokens.spans[start:stop].tolist()] for start, stop in pairs]


def test_lengths() -> None:
    assert len(rows()) == 4
    assert rows().lengths.tolist() == [3, 0, 1, 5]


@pytest.mark.parametrize("places", [[0, 1, 2, 3], [3, 0], [2, 2, 1], [1], []])
def test_padded_and_taken(places: list[int]) -> None:
    chosen = np.array(places, np.int64)
    ids, lengths = rows().padded(chosen)
    widest = max((len(LISTS[place]) for place in places), default=0)
    assert ids.dtype == np.int64
    assert ids.shape == (len(places), widest)
    assert ids.tolist() == [LISTS[place] + [0] * (widest - len(LISTS[place])) for place in places]
    assert lengths.tolist() == [len(LISTS[place]) for place in places]
    taken = rows().take(chosen)
    assert as_lists(taken) == [LISTS[place] for place in places]
    assert spans_of(taken) == [SPANS[place] for place in places]
    assert rows(spans=None).take(chosen).spans is None


def test_joined() -> None:
    both = TokenRows.joined([rows(), rows(LISTS[:1], SPANS[:1])])
    assert as_lists(both) == [*LISTS, LISTS[0]]
    assert spans_of(both) == [*SPANS, SPANS[0]]
    assert both.shortened == 4
    assert as_lists(TokenRows.joined([rows(spans=None)] * 2)) == LISTS * 2
    assert len(TokenRows.joined([])) == 0


def test_places_within_rows() -> None:
    assert within(np.array([2, 0, 3])).tolist() == [0, 1, 0, 1, 2]
    assert within(np.array([], np.int64)).tolist() == []
