"""Figures: they show what they are given, and the same numbers give the same bytes."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.image import imread

from rectool import plots

NAMES = ["bias", "mf", "sasrec"]
Figure = Any


def bars(names: list[str] = NAMES, **more: Any) -> Figure:
    values = [(0.7 - 0.01 * place, 0.68 - 0.01 * place, 0.73 - 0.01 * place) for place in range(len(names))]
    series = {"AUC": values, "UAUC": [(None, None, None), *values[1:]]}
    return plots.bars("a title", names, {"AUC and UAUC": series}, chance=0.5, **more)


FIGURES: dict[str, Callable[[], Figure]] = {
    "bars": bars,
    "bars with a line": lambda: bars(line=("loss", [(-0.6, -0.7, -0.5), (None, None, None), (-0.5, None, None)])),
    "radar": lambda: plots.radar("a title", ["AUC", "UAUC", "F1"], {"mf": [0, 1, 0.5], "sasrec": [1, None, 0]}),
    "lines": lambda: plots.lines("a title", "gain (%)", ["AUC", "F1"], {"mf": [1.5, -2.0], "sasrec": [None, 3.0]}),
    "curves": lambda: plots.curves(
        "a title",
        "epochs",
        {"loss": {("mf", "train"): ([1, 2, 3], [3, 2, 1])}, "AUC": {("sasrec", "valid"): ([1], [0.6])}},
    ),
}


def texts(path: Path) -> list[str]:
    """What stands written in an SVG."""
    return ["".join(node.itertext()).strip() for node in ElementTree.parse(path).iter() if node.tag.endswith("}text")]


def colors(path: Path) -> set[int]:
    red, green, blue = (imread(path)[..., channel] * 255 for channel in range(3))
    packed = red.round().astype(int) << 16 | green.round().astype(int) << 8 | blue.round().astype(int)
    return set(np.flatnonzero(np.bincount(packed.ravel())).tolist())


def color(place: int) -> int:
    return int(plots.PALETTE[place][1:], 16)


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_a_picture_in_both_forms(name: str, tmp_path: Path) -> None:
    with plots.style():
        plots.save(FIGURES[name](), tmp_path / "a.figure")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.figure.png", "a.figure.svg"]
    found = colors(tmp_path / "a.figure.png")
    assert {color(0), color(1), 0xFFFFFF} <= found
    written = texts(tmp_path / "a.figure.svg")
    assert "a title" in written
    assert {"mf", "sasrec"} <= set(written)


@pytest.mark.parametrize("name", FIGURES)
def test_the_same_numbers_give_the_same_bytes(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        with plots.style():
            plots.save(FIGURES[name](), tmp_path / folder / "figure")
        monkeypatch.setitem(matplotlib.rcParams, "font.size", 30)  # somebody's own settings
        monkeypatch.setitem(matplotlib.rcParams, "axes.facecolor", "black")
    for form in ("png", "svg"):
        assert (tmp_path / f"one/figure.{form}").read_bytes() == (tmp_path / f"two/figure.{form}").read_bytes()
    assert matplotlib.rcParams["font.size"] == 30
    assert b"dc:date" not in (tmp_path / "one/figure.svg").read_bytes()


def test_bars_stand_on_chance_and_bear_their_intervals() -> None:
    with plots.style():
        (axes,) = bars().axes
    first, second = axes.containers[1], axes.containers[3]  # each behind its error bars
    assert [bar.get_y() for bar in first] == [0.5] * 3
    assert [bar.get_y() + bar.get_height() for bar in first] == pytest.approx([0.7, 0.69, 0.68])
    assert math.isnan(second[0].get_height())
    ends = axes.containers[0].lines[2][0].get_segments()
    assert [segment[:, 1].tolist() for segment in ends] == [
        pytest.approx([0.68 - 0.01 * place, 0.73 - 0.01 * place]) for place in range(3)
    ]
    assert axes.get_ylim()[0] == 0.5
    assert axes.get_ylim()[1] > 0.73


def test_the_axis_reaches_below_chance_where_a_value_or_an_interval_does() -> None:
    with plots.style():
        (axes,) = plots.bars("", ["a"], {"AUC": {"warm": [(0.55, 0.4, 0.6)]}}, chance=0.5).axes
    assert 0.38 < axes.get_ylim()[0] < 0.4


def test_a_line_beside_bars_has_an_axis_of_its_own_and_gaps() -> None:
    with plots.style():
        left, right = FIGURES["bars with a line"]().axes
    assert (left.get_ylabel(), right.get_ylabel()) == ("AUC and UAUC", "loss")
    heights = right.containers[0].lines[0].get_ydata()
    assert heights[[0, 2]].tolist() == [-0.6, -0.5]
    assert math.isnan(heights[1])


def test_a_radar_closes_its_shapes_and_leaves_gaps() -> None:
    with plots.style():
        (axes,) = FIGURES["radar"]().axes
    whole, gapped = (line.get_ydata() for line in axes.get_lines())
    assert list(whole) == pytest.approx([plots.INNER, 1, (1 + plots.INNER) / 2, plots.INNER])
    assert np.isnan(gapped).tolist() == [False, True, False, False]


def test_one_far_value_does_not_flatten_the_others(tmp_path: Path) -> None:
    with plots.style():
        near = plots.lines("", "gain (%)", ["AUC", "ECE"], {"mf": [1.5, -30]}).axes[0]
        figure = plots.lines("", "gain (%)", ["AUC", "ECE"], {"mf": [6, -80]})
        plots.save(figure, tmp_path / "lines")
    (far,) = figure.axes
    assert (near.get_yscale(), near.get_ylabel()) == ("linear", "gain (%)")
    assert (far.get_yscale(), far.get_ylabel()) == ("symlog", "gain (%); logarithmic beyond ±10")
    heights = far.transData.transform([(0, 0), (0, 1.5), (0, -80)])[:, 1]
    assert heights[1] - heights[0] > 0.03 * (heights[0] - heights[2])
    assert {"\N{MINUS SIGN}50", "\N{MINUS SIGN}5", "0", "5"} <= set(texts(tmp_path / "lines.svg"))


def test_long_curves_are_thinned_and_keep_their_ends() -> None:
    steps = list(range(100_000))
    with plots.style():
        axes = plots.curves("", "epochs", {"loss": {("mf", "train"): (steps, steps)}}).axes[0]
    drawn = axes.get_lines()[0].get_xdata()
    assert len(drawn) <= plots.CURVE_POINTS + 1
    assert (drawn[0], drawn[-1]) == (0, 99_999)


def test_curves_tell_runs_by_colour_and_splits_by_dashes() -> None:
    lines = {(run, split): ([1, 2], [1, 2]) for run in ("a", "b") for split in ("train", "valid")}
    with plots.style():
        figure = plots.curves("", "epochs", {"loss": lines})
    look = [(line.get_color(), line.get_linestyle()) for line in figure.axes[0].get_lines()]
    assert look == [(plots.PALETTE[run], dash) for run in (0, 1) for dash in ("-", "--")]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b", "train", "valid"]


def test_more_runs_than_colours_stay_distinct() -> None:
    count = 3 * len(plots.PALETTE)
    with plots.style():
        lines = plots.lines("", "", ["AUC"], {str(run): [run] for run in range(count)}).axes[0].get_lines()[1:]
        curves = plots.curves("", "", {"loss": {(str(run), "train"): ([1, 2], [1, 2]) for run in range(count)}})
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == count
    assert len({(line.get_color(), line.get_marker()) for line in curves.axes[0].get_lines()}) == count


@pytest.mark.parametrize("name", ["$x^2$", "_hidden", "a<b>&c", "lr=1e-3|d=64", "映画", "{x}", "50%", "\\frac"])
def test_names_are_shown_as_they_are_written(name: str, tmp_path: Path) -> None:
    with plots.style():
        plots.save(bars([name, "mf"]), tmp_path / "bars")
        plots.save(plots.radar(name, ["a", "b", "c"], {name: [0, 1, 1]}), tmp_path / "radar")
    assert name in texts(tmp_path / "bars.svg")
    assert texts(tmp_path / "radar.svg").count(name) == 2


def test_a_long_name_is_cut_and_a_long_title_wrapped(tmp_path: Path) -> None:
    with plots.style():
        figure = plots.bars("a title of many words " * 20, ["x" * 300 + "-0.001"], {"AUC": {"AUC": [(0.6, 0.5, 0.7)]}})
        plots.save(figure, tmp_path / "bars")
    assert "x" * 20 + "…" + "x" * 14 + "-0.001" in texts(tmp_path / "bars.svg")
    assert figure.get_suptitle().count("\n") > 2
