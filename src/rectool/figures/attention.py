"""Which parts of a prompt look at which, layer by layer, soft tokens marked.

Shapes: T tokens of the prompt   S parts of it   K layers that are shown
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rectool.data.dataset import Dataset
from rectool.errors import RectoolError
from rectool.evaluation.language import LanguageScorer
from rectool.figures.attended import Attended
from rectool.figures.drawing import Drawing
from rectool.figures.settings import Attending
from rectool.llm.recommender import Recommender
from rectool.plots import PALETTE, set_title
from rectool.prompts.show import Token, show

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FEW_TOKENS = 40
"""A prompt of at most so many tokens is shown token by token."""
FEW_LAYERS = 6
LONGEST = 26
"""Letters of a part's name."""
LISTS = ("history", "disliked")
"""Slots that are lists of titles."""
INCHES, LONGEST_SIDE = 0.135, 11.0
"""Of a part in a map, and of a map."""
LABELS = 3.8, 2.7
"""Inches for names: at the left with the scale at the right, and below with the title above."""
SOFT_COLOR, FEW_SOFT = PALETTE[3], 4
CELLS = pa.schema(
    [
        ("layer", pa.int32()),  # the first is 1
        ("from", pa.int32()),  # number of the part that looks
        ("from_name", pa.string()),
        ("to", pa.int32()),  # number of the part that is looked at
        ("to_name", pa.string()),
        ("to_soft", pa.bool_()),
        ("tokens", pa.int32()),  # of the part that is looked at
        ("weight", pa.float32()),  # mean over heads and over the tokens that look; 1 in all over `to`
    ]
)


@dataclass(frozen=True)
class Part:
    """Neighbouring tokens that mean one thing: words of the template, a title, a soft token."""

    name: str
    first: int
    stop: int
    soft: bool


def drawing(scorer: Any, dataset: Dataset, attending: Attending) -> Drawing:
    """The attention inside the prompt of one row.

    Raises:
        RectoolError: the model is no language model, has not the layers that were named, or cannot tell its
            attention; or there is no such row.
    """
    if not isinstance(scorer, LanguageScorer):
        raise RectoolError(f"{scorer.name} is no language model, and has no attention over a prompt")
    rows, row = len(dataset.user), attending.row
    if row is None:
        raise ValueError("no row is chosen")
    if row >= rows:
        raise RectoolError(f"--row {row}: the log has {rows:,} rows, from 0 on")
    recommender = scorer.recommender
    layers = _chosen(attending, recommender)
    tokens = show(recommender.prompts, dataset, row).tokens
    parts = parts_of(tokens, one_by_one=attending.tokens or len(tokens) <= FEW_TOKENS)
    attended = Attended.of(recommender, scorer.name)
    weights = by_part(maps(attended, dataset, row)[layers], parts)
    data = _table(weights, layers, parts)
    title = f"{scorer.name}, prompt {recommender.prompts.template.name} of row {row}: attention, mean of heads"
    answer = {
        f"layer {layer + 1}": float(one[-1, [part.soft for part in parts]].sum())
        for layer, one in zip(layers, weights, strict=True)
    }
    summary = {"tokens": len(tokens), "parts": len(parts), "answer_to_soft": answer}
    return Drawing("attention", data, lambda: draw(title, weights, layers, parts), summary)


def maps(attended: Attended, dataset: Dataset, row: int) -> NDArray[np.float32]:
    """(layers, T, T) how much each token looks at each, mean over heads; rows sum to 1."""
    asked, place = attended.asked(dataset, np.array([row])), np.zeros(1, np.int64)
    found: dict[int, NDArray[np.float32]] = {}
    attended.read(asked, place, lambda layer, weights: found.update({layer: weights[0].cpu().numpy()}))
    return np.stack([found[layer] for layer in range(attended.depth)])


def parts_of(tokens: Sequence[Token], *, one_by_one: bool = False) -> list[Part]:
    """The parts of a prompt, in its order, or its tokens one by one; the last token, which answers, stands alone.

    What stands between the titles of a list belongs to the title before it, after a soft token to the next one.
    """
    parts: list[Part] = []
    same = groupby(zip(tokens[:-1], _titles(tokens[:-1]), strict=True), key=lambda pair: (pair[1], pair[0].id < 0))
    groups = [[token] for token in tokens[:-1]] if one_by_one else [[token for token, _ in run] for _, run in same]
    for group in [*groups, tokens[-1:]]:
        first = parts[-1].stop if parts else 0
        parts.append(Part(_name(group, one_by_one=one_by_one), first, first + len(group), group[0].id < 0))
    parts[-1] = replace(parts[-1], name=f"{parts[-1].name} → answer")
    return parts


def by_part(weights: NDArray[np.float32], parts: Sequence[Part]) -> NDArray[np.float32]:
    """(K, S, S) of (K, T, T): summed over the tokens that are looked at, the mean over those that look."""
    starts = [part.first for part in parts]
    counts = np.array([part.stop - part.first for part in parts])
    summed = np.add.reduceat(np.add.reduceat(weights, starts, axis=2), starts, axis=1)
    return np.asarray(summed / counts[:, None], np.float32)


