"""Figures of results side by side, as `rectool compare` draws them, each alone and with its data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import pyarrow as pa

from rectool.errors import RectoolError
from rectool.evaluation.compare import Comparison, compare
from rectool.evaluation.figures import figures_of
from rectool.evaluation.runs import Run
from rectool.figures.drawing import Drawing

Wanted = Literal["bars", "radar", "improvement"]

FIGURES: dict[Wanted, tuple[str, ...]] = {
    "bars": ("auc-uauc", "ranking", "warm-cold"),
    "radar": ("radar",),
    "improvement": ("improvement",),
}
NEEDS: dict[Wanted, str] = {
    "bars": "results with AUC, UAUC, HR or NDCG",
    "radar": "results with three metrics or more",
    "improvement": "two results or more",
}
MEASURES = pa.schema(
    [
        ("run", pa.string()),
        ("group", pa.string()),
        ("metric", pa.string()),
        ("value", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("improvement", pa.float64()),  # over the baseline, 0.1 for 10 %; more is better whatever the metric
    ]
)


def drawings(wanted: Wanted, runs: Sequence[Run], baseline: Run | None = None) -> list[Drawing]:
    """The figures of a kind that the results have the numbers for.

    Raises:
        RectoolError: there is none.
    """
    comparison = compare(runs, baseline, draws=0)
    data = measures(comparison)
    found = [Drawing(name, data, draw) for name, draw in figures_of(comparison) if name in FIGURES[wanted]]
    if not found:
        raise RectoolError(f"plot {wanted} needs {NEEDS[wanted]}; {runs[0].artifact.path} alone does not do")
    return found


def measures(comparison: Comparison) -> pa.Table:
    """A row per run, group and metric, see `MEASURES`."""
    rows = [
        {
            "run": run.name,
            "group": group,
            "metric": metric,
            "value": measure.value,
            "low": measure.low,
            "high": measure.high,
            "improvement": comparison.improvement(run, group, metric),
        }
        for run in comparison.runs
        for (group, metric), measure in run.measures.items()
    ]
    return pa.Table.from_pylist(rows, schema=MEASURES)
