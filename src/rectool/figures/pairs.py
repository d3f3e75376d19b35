"""Both embeddings of items in the space of the language model: with alignment, and without.

Shapes: N items that are shown   D, H widths of collaborative and semantic embeddings
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open

from rectool.artifacts import Artifact, Input, open_artifact
from rectool.errors import RectoolError
from rectool.figures.settings import Alignment
from rectool.llm.embeddings import unit
from rectool.models import projector as projectors
from rectool.models.projector import Projector

FILE = "embeddings.safetensors"


@dataclass(frozen=True)
class Pairs:
    """Two vectors of each of some items.

    Attributes:
        name: what it is called: "aligned", "without alignment".
        items: (N,) int64.
        collaborative, semantic: (N, H) float32 of length 1.
    """

    name: str
    items: NDArray[np.int64]
    collaborative: NDArray[np.float32]
    semantic: NDArray[np.float32]

    @property
    def matched(self) -> NDArray[np.float32]:
        """(N,) cosine of both vectors of an item."""
        return np.asarray((self.collaborative * self.semantic).sum(1))

    def unmatched(self, seed: int) -> NDArray[np.float32]:
        """(N,) cosine of an item's collaborative vector and another item's semantic one, chosen at random."""
        shift = np.random.default_rng(seed).integers(1, len(self.items), len(self.items))
        others = (np.arange(len(self.items)) + shift) % len(self.items)
        return np.asarray((self.collaborative * self.semantic[others]).sum(1))

    @property
    def retrieved(self) -> float:
        """Share of items whose own semantic vector is the nearest to the collaborative one, among those shown."""
        return float(((self.collaborative @ self.semantic.T).argmax(1) == np.arange(len(self.items))).mean())

    def summary(self, seed: int) -> dict[str, Any]:
        """Figures for the manifest."""
        return {
            "matched": float(self.matched.mean()),
            "unmatched": float(self.unmatched(seed).mean()),
            "retrieval@1": self.retrieved,
        }


@dataclass(frozen=True)
class Parts:
    """The artifacts that one panel is made of; without a projector a random one is."""

    name: str
    cf: Artifact
    semantic: Artifact
    projector: Artifact | None


@dataclass(frozen=True)
class Sources:
    """All that is read."""

    aligned: Artifact
    panels: tuple[Parts, ...]
    count: int

    def inputs(self) -> list[Input]:
        """What the manifest names."""
        found = [Input("aligned", self.aligned.path, artifact=self.aligned)]
        for parts in self.panels[1:]:
            for role, artifact in (("cf", parts.cf), ("semantic", parts.semantic), ("projector", parts.projector)):
                if artifact is not None:
                    found.append(Input(role, artifact.path, artifact=artifact))
        return found

    def bytes(self) -> int:
        """Memory that it takes."""
        width = self.aligned.manifest.counts["semantic_size"]
        return self.count * (16 * width + 8 * self.count) + (300 << 20)

    def load(self, seed: int) -> list[Pairs]:
        """Both embeddings of the same items, chosen at random, for each panel."""
        items = self.aligned.manifest.counts["items"]
        chosen = np.arange(items)
        if items > self.count:
            chosen = np.sort(np.random.default_rng(seed).choice(items, self.count, replace=False))
        trained = projectors.load(self.aligned.path / "projector")
        return [_load(parts, chosen, trained, seed) for parts in self.panels]


def find(alignment: Alignment, elsewhere: Mapping[str, Path]) -> Sources:
    """The artifacts that are meant.

    Raises:
        RectoolError: one is of another kind, or two are of different items.
    """
    aligned = open_artifact(alignment.aligned, "aligned", elsewhere=elsewhere)
    parts = {kind: open_artifact(alignment.aligned / kind, kind) for kind in ("cf", "semantic", "projector")}
    panels = [Parts("aligned", parts["cf"], parts["semantic"], parts["projector"])]
    if alignment.cf is not None and alignment.semantic is not None:
        cf = open_artifact(alignment.cf, "cf")
        semantic = open_artifact(alignment.semantic, "semantic")
        named = open_artifact(alignment.projector, "projector") if alignment.projector is not None else None
        for flag, artifact in (("--cf", cf), ("--semantic", semantic)):
            _refuse_other_items(flag, artifact, aligned)
        kind = "random projector" if named is None else f"projector {alignment.projector}"
        panels.append(Parts(f"without alignment ({kind})", cf, semantic, named))
    return Sources(aligned, tuple(panels), alignment.items)


def _refuse_other_items(flag: str, artifact: Artifact, aligned: Artifact) -> None:
    (ours,) = {parent.digests["items"] for parent in aligned.manifest.parents if parent.role == "dataset"}
    for parent in artifact.manifest.parents:
        if parent.digests.get("items", ours) != ours:
            raise RectoolError(
                f"{flag} {artifact.path} is of other items than {aligned.path}; name the one that was aligned, or one "
                "of the same data set"
            )
    theirs, count = artifact.manifest.counts["items"], aligned.manifest.counts["items"]
    if theirs != count:
        raise RectoolError(f"{flag} {artifact.path} has {theirs:,} items, {aligned.path} has {count:,}")


def _load(parts: Parts, chosen: NDArray[np.int64], trained: Projector, seed: int) -> Pairs:
    collaborative, semantic = (_rows(artifact.file(FILE), chosen) for artifact in (parts.cf, parts.semantic))
    inputs, outputs = collaborative.shape[1], semantic.shape[1]
    if parts.projector is not None:
        projector = projectors.load(parts.projector)
        if (projector.inputs, projector.outputs) != (inputs, outputs):
            raise RectoolError(
                f"{parts.projector.path} maps vectors of {projector.inputs} numbers to {projector.outputs}, but "
                f"{parts.cf.path} has {inputs} and {parts.semantic.path} has {outputs}"
            )
    else:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            projector = Projector(inputs, trained.hidden, outputs, trained.activation)
    with torch.no_grad():
        mapped = projector(torch.from_numpy(collaborative)).numpy()
    return Pairs(parts.name, chosen, unit(mapped), unit(semantic))


def _rows(path: Path, chosen: NDArray[np.int64]) -> NDArray[np.float32]:
    """Some rows (N, D) of a table of items, of which nothing else is read."""
    with safe_open(path, framework="np") as file:
        table = file.get_slice("item")
        return np.concatenate([table[row : row + 1] for row in chosen.tolist()]).astype(np.float32)
