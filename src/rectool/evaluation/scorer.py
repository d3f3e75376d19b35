"""What is evaluated: anything that gives rows of the log a score, or ranks the catalogue for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from rectool import processes
from rectool.artifacts.shards import Arrays, Work
from rectool.data.dataset import Dataset
from rectool.evaluation.rank import Exclude, Ranking, rank_rows
from rectool.evaluation.score import Progress, Rows, score_rows
from rectool.models.model import FactorModel
from rectool.models.saved import Trained
from rectool.models.table import Task

ROWS = 1 << 16
"""Of a piece, for each process, where a row costs little."""
PAIRS = 1 << 26
"""Of a row and an item: in a piece, where a ranking scores each pair by itself."""


class Scorer(Protocol):
    """A model of whatever kind, as evaluation and validation see it. N rows are asked for."""

    @property
    def name(self) -> str:
        """What it is called in reports."""

    @property
    def task(self) -> Task:
        """What it was made for."""

    @property
    def probability(self) -> Literal["sigmoid"] | None:
        """What makes a probability of label 1 of a score, if anything does."""

    @property
    def stochastic(self) -> bool:
        """Whether scores depend on chance."""

    def score(self, dataset: Dataset, rows: Rows, progress: Progress | None = None) -> NDArray[np.float32]:
        """The score of each row's user and item (N,), from the row's own history and nothing later.

        Args:
            rows: (N,) rows of the log in any order, repeats allowed.

        Raises:
            RectoolError: a score is not finite; names the row of interactions.parquet.
        """

    def rank(
        self, dataset: Dataset, rows: Rows, *, k: int, exclude: Exclude = "none", progress: Progress | None = None
    ) -> Ranking:
        """The place of each row's item among all items, and the `k` best; see `rank.rank_rows`.

        Raises:
            RectoolError: a score is not finite, or it cannot rank.
        """


@dataclass(frozen=True)
class Computation:
    """Work on rows, and how it is cut.

    Attributes:
        pieces: (start, stop) of each, one after the other; between them the work can stop.
        compute: arrays of the rows from `start` to `stop`, by name, each (stop - start, ...); tells its last
            argument how many rows more are done.
        about: what metrics.json says of it beside what it says of any evaluation.
        columns: (N,) what predictions.parquet says of each row beside what it says of any, by the names of
            `Predictions`.
    """

    pieces: Sequence[tuple[int, int]]
    compute: Callable[[int, int, Progress], Arrays]
    about: Mapping[str, Any] = field(default_factory=dict)
    columns: Mapping[str, NDArray[Any]] = field(default_factory=dict)


class Evaluable(Scorer, Protocol):
    """A scorer whose work on many rows can be shared, stopped and resumed.

    The rows (N,) that it is given rise: those of one user and one history lie side by side.
    """

    def scoring(self, dataset: Dataset, rows: Rows) -> Computation:
        """Computes the array `score`, as `score` does."""

    def ranking(self, dataset: Dataset, rows: Rows, *, k: int, exclude: Exclude) -> Computation:
        """Computes the arrays of a `Ranking`, as `rank` does."""


def computed(computation: Computation, rows: int, doing: str, *, part: str, seed: int, work: Work) -> Arrays | None:
    """What a computation makes of all its rows, as work that can be stopped; None in all processes but the main one.

    Args:
        doing: what is done, for people.
        part: a name of its own for each part of the work.
        seed: of what depends on chance.
    """
    with work.counted(part, doing, rows) as progress:

        def compute(start: int, stop: int) -> Arrays:
            torch.manual_seed(_seed_of(seed, start))  # chance is the same wherever an earlier run stopped
            return computation.compute(start, stop, progress)

        return work.run(part, computation.pieces, compute)


def _seed_of(seed: int, row: int) -> int:
    """A seed for the rows from `row` on, in this process."""
    state = np.random.SeedSequence((seed, row, processes.rank())).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


def probabilities(scorer: Scorer, scores: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """What a scorer's scores (N,) say as probabilities of label 1 (N,), if anything."""
    if scorer.probability is None:
        return None
    return torch.from_numpy(scores).sigmoid().numpy()


@dataclass(frozen=True)
class CollaborativeScorer:
    """A collaborative model, on the device where it is.

    Attributes:
        batch_tokens: of what is encoded together; None for what suits the device.
    """

    trained: Trained
    device: torch.device
    batch_tokens: int | None = None

    @property
    def name(self) -> str:
        return self.trained.name

    @property
    def task(self) -> Task:
        return self.trained.task

    @property
    def probability(self) -> Literal["sigmoid"] | None:
        return self.trained.probability

    @property
    def stochastic(self) -> bool:
        return self.trained.model.stochastic

    def score(self, dataset: Dataset, rows: Rows, progress: Progress | None = None) -> NDArray[np.float32]:
        return score_rows(
            self.trained.model,
            self.trained.history,
            dataset,
            rows,
            device=self.device,
            batch_tokens=self.batch_tokens,
            progress=progress,
        )

    def rank(
        self, dataset: Dataset, rows: Rows, *, k: int, exclude: Exclude = "none", progress: Progress | None = None
    ) -> Ranking:
        return rank_rows(
            self.trained.model,
            self.trained.history,
            dataset,
            rows,
            k=k,
            exclude=exclude,
            device=self.device,
            batch_tokens=self.batch_tokens,
            progress=progress,
        )

    def scoring(self, dataset: Dataset, rows: Rows) -> Computation:
        def compute(start: int, stop: int, progress: Progress) -> Arrays:
            return {"score": self.score(dataset, rows[start:stop], progress)}

        return Computation(_even(len(rows), ROWS), compute)

    def ranking(self, dataset: Dataset, rows: Rows, *, k: int, exclude: Exclude) -> Computation:
        def compute(start: int, stop: int, progress: Progress) -> Arrays:
            return {**vars(self.rank(dataset, rows[start:stop], k=k, exclude=exclude, progress=progress))}

        by_pairs = not isinstance(self.trained.model, FactorModel)
        return Computation(_even(len(rows), max(1, PAIRS // dataset.items) if by_pairs else ROWS), compute)


def _even(rows: int, size: int) -> list[tuple[int, int]]:
    """Pieces of `size` rows for each process."""
    size *= processes.world_size()
    return [(start, min(start + size, rows)) for start in range(0, rows, size)]
