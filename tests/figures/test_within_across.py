"""Attention inside items and across them, against sums over stored maps, token by token."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rectool import plots
from rectool.data.dataset import Dataset
from rectool.figures import within_across
from rectool.figures.within_across import AT, LOOKS, figure, relations, summed, table
from rectool.llm.mask_plan import CAUSAL, MaskPlan

ROWS = np.array([3, 9, 30, 31, 45, 46])


def naive(model: Any, asked: Any) -> dict[tuple[int, str, str], list[float]]:
    """By layer, who looks and what is looked at: weight, pairs that are seen, pairs."""
    sums: dict[tuple[int, str, str], list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    tokens = asked.tokens
    for row in range(len(tokens)):
        maps: dict[int, Any] = {}
        model.read(asked, np.array([row]), lambda layer, weights, maps=maps: maps.update({layer: weights[0].double()}))
        spans = tokens.spans[tokens.span_offsets[row] : tokens.span_offsets[row + 1]].tolist()
        length = int(tokens.lengths[row])
        item = {place: number for number, (first, stop, _) in enumerate(spans) for place in range(first, stop)}
        ends = {stop - 1 for _, stop, _ in spans}
        for layer, weights in maps.items():
            for j in range(length):
                kinds = ["all"]
                kinds += ["item"] if j in item else []
                kinds += ["end"] if j in ends else []
                kinds += ["answer"] if j == length - 1 else []
                for k in range(j + 1):
                    if j == k:
                        at = "itself"
                    elif k not in item:
                        at = "no item"
                    else:
                        at = "inside" if item.get(j) == item[k] else "across"
                    for kind in kinds:
                        found = sums[layer, kind, at]
                        found[0] += float(weights[j, k])
                        found[1] += float(weights[j, k]) > 0
                        found[2] += 1
    return sums


@pytest.mark.parametrize(("architecture", "plan"), [("llama", CAUSAL), ("gpt2", MaskPlan("in:1,cr:1"))])
def test_sums_are_those_over_stored_maps(
    dataset: Dataset,
    tiny_llm: Callable[..., Path],
    attended: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    architecture: str,
    plan: MaskPlan,
) -> None:
    model = attended(tiny_llm(architecture), plan)
    asked = model.asked(dataset, ROWS)
    longest = int(asked.tokens.lengths.max())
    monkeypatch.setattr(within_across, "CELLS", 2 * model.heads * longest**2)  # two rows or three at a time
    found, wanted = summed(model, asked), naive(model, asked)
    for layer in range(2):
        for looks, looking in enumerate(LOOKS):
            for at, looked in enumerate(AT):
                weight, seen, pairs = wanted[layer, looking, looked]
                assert found.weight[layer, looks, at] == pytest.approx(weight, abs=1e-4)
                assert found.seen[layer, looks, at] == seen
                assert found.pairs[looks, at] == pairs
    assert found.tokens[LOOKS.index("answer")] == len(ROWS)
    assert found.tokens[LOOKS.index("all")] == asked.tokens.lengths.sum()
    lines = {(row["layer"], row["looks"], row["at"]): row for row in table([found]).to_pylist()}
    shares = [sum(lines[layer, looks, at]["share"] for at in AT) for layer in (1, 2) for looks in LOOKS]
    np.testing.assert_allclose(shares, 1, atol=1e-5)
    if not plan.is_causal:
        assert lines[1, "item", "across"]["mean"] is None
        assert lines[1, "item", "across"]["mask"] == "in"
        assert lines[2, "item", "inside"]["share"] == 0
        assert lines[2, "end", "across"]["share"] > 0


def test_embeddings_are_of_no_item() -> None:
    item = torch.tensor([[-1, 0, 0, -1, 1, -1]])
    soft = torch.tensor([[False, False, False, True, False, False]])
    what = relations(item, soft, torch.tensor([5]))[0]
    names = [[(*AT, "-")[place] for place in row] for row in what.tolist()]
    assert names == [
        ["itself", "-", "-", "-", "-", "-"],
        ["no item", "itself", "-", "-", "-", "-"],
        ["no item", "inside", "itself", "-", "-", "-"],
        ["no item", "across", "across", "itself", "-", "-"],
        ["no item", "across", "across", "soft", "itself", "-"],
        ["-"] * 6,
    ]


def test_a_panel_for_embeddings_only_where_there_are_any(
    dataset: Dataset, tiny_llm: Callable[..., Path], attended: Callable[..., Any]
) -> None:
    model = attended(tiny_llm())
    data = table([summed(model, model.asked(dataset, ROWS[:2]))])
    with plots.style():
        titles = [axes.get_ylabel() for axes in figure("", data).axes]
    assert "share of item tokens' attention" in titles
    assert "share on soft tokens" not in titles