def draw(title: str, weights: NDArray[np.float32], layers: Sequence[int], parts: Sequence[Part]) -> Figure:
    """One map per layer: who looks from top to bottom, at whom from left to right."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    columns = min(len(layers), 3 if len(parts) <= 24 else 2)
    rows = math.ceil(len(layers) / columns)
    side = min(max(2.4, INCHES * len(parts)), LONGEST_SIDE)
    figure = Figure(figsize=(columns * (side + 0.3) + LABELS[0], rows * (side + 0.35) + LABELS[1]))
    set_title(figure, title)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    norm, colors = PowerNorm(0.5, 0, 1), "Blues"
    for axes, layer, one in zip(grid.ravel(), layers, weights, strict=False):
        shown = np.where(np.tri(len(parts), dtype=bool), one, np.nan)
        axes.imshow(shown, cmap=colors, norm=norm, interpolation="nearest")
        axes.set_title(f"layer {layer + 1}")
        axes.grid(visible=False)
        _mark_soft(axes, parts)
    for axes in grid.ravel()[len(layers) :]:
        axes.set_visible(False)
    for axes in grid[:, 0]:
        axes.set_ylabel("looks")
        axes.set_yticks(range(len(parts)), [part.name for part in parts])
        _set_names(axes.get_yticklabels(), parts, side)
    for place in range(columns):
        axes = grid[(len(layers) - 1 - place) // columns, place]
        axes.set_xlabel("is looked at")
        axes.set_xticks(range(len(parts)), [part.name for part in parts], rotation=90)
        axes.tick_params(axis="x", labelbottom=True)
        _set_names(axes.get_xticklabels(), parts, side)
    bar = figure.colorbar(ScalarMappable(norm, colors), ax=grid, shrink=0.6, ticks=[0, 0.01, 0.05, 0.1, 0.25, 0.5, 1])
    bar.ax.set_yticklabels(["0", "1%", "5%", "10%", "25%", "50%", "100%"])
    bar.set_label("share of a token's attention (root scale)" + ("\nframed: soft tokens" if _soft(parts) else ""))
    return figure


def _soft(parts: Sequence[Part]) -> list[int]:
    return [place for place, part in enumerate(parts) if part.soft]


def _mark_soft(axes: Axes, parts: Sequence[Part]) -> None:
    """A frame around what looks at a soft token; of a few also around what they look at."""
    from matplotlib.patches import Rectangle

    places = _soft(parts)
    frames = [(place - 0.5, place - 0.5, 1, len(parts) - place) for place in places]
    if len(places) <= FEW_SOFT:
        frames += [(-0.5, place - 0.5, place + 1, 1) for place in places]
    for left, top, width, height in frames:
        axes.add_patch(Rectangle((left, top), width, height, fill=False, edgecolor=SOFT_COLOR, linewidth=0.9))


def _set_names(names: Any, parts: Sequence[Part], side: float) -> None:
    for name, part in zip(names, parts, strict=True):
        name.set_fontsize(min(7.0, 0.75 * 72 * side / len(parts)))
        if part.soft:
            name.set(color=SOFT_COLOR, fontweight="bold")


def _chosen(attending: Attending, recommender: Recommender) -> list[int]:
    """The layers that are shown, from 0 on: as named, or all, or some of many with the first two and the last."""
    count = int(recommender.backbone.config.get_text_config(decoder=True).num_hidden_layers)
    named = attending.chosen()
    if named is None:
        if count <= FEW_LAYERS:
            return list(range(count))
        return sorted({0, *np.linspace(1, count - 1, FEW_LAYERS - 1).round().astype(int).tolist()})
    if max(named) >= count:
        raise RectoolError(f"--layers {attending.layers}: the model has {count} layers, the first is 1")
    return named


def _titles(tokens: Sequence[Token]) -> list[tuple[str, int]]:
    """What each token is part of, and in a list of titles the number of the title; 0 elsewhere."""
    numbers = [token.nth if token.part in LISTS else 0 for token in tokens]
    for place in range(1, len(tokens)):
        if numbers[place] is None and tokens[place - 1].part in LISTS and tokens[place - 1].id >= 0:
            numbers[place] = numbers[place - 1]
    for place in reversed(range(len(tokens) - 1)):
        if numbers[place] is None:
            numbers[place] = numbers[place + 1]
    return [(token.part, number or 0) for token, number in zip(tokens, numbers, strict=True)]


def _name(group: Sequence[Token], *, one_by_one: bool) -> str:
    titled = [token for token in group if token.item is not None] or group
    words = "".join(token.text for token in titled) if group[0].id >= 0 else group[0].text
    words = words.replace("\n", "\\n").strip() or "␣"
    if not one_by_one and titled[0].nth is not None and titled[0].part in LISTS:
        words = f"{titled[0].nth} {words}"
    return textwrap.shorten(words, LONGEST, placeholder="…") if " " in words else words[:LONGEST]


def _table(weights: NDArray[np.float32], layers: Sequence[int], parts: Sequence[Part]) -> pa.Table:
    """A row per layer and pair of parts of which the first can see the second."""
    looks, seen = np.tril_indices(len(parts))
    names = np.array([part.name for part in parts])
    soft = np.array([part.soft for part in parts])
    counts = np.array([part.stop - part.first for part in parts])
    tables = []
    for layer, one in zip(layers, weights, strict=True):
        columns = [
            np.full(len(looks), layer + 1), looks, names[looks], seen, names[seen], soft[seen], counts[seen],
            one[looks, seen],
        ]  # fmt: skip
        arrays = [pa.array(column, field.type) for column, field in zip(columns, CELLS, strict=True)]
        tables.append(pa.table(arrays, schema=CELLS))
    return pa.concat_tables(tables)
