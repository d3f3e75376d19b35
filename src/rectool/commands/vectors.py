"""Artifacts that commands take item embeddings from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rectool.errors import RectoolError

if TYPE_CHECKING:
    from rectool.artifacts import Artifact

FILES = ("embeddings.safetensors", "head.safetensors")
"""Of which an artifact with item embeddings has one; the latter are a language model's item head."""


def check_vectors(flag: str, vectors: Artifact, dataset: Artifact) -> None:
    """Raises RectoolError for an artifact without item embeddings, or with those of other items."""
    from rectool.artifacts.kinds import an

    if not any(name in vectors.manifest.files for name in FILES):
        raise RectoolError(
            f"{flag} {vectors.path} is {an(vectors.manifest.kind)} artifact, which has no item embeddings; "
            "name a semantic or cf artifact, or an llm artifact with an item head"
        )
    ours = dataset.manifest.digests["items"]
    for parent in vectors.manifest.parents:
        if parent.digests.get("items", ours) != ours:
            raise RectoolError(
                f"{flag} {vectors.path} has embeddings of other items: their digest is "
                f"{parent.digests['items']}, that of {dataset.path} is {ours}"
            )
    items = dataset.manifest.counts["items"]
    theirs = vectors.manifest.counts.get("items", items)  # an llm artifact says no number
    if theirs != items:
        raise RectoolError(f"{flag} {vectors.path} has {theirs:,} items, {dataset.path} has {items:,}")
