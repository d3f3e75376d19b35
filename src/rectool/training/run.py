"""What the training loop is given, keeps and gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rectool.training.checkpoint import Checkpoints


class Objective(Protocol):
    """What a stage minimises, over samples that are numbered from 0."""

    @property
    def module(self) -> nn.Module:
        """What is trained: its parameters that require a gradient."""

    def batches(self, size: int, seed: tuple[int, ...]) -> list[NDArray[np.int64]]:
        """One epoch of samples in batches of about `size` targets, the same for the same seed."""

    def targets(self, batch: NDArray[np.int64]) -> int:
        """How many targets a batch has."""

    def parts(self, samples: NDArray[np.int64], count: int) -> list[NDArray[np.int64]]:
        """A process's share of a step cut into what is computed at a time; gradients add up over the parts.

        Args:
            count: what memory asks for, 1 at first; twice as many each time that it does not suffice.
        """

    def loss(self, samples: NDArray[np.int64]) -> Tensor:
        """The sum of the losses of all targets of the samples."""

    def validate(self) -> Mapping[str, float]:
        """Metrics on validation rows, the same in every process; none where there are no such rows."""


@dataclass(frozen=True)
class Run:
    """The circumstances of a run, beside its settings.

    Attributes:
        device: where the module is.
        checkpoints: where to save; None saves nothing.
        resumed: go on from the latest checkpoint.
        max_seconds: stop with a checkpoint after this time.
        checkpoint_seconds: between checkpoints.
        metric: of validation, that early stopping and the best weights follow.
        rates: highest learning rates of parameters by what their names begin with, where not the settings' own.
        memory_advice: what to do where the device has too little memory for a single sample.
    """

    seed: int
    device: torch.device
    checkpoints: Checkpoints | None = None
    resumed: bool = False
    max_seconds: float | None = None
    checkpoint_seconds: float = 600.0
    metric: str = ""
    rates: Mapping[str, float] = field(default_factory=dict)
    memory_advice: str = "choose a smaller model, or --device cpu"


@dataclass
class Progress:
    """Where a run is: all of it is kept in checkpoints.

    Attributes:
        total: steps at most, 0 before they are known; an estimate where epochs differ in their batches.
        epoch, batch: the next batch to train on.
        curve: points (step, epoch, split, metric, value).
        best: value of the metric at `best_step`, None before the first validation.
        waited: validations since then.
        loss, targets: of all processes, summed since the last validation.
        skipped: steps that overflowed in fp16.
        parts: the count that `Objective.parts` is asked for.
    """

    step: int = 0
    total: int = 0
    epoch: int = 0
    batch: int = 0
    curve: list[tuple[int, float, str, str, float]] = field(default_factory=list)
    best: float | None = None
    best_step: int = 0
    waited: int = 0
    loss: float = 0.0
    targets: int = 0
    skipped: int = 0
    parts: int = 1


@dataclass(frozen=True)
class Fitted:
    """What came out of training.

    Attributes:
        best, last: trained parameters by name, on the CPU; the best by the validation metric.
        progress: where the run ended.
        stopped_early: whether patience ended the run.
        targets_per_second: of training alone, in all processes together.
    """

    best: dict[str, Tensor]
    last: dict[str, Tensor]
    progress: Progress
    stopped_early: bool
    targets_per_second: float
