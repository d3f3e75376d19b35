"""Metrics as functions of the users' weights: numpy in, numbers out.

A metric turns target rows into a statistic: a function of weights of the users (D, U) that gives its
value under each (D,). Weights of one give the metric itself, the counts of a resample a draw of the
bootstrap. Almost all are sums over users, and a formula on the summed numbers; AUC is not.

Shapes: R rows, U users, S sums, D draws, K items of a list.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rectool.errors import RectoolError
from rectool.evaluation.auc import user_auc
from rectool.evaluation.targets import Targets
from rectool.evaluation.weighted_auc import WeightedAUC

Floats: TypeAlias = NDArray[np.float64]
Statistic: TypeAlias = Callable[[Floats], Floats]
"""Weights of the users (D, U) to the metric's value under each (D,), NaN where it is not defined."""

CALIBRATION_BINS = 15
CLIP = float(np.finfo(np.float32).eps)
"""Log loss takes probabilities as at least this far from 0 and 1: 2**-23, as scikit-learn does for float32."""


@dataclass(frozen=True)
class Sums:
    """A statistic of sums over users.

    Attributes:
        per_user: (U, S).
        finish: from the weighted sums (D, S) to values (D,).
    """

    per_user: Floats
    finish: Callable[[Floats], Floats]

    def __call__(self, weights: Floats) -> Floats:
        return self.finish(weights @ self.per_user)


@dataclass(frozen=True)
class Metric:
    """A metric by its name.

    Attributes:
        higher_is_better: None where neither is.
        needs: the columns of targets without which it cannot be measured.
        statistic: the metric of these targets.
        resampled: whether a resample of users says how far the value may be off.
    """

    name: str
    higher_is_better: bool | None
    needs: tuple[str, ...]
    statistic: Callable[[Targets], Statistic]
    resampled: bool = True

    def of(self, targets: Targets) -> float:
        """The value, NaN where it is not defined.

        Raises:
            RectoolError: a needed column or a label is missing, a score is NaN.
        """
        self.check(targets)
        return float(self.statistic(targets)(np.ones((1, targets.users)))[0])

    def check(self, targets: Targets) -> None:
        """Raises RectoolError if the targets lack a column that the metric needs."""
        for column in self.needs:
            if getattr(targets, column) is None:
                raise RectoolError(f"{self.name} needs a {column}, which these predictions do not have")
        if "label" in self.needs:
            targets.refuse_unlabelled()


def metric(name: str) -> Metric:
    """The metric of that name, such as `auc` or `ndcg@10`. Raises RectoolError that lists the names there are."""
    if name in CTR:
        return CTR[name]
    found = re.fullmatch(r"(\w+)@([1-9][0-9]*)", name)
    if found is None or found[1] not in _AT_K:
        raise RectoolError(f"there is no metric {name!r}; the metrics are {', '.join(CTR)}, {'@K, '.join(_AT_K)}@K")
    return _AT_K[found[1]](int(found[2]))


def ranking(ks: Sequence[int]) -> list[Metric]:
    """The metrics of ranked targets and of recommended lists, for each cut-off."""
    return [at(k) for k in ks for at in _AT_K.values()]


def best_threshold(labels: NDArray[Any], probabilities: NDArray[Any]) -> float:
    """The threshold that gives the highest F1 of the positive class, where p >= threshold is taken for a 1.

    It is one of the probabilities; of equally good ones the highest.

    Args:
        labels: (R,) of 0 and 1.
        probabilities: (R,) of label 1.

    Raises:
        RectoolError: no row has label 1, so that F1 is 0 whatever the threshold.
    """
    if not np.any(labels == 1):
        raise RectoolError("no threshold can be chosen on rows without a label 1; give one with --threshold 0.5")
    order = np.argsort(-probabilities, kind="stable")
    ranked = probabilities[order]
    hits = np.cumsum(labels[order] == 1)
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))  # of a run of equal probabilities
    f1 = 2 * hits[last] / (last + 1 + hits[-1])
    return float(ranked[last[np.argmax(f1)]])


