"""Training curves of stages one after the other, with the borders between them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from rectool.artifacts import Artifact
from rectool.artifacts.schemas import CURVE
from rectool.errors import RectoolError
from rectool.evaluation.figures import PANELS, curve, label
from rectool.figures.drawing import Drawing
from rectool.plots import CURVE_POINTS, DASHES, MARKERS, PALETTE, set_legend, set_title, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STAGES = pa.schema([("stage", pa.string()), *CURVE, ("best", pa.bool_())])
"""`best`: at the step whose weights were kept."""
FAR = 5
"""A panel of losses whose highest value is this many times its lowest is logarithmic."""
FEW_METRICS = 4
"""More are drawn in two columns."""
AIR = 0.04
"""Of a stage's width, between its first point and its border."""


def drawing(stages: Sequence[Artifact], names: Sequence[str]) -> Drawing:
    """The curves of stages, in their order.

    Raises:
        RectoolError: one has no training curve.
    """
    tables = []
    for stage, name in zip(stages, names, strict=True):
        if "curve.parquet" not in stage.manifest.files:
            raise RectoolError(f"{stage.path} has no training curve: it is no model that was trained step by step")
        points = curve(stage)
        if points.num_rows == 0:
            raise RectoolError(f"{stage.path} has a training curve without a point")
        kept = stage.manifest.metrics.get("best_step")
        best = pc.equal(points["step"], kept) if kept is not None else pa.array([False] * points.num_rows)
        columns = [pa.array([name] * points.num_rows), *(points[column] for column in CURVE.names), best]
        tables.append(pa.table(columns, names=STAGES.names).cast(STAGES))
    data = pa.concat_tables(tables)
    return Drawing("curves", data, lambda: draw(data))


def draw(data: pa.Table) -> Figure:
    """One panel per metric, the stages side by side, all of them equally wide.

    Args:
        data: as `STAGES` says.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    stages = data["stage"].unique().to_pylist()
    splits = data["split"].unique().to_pylist()
    metrics = data["metric"].unique().to_pylist()[:PANELS]
    columns = 1 if len(metrics) <= FEW_METRICS else 2
    rows = math.ceil(len(metrics) / columns)
    width = min(max(6.0 / columns, 1.0 + 1.5 * len(stages)), 9.0)
    figure = Figure(figsize=(columns * width, 0.9 + 1.75 * rows))
    set_title(figure, "training curves by stage")
    grid = figure.subplots(rows, columns, sharex=True, squeeze=False)
    ends = [pc.max(_part(data, "stage", stage)["epoch"]).as_py() or 1.0 for stage in stages]
    for axes, metric in zip(grid.ravel(), metrics, strict=False):
        panel = _part(data, "metric", metric)
        for place, (stage, end) in enumerate(zip(stages, ends, strict=True)):
            for split, color in zip(splits, PALETTE, strict=False):
                line = _part(_part(panel, "stage", stage), "split", split)
                if line.num_rows:
                    _draw_line(axes, line, place, end, color, DASHES[splits.index(split) % len(DASHES)])
        if metric.endswith("loss"):
            _scale(axes, panel)
        axes.set_ylabel(label(metric))
        _draw_borders(axes, len(stages))
    for axes in grid.ravel()[len(metrics) :]:
        axes.set_visible(False)
    for column in range(columns):
        _name_stages(grid[0, column], stages)
        lowest = grid[(len(metrics) - 1 - column) // columns, column]
        _tick_epochs(lowest, ends)
        lowest.tick_params(axis="x", labelbottom=True)
        lowest.set_xlabel("epochs of each stage (all drawn equally wide)")
    handles = [
        Line2D([], [], color=color, linestyle=DASHES[place % len(DASHES)])
        for place, (_, color) in enumerate(zip(splits, PALETTE, strict=False))
    ]
    names = list(splits)
    if pc.any(data["best"]).as_py():
        handles.append(Line2D([], [], color="black", marker="*", linestyle="", markersize=8))
        names.append("kept: the best on validation")
    set_legend(figure, handles, names)
    return figure


def _part(data: pa.Table, column: str, value: str) -> pa.Table:
    return data.filter(pc.equal(data[column], value))


def _at(place: int, share: float) -> float:
    """Where a share of a stage stands."""
    return place + AIR + (1 - 2 * AIR) * share


def _draw_line(axes: Axes, line: pa.Table, place: int, end: float, color: str, dashes: str) -> None:
    every = math.ceil(line.num_rows / CURVE_POINTS)
    kept = [*range(0, line.num_rows - 1, every), line.num_rows - 1]
    epochs, values, best = (line[name].to_pylist() for name in ("epoch", "value", "best"))
    axes.plot(
        [_at(place, epochs[point] / end) for point in kept],
        [values[point] for point in kept],
        color=color,
        linestyle=dashes,
        linewidth=1.3,
        marker=MARKERS[0] if len(kept) <= 12 else "",
        markersize=2.5,
    )
    if line["split"][0].as_py() != "train":
        stars = [point for point, is_best in enumerate(best) if is_best]
        axes.plot(
            [_at(place, epochs[point] / end) for point in stars],
            [values[point] for point in stars],
            linestyle="",
            marker="*",
            markersize=9,
            color="black",
            zorder=3,
        )


def _scale(axes: Axes, panel: pa.Table) -> None:
    """Logarithmic where stages with different objectives would flatten each other."""
    from matplotlib.ticker import LogFormatter

    ends = pc.min_max(panel["value"]).as_py()
    if ends["min"] > 0 and ends["max"] > FAR * ends["min"]:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.5)))


def _draw_borders(axes: Axes, count: int) -> None:
    axes.set_xlim(0, count)
    axes.grid(axis="x", visible=False)
    for place in range(count):
        if place % 2:
            axes.axvspan(place, place + 1, color="black", alpha=0.05, linewidth=0)
        if place:
            axes.axvline(place, color="black", linewidth=1, linestyle="--")


def _name_stages(axes: Axes, stages: Sequence[str]) -> None:
    for place, name in enumerate(stages):
        axes.annotate(
            shortened(name, 24), (place + 0.5, 1), xycoords=("data", "axes fraction"), xytext=(0, 4),
            textcoords="offset points", ha="center", va="bottom", fontweight="bold",
        )  # fmt: skip


def _tick_epochs(axes: Axes, ends: Sequence[float]) -> None:
    """Round numbers of epochs inside each stage."""
    from matplotlib.ticker import MaxNLocator

    ticks, names = [], []
    for place, end in enumerate(ends):
        for epoch in MaxNLocator(4, integer=end >= 2).tick_values(0, end):
            if 0 <= epoch <= end:
                ticks.append(_at(place, epoch / end))
                names.append(f"{epoch:g}")
    axes.set_xticks(ticks, names)
