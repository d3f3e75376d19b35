"""Figures from tables: names and numbers in, PNG and SVG out, the same bytes for the same numbers.

Everything is drawn inside `style`, which sets aside whatever the user's own matplotlib settings say.
A value with its interval is (value, low, high), each None where undefined.
"""

from __future__ import annotations

import logging
import math
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Value: TypeAlias = tuple[float | None, float | None, float | None]

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#000000", "#999999")
"""Okabe and Ito (2008), told apart with any colour vision; grey stands for their yellow, too pale for lines."""
DASHES: Any = ("-", "--", ":", "-.")
MARKERS = "osD^vPX*"
CURVE_POINTS = 500
"""Points of a line that are drawn: more cannot be seen."""
LONGEST_NAME = 41
LETTERS = 11
"""To an inch of a title or legend, about."""
NEAR, FAR = 10, 40
"""Lines that go beyond FAR are drawn on an axis that is logarithmic beyond NEAR."""
INNER = 0.2
"""Radius of the worst value of a radar chart, so that shapes do not collapse in its centre."""


@contextmanager
def style() -> Iterator[None]:
    """Inside, matplotlib draws in our style: no dates, no random ids, names taken as they are written."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it tells about its font cache
    import matplotlib

    ours: Any = {
        "axes.axisbelow": True,
        "axes.grid": True,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlesize": "medium",
        "figure.constrained_layout.use": True,
        "font.size": 9,
        "grid.alpha": 0.3,
        "legend.frameon": False,
        "savefig.dpi": 150,
        "svg.fonttype": "none",
        "svg.hashsalt": "rectool",
        "text.parse_math": False,
    }
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a name in letters that the font lacks
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(ours)
        yield


def save(figure: Figure, stem: Path) -> None:
    """Write `STEM.png` and `STEM.svg`."""
    figure.savefig(stem.with_name(f"{stem.name}.png"), metadata={"Software": None})
    figure.savefig(stem.with_name(f"{stem.name}.svg"), metadata={"Date": None, "Creator": None})


def bars(
    title: str,
    names: Sequence[str],
    panels: Mapping[str, Mapping[str, Sequence[Value]]],
    *,
    chance: float = 0.0,
    line: tuple[str, Sequence[Value]] | None = None,
) -> Figure:
    """Grouped bars with their intervals, in one panel per measured quantity.

    Args:
        names: of the groups of bars, from left to right (N,).
        panels: by the panel's axis label, series by their names in the legend, each (N,).
        chance: where bars start: what a guess would score.
        line: label and values of a line with an axis of its own at the right of the last panel.
    """
    from matplotlib.figure import Figure

    series = list(dict.fromkeys(name for panel in panels.values() for name in panel))
    width = min(max(6.0, 1.5 + 0.3 * len(names) * (len(series) + 1)), 24.0)
    figure = Figure(figsize=(width, 1.0 + 2.7 * len(panels)))
    set_title(figure, title)
    grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    handles: dict[str, Any] = {}
    step = 0.8 / len(series)
    for axes, (label, panel) in zip(grid, panels.items(), strict=True):
        for place, name in enumerate(series):
            shift = (place - (len(series) - 1) / 2) * step
            handles[name] = _bars(axes, panel.get(name, ()), chance, shift, step, PALETTE[place % len(PALETTE)])
        _set_range(axes, panel.values(), chance)
        axes.axhline(chance, color="black", linewidth=0.8)
        axes.set_ylabel(label)
        axes.grid(axis="x", visible=False)
    _name_ticks(figure, grid[-1], names)
    if line is not None:
        handles[line[0]] = _line_beside(grid[-1], *line)
    set_legend(figure, list(handles.values()), list(handles))
    return figure


def radar(title: str, axes_labels: Sequence[str], runs: Mapping[str, Sequence[float | None]]) -> Figure:
    """One closed line per run over all metrics; None leaves a gap.

    Args:
        axes_labels: of the metrics (M,).
        runs: by name, how good each metric is, 0 for the worst run to 1 for the best (M,).
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 6.5))
    set_title(figure, title)
    axes = figure.add_subplot(projection="polar")
    angles = [2 * math.pi * place / len(axes_labels) for place in range(len(axes_labels))]
    handles = []
    for place, values in enumerate(runs.values()):
        radii = [math.nan if value is None else INNER + (1 - INNER) * value for value in values]
        (handle,) = axes.plot([*angles, angles[0]], [*radii, radii[0]], **_line_style(place))
        handles.append(handle)
    axes.set_theta_offset(math.pi / 2)  # type: ignore[attr-defined]
    axes.set_theta_direction(-1)  # type: ignore[attr-defined]
    axes.set_xticks(angles, axes_labels)
    axes.tick_params(axis="x", pad=22)
    axes.set_yticks([INNER, 1], ["worst", "best"], color="dimgray")
    axes.set_ylim(0, 1.05)
    axes.spines["polar"].set_visible(False)
    set_legend(figure, handles, list(runs))
    return figure


