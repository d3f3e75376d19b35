"""The metrics of predictions, by group, with intervals: the list in metrics.json.

Shapes: R target rows, K longest list, I items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rectool.evaluation import bootstrap
from rectool.evaluation.groups import REPORTED
from rectool.evaluation.metrics import CTR, Metric, Sums, number_or_none, ranking
from rectool.evaluation.predictions import Predictions
from rectool.evaluation.targets import Targets

Line = dict[str, Any]
"""group, metric, value, low, high, users, rows, skipped_users.

`users` have rows in the group; `skipped_users` of them have rows of one class only and no part in UAUC.
`value`, `low` and `high` are None where they are not defined.
"""


def measure_ctr(
    predictions: Predictions,
    *,
    threshold: float | None = 0.5,
    draws: int = bootstrap.DRAWS,
    seed: int = 0,
    confidence: float = bootstrap.CONFIDENCE,
) -> list[Line]:
    """The CTR metrics of each group that has rows.

    Without probabilities there are AUC and UAUC only; without a threshold nothing that needs a decision.

    Args:
        threshold: the least probability that is taken for a 1.
        draws: of the bootstrap over users; 0 for no intervals.

    Raises:
        RectoolError: a row has no label; names it.
    """
    targets = predictions.targets(threshold=threshold)
    return _measure(predictions, targets, list(CTR.values()), draws, seed, confidence)


def measure_ranking(
    predictions: Predictions,
    topk: NDArray[Any] | None = None,
    *,
    ks: Sequence[int],
    item_counts: NDArray[Any] | None = None,
    draws: int = bootstrap.DRAWS,
    seed: int = 0,
    confidence: float = bootstrap.CONFIDENCE,
) -> list[Line]:
    """The ranking metrics of each group that has rows.

    Args:
        predictions: with ranks.
        topk: (R, K) the best items of each row, best first, -1 where there are fewer; K at least the
            largest of `ks`. None leaves out coverage and popularity.
        ks: cut-offs.
        item_counts: (I,) training rows of each item of the catalogue, for coverage and popularity.
        draws: of the bootstrap over users; 0 for no intervals.

    Raises:
        ValueError: a list is shorter than a cut-off, or there are no ranks.
    """
    if predictions.rank is None:
        raise ValueError("ranking metrics need ranks")
    if topk is not None and (item_counts is None or len(topk) != len(predictions.row)):
        raise ValueError("lists need one row per target, and the training rows of each item")
    if topk is not None and item_counts is not None and topk.shape[1] < min(max(ks), len(item_counts)):
        raise ValueError(f"lists of {topk.shape[1]} items are too short for {max(ks)}")
    targets = replace(predictions.targets(), lists=topk, item_counts=item_counts)
    return _measure(predictions, targets, ranking(ks), draws, seed, confidence)


def _measure(
    predictions: Predictions, targets: Targets, metrics: Sequence[Metric], draws: int, seed: int, confidence: float
) -> list[Line]:
    measured = [metric for metric in metrics if all(getattr(targets, need) is not None for need in metric.needs)]
    for metric in measured:
        metric.check(targets)
    lines = []
    for group in REPORTED:
        chosen = predictions.members(group)
        if chosen.any():
            mine = targets if chosen.all() else targets.part(chosen)
            lines += [{"group": group, **line} for line in _lines(mine, measured, draws, seed, confidence)]
    return lines


def _lines(
    targets: Targets, metrics: Sequence[Metric], draws: int, seed: int, confidence: float
) -> list[dict[str, Any]]:
    """The metrics of a group; the interval of a single user's rows is not defined."""
    statistics = [metric.statistic(targets) for metric in metrics]
    resampled = [i for i, metric in enumerate(metrics) if metric.resampled and draws and targets.users > 1]
    drawn = np.full((len(metrics), max(1, draws)), np.nan)
    if resampled:
        drawn[resampled] = bootstrap.replicates([statistics[i] for i in resampled], targets.users, draws, seed)
    lines = []
    for metric, statistic, mine in zip(metrics, statistics, drawn, strict=True):
        low, high = bootstrap.interval(mine, confidence)
        skipped = 0
        if metric.name == "uauc" and isinstance(statistic, Sums):
            skipped = targets.users - int(statistic.per_user[:, 1].sum())
        lines.append(
            {
                "metric": metric.name,
                "value": number_or_none(statistic(np.ones((1, targets.users)))[0]),
                "low": number_or_none(low),
                "high": number_or_none(high),
                "users": targets.users,
                "rows": len(targets.row),
                "skipped_users": skipped,
            }
        )
    return lines
