"""Comparisons as files: all figures for machines as JSON and CSV, and tables for people as Markdown.

Of results of one task, a file is what is written of the task; of several, it holds them task by task.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from rectool.evaluation import tables
from rectool.evaluation.bootstrap import Difference
from rectool.evaluation.compare import AVERAGED, SIGNIFICANCE, Comparison, Seeds, groups_of, metrics_of
from rectool.evaluation.runs import Peers, Run

DOCUMENT = "comparison.json"
KEPT = ("model", "threshold", "threshold_from", "repeats", "draws", "confidence")
"""Fields of a result's metrics.json that are kept of each run, beside those that all runs share."""


def write(comparisons: Sequence[Comparison], directory: Path) -> None:
    """Write `comparison.json`, `comparison.csv` and `comparison.md`."""
    found = json.dumps(document(comparisons), indent=1, ensure_ascii=False, allow_nan=False)
    (directory / DOCUMENT).write_text(f"{found}\n", "utf-8")
    (directory / "comparison.csv").write_text(to_csv(comparisons), "utf-8")
    (directory / "comparison.md").write_text("\n".join(map(tables.markdown, comparisons)), "utf-8")


def read(directory: Path, compared: Sequence[tuple[Peers, Sequence[Seeds]]]) -> list[Comparison]:
    """The comparisons of these results and their seeds that were written into a folder."""
    found = json.loads((directory / DOCUMENT).read_text("utf-8"))
    each = [found] if len(compared) == 1 else found["tasks"]
    return [recall(of_task, peers, seeds) for of_task, (peers, seeds) in zip(each, compared, strict=True)]


def recall(of_task: Mapping[str, Any], peers: Peers, seeds: Sequence[Seeds] = ()) -> Comparison:
    """The comparison that `described` says it is, of these results and seeds."""
    lines = [(line["run"], line) for line in of_task["metrics"]]
    lines += [(each["label"], line) for each in of_task["seeds"] for line in each["metrics"]]
    differences = {
        (name, line["group"], line["metric"]): Difference(
            **{field.name: line["difference"][field.name] for field in fields(Difference)}
        )
        for name, line in lines
        if line["difference"]
    }
    test = of_task["test"] or {"draws": 0, "seed": 0}
    return Comparison(
        peers.runs,
        peers.baseline,
        groups_of(peers.runs),
        metrics_of(peers.runs),
        differences,
        draws=test["draws"],
        seed=test["seed"],
        seeds=seeds,
        reachable={(line["group"], line["metric"]): line["value"] for line in of_task["reachable"]},
    )


