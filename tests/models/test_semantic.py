"""Semantic tables: read strictly, frozen or trained."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from rectool.errors import RectoolError
from rectool.models import semantic
from rectool.models.semantic import SemanticTable


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(semantic, "ROWS", 3)


@pytest.fixture
def table() -> Tensor:
    return torch.randn(7, 4, generator=torch.Generator().manual_seed(0))


def stored(table: Tensor, folder: Path) -> Any:
    save_file({"item": table}, folder / "embeddings.safetensors")
    return SimpleNamespace(file=lambda name: folder / name)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_reading(table: Tensor, dtype: torch.dtype, tmp_path: Path) -> None:
    found = semantic.read(stored(table.to(dtype), tmp_path))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, table.to(dtype).float(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("row", "value", "said"),
    [
        (5, float("nan"), "row 5 of item is not finite"),
        (4, float("inf"), "row 4"),
        (6, 0.0, "row 6 of item is all zer"),
    ],
)
def test_rows_of_no_use_are_named(table: Tensor, row: int, value: float, said: str, tmp_path: Path) -> None:
    table[row] = value
    with pytest.raises(RectoolError, match=said):
        semantic.read(stored(table, tmp_path))


def test_rows_that_are_all_the_same_are_refused(table: Tensor, tmp_path: Path) -> None:
    with pytest.raises(RectoolError, match="all rows are the same"):
        semantic.read(stored(table[:1].repeat(7, 1), tmp_path))
    semantic.read(stored(torch.cat((table[:1].repeat(6, 1), table[1:2])), tmp_path))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_as_stored_a_table_keeps_its_dtype_and_its_zeros(table: Tensor, dtype: torch.dtype, tmp_path: Path) -> None:
    table[6] = 0
    found = semantic.stored(stored(table.to(dtype), tmp_path))
    assert found.dtype == dtype
    torch.testing.assert_close(found, table.to(dtype), rtol=0, atol=0)
    table[5, 1] = torch.nan
    with pytest.raises(RectoolError, match="row 5 of item is not finite"):
        semantic.stored(stored(table, tmp_path))
    with pytest.raises(RectoolError, match="all rows are the same"):
        semantic.stored(stored(table[:1].repeat(7, 1), tmp_path))


def test_directions(table: Tensor) -> None:
    items = torch.tensor([4, 0])
    expected = functional.normalize(table, dim=1)
    trained, frozen = SemanticTable(table.clone(), trained=True), SemanticTable(table.clone(), trained=False)
    for each in (trained, frozen):
        torch.testing.assert_close(each.directions(), expected)
        torch.testing.assert_close(each.directions(items), expected[items])
    assert list(frozen.parameters()) == []
    torch.testing.assert_close(trained(), table)
    (trained.directions(items) * torch.arange(4)).sum().backward()
    assert trained.change is not None
    assert trained.change.grad is not None
    assert trained.change.grad[items].any(1).all()
    assert not trained.change.grad[[1, 2, 3, 5, 6]].any()


def test_weight_decay_draws_towards_the_distilled_vectors(table: Tensor) -> None:
    trained = SemanticTable(table.clone(), trained=True)
    assert trained.change is not None
    with torch.no_grad():
        trained.change += 1
    optimizer = torch.optim.SGD(trained.parameters(), lr=1, weight_decay=1)
    trained.change.grad = torch.zeros_like(trained.change)
    optimizer.step()
    torch.testing.assert_close(trained(), table)
