"""Embeddings of items: what makes them useless, what lies near to what, and their file.

Shapes: I items   N some of them   H hidden size
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from rectool.console import printable
from rectool.errors import RectoolError, disk_errors

CHUNK = 1 << 14
"""Items whose cosines are computed at a time."""
NEIGHBOURS = 3

Embeddings: TypeAlias = NDArray[np.floating[Any]]


def refuse_useless(embeddings: Embeddings, titles: Callable[[int], str]) -> None:
    """Raises RectoolError if an item's embedding is not finite (names it), or all are the same.

    Args:
        titles: of an item.
    """
    finite = np.isfinite(embeddings).all(1)
    if not finite.all():
        item = int(np.argmin(finite))
        raise RectoolError(
            f"the embedding of item {item} ({printable(titles(item))}) is not finite; "
            "choose --dtype fp32, and --precision fp32"
        )
    if len(embeddings) > 1 and (embeddings == embeddings[0]).all():
        raise RectoolError(
            "all items have the same embedding: the model makes nothing of their texts; "
            "choose another --prompt, --pooling or --layer"
        )


def twins(embeddings: Embeddings) -> int:
    """How many items have the embedding of another one before them."""
    return len(embeddings) - len(np.unique(embeddings, axis=0))


def neighbours(embeddings: Embeddings, items: NDArray[np.int64]) -> list[list[tuple[int, float]]]:
    """The nearest other items of each of some items, by cosine: (other, cosine), nearest first."""
    chosen = unit(embeddings[items])
    rows = range(0, len(embeddings), CHUNK)
    cosines = np.concatenate([chosen @ unit(embeddings[start : start + CHUNK]).T for start in rows], axis=1)
    cosines[np.arange(len(items)), items] = -np.inf
    best = np.argsort(-cosines, axis=1, kind="stable")[:, : min(NEIGHBOURS, len(embeddings) - 1)]
    return [[(int(other), float(mine[other])) for other in others] for mine, others in zip(cosines, best, strict=True)]


def unit(embeddings: Embeddings) -> NDArray[np.float32]:
    """Of length 1 (N, H)."""
    rows = embeddings.astype(np.float32)
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12))


def write(embeddings: Embeddings, config: dict[str, Any], folder: Path) -> None:
    """Write the files of a `semantic` artifact."""
    with disk_errors(folder, "choose another --out"):
        save_file({"item": np.ascontiguousarray(embeddings)}, folder / "embeddings.safetensors")
        (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
