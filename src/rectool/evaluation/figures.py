"""The figures of a comparison: what stands in each; `rectool.plots` draws them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rectool import plots
from rectool.artifacts import Artifact
from rectool.artifacts.schemas import CURVE
from rectool.evaluation.compare import Comparison, direction
from rectool.evaluation.runs import Run
from rectool.plots import Value

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOLDER = "figures"
CHANCE = 0.5
"""The AUC and UAUC of a guess."""
SHAPES = 8
"""Runs that a radar chart shows at most."""
PANELS = 9
"""Metrics that training curves show at most."""
LABELS = {
    "auc": "AUC",
    "uauc": "UAUC",
    "f1": "F1",
    "macro_f1": "macro F1",
    "brier": "Brier score",
    "ece": "ECE",
    "hr": "HR",
    "ndcg": "NDCG",
    "mrr": "MRR",
}


def folders(comparisons: Sequence[Comparison]) -> list[str]:
    """Where the figures of each task lie: `figures`, or of several tasks `figures/ctr` and the like."""
    if len(comparisons) == 1:
        return [FOLDER]
    tasks = [re.sub(r"[^\w-]+", "-", each.task) for each in comparisons]
    return [
        f"{FOLDER}/{task}" if tasks.count(task) == 1 else f"{FOLDER}/{task}-{place}" for place, task in enumerate(tasks)
    ]


def draw(comparison: Comparison, directory: Path) -> list[str]:
    """Write every figure that the results have the numbers for, as PNG and SVG.

    Returns:
        The figures' names.
    """
    directory.mkdir(parents=True, exist_ok=True)
    drawn = []
    with plots.style():
        for name, make in figures_of(comparison):
            plots.save(make(), directory / name)
            drawn.append(name)
    return drawn


def label(metric: str) -> str:
    """How a metric is called in a figure: `ndcg@10` is NDCG@10."""
    name, at, k = metric.partition("@")
    return LABELS.get(name, name.replace("_", " ")) + at + k


def figures_of(comparison: Comparison) -> Iterator[tuple[str, Callable[[], Figure]]]:
    """The figures that the results have the numbers for: names, and what draws each inside `plots.style`."""
    if _has(comparison, "all", ("auc", "uauc")):
        yield "auc-uauc", lambda: _auc_uauc(comparison)
    if _has(comparison, "all", _ranking_metrics(comparison)):
        yield "ranking", lambda: _ranking(comparison)
    if len(_judged(comparison)) > 2:
        yield "radar", lambda: _radar(comparison)
    if all(_has(comparison, group, _main_metrics(comparison)) for group in ("warm", "cold")):
        yield "warm-cold", lambda: _warm_cold(comparison)
    if comparison.baseline is not None and len(comparison.runs) > 1:
        yield "improvement", lambda: _improvement(comparison)
    panels = _curves(comparison.runs)
    if panels:
        yield "curves", lambda: plots.curves("training curves of the models", "epochs", panels)


def curve(model: Artifact) -> pa.Table:
    """The points of a model's training curve that have a value, in the order of `schemas.CURVE`."""
    points = pq.read_table(model.file("curve.parquet"), columns=CURVE.names)
    return points.filter(pc.is_finite(points["value"])).drop_null()


def _auc_uauc(comparison: Comparison) -> Figure:
    runs = _sorted(comparison, "auc")
    losses = [_negative(_value(run, "all", "log_loss")) for run in runs]
    return plots.bars(
        _title(comparison, "AUC and UAUC, sorted by AUC", bars=True),
        [run.name for run in runs],
        {"AUC and UAUC (bars from chance)": {label(name): _values(runs, "all", name) for name in ("auc", "uauc")}},
        chance=CHANCE,
        line=("negative log loss (nats)", losses) if any(value is not None for value, _, _ in losses) else None,
    )


def _ranking(comparison: Comparison) -> Figure:
    main = _main_metrics(comparison)[-1]
    runs = _sorted(comparison, main)
    panels: dict[str, dict[str, Sequence[Value]]] = {}
    for metric in _ranking_metrics(comparison):
        name, _, k = metric.partition("@")
        panels.setdefault(label(name), {})[f"@{k}"] = _values(runs, "all", metric)
    title = _title(comparison, f"HR and NDCG, sorted by {label(main)}", bars=True)
    return plots.bars(title, [run.name for run in runs], panels)


