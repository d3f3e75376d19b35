"""Mask plans: what can be written, and which layers of a model that makes."""

from __future__ import annotations

import pytest

from rectool.errors import RectoolError
from rectool.llm.mask_plan import CAUSAL, KINDS, MaskPlan


@pytest.mark.parametrize(
    ("text", "depth", "layers"),
    [
        ("causal", 3, "or or or"),
        ("in:8,or:*,cr:2", 16, "in " * 8 + "or " * 6 + "cr cr"),
        ("in:1,or:*,cr:1", 2, "in cr"),
        ("cr:2,in:1,or:1", 4, "cr cr in or"),
        ("in:1,cr:1,in:*", 4, "in cr in in"),
        ("cr-pre:*", 2, "cr-pre cr-pre"),
        (" IN:1, isolate:1 ,cr-last:* ", 3, "in isolate cr-last"),
    ],
)
def test_layers(text: str, depth: int, layers: str) -> None:
    assert " ".join(MaskPlan.parse(text).layers(depth)) == layers.strip()


@pytest.mark.parametrize(
    ("text", "depth", "idle"),
    [
        ("in:1,or:*,cr:1", 4, "cr"),
        ("in:1,or:*,cr:2", 4, None),
        ("cr:*,in:1", 3, "in"),
        ("cr-pre:*", 1, "cr-pre"),
        ("or:*,cr-last:1", 3, None),
        ("cr:1,or:*", 3, None),
        ("causal", 1, None),
    ],
)
def test_what_is_idle_on_top(text: str, depth: int, idle: str | None) -> None:
    assert MaskPlan(text).idle_on_top(depth) == idle


def test_the_same_plan_is_equal() -> None:
    assert MaskPlan.parse("in:1, or:*") == MaskPlan("in:1,or:*")
    assert MaskPlan.parse("Causal") == CAUSAL
    assert hash(MaskPlan("in:1")) == hash(MaskPlan("in:1"))


@pytest.mark.parametrize(("text", "causal"), [("causal", True), ("or:3,or:*", True), ("or:*,cr:1", False)])
def test_what_is_causal(text: str, causal: bool) -> None:
    assert MaskPlan(text).is_causal is causal


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("", "'' is no kind of mask"),
        ("in", "in does not say how many layers"),
        ("in:0", "in:0 does not say how many layers"),
        ("in:-1", "in:-1 does not say how many layers"),
        ("in:²", "does not say how many layers"),
        ("in:1,,or:*", "'' is no kind of mask"),
        ("deep:1", "'deep' is no kind of mask"),
        ("in:1,causal", "'causal' is no kind of mask"),
    ],
)
def test_no_plan(text: str, wrong: str) -> None:
    with pytest.raises(RectoolError) as error:
        MaskPlan.parse(text)
    assert wrong in str(error.value)
    assert str(error.value).startswith(f"--mask {text}:")
    assert all(kind in str(error.value) for kind in KINDS)


def test_two_rests() -> None:
    with pytest.raises(RectoolError, match=r"more than one \*"):
        MaskPlan("in:*,or:1,cr:*")


@pytest.mark.parametrize(
    ("text", "depth", "wrong"),
    [
        ("in:8,or:*,cr:2", 9, "is for 10 layers or more, but the model has 9; take some away"),
        ("in:2,cr:2", 3, "is for 4 layers, but the model has 3; take some away"),
        ("in:2,cr:2", 6, "is for 4 layers, but the model has 6; let one kind take the rest"),
    ],
)
def test_the_depth_is_checked(text: str, depth: int, wrong: str) -> None:
    with pytest.raises(RectoolError, match=wrong):
        MaskPlan(text).layers(depth)


def test_stricter_plans() -> None:
    assert MaskPlan("in:8,cr:1,or:*,cr:2").compressed() == MaskPlan("in:8,cr-last:1,or:*,cr-last:2")
    assert MaskPlan("cr-last:*").compressed() == MaskPlan("cr-last:*")
    assert MaskPlan("in:8,or:*,cr:2").isolated() == MaskPlan("isolate:8,or:*,cr:2")
    for plan in (CAUSAL, MaskPlan("cr:1,or:*")):
        with pytest.raises(RectoolError, match="--compress-deep drops items' tokens in cr layers at the top"):
            plan.compressed()
        with pytest.raises(RectoolError, match="--isolate-items"):
            plan.isolated()
