"""The trie of titles against a dictionary of beginnings."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rectool.llm.trie import Trie
from rectool.prompts.tokens import TokenRows, bounds

CPU = torch.device("cpu")


def texts(rows: list[list[int]]) -> TokenRows:
    return TokenRows(np.array([id for row in rows for id in row], np.int32), bounds(np.array([len(r) for r in rows])))


def random_titles(seed: int) -> list[list[int]]:
    chance = np.random.default_rng(seed)
    return [chance.integers(0, 4, chance.integers(1, 6)).tolist() for _ in range(40)]


@pytest.mark.parametrize("seed", range(5))
def test_each_node_leads_where_some_title_goes_on(seed: int) -> None:
    rows = random_titles(seed)
    trie = Trie.of(texts(rows), CPU)
    beginnings = {tuple(row[:width]) for row in rows for width in range(len(row) + 1)}
    found, todo = {}, [((), 0)]
    while todo:
        text, node = todo.pop()
        found[text] = node
        children, owner = trie.children(torch.tensor([node]))
        assert owner.tolist() == [0] * len(children)
        assert bool(trie.goes_on(torch.tensor([node]))) == (len(children) > 0)
        todo += [((*text, int(trie.token[child])), int(child)) for child in children]
    assert found.keys() == beginnings
    assert len(trie.token) == len(beginnings)
    for row, title in zip(rows, trie.title, strict=True):
        assert int(trie.ends[found[tuple(row)]]) == title
    assert {text for text, node in found.items() if trie.ends[node] >= 0} == set(map(tuple, rows))
    assert trie.titles == len(set(map(tuple, rows)))
    assert trie.depth == max(map(len, rows))


def test_children_of_several_nodes() -> None:
    trie = Trie.of(texts([[5, 1], [5, 2], [7]]), CPU)
    children, owner = trie.children(torch.tensor([2, 0, 1]))  # 7 has none, the root 5 and 7, 5 has 1 and 2
    assert owner.tolist() == [1, 1, 2, 2]
    assert trie.token[children].tolist() == [5, 7, 1, 2]


def test_titles_of_the_same_tokens_are_one() -> None:
    trie = Trie.of(texts([[5, 1], [7], [5, 1]]), CPU)
    assert trie.title[0] == trie.title[2] != trie.title[1]
    assert trie.titles == 2


def test_no_titles_and_titles_without_a_token() -> None:
    assert Trie.of(texts([]), CPU).depth == 0
    with pytest.raises(ValueError, match="title 1 has no token"):
        Trie.of(texts([[1], []]), CPU)
