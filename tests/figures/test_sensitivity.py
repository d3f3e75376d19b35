"""Lines over depths of masks and sizes of models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from rectool import plots
from rectool.figures.sensitivity import curves, draw, ends, parameters
from rectool.llm.backbone import find
from rectool.llm.mask_plan import MaskPlan


@pytest.mark.parametrize(
    ("plan", "shallow", "deep"),
    [
        ("causal", (None, 0), (None, 0)),
        ("in:2,or:*,cr:1", ("in", 2), ("cr", 1)),
        ("in:*,cr-pre:2", ("in", 4), ("cr-pre", 2)),
        ("cr:*", (None, 0), ("cr", 6)),
        ("isolate:1,or:*", ("isolate", 1), (None, 0)),
    ],
)
def test_ends_of_plans(plan: str, shallow: Any, deep: Any) -> None:
    assert ends(MaskPlan(plan).layers(6)) == {"shallow": shallow, "deep": deep}


@pytest.mark.parametrize("plan", ["cr:2,or:*,in:2", "in:2,cr:*,or:1", "in:1,isolate:1,or:*"])
def test_plans_of_another_order_have_no_ends(plan: str) -> None:
    assert ends(MaskPlan(plan).layers(6)) is None


def point(shallow: int, deep: int, value: float, **others: Any) -> dict[str, Any]:
    return {
        "shallow": shallow,
        "shallow_kind": "in" if shallow else None,
        "deep": deep,
        "deep_kind": "cr" if deep else None,
        "backbone": "nano",
        "parameters": 1000,
        "mask": f"in:{shallow},or:*,cr:{deep}",
        "value": value,
        "low": value - 0.1,
        "high": value + 0.2,
        **others,
    }


def test_results_in_one_place_are_drawn_from_the_lowest_to_the_highest() -> None:
    points = [point(0, 1, 0.1), point(1, 1, 0.2), point(1, 1, 0.4), point(2, 1, 0.3), point(1, 0, 0.5)]
    lines = curves(points, "shallow")
    (line,) = lines.values()
    assert list(lines) == ["in layers beside cr:1"]
    assert list(line) == [0, 1, 2]
    assert line[0] == pytest.approx((0.1, 0.0, 0.3))
    assert line[1] == pytest.approx((0.3, 0.2, 0.4))
    (line,) = curves(points, "deep").values()
    assert list(line) == [0, 1]
    assert curves(points, "parameters") == {}


def test_models_of_several_sizes_have_lines_of_their_own() -> None:
    points = [
        point(size, 1, size / 10, backbone=name, parameters=count)
        for name, count in (("small", 1000), ("large", 2_500_000))
        for size in (1, 2)
    ]
    assert list(curves(points, "shallow")) == ["in layers beside cr:1, small", "in layers beside cr:1, large"]
    sizes = curves(points, "parameters")
    assert [list(line) for line in sizes.values()] == [[1000, 2_500_000]] * 2
    with plots.style():
        figure = draw("title", "NDCG@10", {"shallow": curves(points, "shallow"), "parameters": sizes})
        figure.canvas.draw()
    left, right = figure.axes
    assert left.get_ylabel() == "NDCG@10"
    assert [label.get_text() for label in right.get_xticklabels()] == ["1k", "2.5M"]


@pytest.mark.parametrize("tied", [False, True])
def test_parameters_are_counted_once(tiny_llm: Callable[..., Path], tied: bool) -> None:
    folder = tiny_llm(tied=tied)
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    assert parameters(find(str(folder))) == sum(each.numel() for each in loaded.parameters())
