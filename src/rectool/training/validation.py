"""What validation measures while a model is trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rectool import processes
from rectool.data.dataset import Dataset
from rectool.evaluation.auc import auc, uauc
from rectool.evaluation.metrics import gains, hits, reciprocals
from rectool.evaluation.scorer import Scorer
from rectool.models.table import Task

CUTOFF = 10
ROWS = 20_000
"""Measured on at most, unless told otherwise."""


class Validation:
    """Measures models on validation rows; several processes share the rows, each taken once.

    Args:
        rows: (N,) rows of the log.
        device: where the processes bring their values together.
    """

    def __init__(self, dataset: Dataset, rows: NDArray[np.int64], device: torch.device) -> None:
        self.dataset, self.rows, self.device = dataset, rows, device

    @classmethod
    def of(cls, dataset: Dataset, task: Task, device: torch.device, limit: int | None, seed: int) -> Validation:
        """On the validation rows that a task can be measured on, `limit` of them at most, chosen at random.

        Without a limit, `ROWS`.
        """
        rows = dataset.targets("valid")
        if task == "ctr":
            rows = rows[dataset.label[rows] >= 0]
        limit = limit or ROWS
        if len(rows) > limit:
            rows = np.sort(np.random.default_rng(seed).choice(rows, limit, replace=False))
        return cls(dataset, rows, device)

    def __call__(self, scorer: Scorer) -> dict[str, float]:
        """Metrics of `training.settings.METRICS`; none where there are no rows, or where they are not defined."""
        if len(self.rows) == 0:
            return {}
        values = self._ctr(scorer) if scorer.task == "ctr" else self._next_item(scorer)
        return {name: value for name, value in values.items() if not np.isnan(value)}

    def _ctr(self, scorer: Scorer) -> dict[str, float]:
        scores = self._shared(lambda rows: scorer.score(self.dataset, rows)).numpy()
        users, labels = self.dataset.user[self.rows], self.dataset.label[self.rows]
        values = {"auc": auc(labels, scores), "uauc": uauc(users, labels, scores).value}
        if scorer.probability is not None:
            logits, truth = torch.from_numpy(scores).double(), torch.from_numpy(labels).double()
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, truth)
            values["log_loss"] = float(loss)
        return values

    def _next_item(self, scorer: Scorer) -> dict[str, float]:
        ranks = self._shared(lambda rows: scorer.rank(self.dataset, rows, k=CUTOFF).rank).numpy()
        measured = {"ndcg": gains, "hr": hits, "mrr": reciprocals}
        return {f"{name}@{CUTOFF}": float(value(ranks, CUTOFF).mean()) for name, value in measured.items()}

    def _shared(self, measure: Callable[[NDArray[np.int64]], NDArray[Any]]) -> torch.Tensor:
        """Measure each row in one process, and bring the values (N,) together in all of them."""
        rank, size = processes.rank(), processes.world_size()
        parts = np.array_split(self.rows, size)
        own = torch.from_numpy(measure(parts[rank])).to(self.device)
        return processes.all_gather_rows(own, [len(part) for part in parts]).cpu()