def _auc(targets: Targets) -> Statistic:
    return WeightedAUC(targets.owner, targets.users, targets.label, targets.score)


def _uauc(targets: Targets) -> Statistic:
    """Mean of the AUC of users with both classes; the others have no value and no weight."""
    values = user_auc(targets.owner, targets.label, targets.score)[1]
    counted = ~np.isnan(values)
    return Sums(np.stack([np.where(counted, values, 0), counted], axis=1), _mean)


def _over_rows(value: Callable[[Targets], NDArray[Any]]) -> Callable[[Targets], Statistic]:
    """The mean over rows of a column (R,)."""
    return lambda targets: Sums(targets.sums(value(targets), np.ones(len(targets.row))), _mean)


def _log_losses(targets: Targets) -> Floats:
    probability = _probabilities(targets).clip(CLIP, 1 - CLIP)
    return np.asarray(-np.log(np.where(targets.label == 1, probability, 1 - probability)))


def _calibration(targets: Targets) -> Statistic:
    """Expected calibration error over equal-width bins (Guo et al. 2017).

    ECE = sum over bins of |sum of (label - probability)| / rows. A bin holds its lower end, the last one 1 too.
    """
    probability = _probabilities(targets)
    bins = np.minimum((probability * CALIBRATION_BINS).astype(np.intp), CALIBRATION_BINS - 1)
    size = targets.users * CALIBRATION_BINS
    gaps = np.bincount(targets.owner * CALIBRATION_BINS + bins, targets.label - probability, size)
    rows = np.bincount(targets.owner, minlength=targets.users)
    per_user = np.column_stack([gaps.reshape(targets.users, CALIBRATION_BINS), rows])
    return Sums(per_user, lambda sums: _share(np.abs(sums[..., :-1]).sum(axis=-1), sums[..., -1], np.nan))


def _probabilities(targets: Targets) -> Floats:
    assert targets.probability is not None
    return targets.probability.astype(np.float64)


def _of_classes(finish: Callable[[Floats], Floats]) -> Callable[[Targets], Statistic]:
    """A formula on true positives, false positives, false negatives, true negatives (D, 4)."""
    return lambda targets: Sums(targets.confusion, finish)


def _accuracy(counts: Floats) -> Floats:
    return _share(counts[..., 0] + counts[..., 3], counts.sum(axis=-1), np.nan)


def _precision(counts: Floats) -> Floats:
    return _share(counts[..., 0], counts[..., 0] + counts[..., 1])


def _recall(counts: Floats) -> Floats:
    return _share(counts[..., 0], counts[..., 0] + counts[..., 2])


def _f1(counts: Floats) -> Floats:
    return _share(2 * counts[..., 0], 2 * counts[..., 0] + counts[..., 1] + counts[..., 2])


def _macro(of_positives: Callable[[Floats], Floats]) -> Callable[[Floats], Floats]:
    """The mean of both classes' values, be there rows of both or not."""
    return lambda counts: (of_positives(counts) + of_positives(counts[..., ::-1])) / 2


def _share(part: Floats, whole: Floats, empty: float = 0.0) -> Floats:
    share: Floats = np.divide(part, whole, out=np.full(np.shape(whole), empty), where=whole > 0)
    return share


def _mean(sums: Floats) -> Floats:
    """(D, 2) sums of values and how many they are, to means (D,), NaN of none."""
    return _share(sums[..., 0], sums[..., 1], np.nan)


def hits(ranks: NDArray[Any], k: int) -> NDArray[np.bool_]:
    """(R,) whether each rank is within the first K."""
    return np.asarray(ranks <= k)


def gains(ranks: NDArray[Any], k: int) -> Floats:
    """(R,) NDCG: with one relevant item the ideal gain is 1, so it is 1 / log2(1 + rank) within the first K, else 0."""
    return np.asarray(hits(ranks, k) / np.log2(1.0 + ranks))


