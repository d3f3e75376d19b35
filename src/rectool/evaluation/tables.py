"""A comparison as tables for people: on the terminal, as Markdown, and in the page of a report."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rectool.evaluation.compare import AVERAGED, SIGNIFICANCE, Comparison, Seeds, direction
from rectool.evaluation.runs import Run

MEAN = "+".join(AVERAGED)
"""Heading of the mean of these metrics' improvements."""
REACHABLE = "best reachable"
"""What the line is called that says what the truth of synthetic data reaches."""


@dataclass(frozen=True)
class Cell:
    """What stands in one place of a table.

    Attributes:
        best: whether it is the best of its column.
        value: the number that the text shortens, if it is one.
        ends: of the value's interval.
    """

    text: str
    best: bool = False
    value: float | None = None
    ends: tuple[float, float] | None = None


@dataclass(frozen=True)
class Grid:
    """A table for people: one line per run.

    Attributes:
        group: the rows that it is about.
        metrics: of the columns after the first.
        foot: the line of what the truth reaches, under those of the runs; empty where it is not known.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    group: str
    metrics: Sequence[str]
    foot: Sequence[Cell] = ()

    @property
    def lines(self) -> list[Sequence[Cell]]:
        """All of its lines, the foot last."""
        return [*self.rows, self.foot] if self.foot else list(self.rows)


def grids(comparison: Comparison, groups: Sequence[str], metrics: Sequence[str]) -> list[Grid]:
    """One table per group, with a column per metric that some run has there."""
    made = []
    for group in groups:
        shown = [name for name in metrics if any((group, name) in run.measures for run in comparison.runs)]
        means = [comparison.mean_improvement(run, group) for run in comparison.runs]
        averaged = any(mean is not None for mean in means)
        rows = [
            [
                Cell(run.name + (" (baseline)" if run is comparison.baseline else "")),
                *(_cell(comparison, run, group, name) for name in shown),
                *([Cell(_percent(mean), value=mean)] if averaged else []),
            ]
            for run, mean in zip(comparison.runs, means, strict=True)
        ]
        if shown:
            columns = ["run", *(name + (" ↓" if direction(name) < 0 else "") for name in shown)]
            foot = _foot(comparison, group, shown)
            foot += [Cell("")] if foot and averaged else []
            title = _title(comparison, group)
            made.append(Grid(title, columns + [MEAN] * averaged, rows, group, shown + [MEAN] * averaged, foot))
    return made


def seed_grids(comparison: Comparison, groups: Sequence[str], metrics: Sequence[str]) -> list[Grid]:
    """One table per group of mean ± standard deviation over the seeds of a model."""
    made = []
    for group in groups:
        shown = [name for name in metrics if any((group, name) in each.runs[0].measures for each in comparison.seeds)]
        rows = [
            [Cell(each.label), *(_with_spread(comparison, each, group, name) for name in shown)]
            for each in comparison.seeds
        ]
        if shown and rows:
            made.append(Grid(f"{group}, over seeds", ["model", *shown], rows, group, shown))
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
    if comparison.reachable:
        said.append(
            f"The {REACHABLE} is the score of the truth that the synthetic data were drawn from: "
            "no model beats it but by chance."
        )
    return said


def markdown(comparison: Comparison) -> str:
    """The whole table as a Markdown document."""
    lines = [f"# {_escaped(headline(comparison))}", ""]
    for grid in (
        *grids(comparison, comparison.groups, comparison.metrics),
        *seed_grids(comparison, comparison.groups, comparison.metrics),
    ):
        lines += [f"## {_escaped(grid.title)}", ""]
        lines.append("| " + " | ".join(map(_escaped, grid.columns)) + " |")
        lines.append("| --- |" + " ---: |" * (len(grid.columns) - 1))
        for row in grid.lines:
            lines.append("| " + " | ".join(_bold(cell) if cell.best else _escaped(cell.text) for cell in row) + " |")
        lines.append("")
    lines += [f"- {_escaped(note)}" for note in notes(comparison)]
    return "\n".join(lines) + "\n"


def headline(comparison: Comparison) -> str:
    """What all runs were evaluated on."""
    run = comparison.runs[0]
    said = f"{run.data_name()}, {run.about['split']}, {run.about['task']}"
    warm, exclude = run.about.get("warm"), run.about.get("exclude")
    return said + (f", warm: {warm}" if warm else "") + (f", excluded: {exclude}" if exclude else "")


def number(value: float) -> str:
    """A metric's value with as many digits as mean something."""
    return f"{value:.4f}" if abs(value) < 10 else f"{value:,.1f}"


def _title(comparison: Comparison, group: str) -> str:
    counts = {count for run in comparison.runs if (count := run.rows(group)) is not None}
    if len(counts) != 1:
        return group
    rows = counts.pop()
    return f"{group} ({rows:,} row{'s' * (rows != 1)})"


def _cell(comparison: Comparison, run: Run, group: str, metric: str) -> Cell:
    measure = run.measures.get((group, metric))
    if measure is None or measure.value is None:
        return Cell("")
    mark = "*" if comparison.beyond_chance(run.name, group, metric) else ""
    improvement = _percent(comparison.improvement(run, group, metric))
    text = number(measure.value) + mark + (f" ({improvement})" if improvement else "")
    ends = None if measure.low is None or measure.high is None else (measure.low, measure.high)
    return Cell(text, measure.value == comparison.best(group, metric), measure.value, ends)


def _with_spread(comparison: Comparison, seeds: Seeds, group: str, metric: str) -> Cell:
    mean, spread = seeds.mean(group, metric), seeds.spread(group, metric)
    if mean is None or spread is None:
        return Cell("")
    mark = "*" if comparison.beyond_chance(seeds.label, group, metric) else ""
    return Cell(f"{number(mean)}{mark} ± {number(spread)}", value=mean)


def _foot(comparison: Comparison, group: str, metrics: Sequence[str]) -> list[Cell]:
    values = [comparison.reachable.get((group, name)) for name in metrics]
    if all(value is None for value in values):
        return []
    return [Cell(REACHABLE), *(Cell("") if value is None else Cell(number(value), value=value) for value in values)]


def _percent(value: float | None) -> str:
    return "" if value is None else f"{round(value, 3) + 0.0:+.1%}"  # no -0.0%


def _bold(cell: Cell) -> str:
    value, blank, rest = cell.text.partition(" ")
    return f"**{value.rstrip('*')}**{_escaped(value[len(value.rstrip('*')) :] + blank + rest)}"


def _escaped(text: str) -> str:
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", text)
