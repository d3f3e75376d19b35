"""A comparison as a table: cells for people (terminal, Markdown), figures for machines (CSV, JSON)."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rectool.evaluation.compare import AVERAGED, SIGNIFICANCE, Comparison, Seeds, direction
from rectool.evaluation.runs import Run

MEAN = "+".join(AVERAGED)
"""Heading of the mean of these metrics' improvements."""
KEPT = ("model", "threshold", "threshold_from", "repeats", "draws", "confidence")
"""Fields of a result's metrics.json that are kept of each run, beside those that all runs share."""


@dataclass(frozen=True)
class Cell:
    """What stands in one place of a table, and whether it is the best of its column."""

    text: str
    best: bool = False


@dataclass(frozen=True)
class Grid:
    """A table for people: one line per run."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]


def write(comparison: Comparison, seeds: Sequence[Seeds], directory: Path) -> None:
    """Write the table as `comparison.json`, `comparison.csv` and `comparison.md`."""
    found = json.dumps(document(comparison, seeds), indent=1, ensure_ascii=False, allow_nan=False)
    (directory / "comparison.json").write_text(f"{found}\n", "utf-8")
    (directory / "comparison.csv").write_text(to_csv(comparison), "utf-8")
    (directory / "comparison.md").write_text(markdown(comparison, seeds), "utf-8")


def grids(comparison: Comparison, groups: Sequence[str], metrics: Sequence[str]) -> list[Grid]:
    """One table per group, with a column per metric that some run has there."""
    made = []
    for group in groups:
        shown = [name for name in metrics if any((group, name) in run.measures for run in comparison.runs)]
        averaged = any(comparison.mean_improvement(run, group) is not None for run in comparison.runs)
        rows = [
            [
                Cell(run.name + (" (baseline)" if run is comparison.baseline else "")),
                *(_cell(comparison, run, group, name) for name in shown),
                *([Cell(_percent(comparison.mean_improvement(run, group)))] if averaged else []),
            ]
            for run in comparison.runs
        ]
        if shown:
            columns = ["run", *(name + (" ↓" if direction(name) < 0 else "") for name in shown)]
            made.append(Grid(_title(comparison, group), columns + [MEAN] * averaged, rows))
    return made


def seed_grids(
    comparison: Comparison, seeds: Sequence[Seeds], groups: Sequence[str], metrics: Sequence[str]
) -> list[Grid]:
    """One table per group of mean ± standard deviation over the seeds of a model."""
    made = []
    for group in groups:
        shown = [name for name in metrics if any((group, name) in each.runs[0].measures for each in seeds)]
        rows = [
            [Cell(each.label), *(Cell(_with_spread(comparison, each, group, name)) for name in shown)] for each in seeds
        ]
        if shown and rows:
            made.append(Grid(f"{group}, over seeds", ["model", *shown], rows))
    return made


def notes(comparison: Comparison) -> list[str]:
    """How to read the tables, one sentence each."""
    said = ["The best of a column is bold; of those with ↓ the lowest."]
    base = comparison.baseline
    if base is not None:
        said.append(f"In brackets, the relative improvement over {base.name}: more is better, under ↓ too.")
    if any(
        comparison.mean_improvement(run, group) is not None for run in comparison.runs for group in comparison.groups
    ):
        said.append(f"{MEAN} is the mean of the two improvements.")
    if base is not None and comparison.differences:
        said.append(
            f"* differs from {base.name} beyond chance: paired bootstrap over users, {comparison.draws:,} draws, "
            f"two-sided p < {SIGNIFICANCE}, each figure tested by itself."
        )
    counted = comparison.runs[0].measures.get(("all", "uauc"))
    if counted is not None and counted.users is not None and counted.skipped_users:
        both = counted.users - counted.skipped_users
        said.append(f"UAUC is over {both:,} of {counted.users:,} users: those with rows of both classes.")
    return said


def markdown(comparison: Comparison, seeds: Sequence[Seeds] = ()) -> str:
    """The whole table as a Markdown document."""
    first = comparison.runs[0]
    lines = [f"# {_escaped(headline(first))}", ""]
    for grid in (
        *grids(comparison, comparison.groups, comparison.metrics),
        *seed_grids(comparison, seeds, comparison.groups, comparison.metrics),
    ):
        lines += [f"## {_escaped(grid.title)}", ""]
        lines.append("| " + " | ".join(map(_escaped, grid.columns)) + " |")
        lines.append("| --- |" + " ---: |" * (len(grid.columns) - 1))
        for row in grid.rows:
            lines.append("| " + " | ".join(_bold(cell) if cell.best else _escaped(cell.text) for cell in row) + " |")
        lines.append("")
    lines += [f"- {_escaped(note)}" for note in notes(comparison)]
    return "\n".join(lines) + "\n"


def to_csv(comparison: Comparison) -> str:
    """One line per run and group: of each metric its value, interval, improvement and p-value, or nothing."""
    columns = ["run", "group", "rows", f"{MEAN}_improvement"]
    parts = ("", "_low", "_high", "_improvement", "_p_value")
    columns += [metric + part for metric in comparison.metrics for part in parts]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for group in comparison.groups:
        for run in comparison.runs:
            if not any(where == group for where, _ in run.measures):
                continue
            row: list[Any] = [run.name, group, _rows(run, group), comparison.mean_improvement(run, group)]
            for metric in comparison.metrics:
                measure = run.measures.get((group, metric))
                difference = comparison.differences.get((run.name, group, metric))
                row += [measure.value, measure.low, measure.high] if measure else [None] * 3
                row += [comparison.improvement(run, group, metric), difference.p_value if difference else None]
            writer.writerow(row)
    return text.getvalue()


def document(comparison: Comparison, seeds: Sequence[Seeds] = ()) -> dict[str, Any]:
    """All figures as one JSON object: a line per run, group and metric."""
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
            for each in seeds
        ],
    }


def summary(comparison: Comparison) -> dict[str, Any]:
    """The final figures for the manifest: of all rows, each run's metrics, improvement and what is beyond chance."""
    base = comparison.baseline
    made: dict[str, Any] = {
        "runs": {
            run.name: {name: run.value("all", name) for name in comparison.metrics if ("all", name) in run.measures}
            for run in comparison.runs
        }
    }
    if base is not None:
        others = [run for run in comparison.runs if run is not base]
        made["baseline"] = base.name
        made["mean_improvement"] = {run.name: comparison.mean_improvement(run, "all") for run in others}
        made["beyond_chance"] = {
            run.name: [name for name in comparison.metrics if comparison.beyond_chance(run.name, "all", name)]
            for run in others
        }
    return made


