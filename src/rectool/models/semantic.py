"""Semantic embeddings of items (I, H) as a table that a model uses, frozen or trained."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional

from rectool.artifacts import Artifact
from rectool.artifacts.checking import explained
from rectool.errors import RectoolError

FILE = "embeddings.safetensors"
ROWS = 1 << 14
"""Read and checked at a time."""


def read(artifact: Artifact) -> Tensor:
    """The table (I, H) of a `semantic` artifact, in float32, for the directions of its rows.

    Raises:
        RectoolError: a row is not finite or has no direction (all zeros), or all rows are the same.
    """
    return _read(artifact, torch.float32, directions=True)


def stored(artifact: Artifact) -> Tensor:
    """The table (I, H) of a `semantic` artifact, in the dtype that it is kept in.

    Raises:
        RectoolError: a row is not finite, or all rows are the same.
    """
    return _read(artifact, None, directions=False)


def _read(artifact: Artifact, dtype: torch.dtype | None, *, directions: bool) -> Tensor:
    path = artifact.file(FILE)
    with explained(path), safe_open(path, framework="pt") as file:
        found = file.get_slice("item")
        items, width = found.get_shape()
        table = torch.empty(items, width, dtype=dtype or found[:1].dtype)
        alike = items > 1
        for start in range(0, items, ROWS):
            rows = table[start : start + ROWS].copy_(found[start : start + ROWS])
            _check(path, start, rows, directions)
            alike = alike and bool((rows == table[0]).all())
    if alike:
        raise RectoolError(f"{path}: all rows are the same; make them again, from texts that tell items apart")
    return table


def centred(table: Tensor) -> Tensor:
    """A table (I, H) in float32, without the mean of its rows.

    Raises:
        RectoolError: nothing is left, or it is not finite.
    """
    rows = table.float()
    rows = rows - rows.mean(0)
    if not bool(rows.isfinite().all()) or not bool(rows.any()):
        raise RectoolError("the vectors of the items are all the same, or not finite; make them again")
    return rows


def principal_axes(rows: Tensor, width: int) -> Tensor:
    """What centred rows (I, H) are along their first `width` principal axes: (I, width), most variance first."""
    axes = torch.linalg.svd(rows, full_matrices=False)
    found: Tensor = axes.U[:, :width] * axes.S[:width]
    return found


def _check(path: Path, start: int, rows: Tensor, directions: bool) -> None:
    finite = rows.isfinite().all(1)
    aimless = ~rows.any(1) & directions
    for bad, what in ((~finite, "is not finite"), (aimless, "is all zeros, and has no direction")):
        if bool(bad.any()):
            raise RectoolError(f"{path}: row {start + int(bad.int().argmax())} of item {what}; make it again")


class SemanticTable(nn.Module):
    """Semantic embeddings: as they were distilled, plus a change that is trained.

    Since what is trained is the change, weight decay draws towards the distilled vectors, not to zero.

    Args:
        distilled: (I, H) float32; of a frozen table its rows are given length 1, in place.
    """

    distilled: Tensor

    def __init__(self, distilled: Tensor, *, trained: bool) -> None:
        super().__init__()
        if not trained:
            for start in range(0, len(distilled), ROWS):
                rows = distilled[start : start + ROWS]
                rows.copy_(functional.normalize(rows, dim=1))
        self.register_buffer("distilled", distilled, persistent=False)
        self.change = nn.Parameter(torch.zeros_like(distilled)) if trained else None

    def forward(self) -> Tensor:
        """The table (I, H) itself; of a frozen one its directions."""
        return self.distilled if self.change is None else self.distilled + self.change

    def directions(self, items: Tensor | None = None) -> Tensor:
        """Rows of length 1, of the items (N,) asked for or of all."""
        if self.change is None:
            return self.distilled if items is None else self.distilled[items]
        if items is None:
            return functional.normalize(self(), dim=1)
        return functional.normalize(self.distilled[items] + functional.embedding(items, self.change), dim=1)
