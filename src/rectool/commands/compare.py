"""`rectool compare`: results side by side, as tables and figures."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import typer

from rectool import console
from rectool.commands.flags import command
from rectool.commands.making import make_artifact
from rectool.commands.options import Make, Talk
from rectool.errors import RectoolError
from rectool.settings import setting

if TYPE_CHECKING:
    from rectool.artifacts import Draft
    from rectool.data.estimate import Plan
    from rectool.evaluation.compare import Comparison
    from rectool.evaluation.runs import Peers, Run
    from rectool.evaluation.tables import Grid

TABLE_BYTES, FIGURES_BYTES, REPORT_BYTES = 30_000, 1_000_000, 500_000
ROW_BYTES = 200
"""What a test holds per row of predictions, about."""


@dataclass(frozen=True)
class Results:
    """What is compared."""

    result: tuple[Path, ...] = setting(
        argument=True, recorded=False, help="Results, or folders that have them one or two levels below."
    )


@dataclass(frozen=True)
class Comparing:
    """How results are compared."""

    panel: ClassVar[str] = "Comparison"

    baseline: tuple[Path, ...] = setting(
        (),
        metavar="RESULT",
        recorded=False,
        help="The result that the others are measured and tested against; can be given once for each task.",
    )
    name: tuple[str, ...] = setting(
        (), metavar="NAME", help="What the runs are called, one each, in their order; else by their folders."
    )
    draws: int = setting(1000, metavar="N", help="Bootstrap draws over users of each test; 0 for no tests.")
    group_seeds: bool = setting(False, help="Also mean and spread over results that differ in nothing but the seed.")
    no_figures: bool = setting(False, help="Tables only.")
    report: bool = setting(False, help="Also a page for a browser, report.html, that needs no other file.")
    metrics: str | None = setting(
        None, metavar="A,B", recorded=False, help="Metrics to show, such as auc,uauc; all are written."
    )
    groups: str | None = setting(
        None, metavar="A,B", recorded=False, help="Groups to show, such as all,cold; all are written."
    )

    def __post_init__(self) -> None:
        if self.draws < 0:
            raise RectoolError(f"--draws {self.draws} must not be negative")


def register(app: typer.Typer) -> None:
    command(
        app,
        "compare",
        examples=[
            "rectool compare runs/mf-test runs/sasrec-test --baseline runs/bias-test --out runs/compared",
            "rectool compare runs/sweep/results --metrics auc,uauc --groups all --out runs/sweep/compared",
            "rectool compare runs/results --baseline runs/results/bias --baseline runs/results/popularity --report "
            "--out runs/compared",
        ],
        shows_kept=True,
    )(compare)


def compare(results: Results, comparing: Comparing, make: Make, talk: Talk) -> None:
    """Results side by side: every metric by group, improvement over a baseline, tests, figures, a page."""
    from rectool.artifacts import Input
    from rectool.evaluation import compare as comparisons
    from rectool.evaluation import figures, records, runs

    bases = tuple(runs.single(path) for path in comparing.baseline)
    paths = runs.find(results.result, bases)
    comparing = replace(comparing, baseline=bases, name=tuple(runs.named(paths, comparing.name)))
    found = runs.read_all(paths, comparing.name)
    baselines = [found[runs.place(base, paths)] for base in bases]
    tasks = runs.by_task(found, baselines)
    groups = _chosen("--groups", comparing.groups, comparisons.groups_of(found))
    metrics = _chosen("--metrics", comparing.metrics, comparisons.metrics_of(found))
    compared: list[Comparison] = []

    def with_seeds() -> list[tuple[Peers, list[comparisons.Seeds]]]:
        return [(peers, comparisons.by_seed(peers.runs) if comparing.group_seeds else []) for peers in tasks]

    def build(draft: Draft) -> None:
        with console.step(f"comparing {len(found)} results"):
            for peers, seeds in with_seeds():
                compared.append(
                    comparisons.compare(peers.runs, peers.baseline, seeds=seeds, draws=comparing.draws, seed=make.seed)
                )
        records.write(compared, draft.path)
        draft.metrics.update(records.summary(compared))
        if not comparing.no_figures:
            with console.step("drawing") as step:
                drawn = [
                    name
                    for each, place in zip(compared, figures.folders(compared), strict=True)
                    for name in figures.draw(each, draft.path / place)
                ]
                step.amount, step.unit = len(drawn), "figures"
        if comparing.report:
            from rectool.evaluation.page import report

            with console.step("writing the report"):
                report.write(compared, draft.path)

    make_artifact(
        "comparison",
        ["rectool", "compare", *(f"./{path}" if str(path).startswith("-") else str(path) for path in paths)],
        make,
        [comparing],
        plan=lambda: _plan(found, comparing),
        inputs=lambda: [
            Input(_role(run, number, baselines), run.artifact.path, artifact=run.artifact)
            for number, run in enumerate(found, 1)
        ],
        build=build,
        show=lambda _: _show(compared, groups, metrics, comparing, make),
    )
    if not compared and not make.dry_run:  # it was up to date
        compared += records.read(make.out, with_seeds())
        _show(compared, groups, metrics, comparing, make)


def _role(run: Run, number: int, baselines: Sequence[Run]) -> str:
    if not any(run is base for base in baselines):
        return f"result-{number}"
    return "baseline" if len(baselines) == 1 else f"baseline-{run.about['task']}"


def _plan(found: Sequence[Run], comparing: Comparing) -> Plan:
    from rectool.data.estimate import BASE_MEMORY, Plan

    rows = max(run.artifact.manifest.counts["predictions"] for run in found)
    disk = TABLE_BYTES * len(found) + (0 if comparing.no_figures else FIGURES_BYTES)
    disk += REPORT_BYTES if comparing.report else 0
    memory = BASE_MEMORY + (ROW_BYTES * rows if comparing.baseline and comparing.draws else 0)
    return Plan([str(run.artifact.path) for run in found], disk, 0, memory)


def _chosen(flag: str, wanted: str | None, known: list[str]) -> list[str]:
    """What is to be shown. A name without its @k stands for every k."""
    if wanted is None:
        return known
    chosen: list[str] = []
    for name in (part.strip() for part in wanted.split(",")):
        fitting = [each for each in known if name in (each, each.partition("@")[0])]
        if not fitting:
            raise RectoolError(
                f"{flag} {wanted}: no result has {name or 'an empty name'}; there are {', '.join(known)}"
            )
        chosen += [each for each in fitting if each not in chosen]
    return chosen


def _show(
    compared: Sequence[Comparison], groups: list[str], metrics: list[str], comparing: Comparing, make: Make
) -> None:
    from rectool.evaluation import tables

    for comparison in compared:
        if len(compared) > 1:
            console.show(f"\n{tables.headline(comparison)}")
        for grid in (*tables.grids(comparison, groups, metrics), *tables.seed_grids(comparison, groups, metrics)):
            _show_grid(grid)
        for note in tables.notes(comparison):
            console.show(note)
    if comparing.group_seeds and not any(comparison.seeds for comparison in compared):
        console.say("--group-seeds: no two results are of models that differ in nothing but the seed")
    if comparing.report:
        console.say(f"{make.out / 'report.html'} shows all of it in a browser")


def _show_grid(grid: Grid) -> None:
    """Print a table, in as many parts as the width of the terminal asks for."""
    from rich.table import Table
    from rich.text import Text

    widths = [
        max(len(column), *(len(row[place].text) for row in grid.lines)) + 3 for place, column in enumerate(grid.columns)
    ]
    room = shutil.get_terminal_size().columns - 1 - widths[0]
    parts: list[list[int]] = [[]]
    for place in range(1, len(grid.columns)):
        if parts[-1] and sum(widths[other] for other in parts[-1]) + widths[place] > room:
            parts.append([])
        parts[-1].append(place)
    for part in parts:
        table = Table(title=Text(grid.title), title_justify="left", title_style="bold")
        for place in (0, *part):
            table.add_column(Text(grid.columns[place]), justify="right" if place else "left", overflow="fold")
        for row in grid.lines:
            table.add_row(*(Text(row[place].text, style="bold" if row[place].best else "") for place in (0, *part)))
        console.show(table)
