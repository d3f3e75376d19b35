"""How much disk and memory the training of a collaborative model will want."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rectool.data.dataset import Dataset
from rectool.data.estimate import BYTES_PER_ROW, TORCH_MEMORY, Plan
from rectool.devices import device_named, precision_named
from rectool.models.model import Size
from rectool.training.choice import Choice
from rectool.training.settings import Fit

COPIES = 6
"""Of the parameters while training: themselves, gradients, Adam's two moments, the best, a checkpoint on its way."""


def estimate(dataset: Dataset, choice: Choice, settings: Fit, reads: Sequence[str]) -> Plan:
    """A plan with sizes.

    Raises:
        RectoolError: the device or its precision is not there.
    """
    precision_named(settings.precision, device_named(settings.device))
    with torch.device("meta"):
        net = choice.kind(choice.settings, Size(dataset.users, dataset.items))
    weights = 4 * sum(parameter.numel() for parameter in net.parameters())
    vectors = 4 * (dataset.users + dataset.items) * getattr(choice.settings, "embedding_size", 1)
    rows = dataset.artifact.manifest.counts["interactions"]
    return Plan(
        reads=reads,
        disk_bytes=2 * weights + vectors,
        scratch_bytes=(3 + 2) * weights,
        memory_bytes=TORCH_MEMORY + COPIES * weights + 2 * vectors + BYTES_PER_ROW * rows,
    )
