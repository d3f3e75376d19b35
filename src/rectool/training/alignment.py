"""The objective of `align`: L_collab + lambda L_align (SeLLa-Rec, eq. 6 to 9).

Shapes: I items   N anchors   D, H widths of collaborative and semantic vectors
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from rectool.models.model import Model
from rectool.models.projector import Projector
from rectool.models.semantic import SemanticTable
from rectool.training.align_settings import Alignment
from rectool.training.contrast import agreement, info_nce
from rectool.training.run import Objective

MEASURED_ITEMS = 5_000
"""Anchors, at most, that validation looks at, against the whole catalogue."""
MEASURED_TARGETS = 20_000
"""Training targets, about, of which validation takes the collaborative loss, `MEASURED_TOGETHER` at a time."""
MEASURED_TOGETHER = 2_048


class AlignedParts(nn.Module):
    """A collaborative model, semantic embeddings of the same items, and the network from one to the other."""

    def __init__(self, cf: Model, semantic: SemanticTable, projector: Projector) -> None:
        super().__init__()
        self.cf, self.semantic, self.projector = cf, semantic, projector

    def projected(self, items: Tensor) -> Tensor:
        """What the projector makes of the collaborative vectors of items (N,), of length 1: (N, H)."""
        vectors = functional.embedding(items, self.cf.item_vectors())  # (N, D)
        return functional.normalize(self.projector(vectors).float(), dim=1)


class AlignObjective:
    """Both losses. A step has targets of the collaborative objective, and anchors: items, seen in training or not.

    Anchors pass through the catalogue in an order of chance, again and again; of the step's loss the mean over its
    anchors counts lambda times as much as the mean over its targets, whatever the parts it is computed in.
    Samples below 0 are anchors: -1 - n is the n-th of the epoch.

    Args:
        collaborative: over the same `parts.cf`.
        seed: of what validation takes.
    """

    def __init__(
        self, parts: AlignedParts, collaborative: Objective, settings: Alignment, device: torch.device, seed: int
    ) -> None:
        self.module, self.collaborative, self.settings, self.device = parts, collaborative, settings, device
        self.items = len(parts.semantic.distilled)
        self.seed = seed
        self.measured = np.sort(np.random.default_rng(seed).permutation(self.items)[:MEASURED_ITEMS])
        batches = collaborative.batches(MEASURED_TOGETHER, (seed,))
        counts = np.cumsum([collaborative.targets(batch) for batch in batches])
        self.measured_batches = batches[: 1 + int(np.searchsorted(counts, MEASURED_TARGETS))]
        self.anchors = np.empty(0, np.int64)  # of an epoch, step after step
        self.bounds = np.zeros(1, np.int64)  # where each step's begin
        self.weights = np.empty(0)  # of an anchor beside a target, by step

    def batches(self, size: int, seed: tuple[int, ...]) -> list[NDArray[np.int64]]:
        batches = self.collaborative.batches(size, seed)
        count = anchors_per_step(self.settings.anchors, size, self.items, len(batches))
        steps = anchor_passes(self.items, count, len(batches), np.random.default_rng((*seed, self.items)))
        lengths = np.array([len(step) for step in steps], np.int64)
        self.anchors, self.bounds = np.concatenate(steps), np.concatenate(([0], np.cumsum(lengths)))
        self.weights = self.settings.align_weight * np.array([self.targets(batch) for batch in batches]) / lengths
        numbers = -1 - np.arange(len(self.anchors))
        return [np.concatenate((batch, numbers[self._step(step)])) for step, batch in enumerate(batches)]

    def targets(self, batch: NDArray[np.int64]) -> int:
        return self.collaborative.targets(batch[batch >= 0])

    def parts(self, samples: NDArray[np.int64], count: int) -> list[NDArray[np.int64]]:
        rows, anchors = samples[samples >= 0], samples[samples < 0]
        shares = self.collaborative.parts(rows, count)
        return [np.concatenate((share, anchors[place :: len(shares)])) for place, share in enumerate(shares)]

    def loss(self, samples: NDArray[np.int64]) -> Tensor:
        rows, anchors = samples[samples >= 0], -1 - samples[samples < 0]
        total = torch.zeros((), device=self.device)
        if len(rows):
            total = total + self.collaborative.loss(rows)
        if len(anchors) and self.settings.align_weight:
            step = int(np.searchsorted(self.bounds, anchors[0], side="right")) - 1
            total = total + float(self.weights[step]) * self.align_loss(anchors, step)
        return total

    def align_loss(self, anchors: NDArray[np.int64], step: int) -> Tensor:
        """The sum of InfoNCE over anchors (N,) of a step, numbered in the epoch."""
        items = self._on_device(self.anchors[anchors])
        projected = self.module.projected(items)
        if self.settings.negatives == "catalogue":
            return info_nce(projected, self.module.semantic.directions(), items, self.settings.temperature)
        together = self._on_device(self.anchors[self._step(step)])
        places = self._on_device(anchors - self.bounds[step])
        return info_nce(projected, self.module.semantic.directions(together), places, self.settings.temperature)

    def validate(self) -> Mapping[str, float]:
        return {**self.collaborative.validate(), **self.losses()}

    def losses(self) -> dict[str, float]:
        """`collab_loss` per training target, and `agreement` over the whole catalogue, each of a sample at most."""
        items = self._on_device(self.measured)
        with torch.inference_mode():
            torch.manual_seed(self.seed)  # of sampled negatives; each step of training has a seed of its own
            total = sum(float(self.collaborative.loss(batch)) for batch in self.measured_batches)
            targets = sum(self.collaborative.targets(batch) for batch in self.measured_batches)
            directions = self.module.semantic.directions()
            found = agreement(self.module.projected(items), directions, items, self.settings.temperature)
        return {"collab_loss": total / targets, **found}

    def _step(self, step: int) -> slice:
        return slice(int(self.bounds[step]), int(self.bounds[step + 1]))

    def _on_device(self, values: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(values).to(self.device)


def anchors_per_step(given: int | None, batch_size: int, items: int, steps: int) -> int:
    """How many items a step aligns: by default as many as it has targets, or more where an epoch would miss some."""
    return min(items, given or max(batch_size, math.ceil(items / steps)))


def anchor_passes(items: int, count: int, steps: int, chance: np.random.Generator) -> list[NDArray[np.int64]]:
    """Items for each step, about `count` and not more, each pass through the catalogue in an order of chance."""
    parts: list[NDArray[np.int64]] = []
    while len(parts) < steps:
        parts += np.array_split(chance.permutation(items), math.ceil(items / count))
    return parts[:steps]