def lines(title: str, label: str, names: Sequence[str], runs: Mapping[str, Sequence[float | None]]) -> Figure:
    """One line per run over named places, with a dashed line at 0 for what they are compared with.

    Args:
        label: of the upright axis, with its unit.
        names: of the places (N,).
        runs: by name, a value per place (N,); None leaves a gap.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator

    figure = Figure(figsize=(min(max(6.0, 2 + 0.7 * len(names)), 24.0), 4.0))
    set_title(figure, title)
    axes = figure.add_subplot()
    axes.axhline(0, color="black", linestyle="--", linewidth=1)
    handles = [
        axes.plot(range(len(names)), [math.nan if value is None else value for value in values], **_line_style(place))[
            0
        ]
        for place, values in enumerate(runs.values())
    ]
    if max((abs(value) for values in runs.values() for value in values if value is not None), default=0) > FAR:
        axes.set_yscale("symlog", linthresh=NEAR, linscale=2)
        ticks = [NEAR / 2, *(NEAR * first * 10**power for power in range(9) for first in (1, 2, 5))]
        axes.yaxis.set_major_locator(FixedLocator([0, *ticks, *(-tick for tick in ticks)]))
        axes.yaxis.set_major_formatter("{x:g}")
        label += f"; logarithmic beyond ±{NEAR}"
    axes.set_ylabel(label)
    _name_ticks(figure, axes, names)
    set_legend(figure, handles, list(runs))
    return figure


def curves(
    title: str,
    label: str,
    panels: Mapping[str, Mapping[tuple[str, str], tuple[Sequence[float], Sequence[float]]]],
) -> Figure:
    """Curves over a common axis, one panel per metric.

    Args:
        label: of the common axis, with its unit.
        panels: by metric; in each, by (name of the run, split), places and values.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    keys = list(dict.fromkeys(key for panel in panels.values() for key in panel))
    runs, splits = (list(dict.fromkeys(key[part] for key in keys)) for part in (0, 1))
    columns = 2 if len(panels) == 4 else min(len(panels), 3)
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(max(4.2 * columns, 6.0), 3.2 * rows + 0.6))
    set_title(figure, title)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (metric, panel) in zip(grid, panels.items(), strict=False):
        for (run, split), (places, values) in panel.items():
            every = math.ceil(len(places) / CURVE_POINTS)
            kept = [*range(0, len(places) - 1, every), len(places) - 1]
            axes.plot(
                [places[point] for point in kept],
                [values[point] for point in kept],
                linestyle=DASHES[splits.index(split) % len(DASHES)],
                markevery=max(len(kept) // 10, 1),
                **_curve_style(runs.index(run)) | ({"marker": "."} if len(kept) == 1 else {}),
            )
        axes.set_ylabel(metric)
        axes.set_xlabel(label)
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    handles = [Line2D([], [], **_curve_style(place)) for place in range(len(runs))]
    handles += [Line2D([], [], color="gray", linestyle=DASHES[place % len(DASHES)]) for place in range(len(splits))]
    set_legend(figure, handles, [*runs, *splits])
    return figure


def set_title(figure: Figure, title: str) -> None:
    """Above the figure, in as many lines as its width asks for."""
    figure.suptitle(textwrap.fill(title, int(LETTERS * figure.get_figwidth())), fontsize="large")


def set_legend(figure: Figure, handles: Sequence[Any], names: Sequence[str]) -> None:
    """Below the figure, which grows by as much."""
    short = [shortened(name) for name in names]
    columns = max(1, int(LETTERS * figure.get_figwidth() / (max(map(len, short)) + 8)))
    figure.set_figheight(figure.get_figheight() + 0.22 * math.ceil(len(short) / columns))
    figure.legend(handles, short, loc="outside lower center", ncols=columns)


def _bars(axes: Axes, values: Sequence[Value], chance: float, shift: float, width: float, color: str) -> Any:
    heights, errors = _heights(values)
    return axes.bar(
        [place + shift for place in range(len(heights))],
        [height - chance for height in heights],
        width * 0.92,
        bottom=chance,
        color=color,
        yerr=errors,
        error_kw={"elinewidth": 1, "capsize": 2, "ecolor": "#333333"},
    )


def _line_beside(axes: Axes, label: str, values: Sequence[Value]) -> Any:
    beside = axes.twinx()
    heights, errors = _heights(values)
    handle = beside.errorbar(
        range(len(heights)), heights, errors, fmt="D-", color="black", markersize=4, linewidth=1.2, capsize=2
    )
    beside.set_ylabel(label)
    beside.spines["right"].set_visible(True)
    beside.grid(visible=False)
    return handle


def _heights(values: Sequence[Value]) -> tuple[list[float], tuple[list[float], list[float]]]:
    """Values, NaN where undefined, and how far their intervals reach below and above."""
    heights = [math.nan if value is None else value for value, _, _ in values]
    below = [max(value - low, 0.0) if value is not None and low is not None else 0.0 for value, low, _ in values]
    above = [max(high - value, 0.0) if value is not None and high is not None else 0.0 for value, _, high in values]
    return heights, (below, above)


def _set_range(axes: Axes, series: Any, chance: float) -> None:
    """From the lowest end of an interval, or `chance`, to the highest, with some air."""
    ends = [end for values in series for value in values for end in value if end is not None]
    low, high = min([chance, *ends]), max([chance, *ends])
    air = 0.06 * (high - low or 1.0)
    axes.set_ylim(low - (air if low < chance else 0), high + air)


def _name_ticks(figure: Figure, axes: Axes, names: Sequence[str]) -> None:
    """Slanted where they would run into each other; the figure grows by as much."""
    short = [shortened(name) for name in names]
    crowded = sum(map(len, short)) > 50 or max(map(len, short), default=0) > 12
    slant: dict[str, Any] = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if crowded else {}
    if crowded:
        figure.set_figheight(figure.get_figheight() + 0.045 * max(map(len, short)))
    axes.set_xticks(range(len(short)), short, **slant)
    axes.set_xlim(-0.6, len(short) - 0.4)


def _line_style(place: int) -> dict[str, Any]:
    return {
        "color": PALETTE[place % len(PALETTE)],
        "linestyle": DASHES[place // len(PALETTE) % len(DASHES)],
        "marker": MARKERS[place % len(MARKERS)],
        "markersize": 4,
        "linewidth": 1.4,
    }


def _curve_style(place: int) -> dict[str, Any]:
    """Dashes tell splits apart there, so markers tell runs of one colour apart."""
    return {
        "color": PALETTE[place % len(PALETTE)],
        "marker": ("", *MARKERS)[place // len(PALETTE) % (len(MARKERS) + 1)],
        "markersize": 3,
        "linewidth": 1.2,
    }


def shortened(name: str, longest: int = LONGEST_NAME) -> str:
    """A long name without its middle: the ends of names tell runs apart."""
    half = (longest - 1) // 2
    return name if len(name) <= longest else f"{name[:half]}…{name[-half:]}"
