"""Strips of predicted classes against the labels, as SASRecLLM shows those of in-context learning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rectool.errors import RectoolError
from rectool.evaluation.compare import DECISION
from rectool.evaluation.predictions import Predictions
from rectool.evaluation.runs import Run
from rectool.figures.drawing import Drawing
from rectool.figures.settings import Strips
from rectool.plots import PALETTE, set_legend, set_title, shortened

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLORS = (PALETTE[1], PALETTE[0])
"""Of the classes 0 and 1: a light and a dark one, which print apart in grey."""
CLASSES = pa.schema(
    [
        ("run", pa.string()),
        ("place", pa.int64()),  # in the strip, from the left
        ("row", pa.int64()),  # of interactions.parquet
        ("label", pa.int8()),
        ("predicted", pa.int8()),
        ("probability", pa.float32()),
        ("threshold", pa.float64()),
    ]
)


def drawing(runs: Sequence[Run], strips: Strips, seed: int) -> Drawing:
    """The classes that results predict for some of their rows.

    Rows stand in one order in all strips: those of label 0 first, and in each class by the mean of the
    results' ranks, so that doubtful rows meet in the middle.

    Raises:
        RectoolError: a result has no probabilities, or two results have other rows.
    """
    every = [_read(run) for run in runs]
    first = every[0]
    for run, predictions in zip(runs, every, strict=True):
        if not np.array_equal(predictions.row, first.row):
            raise RectoolError(
                f"{run.artifact.path} and {runs[0].artifact.path} predict different rows; evaluate both on the same"
            )
    labelled = np.flatnonzero(first.label >= 0)
    chosen = labelled
    if len(labelled) > strips.rows:
        chosen = np.sort(np.random.default_rng(seed).choice(labelled, strips.rows, replace=False))
    ranks = np.mean([np.argsort(np.argsort(each.score[chosen], kind="stable")) for each in every], axis=0)
    chosen = chosen[np.lexsort((ranks, first.label[chosen]))]
    summary, tables = {}, []
    for run, predictions in zip(runs, every, strict=True):
        assert predictions.probability is not None
        threshold = run.about.get("threshold")
        threshold = DECISION if threshold is None else float(threshold)
        predicted = (predictions.probability >= threshold).astype(np.int8)
        right = predicted[labelled] == predictions.label[labelled]
        summary[run.name] = {
            "accuracy": float(right.mean()),
            "predicted_1": float(predicted[labelled].mean()),
            "rows": len(labelled),
        }
        columns = [
            pa.array([run.name] * len(chosen)), np.arange(len(chosen)), predictions.row[chosen],
            predictions.label[chosen], predicted[chosen], predictions.probability[chosen],
            np.full(len(chosen), threshold),
        ]  # fmt: skip
        tables.append(pa.table(columns, schema=CLASSES))
    data = pa.concat_tables(tables)
    labels = first.label[labelled]
    title = f"{runs[0].data_name()}, {runs[0].about['split']}: predicted classes of {len(chosen):,} rows"
    title += f" (at the right: of all {len(labelled):,})" if len(chosen) < len(labelled) else ""
    notes = [f"{labels.mean():.0%} liked"]
    notes += [f"{one['predicted_1']:.0%} predicted liked\n{one['accuracy']:.1%} right" for one in summary.values()]
    return Drawing("classes", data, lambda: draw(title, data, notes), summary)


def draw(title: str, data: pa.Table, notes: Sequence[str]) -> Figure:
    """One strip of labels, and one per run.

    Args:
        data: as `CLASSES` says.
        notes: what stands at the right of each strip, the labels' first.
    """
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    names = data["run"].unique().to_pylist()
    count = data.num_rows // len(names)
    predicted = np.asarray(data["predicted"]).reshape(len(names), count)
    labels = np.asarray(data["label"])[:count]
    border = int((labels == 0).sum())
    figure = Figure(figsize=(9.0, 0.7 + 0.62 * (len(names) + 1)))
    set_title(figure, title)
    grid = figure.subplots(len(names) + 1, 1, sharex=True, squeeze=False)[:, 0]
    strips: list[tuple[str, NDArray[np.int8]]] = [("label", labels), *zip(names, predicted, strict=True)]
    for axes, (name, strip), note in zip(grid, strips, notes, strict=True):
        axes.imshow(strip[None], aspect="auto", interpolation="nearest", cmap=ListedColormap(COLORS), vmin=0, vmax=1)
        axes.axvline(border - 0.5, color="black", linewidth=1.5)
        axes.set_yticks([0], [shortened(name, 24)], fontweight="bold" if axes is grid[0] else "normal")
        axes.tick_params(length=0)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        axes.annotate(note, (1, 0.5), xycoords="axes fraction", xytext=(6, 0), textcoords="offset points", va="center")
    ends = [(border / 2 - 0.5, "not liked"), ((border + count) / 2 - 0.5, "liked")]
    shown = [(place, name) for (place, name), size in zip(ends, (border, count - border), strict=True) if size]
    grid[-1].set_xticks([place for place, _ in shown], [f"rows whose label is: {name}" for _, name in shown])
    patches = [Patch(color=color) for color in COLORS]
    set_legend(figure, patches, ["not liked (0)", "liked (1)"])
    return figure


def _read(run: Run) -> Predictions:
    predictions = Predictions.read(run.artifact)
    if predictions.probability is None:
        raise RectoolError(f"{run.artifact.path} has no probabilities, and so no predicted classes; leave it out")
    if not (predictions.label >= 0).any():
        raise RectoolError(f"{run.artifact.path} has no labelled rows, and so no classes; leave it out")
    return predictions
