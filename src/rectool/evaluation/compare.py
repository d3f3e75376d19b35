"""Results side by side: what is best, by how much it beats a baseline, and whether chance explains it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np

from rectool.artifacts import Artifact
from rectool.artifacts.artifact import ancestors
from rectool.errors import RectoolError
from rectool.evaluation.bootstrap import DRAWS, Difference, differences
from rectool.evaluation.groups import REPORTED
from rectool.evaluation.metrics import Metric
from rectool.evaluation.metrics import metric as metric_named
from rectool.evaluation.predictions import Predictions
from rectool.evaluation.runs import Run
from rectool.evaluation.truth import reached

AVERAGED = ("auc", "uauc")
"""The metrics whose relative improvements are averaged, as SASRecLLM reports them (its table 1)."""
SIGNIFICANCE = 0.05
DECISION = 0.5
"""The threshold of a result that names none: it has no metric that would need one."""


@dataclass(frozen=True)
class Seeds:
    """Runs that differ in nothing but the seed of their model."""

    name: str
    runs: Sequence[Run]

    @property
    def label(self) -> str:
        return f"{self.name} ({len(self.runs)} seeds)"

    def mean(self, group: str, metric: str) -> float | None:
        """Mean over the runs; None where one has no value."""
        values = self._values(group, metric)
        return float(np.mean(values)) if values else None

    def spread(self, group: str, metric: str) -> float | None:
        """Sample standard deviation over the runs."""
        values = self._values(group, metric)
        return float(np.std(values, ddof=1)) if values else None

    def _values(self, group: str, metric: str) -> list[float]:
        values = [run.value(group, metric) for run in self.runs]
        known = [value for value in values if value is not None]
        return known if len(known) == len(values) else []


@dataclass(frozen=True)
class Comparison:
    """Results of one data set, split and task.

    Attributes:
        runs: in the order given.
        baseline: one of the runs, or None.
        groups, metrics: all that some run has, in a stated order.
        differences: each other run, and the mean of each model's seeds, against the baseline, by (name of
            the run or label of the seeds, group, metric): the value less the baseline's, tested.
        draws, seed: of the tests' bootstrap.
        seeds: runs whose mean is shown, too.
        reachable: what the truth of synthetic data reaches, by group and metric.
    """

    runs: Sequence[Run]
    baseline: Run | None
    groups: Sequence[str]
    metrics: Sequence[str]
    differences: Mapping[tuple[str, str, str], Difference] = field(default_factory=dict)
    draws: int = 0
    seed: int = 0
    seeds: Sequence[Seeds] = ()
    reachable: Mapping[tuple[str, str], float] = field(default_factory=dict)

    @property
    def task(self) -> str:
        return str(self.runs[0].about["task"])

    def best(self, group: str, metric: str) -> float | None:
        """The best value among the runs; None where there are not two, or the metric has no better end."""
        values = [value for run in self.runs if (value := run.value(group, metric)) is not None]
        if len(values) < 2 or direction(metric) == 0:
            return None
        return max(values) if direction(metric) > 0 else min(values)

    def improvement(self, run: Run, group: str, metric: str) -> float | None:
        """Relative improvement over the baseline: (value - baseline) / |baseline|.

        The sign is turned where a lower value is the better one, so that more is always better. None
        for the baseline itself, where a value is undefined, and where the baseline's is 0.
        """
        if self.baseline is None or run is self.baseline or direction(metric) == 0:
            return None
        value, base = run.value(group, metric), self.baseline.value(group, metric)
        if value is None or not base:
            return None
        return direction(metric) * (value - base) / abs(base)

    def mean_improvement(self, run: Run, group: str) -> float | None:
        """Mean of the relative improvements of AUC and UAUC; None where either is."""
        found = [self.improvement(run, group, metric) for metric in AVERAGED]
        known = [value for value in found if value is not None]
        return sum(known) / len(known) if len(known) == len(AVERAGED) else None

    def beyond_chance(self, name: str, group: str, metric: str) -> bool:
        """Whether a run, or the mean of some seeds, differs from the baseline with p < .05."""
        difference = self.differences.get((name, group, metric))
        return difference is not None and difference.p_value < SIGNIFICANCE


def direction(name: str) -> int:
    """1 where a higher value of a metric is better, -1 where a lower one is, 0 where neither is or nobody knows."""
    known = _known(name)
    better = known.higher_is_better if known is not None else None
    return 0 if better is None else 1 if better else -1


def groups_of(runs: Sequence[Run]) -> list[str]:
    """The groups of rows that some run has, all rows first."""
    named = dict.fromkeys(group for run in runs for group, _ in run.measures)
    return [group for group in REPORTED if group in named] + [group for group in named if group not in REPORTED]


def metrics_of(runs: Sequence[Run]) -> list[str]:
    """The metrics that some run has, in the order of the runs' own tables."""
    return list(dict.fromkeys(metric for run in runs for _, metric in run.measures))


