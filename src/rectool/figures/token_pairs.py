"""How far apart tokens of one item are, and of different items, and how often they meet: HatLLM, section 3.

Shapes: N rows   B rows of a batch   L tokens of its longest   P pairs of places
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from rectool import plots
from rectool.figures.drawing import Drawing
from rectool.prompts.tokens import Longs, TokenRows, bounds, within

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS = ("inside", "across")
"""Pairs of tokens of one item, and of two items of one prompt."""
CELLS = 1 << 20
"""Pairs of places that are looked at together."""
STATISTICS = pa.schema(
    [
        ("prompt", pa.string()),
        ("pair", pa.string()),  # one of KINDS
        ("prompts", pa.int64()),  # that distances are of
        ("distance", pa.float64()),  # mean, in tokens; null where there is no pair
        ("training_prompts", pa.int64()),  # that co-occurrence is of
        ("different", pa.int64()),  # pairs of token ids that stand so in any of these
        ("prompts_per_pair", pa.float64()),  # in how many of them such a pair stands so, mean; null where there is none
    ]
)


@dataclass(frozen=True)
class ItemTokens:
    """The tokens of items in prompts, in the order of rows and places.

    Attributes:
        row, place, item, token: all of one length: the row, where the token stands in it, the number of its item there,
            and its id.
    """

    row: Longs
    place: Longs
    item: Longs
    token: Longs

    @classmethod
    def of(cls, tokens: TokenRows) -> ItemTokens:
        """Those of rows with spans."""
        assert tokens.spans is not None
        assert tokens.span_offsets is not None
        counts = np.diff(tokens.span_offsets)
        lengths = (tokens.spans[:, 1] - tokens.spans[:, 0]).astype(np.int64)
        row = np.repeat(np.repeat(np.arange(len(tokens)), counts), lengths)
        place = np.repeat(tokens.spans[:, 0].astype(np.int64), lengths) + within(lengths)
        ids = tokens.ids[tokens.offsets[row] + place].astype(np.int64)
        return cls(row, place, np.repeat(within(counts), lengths), ids)


def distances(tokens: TokenRows) -> dict[str, tuple[int, int]]:
    """The sum of the distances of all pairs of `KINDS`, and how many pairs there are, of rows (N,) with spans.

    Of places p_0 < p_1 < ... < p_(n-1) all distances sum to the sum of p_i (2 i - n + 1).
    """
    found = ItemTokens.of(tokens)
    every = _distances(found.place, np.unique(found.row, return_counts=True)[1])
    groups = found.row * (int(found.item.max(initial=0)) + 1) + found.item
    inside = _distances(found.place, np.unique(groups, return_counts=True)[1])
    return {"inside": inside, "across": (every[0] - inside[0], every[1] - inside[1])}


def _distances(places: Longs, sizes: Longs) -> tuple[int, int]:
    """Of places in groups of neighbours of these sizes."""
    weights = 2 * within(sizes) - np.repeat(sizes, sizes) + 1
    return int((places * weights).sum()), int((sizes * (sizes - 1) // 2).sum())


def meetings(tokens: TokenRows) -> dict[str, tuple[int, int]]:
    """How many prompts each pair of two different token ids stands in, summed over pairs, and how many pairs there are.

    A pair counts once in a prompt however often it stands there, inside an item and across items on their own. Memory
    grows with the different pairs alone.
    """
    found = ItemTokens.of(tokens)
    offsets = bounds(np.bincount(found.row, minlength=len(tokens)))
    counted = {kind: _Counted() for kind in KINDS}
    start = 0
    while start < len(tokens):
        lengths = np.diff(offsets[start:])
        longest = np.maximum.accumulate(lengths)
        stop = start + max(1, int((longest**2 * (np.arange(len(lengths)) + 1) <= 2 * CELLS).sum()))
        part = slice(offsets[start], offsets[stop])
        _count(counted, found.token[part], found.item[part], np.diff(offsets[start : stop + 1]))
        start = stop
    return {kind: each.totals() for kind, each in counted.items()}


def _count(counted: Mapping[str, _Counted], token: Longs, item: Longs, lengths: Longs) -> None:
    """Count the pairs of rows (B,) of these lengths, whose item tokens stand one after the other."""
    real = np.arange(int(lengths.max(initial=0))) < lengths[:, None]
    ids, items = np.full((2, *real.shape), -1, np.int64)  # (B, L)
    ids[real], items[real] = token, item
    first, second = np.triu_indices(real.shape[1], 1)  # (P,)
    a, b = ids[:, first], ids[:, second]
    low, high = np.minimum(a, b), np.maximum(a, b)
    keys = (low << 32) + high  # (B, P)
    usable = (low >= 0) & (low != high)
    same = items[:, first] == items[:, second]
    rows = np.broadcast_to(np.arange(len(lengths))[:, None], keys.shape)
    for kind, chosen in (("inside", usable & same), ("across", usable & ~same)):
        order = np.lexsort((keys[chosen], rows[chosen]))
        row, key = rows[chosen][order], keys[chosen][order]
        is_new = np.ones(len(key), np.bool_)
        is_new[1:] = (row[1:] != row[:-1]) | (key[1:] != key[:-1])
        counted[kind].add(key[is_new])


class _Counted:
    """The different keys so far, and how many there were in all."""

    def __init__(self) -> None:
        self._keys, self._total = np.empty(0, np.int64), 0

    def add(self, keys: Longs) -> None:
        self._keys = np.union1d(self._keys, keys)
        self._total += len(keys)

    def totals(self) -> tuple[int, int]:
        return self._total, len(self._keys)


def statistics(prompt: str, shown: TokenRows, training: TokenRows) -> list[dict[str, object]]:
    """Lines of `STATISTICS`.

    Args:
        prompt: what it is called.
        shown: rows with spans whose distances are measured.
        training: rows with spans in which tokens meet.
    """
    far, met = distances(shown), meetings(training)
    return [
        {
            "prompt": prompt,
            "pair": kind,
            "prompts": len(shown),
            "distance": far[kind][0] / far[kind][1] if far[kind][1] else None,
            "training_prompts": len(training),
            "different": met[kind][1],
            "prompts_per_pair": met[kind][0] / met[kind][1] if met[kind][1] else None,
        }
        for kind in KINDS
    ]


def drawing(title: str, lines: Sequence[Mapping[str, object]]) -> Drawing:
    """Bars of distances and meetings, prompt by prompt."""
    data = pa.Table.from_pylist([dict(line) for line in lines], STATISTICS)
    summary = {
        f"{row['prompt']}, {row['pair']}": {name: row[name] for name in ("distance", "prompts_per_pair")}
        for row in data.to_pylist()
    }
    return Drawing("token-pairs", data, lambda: figure(title, data), summary)


def figure(title: str, data: pa.Table) -> Figure:
    """Two panels: mean distance, and in how many training prompts a pair meets.

    Args:
        data: as `STATISTICS` says.
    """
    rows = data.to_pylist()
    names = list(dict.fromkeys(row["prompt"] for row in rows))
    labels = {"distance": "mean distance in tokens", "prompts_per_pair": "training prompts per token pair"}
    panels = {
        label: {
            f"{kind} {'an item' if kind == 'inside' else 'items'}": [
                (row[column], None, None) for row in rows if row["pair"] == kind
            ]
            for kind in KINDS
        }
        for column, label in labels.items()
    }
    return plots.bars(title, names, panels)