def headline(run: Run) -> str:
    """What all runs were evaluated on."""
    said = f"{run.data_name()}, {run.about['split']}, {run.about['task']}"
    warm, exclude = run.about.get("warm"), run.about.get("exclude")
    return said + (f", warm: {warm}" if warm else "") + (f", excluded: {exclude}" if exclude else "")


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


def _title(comparison: Comparison, group: str) -> str:
    rows = {count for run in comparison.runs if (count := _rows(run, group)) is not None}
    return f"{group} ({rows.pop():,} rows)" if len(rows) == 1 else group


def _rows(run: Run, group: str) -> int | None:
    counts = [measure.rows for (where, _), measure in run.measures.items() if where == group]
    return max((count for count in counts if count is not None), default=None)


def _cell(comparison: Comparison, run: Run, group: str, metric: str) -> Cell:
    value = run.value(group, metric)
    if value is None:
        return Cell("")
    mark = "*" if comparison.beyond_chance(run.name, group, metric) else ""
    improvement = _percent(comparison.improvement(run, group, metric))
    text = _number(value) + mark + (f" ({improvement})" if improvement else "")
    return Cell(text, best=value == comparison.best(group, metric))


def _with_spread(comparison: Comparison, seeds: Seeds, group: str, metric: str) -> str:
    mean, spread = seeds.mean(group, metric), seeds.spread(group, metric)
    mark = "*" if comparison.beyond_chance(seeds.label, group, metric) else ""
    return "" if mean is None or spread is None else f"{_number(mean)}{mark} ± {_number(spread)}"


def _number(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 10 else f"{value:,.1f}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{round(value, 3) + 0.0:+.1%}"  # no -0.0%


def _bold(cell: Cell) -> str:
    value, blank, rest = cell.text.partition(" ")
    return f"**{value.rstrip('*')}**{_escaped(value[len(value.rstrip('*')) :] + blank + rest)}"


def _escaped(text: str) -> str:
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", text)
