"""The distribution of cosines of both embeddings of an item, and of those of different items."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from rectool.figures.drawing import Drawing
from rectool.figures.pairs import Pairs
from rectool.plots import PALETTE, set_legend, set_title

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BINS = 60
COLORS, HATCHES = {"matched": PALETTE[0], "unmatched": PALETTE[1]}, {"matched": None, "unmatched": "////"}
COSINES = pa.schema([("panel", pa.string()), ("pair", pa.string()), ("item", pa.int64()), ("cosine", pa.float32())])
"""`pair`: "matched" for both vectors of `item`, "unmatched" for its collaborative one and another item's semantic."""


def drawing(panels: Sequence[Pairs], seed: int) -> Drawing:
    """As many unmatched pairs as matched ones, stacked, one panel for each state of alignment."""
    tables = []
    for pairs in panels:
        for pair, cosines in (("matched", pairs.matched), ("unmatched", pairs.unmatched(seed))):
            size = len(cosines)
            columns = [pa.array([pairs.name] * size), pa.array([pair] * size), pairs.items, cosines]
            tables.append(pa.table(columns, schema=COSINES))
    data = pa.concat_tables(tables)
    return Drawing("cosine", data, lambda: draw(panels, seed), {one.name: one.summary(seed) for one in panels})


def draw(panels: Sequence[Pairs], seed: int) -> Figure:
    """Stacked histograms, one panel above the other on one axis, with the mean of each kind of pair."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    cosines = [{"matched": one.matched, "unmatched": one.unmatched(seed)} for one in panels]
    every = np.concatenate([values for one in cosines for values in one.values()])
    edges = np.linspace(every.min(), max(every.max(), every.min() + 1e-3), BINS + 1)
    figure = Figure(figsize=(7.0, 0.9 + 2.1 * len(panels)))
    set_title(figure, f"cosine of collaborative (projected) and semantic embeddings, {len(panels[0].items):,} items")
    grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, pairs, values in zip(grid, panels, cosines, strict=True):
        below = np.zeros(BINS)
        for name, found in values.items():
            heights = np.histogram(found, edges)[0]
            axes.bar(
                edges[:-1], heights, np.diff(edges), below, align="edge", color=COLORS[name], hatch=HATCHES[name],
                edgecolor="white", linewidth=0.3,
            )  # fmt: skip
            axes.axvline(
                float(found.mean()), color="black", linestyle="--" if name == "matched" else ":", linewidth=1.2
            )
            below += heights
        axes.set_title(
            f"{pairs.name}: mean {values['matched'].mean():.3f} matched, {values['unmatched'].mean():.3f} unmatched",
            loc="left",
        )
        axes.set_ylabel("pairs, stacked")
        axes.grid(axis="x", visible=False)
    grid[-1].set_xlabel("cosine (dashed: mean of matched pairs, dotted: of unmatched ones)")
    patches = [Patch(facecolor=COLORS[name], hatch=HATCHES[name], edgecolor="white") for name in COLORS]
    set_legend(figure, patches, ["both vectors of an item (matched)", "vectors of two items (unmatched)"])
    return figure
