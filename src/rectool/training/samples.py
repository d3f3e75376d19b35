"""What objectives have in common: samples that are cut into batches, and a model that is validated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from rectool.evaluation.scorer import CollaborativeScorer
from rectool.models.saved import Trained
from rectool.training.validation import Validation


class Samples(Protocol):
    """Training samples, numbered from 0, with one target or more each."""

    def batches(self, size: int, seed: tuple[int, ...]) -> list[NDArray[np.int64]]: ...
    def targets(self, batch: NDArray[np.int64]) -> int: ...


S = TypeVar("S", bound=Samples)


class SampledObjective(Generic[S]):
    """The part of an objective that is not its loss."""

    def __init__(self, trained: Trained, samples: S, validation: Validation) -> None:
        self.trained, self.samples, self.validation = trained, samples, validation
        self.module = trained.model

    def batches(self, size: int, seed: tuple[int, ...]) -> list[NDArray[np.int64]]:
        return self.samples.batches(size, seed)

    def targets(self, batch: NDArray[np.int64]) -> int:
        return self.samples.targets(batch)

    def parts(self, samples: NDArray[np.int64], count: int) -> list[NDArray[np.int64]]:
        return [samples[place::count] for place in range(count)]

    def validate(self) -> Mapping[str, float]:
        return self.validation(CollaborativeScorer(self.trained, self.validation.device))
