"""Both embeddings of items in one plane, by t-SNE (van der Maaten and Hinton, 2008)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rectool.figures.drawing import Drawing
from rectool.figures.pairs import Pairs
from rectool.plots import PALETTE, set_legend, set_title

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PERPLEXITY = 30.0
LINKED = 150
"""Items at most whose two points are joined by a line."""
POINTS = pa.schema(
    [
        ("panel", pa.string()),
        ("item", pa.int64()),
        ("embedding", pa.string()),  # collaborative (projected) or semantic
        ("x", pa.float32()),
        ("y", pa.float32()),
    ]
)


def drawing(panels: Sequence[Pairs], seed: int) -> Drawing:
    """Each panel has its own plane, in which near means a high cosine; the axes have no unit."""
    planes = [plane(pairs, seed) for pairs in panels]
    tables = []
    for pairs, points in zip(panels, planes, strict=True):
        for name, part in zip(("collaborative", "semantic"), np.split(points, 2), strict=True):
            size = len(part)
            columns = [pa.array([pairs.name] * size), pairs.items, pa.array([name] * size), part[:, 0], part[:, 1]]
            tables.append(pa.table(columns, schema=POINTS))
    summary = {pairs.name: pairs.summary(seed) for pairs in panels}
    return Drawing("embeddings", pa.concat_tables(tables), lambda: draw(panels, planes, seed), summary)


def plane(pairs: Pairs, seed: int) -> NDArray[np.float32]:
    """(2 N, 2) places of the collaborative vectors, then of the semantic ones."""
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    vectors = np.concatenate([pairs.collaborative, pairs.semantic])  # of length 1: Euclid orders as the cosine does
    perplexity = min(PERPLEXITY, (len(vectors) - 1) / 3)
    with threadpool_limits(1):  # sums of several threads come in any order
        tsne = TSNE(perplexity=perplexity, init="pca", random_state=seed, n_jobs=1)
        return np.asarray(tsne.fit_transform(vectors), np.float32)


def draw(panels: Sequence[Pairs], planes: Sequence[NDArray[np.float32]], seed: int) -> Figure:
    """A panel each, side by side; some items have their two points joined."""
    from matplotlib.collections import LineCollection
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    figure = Figure(figsize=(4.6 * len(panels) + (1.4 if len(panels) == 1 else 0), 5.0))
    count = len(panels[0].items)
    set_title(figure, f"collaborative and semantic embeddings of {count:,} items (t-SNE)")
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    joined = np.random.default_rng(seed).choice(count, min(LINKED, count), replace=False)
    looks = (("o", PALETTE[0]), ("^", PALETTE[1]))
    for axes, pairs, points in zip(grid, panels, planes, strict=True):
        one, other = np.split(points, 2)
        axes.add_collection(
            LineCollection(list(np.stack([one[joined], other[joined]], 1)), colors="black", linewidths=0.5, alpha=0.25)
        )
        for part, (marker, color) in zip((one, other), looks, strict=True):
            axes.scatter(part[:, 0], part[:, 1], 11, color=color, marker=marker, linewidths=0, alpha=0.75)
        axes.set_title(f"{pairs.name}\nmean cosine {pairs.matched.mean():.2f}, own is nearest: {pairs.retrieved:.0%}")
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(True)
        axes.set_aspect("equal", "datalim")
    handles = [Line2D([], [], marker=marker, color=color, linestyle="") for marker, color in looks]
    handles.append(Line2D([], [], color="black", linewidth=0.7, alpha=0.6))
    set_legend(figure, handles, ["collaborative, projected", "semantic", "the same item"])
    return figure