def document(comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """The content of `comparison.json`."""
    each = [described(comparison) for comparison in comparisons]
    return each[0] if len(each) == 1 else {"tasks": each}


def described(comparison: Comparison) -> dict[str, Any]:
    """All figures of a task as one JSON object: a line per run, group and metric."""
    first, base = comparison.runs[0], comparison.baseline
    return {
        **{name: first.about.get(name) for name in ("task", "split", "warm", "exclude", "k")},
        "data": first.data().digests,
        "baseline": base.name if base else None,
        "test": {
            "method": "paired bootstrap over users, two-sided",
            "draws": comparison.draws,
            "seed": comparison.seed,
            "significance": SIGNIFICANCE,
        }
        if comparison.differences
        else None,
        "runs": [
            {"name": run.name, **{name: run.about.get(name) for name in KEPT}, "digest": run.digest}
            for run in comparison.runs
        ],
        "metrics": [
            _figures(comparison, run, group, metric)
            for group in comparison.groups
            for run in comparison.runs
            for metric in comparison.metrics
            if (group, metric) in run.measures
        ],
        "mean_improvement": [
            {"run": run.name, "group": group, "of": list(AVERAGED), "value": mean}
            for group in comparison.groups
            for run in comparison.runs
            if (mean := comparison.mean_improvement(run, group)) is not None
        ],
        "reachable": [
            {"group": group, "metric": metric, "value": value}
            for (group, metric), value in comparison.reachable.items()
        ],
        "seeds": [
            {
                "name": each.name,
                "label": each.label,
                "runs": [run.name for run in each.runs],
                "metrics": [
                    {
                        "group": group,
                        "metric": metric,
                        "mean": each.mean(group, metric),
                        "spread": each.spread(group, metric),
                        "difference": _tested(comparison, each.label, group, metric),
                    }
                    for group in comparison.groups
                    for metric in comparison.metrics
                    if (group, metric) in each.runs[0].measures
                ],
            }
            for each in comparison.seeds
        ],
    }


def to_csv(comparisons: Sequence[Comparison]) -> str:
    """One line per run and group: of each metric its value, interval, improvement and p-value, or nothing.

    Of several tasks, a column says which, and metrics of other tasks are empty.
    """
    several = len(comparisons) > 1
    metrics = list(dict.fromkeys(metric for each in comparisons for metric in each.metrics))
    parts = ("", "_low", "_high", "_improvement", "_p_value")
    columns = ["task"] * several + ["run", "group", "rows", f"{tables.MEAN}_improvement"]
    columns += [metric + part for metric in metrics for part in parts]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for comparison in comparisons:
        for group in comparison.groups:
            for run in comparison.runs:
                if any(where == group for where, _ in run.measures):
                    writer.writerow([comparison.task] * several + _row(comparison, run, group, metrics))
    return text.getvalue()


def summary(comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """The final figures for the manifest, of all rows; of several tasks, under `tasks` by name."""
    if len(comparisons) == 1:
        return _summary(comparisons[0])
    return {"tasks": {comparison.task: _summary(comparison) for comparison in comparisons}}


def _summary(comparison: Comparison) -> dict[str, Any]:
    """Each run's metrics, improvement and what is beyond chance."""
    base = comparison.baseline
    made: dict[str, Any] = {
        "runs": {
            run.name: {name: run.value("all", name) for name in comparison.metrics if ("all", name) in run.measures}
            for run in comparison.runs
        }
    }
    if reachable := {metric: value for (group, metric), value in comparison.reachable.items() if group == "all"}:
        made["reachable"] = reachable
    if base is not None:
        others = [run for run in comparison.runs if run is not base]
        made["baseline"] = base.name
        made["mean_improvement"] = {run.name: comparison.mean_improvement(run, "all") for run in others}
        made["beyond_chance"] = {
            run.name: [name for name in comparison.metrics if comparison.beyond_chance(run.name, "all", name)]
            for run in others
        }
    return made


def _row(comparison: Comparison, run: Run, group: str, metrics: Sequence[str]) -> list[Any]:
    row: list[Any] = [run.name, group, run.rows(group), comparison.mean_improvement(run, group)]
    for metric in metrics:
        measure = run.measures.get((group, metric))
        difference = comparison.differences.get((run.name, group, metric))
        row += [measure.value, measure.low, measure.high] if measure else [None] * 3
        row += [comparison.improvement(run, group, metric), difference.p_value if difference else None]
    return row


def _tested(comparison: Comparison, name: str, group: str, metric: str) -> dict[str, Any] | None:
    """What the test against the baseline found for a run, or for the mean of some seeds."""
    difference = comparison.differences.get((name, group, metric))
    if difference is None:
        return None
    return {**asdict(difference), "beyond_chance": comparison.beyond_chance(name, group, metric)}


def _figures(comparison: Comparison, run: Run, group: str, metric: str) -> dict[str, Any]:
    measure = run.measures[group, metric]
    return {
        "run": run.name,
        "group": group,
        "metric": metric,
        "value": measure.value,
        "low": measure.low,
        "high": measure.high,
        "spread": measure.spread,
        "users": measure.users,
        "rows": measure.rows,
        "skipped_users": measure.skipped_users,
        "best": measure.value is not None and measure.value == comparison.best(group, metric),
        "improvement": comparison.improvement(run, group, metric),
        "difference": _tested(comparison, run.name, group, metric),
    }
