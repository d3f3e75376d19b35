"""Attention inside items against attention across them, layer by layer, of several models: HatLLM's figure 2.

A map of one layer and one batch is summed up before the next is made; none is kept.

Shapes: N rows   B rows of a batch   L tokens of its longest   K layers   Q kinds of tokens that look
A kinds of tokens that are looked at
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from rectool import console, plots
from rectool.figures.attended import Attended, Questions
from rectool.figures.drawing import Drawing
from rectool.llm.mask_plan import MaskKind
from rectool.llm.masks import Spans
from rectool.llm.reading import Budget, in_batches

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOOKS = ("item", "end", "answer", "all")
"""Tokens of items; their last ones; the last token of the prompt, which answers; all tokens."""
AT = ("itself", "inside", "across", "no item", "soft")
"""The token itself; others of its own item; of other items (of any item, for what is of none); of no item; embeddings.
"""
CELLS = 1 << 24
"""Of the maps of a batch, over all heads: 64 MiB each time that they are held."""
MEASURES = pa.schema(
    [
        ("model", pa.string()),
        ("layer", pa.int32()),  # the first is 1
        ("mask", pa.string()),  # its kind
        ("looks", pa.string()),  # one of LOOKS
        ("at", pa.string()),  # one of AT
        ("tokens", pa.int64()),  # that look, in all prompts
        ("share", pa.float64()),  # of their attention; 1 in all over `at`
        ("pairs", pa.int64()),  # of a token and one before it, or itself
        ("seen", pa.int64()),  # pairs with any weight
        ("mean", pa.float64()),  # weight of those; null where there are none
    ]
)


@dataclass(frozen=True)
class Summed:
    """Attention of a model over some prompts.

    Attributes:
        name: the model's.
        kinds: (K,) the mask of each layer.
        weight: (K, Q, A) float64, summed over heads' means.
        seen: (K, Q, A) pairs whose weight is not 0.
        pairs: (Q, A) pairs of a token and one before it, or itself.
        tokens: (Q,) that look.
    """

    name: str
    kinds: tuple[MaskKind, ...]
    weight: NDArray[np.float64]
    seen: NDArray[np.int64]
    pairs: NDArray[np.int64]
    tokens: NDArray[np.int64]


def summed(attended: Attended, asked: Questions) -> Summed:
    """What a model looks at in prompts (N,), in batches of about one length.

    Raises:
        RectoolError: it does not tell its attention, or has no memory for a prompt.
    """
    lengths = asked.tokens.lengths
    room = Budget(CELLS, attended.device)
    costs = attended.heads * lengths**2
    every = torch.zeros(attended.depth, len(LOOKS), len(AT), 3, dtype=torch.float64)
    tokens = torch.zeros(len(LOOKS), dtype=torch.int64)
    work = partial(_batch, attended, asked)
    with console.progress(f"reading attention of {attended.name}", len(lengths), unit="prompts") as advance:
        for places, found in in_batches(np.arange(len(lengths)), costs, work, room):
            every += found[..., :3].cpu()
            tokens += found[0, :, 0, 3].cpu().long()
            advance(len(places))
    weight, seen, pairs = every[..., 0].numpy(), every[..., 1].long().numpy(), every[0, ..., 2].long().numpy()
    return Summed(attended.name, attended.kinds(), weight, seen, pairs, tokens.numpy())


def _batch(attended: Attended, asked: Questions, places: NDArray[np.int64]) -> Tensor:
    """(K, Q, A, 4) of rows (B,): weight, pairs seen, pairs, and tokens that look; float64."""
    spans = attended.spans(asked, places)
    ids, lengths = (torch.from_numpy(array).to(attended.device) for array in asked.tokens.padded(places))
    what = relations(spans.item, ids < 0, lengths)
    looking = lookers(spans, lengths)
    result = torch.zeros(attended.depth, len(LOOKS), len(AT), 4, dtype=torch.float64, device=attended.device)
    result[..., 2] = _by_kind(torch.ones(what.shape, device=attended.device), what, looking)
    result[..., 3] = looking.sum((1, 2))[:, None]

    def receive(layer: int, weights: Tensor) -> None:
        result[layer, ..., 0] = _by_kind(weights, what, looking)
        result[layer, ..., 1] = _by_kind((weights > 0).float(), what, looking)

    attended.read(asked, places, receive)
    return result


def relations(item: Tensor, soft: Tensor, lengths: Tensor) -> Tensor:
    """(B, L, L) int64: what token k is to token j, a place in `AT`; len(AT) where j does not look at k.

    Args:
        item: (B, L) number of the item in the row, -1 for tokens of none.
        soft: (B, L) bool, whether it is an embedding.
        lengths: (B,)
    """
    length = item.shape[1]
    place = torch.arange(length, device=item.device)
    looks, seen = item[:, :, None], item[:, None, :]
    what = torch.where(seen < 0, AT.index("no item"), AT.index("across")).expand(-1, length, -1).clone()
    what[(seen >= 0) & (looks == seen)] = AT.index("inside")
    what[soft[:, None, :].expand_as(what)] = AT.index("soft")
    what[:, place, place] = AT.index("itself")
    real = place < lengths[:, None]
    what[~(real[:, :, None] & (place <= place[:, None]))] = len(AT)
    return what


def lookers(spans: Spans, lengths: Tensor) -> Tensor:
    """(Q, B, L) bool: which tokens are of which of `LOOKS`."""
    place = torch.arange(spans.item.shape[1], device=lengths.device)
    real = (place < lengths[:, None]).expand_as(spans.item)
    return torch.stack([spans.item >= 0, spans.last, place == lengths[:, None] - 1, real])


def _by_kind(weights: Tensor, what: Tensor, looking: Tensor) -> Tensor:
    """(Q, A) float64: weights (B, L, L) summed by what is looked at, over the tokens that look."""
    sums = weights.new_zeros(*what.shape[:2], len(AT) + 1).scatter_add_(2, what, weights)
    return torch.einsum("qbl,bla->qa", looking.double(), sums[..., :-1].double())


def table(models: Sequence[Summed]) -> pa.Table:
    """A row per model, layer, kind of tokens that look and kind that is looked at, see `MEASURES`."""
    return pa.Table.from_pylist([row for found in models for row in _rows(found)], MEASURES)


def _rows(found: Summed) -> Iterator[dict[str, Any]]:
    for layer, looks, at in np.ndindex(found.weight.shape):
        weight, seen = float(found.weight[layer, looks, at]), int(found.seen[layer, looks, at])
        yield {
            "model": found.name,
            "layer": layer + 1,
            "mask": found.kinds[layer],
            "looks": LOOKS[looks],
            "at": AT[at],
            "tokens": int(found.tokens[looks]),
            "share": weight / max(1, int(found.tokens[looks])),
            "pairs": int(found.pairs[looks, at]),
            "seen": seen,
            "mean": weight / seen if seen else None,
        }


def figure(title: str, measures: pa.Table) -> Figure:
    """Panels of curves over the layers: shares and mean weights inside items and across them, and of embeddings.

    Args:
        measures: as `MEASURES` says.
    """
    rows = measures.to_pylist()
    panels: dict[str, dict[tuple[str, str], tuple[list[float], list[float]]]] = {}

    def add(panel: str, line: str, looks: str, at: Sequence[str], value: str = "share") -> None:
        sums: dict[tuple[str, int], float] = {}
        for row in rows:
            if row["looks"] == looks and row["at"] in at and row[value] is not None:
                key = row["model"], row["layer"]
                sums[key] = sums.get(key, 0.0) + row[value]
        for (model, layer), total in sums.items():
            places, values = panels.setdefault(panel, {}).setdefault((model, line), ([], []))
            places.append(layer)
            values.append(total)

    for line, at in (("inside an item", "inside"), ("across items", "across")):
        add("share of item tokens' attention", line, "item", [at])
        add("share of attention of items' last tokens", line, "end", [at])
        add("mean weight of a pair of item tokens", line, "item", [at], "mean")
    add("share on items", "of the answering token", "answer", ["inside", "across"])
    if any(row["at"] == "soft" and row["pairs"] for row in rows):
        add("share on soft tokens", "of all tokens", "all", ["soft"])
        add("share on soft tokens", "of the answering token", "answer", ["soft"])
    return plots.curves(title, "layer", panels)


def drawing(title: str, models: Sequence[Summed]) -> Drawing:
    """The figure of several models, with its data."""
    data = table(models)
    return Drawing("within-across", data, lambda: figure(title, data), {"models": _summary(data)})


def _summary(data: pa.Table) -> dict[str, dict[str, list[float | None]]]:
    """By model, a value per layer of what is asked first."""
    wanted = {
        "inside": ("item", "inside", "share"),
        "across": ("item", "across", "share"),
        "inside_mean": ("item", "inside", "mean"),
        "across_mean": ("item", "across", "mean"),
        "ends_across": ("end", "across", "share"),
        "answer_to_items": ("answer", "across", "share"),
        "answer_to_soft": ("answer", "soft", "share"),
        "all_to_soft": ("all", "soft", "share"),
    }
    found: dict[str, dict[str, list[float | None]]] = {}
    for row in data.to_pylist():
        for name, (looks, at, value) in wanted.items():
            if (row["looks"], row["at"]) == (looks, at):
                found.setdefault(row["model"], {}).setdefault(name, []).append(row[value])
    return found