def _radar(comparison: Comparison) -> Figure:
    metrics = _judged(comparison)
    main = _main_metrics(comparison)[-1] if _ranking_metrics(comparison) else "auc"
    runs, title = list(comparison.runs), "all metrics"
    if len(runs) > SHAPES:
        best = _sorted(comparison, main)[:SHAPES]
        title = f"all metrics, the {SHAPES} best of {len(runs)} runs by {label(main)}"
        runs = [run for run in runs if run in best]
    names, goodness = [], []
    for metric in metrics:
        values = [run.value("all", metric) for run in runs]
        known = [value for value in values if value is not None]
        if not known:
            continue
        worst, best_value = (min(known), max(known))[:: direction(metric)]
        extent = best_value - worst
        names.append(f"{label(metric)}\n{worst:.3f} to {best_value:.3f}")
        goodness.append([None if value is None else (value - worst) / extent if extent else 1.0 for value in values])
    shapes = {run.name: [column[place] for column in goodness] for place, run in enumerate(runs)}
    return plots.radar(_title(comparison, title), names, shapes)


def _warm_cold(comparison: Comparison) -> Figure:
    metrics = _main_metrics(comparison)
    runs = _sorted(comparison, metrics[0])
    panels = {label(metric): {group: _values(runs, group, metric) for group in ("warm", "cold")} for metric in metrics}
    warm = comparison.runs[0].about.get("warm")
    return plots.bars(
        _title(comparison, "warm and cold rows" + (f" (warm: {warm})" if warm else ""), bars=True),
        [run.name for run in runs],
        panels,
        chance=0.0 if _ranking_metrics(comparison) else CHANCE,
    )


def _improvement(comparison: Comparison) -> Figure:
    assert comparison.baseline is not None
    base = comparison.baseline
    metrics = _judged(comparison)
    percent = {
        run.name: [
            None if (value := comparison.improvement(run, "all", metric)) is None else 100 * value for metric in metrics
        ]
        for run in comparison.runs
        if run is not base
    }
    return plots.lines(
        _title(comparison, f"relative improvement over {base.name} (dashed); more is better"),
        "relative improvement (%)",
        [label(metric) for metric in metrics],
        percent,
    )


def _curves(runs: Sequence[Run]) -> dict[str, dict[tuple[str, str], tuple[list[float], list[float]]]]:
    """Epochs and values by metric, then by run and split, of models that left a training curve."""
    panels: dict[str, dict[tuple[str, str], tuple[list[float], list[float]]]] = {}
    for run in runs:
        model = run.model()
        if model is None or not model.file("curve.parquet").is_file():
            continue
        points = curve(model)
        for metric in points["metric"].unique().to_pylist():
            of_metric = points.filter(pc.equal(points["metric"], metric))
            for split in of_metric["split"].unique().to_pylist():
                line = of_metric.filter(pc.equal(of_metric["split"], split))
                panel = panels.setdefault(label(metric), {})
                panel[run.name, split] = line["epoch"].to_pylist(), line["value"].to_pylist()
    return dict(list(panels.items())[:PANELS])


def _judged(comparison: Comparison) -> list[str]:
    """The metrics of all rows that have a better end and that some run has a value of."""
    return [name for name in comparison.metrics if direction(name) != 0 and _has(comparison, "all", (name,))]


def _ranking_metrics(comparison: Comparison) -> list[str]:
    return [metric for metric in comparison.metrics if metric.startswith(("hr@", "ndcg@"))]


def _main_metrics(comparison: Comparison) -> list[str]:
    """The two metrics that speak for a task: AUC and UAUC, or HR and NDCG at 10 or the largest k."""
    ranking = _ranking_metrics(comparison)
    if not ranking:
        return ["auc", "uauc"]
    k = "10" if any(metric.endswith("@10") for metric in ranking) else ranking[-1].partition("@")[2]
    return [f"hr@{k}", f"ndcg@{k}"]


def _has(comparison: Comparison, group: str, metrics: Sequence[str]) -> bool:
    return any(run.value(group, metric) is not None for run in comparison.runs for metric in metrics)


def _sorted(comparison: Comparison, metric: str) -> list[Run]:
    """The best first; those without a value last; otherwise as given."""

    def place(run: Run) -> float:
        value = run.value("all", metric)
        return float("inf") if value is None else -value

    return sorted(comparison.runs, key=place)


def _values(runs: Sequence[Run], group: str, metric: str) -> list[Value]:
    return [_value(run, group, metric) for run in runs]


def _value(run: Run, group: str, metric: str) -> Value:
    measure = run.measures.get((group, metric))
    return (measure.value, measure.low, measure.high) if measure is not None else (None, None, None)


def _negative(value: Value) -> Value:
    middle, low, high = (None if number is None else -number for number in value)
    return middle, high, low


def _title(comparison: Comparison, what: str, *, bars: bool = False) -> str:
    """What all runs were evaluated on, what the figure shows, and what its error bars are."""
    first = comparison.runs[0]
    said = f"{first.data_name()}, {first.about['split']}: {what}"
    levels = {run.about.get("confidence") for run in comparison.runs}
    level = levels.pop() if len(levels) == 1 else None
    return said + (f"; error bars: {level:.0%} intervals" if bars and isinstance(level, float) else "")