def reciprocals(ranks: NDArray[Any], k: int) -> Floats:
    """(R,) 1 / rank within the first K, else 0."""
    return np.asarray(hits(ranks, k) / ranks)


def number_or_none(value: float) -> float | None:
    """A value as JSON can have it, which has no NaN."""
    return None if np.isnan(value) else float(value)


def _ranks(targets: Targets) -> NDArray[Any]:
    assert targets.rank is not None
    return targets.rank


def _of_ranks(name: str, value: Callable[[NDArray[Any], int], NDArray[Any]]) -> Callable[[int], Metric]:
    """The mean over rows of a function of their ranks and K."""
    return lambda k: Metric(f"{name}@{k}", True, ("rank",), _over_rows(lambda targets: value(_ranks(targets), k)))


def _user_recall(k: int) -> Metric:
    """The mean over users of the share of their target rows within the first K: users count alike, not rows."""

    def statistic(targets: Targets) -> Statistic:
        found, rows = targets.sums(hits(_ranks(targets), k), np.ones(len(targets.row))).T
        return Sums(np.stack([found / rows, np.ones(targets.users)], axis=1), _mean)

    return Metric(f"recall@{k}", True, ("rank",), statistic)


def _coverage(k: int) -> Metric:
    """The share of the catalogue that stands in some row's list.

    A resample has fewer different lists than there are, and so always covers less: no interval comes of it.
    """

    def statistic(targets: Targets) -> Statistic:
        assert targets.lists is not None
        assert targets.item_counts is not None
        covered = np.zeros(len(targets.item_counts), dtype=np.bool_)
        covered[targets.lists[:, :k][targets.lists[:, :k] >= 0]] = True
        share = float(covered.mean()) if len(covered) else float("nan")
        return lambda weights: np.full(len(weights), share)

    return Metric(f"coverage@{k}", True, ("lists", "item_counts"), statistic, resampled=False)


def _popularity(k: int) -> Metric:
    """The mean number of training rows of the items in the lists."""

    def statistic(targets: Targets) -> Statistic:
        assert targets.lists is not None
        assert targets.item_counts is not None
        items = targets.lists[:, :k]  # (R, K)
        listed = items >= 0
        counts = np.where(listed, targets.item_counts[items], 0)  # item -1 is the last one, and not counted
        return Sums(targets.sums(counts.sum(axis=1), listed.sum(axis=1)), _mean)

    return Metric(f"popularity@{k}", None, ("lists", "item_counts"), statistic)


_AT_K: dict[str, Callable[[int], Metric]] = {
    "hr": _of_ranks("hr", hits),
    "ndcg": _of_ranks("ndcg", gains),
    "mrr": _of_ranks("mrr", reciprocals),
    "recall": _user_recall,
    "coverage": _coverage,
    "popularity": _popularity,
}

_PROBABLE = ("label", "probability")
_DECIDED = ("label", "probability", "threshold")
CTR: dict[str, Metric] = {
    found.name: found
    for found in (
        Metric("auc", True, ("label", "score"), _auc),
        Metric("uauc", True, ("label", "score"), _uauc),
        Metric("log_loss", False, _PROBABLE, _over_rows(_log_losses)),
        Metric("accuracy", True, _DECIDED, _of_classes(_accuracy)),
        Metric("precision", True, _DECIDED, _of_classes(_precision)),
        Metric("recall", True, _DECIDED, _of_classes(_recall)),
        Metric("f1", True, _DECIDED, _of_classes(_f1)),
        Metric("macro_precision", True, _DECIDED, _of_classes(_macro(_precision))),
        Metric("macro_recall", True, _DECIDED, _of_classes(_macro(_recall))),
        Metric("macro_f1", True, _DECIDED, _of_classes(_macro(_f1))),
        Metric("brier", False, _PROBABLE, _over_rows(lambda targets: (targets.label - _probabilities(targets)) ** 2)),
        Metric("ece", False, _PROBABLE, _calibration),
    )
}
"""Metrics of labelled rows, in the order of reports. Precision, recall and F1 are 0 where they would be 0 / 0."""
