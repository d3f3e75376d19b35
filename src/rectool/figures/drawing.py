"""A figure with the data behind it, and both on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from rectool import plots

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Drawing:
    """A figure that can be drawn.

    Attributes:
        name: of its files.
        data: what it shows.
        draw: makes it, inside `plots.style`.
        summary: figures for the manifest.
    """

    name: str
    data: pa.Table
    draw: Callable[[], Figure]
    summary: dict[str, Any] = field(default_factory=dict)


def write(drawings: Iterable[Drawing], directory: Path) -> dict[str, Any]:
    """Write each figure as `NAME.png`, `NAME.svg` and `NAME.parquet`.

    Returns:
        The summary of each figure by its name.
    """
    found = {}
    with plots.style():
        for drawing in drawings:
            pq.write_table(drawing.data, directory / f"{drawing.name}.parquet", compression="zstd")
            plots.save(drawing.draw(), directory / drawing.name)
            found[drawing.name] = {"rows": drawing.data.num_rows, **drawing.summary}
    return found
