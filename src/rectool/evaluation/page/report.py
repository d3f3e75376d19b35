"""Writes `report.html`: tables that sort, figures, and where every run comes from, in one file.

The page loads nothing: its policy lets run what was hashed here, and no more. Every text goes into it escaped and
without characters that a browser would obey, such as those that turn the direction of writing.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from rectool import __version__
from rectool.console import printable
from rectool.evaluation import figures, tables
from rectool.evaluation.compare import Comparison, direction
from rectool.evaluation.page import origins, svg
from rectool.evaluation.tables import Grid

FILE = "report.html"
FIGURE_BYTES = 1_000_000
"""A figure of more is named, but not shown."""
MINOR = (
    "ece",
    "accuracy",
    "precision",
    "recall",
    "macro_precision",
    "macro_recall",
    "macro_f1",
    "coverage",
    "popularity",
)
"""Metrics whose columns are shown when asked for, where the page can be asked."""


@dataclass(frozen=True)
class Figure:
    """A figure of the page; `drawing` is None where the file is too large."""

    name: str
    file: str
    size: str
    drawing: Markup | None


@dataclass(frozen=True)
class Task:
    """What the page shows of one task."""

    comparison: Comparison
    headline: str
    grids: Sequence[Grid]
    seed_grids: Sequence[Grid]
    notes: Sequence[str]
    intervals: str
    figures: Sequence[Figure]
    settings: Sequence[origins.Setting]


def write(comparisons: Sequence[Comparison], directory: Path) -> None:
    """Write the page beside the figures of the comparisons, which it shows where they were drawn.

    The same comparisons and figures give the same bytes.
    """
    every = [[origins.of(run) for run in comparison.runs] for comparison in comparisons]
    flat = [origin for of_task in every for origin in of_task]
    places = figures.folders(comparisons)
    here = Path(__file__).parent
    css, script = (Markup((here / name).read_text("utf-8")) for name in ("report.css", "report.js"))  # noqa: S704 - ours
    page = _environment(here).get_template(FILE)
    text = page.render(
        policy=f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(css)}'; "
        "base-uri 'none'; form-action 'none'",
        css=css,
        script=script,
        tasks=[
            _task(comparison, of_task, directory, place)
            for comparison, of_task, place in zip(comparisons, every, places, strict=True)
        ],
        runs=flat,
        commands=origins.commands([origin.node for origin in flat]),
        stages=origins.stages(flat),
        data=origins.data(comparisons),
        versions=origins.versions(flat),
        rectool=__version__,
    )
    (directory / FILE).write_text(text, "utf-8")


def _task(comparison: Comparison, runs: Sequence[origins.Origin], directory: Path, place: str) -> Task:
    shown = comparison.groups, comparison.metrics
    levels = {run.about.get("confidence") for run in comparison.runs}
    level = levels.pop() if len(levels) == 1 else None
    return Task(
        comparison,
        tables.headline(comparison),
        tables.grids(comparison, *shown),
        tables.seed_grids(comparison, *shown),
        tables.notes(comparison),
        f"{level:.0%} intervals" if isinstance(level, float) else "intervals",
        _figures(directory, place),
        origins.differing(runs),
    )


def _figures(directory: Path, place: str) -> list[Figure]:
    found = []
    for path in sorted((directory / place).glob("*.svg")):
        size, prefix = path.stat().st_size, f"{place}-{path.stem}-".replace("/", "-")
        said = path.stem.replace("-", " ")
        drawn = svg.inline(path.read_text("utf-8"), prefix, said) if size <= FIGURE_BYTES else None
        drawing = None if drawn is None else Markup(drawn)  # noqa: S704 - what `inline` lets through
        found.append(Figure(said, f"{place}/{path.name}", f"{size / 1e6:.1f} MB", drawing))
    return found


def _environment(here: Path) -> Environment:
    made = Environment(
        loader=FileSystemLoader(here),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_safe,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(number=tables.number, time=_time, size=_size)
    made.tests["minor"] = lambda metric: metric.partition("@")[0] in MINOR
    made.globals.update(direction=direction)
    return made


def _safe(value: Any) -> Any:
    return value if isinstance(value, Markup) else printable(str(value))


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _time(seconds: float | None) -> str:
    """`3.1 s`, `12 min 05 s`, `2 h 03 min`."""
    if seconds is None:
        return ""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def _size(count: int | None) -> str:
    return "" if count is None else f"{count / (1 << 20):,.0f} MiB"