def compare(
    runs: Sequence[Run],
    baseline: Run | None = None,
    *,
    seeds: Sequence[Seeds] = (),
    draws: int = DRAWS,
    seed: int = 0,
) -> Comparison:
    """Compare results; against a baseline, test every metric of every group that has a better end.

    Args:
        runs: comparable ones, see `rectool.evaluation.runs.read`.
        baseline: one of the runs.
        seeds: of which to test the mean, too.
        draws: of the bootstrap over users; 0 for no tests.

    Raises:
        RectoolError: two results have predictions for different rows.
    """
    groups, metrics = groups_of(runs), metrics_of(runs)
    found: dict[tuple[str, str, str], Difference] = {}
    if baseline is not None and draws:
        base = Predictions.read(baseline.artifact)
        tested = [(run.name, [run]) for run in runs] + [(each.label, list(each.runs)) for each in seeds]
        for name, members in tested:
            if baseline not in members:
                for group, metric, difference in _tested(members, baseline, base, groups, metrics, draws, seed):
                    found[name, group, metric] = difference
    return Comparison(runs, baseline, groups, metrics, found, draws, seed, seeds, _reachable(runs, groups, metrics))


def by_seed(runs: Sequence[Run]) -> list[Seeds]:
    """Groups of two or more runs whose models, settings and data are the same but for the seed, one run per seed.

    A run whose model is not there any more belongs to no group.
    """
    alike: dict[str, dict[int, Run]] = {}
    for run in runs:
        model = run.model()
        if model is not None:
            key = json.dumps([_recipe(model), run.artifact.manifest.settings], sort_keys=True)
            alike.setdefault(key, {}).setdefault(model.manifest.seed, run)
    groups: dict[str, Seeds] = {}
    for by_its_seed in alike.values():
        members = list(by_its_seed.values())
        if len(members) > 1:
            stem = _common_name(members)
            name = next(name for i in count(1) if (name := stem if i == 1 else f"{stem} ({i})") not in groups)
            groups[name] = Seeds(name, members)
    return list(groups.values())


def _reachable(runs: Sequence[Run], groups: Sequence[str], metrics: Sequence[str]) -> dict[tuple[str, str], float]:
    """What the truth reaches, where the data set is there and knows it, and all runs predict as many rows."""
    first = runs[0]
    data = first.dataset()
    rows = {run.artifact.manifest.counts["predictions"] for run in runs} if data is not None else set()
    if data is None or len(rows) > 1:
        return {}
    return reached(data.path, Predictions.read(first.artifact), groups, metrics)


def _recipe(artifact: Artifact) -> list[Any]:
    """What an artifact is made of, seeds aside: its own, and those of the models that it is made from."""
    made = artifact.manifest
    parents: list[Any] = []
    for parent, found in ancestors(artifact):
        own = _recipe(found) if found is not None and parent.kind != "dataset" else parent.digests
        parents.append([parent.role, own])
    return [made.kind, made.settings, parents]


def _common_name(runs: Sequence[Run]) -> str:
    """What the runs' names have in common, part by part: `mf-64` for `mf-64-seed-0` and `mf-64-seed-1`."""
    parts = zip(*(re.split(r"[-_/ =]+", run.name) for run in runs), strict=False)
    common = [words[0] for words in parts if len(set(words)) == 1 and words[0].lower() not in ("seed", "seeds")]
    return "-".join(common) or str(runs[0].about.get("model") or "model")


def _tested(
    runs: Sequence[Run],
    baseline: Run,
    base: Predictions,
    groups: Sequence[str],
    metrics: Sequence[str],
    draws: int,
    seed: int,
) -> Iterator[tuple[str, str, Difference]]:
    """Tests of a run, or of the mean of several, against the baseline: group, metric, difference."""
    every = []
    for run in runs:
        predictions = Predictions.read(run.artifact)
        if not np.array_equal(predictions.row, base.row):
            why = f"they predict different rows ({len(predictions.row):,} and {len(base.row):,})"
            raise _unpaired([run], baseline, f"{why}; evaluate both on the same rows")
        every.append(predictions)
    thresholds = [_threshold(run) for run in (*runs, baseline)]
    for group in groups:
        rows = base.members(group)
        names = [
            name
            for name in metrics
            if all(run.value(group, name) is not None for run in (*runs, baseline))
            and _can_be_tested(name, *every, base)
        ]
        if not names or not rows.any():
            continue
        try:
            tested = differences(names, every, base, rows, threshold=thresholds, draws=draws, seed=seed)
        except RectoolError as problem:
            raise _unpaired(runs, baseline, str(problem)) from problem
        for name, difference in tested.items():
            if not np.isnan(difference.p_value):
                yield group, name, difference


def _unpaired(runs: Sequence[Run], baseline: Run, why: str) -> RectoolError:
    named = ", ".join(str(run.artifact.path) for run in runs)
    return RectoolError(f"{named} and {baseline.artifact.path} cannot be paired: {why}")


def _threshold(run: Run) -> float:
    given = run.about.get("threshold")
    return DECISION if given is None else float(given)


def _can_be_tested(name: str, *predictions: Predictions) -> bool:
    """Whether a metric has a better end, and predictions alone tell its value."""
    found = _known(name)
    if found is None or found.higher_is_better is None or not found.resampled:
        return False
    columns = [need for need in found.needs if need != "threshold"]
    return all(getattr(each, column, None) is not None for each in predictions for column in columns)


def _known(name: str) -> Metric | None:
    """A metric of ours, or None for one of another program."""
    try:
        return metric_named(name)
    except RectoolError:
        return None
