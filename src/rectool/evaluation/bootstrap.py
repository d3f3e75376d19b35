"""Bootstrap over users: how far a value, or the difference of two models, may be off by chance.

Users are drawn with replacement, as many as there are, each with all of its rows: rows of one user are
not independent, so that rows are not drawn. A draw is a weight per user, the times it was drawn, and
all metrics and both models of a comparison are taken under the same weights.

Shapes: U users, D draws, M statistics.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rectool.errors import RectoolError
from rectool.evaluation.metrics import Floats, Statistic, Sums, metric
from rectool.evaluation.predictions import Predictions

DRAWS = 1000
CONFIDENCE = 0.95
_CELLS = 1 << 22  # weights at a time: 32 MiB of them


@dataclass(frozen=True)
class Difference:
    """One model's value less another's, on the same rows.

    Attributes:
        value: NaN where one of the two is not defined, and so are the others.
        low, high: the interval of the draws.
        p_value: two-sided, min(1, 2 (1 + min(draws at most 0, draws at least 0)) / (1 + draws)).
        users: how many users were drawn from.
    """

    value: float
    low: float
    high: float
    p_value: float
    users: int


def weights(users: int, draws: int, seed: int) -> Iterator[Floats]:
    """How often each user is drawn, some draws at a time (D, U); the same whatever their number at a time."""
    random = np.random.default_rng(seed)
    together = max(1, _CELLS // max(1, users))
    for begin in range(0, draws, together):
        size = min(together, draws - begin)
        drawn = random.integers(0, users, (size, users))
        drawn += np.arange(size)[:, None] * users
        yield np.bincount(drawn.ravel(), minlength=size * users).reshape(size, users).astype(np.float64)


def replicates(statistics: Sequence[Statistic], users: int, draws: int, seed: int) -> Floats:
    """Each statistic under each draw (M, D), NaN where it is not defined.

    Memory does not grow with users x draws. Statistics of the same sums share them.
    """
    columns = {id(found.per_user): found.per_user for found in statistics if isinstance(found, Sums)}
    begins = dict(zip(columns, np.cumsum([0, *(part.shape[1] for part in columns.values())]), strict=False))
    stacked = np.concatenate([*columns.values(), np.empty((users, 0))], axis=1)
    values = np.full((len(statistics), draws), np.nan)
    done = 0
    for part in weights(users, draws if users else 0, seed):
        here = slice(done, done + len(part))
        sums = part @ stacked
        for place, statistic in enumerate(statistics):
            if isinstance(statistic, Sums):
                begin = begins[id(statistic.per_user)]
                values[place, here] = statistic.finish(sums[:, begin : begin + statistic.per_user.shape[1]])
            else:
                values[place, here] = statistic(part)
        done += len(part)
    return values


def interval(drawn: Floats, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The percentile interval of a statistic's draws (D,), NaN where there is none that is defined.

    Draws under which the statistic is not defined (of one class only) are left out.
    """
    drawn = drawn[~np.isnan(drawn)]
    if len(drawn) == 0:
        return float("nan"), float("nan")
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def differences(
    names: Sequence[str],
    first: Predictions | Sequence[Predictions],
    second: Predictions,
    rows: NDArray[Any] | None = None,
    *,
    threshold: float | Sequence[float] = 0.5,
    draws: int = DRAWS,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> dict[str, Difference]:
    """The first model's metrics less the second's, tested by a paired bootstrap over users.

    Of several first ones, such as the seeds of one model, the mean is taken. All are taken under the
    same draws, of which each makes a difference. The p-value asks how many of them are on the other
    side of 0, as if the interval were widened until it holds 0; with D draws it is at least
    2 / (1 + D). Two models alike have p = 1.

    Args:
        names: of metrics, see `metrics.metric`; those of lists (coverage, popularity) cannot be paired.
        rows: (R,) bool or positions, the rows to compare on; None for all.
        threshold: of all, or of each, the second's last.

    Raises:
        RectoolError: other rows or labels, no draws, an unknown metric, one that the predictions do not
            allow.
    """
    firsts = [first] if isinstance(first, Predictions) else list(first)
    for each in firsts:
        if not np.array_equal(each.row, second.row):
            raise RectoolError("results can be paired only on the same rows; evaluate both on the same data and split")
        if not np.array_equal(each.label, second.label):
            raise RectoolError("results can be paired only on the same labels; evaluate both on the same data")
    if draws < 1:
        raise RectoolError(f"a paired test needs one draw at least, not {draws}")
    thresholds = [threshold] * (len(firsts) + 1) if isinstance(threshold, int | float) else threshold
    every = [
        predictions.targets(rows, threshold=limit)
        for predictions, limit in zip((*firsts, second), thresholds, strict=True)
    ]
    statistics: list[Statistic] = []
    for name in names:
        for targets in every:
            metric(name).check(targets)
            statistics.append(metric(name).statistic(targets))
    users = every[0].users
    shape = (len(names), len(every), -1)
    drawn = replicates(statistics, users, draws, seed).reshape(shape)
    values = np.array([statistic(np.ones((1, users))) for statistic in statistics]).reshape(shape)
    drawn, values = (found[:, :-1].mean(1) - found[:, -1] for found in (drawn, values))
    return {name: _difference(float(values[i, 0]), drawn[i], users, confidence) for i, name in enumerate(names)}


def _difference(value: float, drawn: Floats, users: int, confidence: float) -> Difference:
    drawn = drawn[~np.isnan(drawn)]
    low, high = interval(drawn, confidence)
    beyond = min(int(np.sum(drawn <= 0)), int(np.sum(drawn >= 0)))
    p_value = min(1.0, 2 * (1 + beyond) / (1 + len(drawn))) if len(drawn) and not np.isnan(value) else float("nan")
    return Difference(float(value), low, high, p_value, users)
