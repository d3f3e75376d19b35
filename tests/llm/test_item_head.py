"""The item head: logits by keys of its own, or by semantic embeddings; and what it starts from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rectool.data.dataset import Dataset
from rectool.errors import RectoolError
from rectool.llm.item_head import ItemHead


def semantic(items: int = 30, width: int = 12) -> Tensor:
    """Embeddings far from the origin, as those of language models are."""
    return torch.randn(items, width, generator=torch.Generator().manual_seed(0)) + 5


def heads() -> list[ItemHead]:
    table = semantic()
    return [ItemHead.random(30, 32, 0), ItemHead.started(table, 32, 0), ItemHead.tied(table, 32, 0)]


@pytest.mark.parametrize("which", [0, 1, 2])
def test_scores_are_inner_products_with_keys(which: int) -> None:
    head = heads()[which]
    hidden = torch.randn(400, 32, generator=torch.Generator().manual_seed(1)).requires_grad_()
    table = hidden @ head.keys().T
    assert (head.items, head.hidden_size, table.shape) == (30, 32, (400, 30))
    assert 0.8 < float(table.detach().std()) < 1.25  # of hidden states whose values are about 1
    items = torch.arange(400) % 30
    torch.testing.assert_close(head.scores(hidden, items), table[torch.arange(400), items])
    head.scores(hidden, items).sum().backward()
    assert {name for name, part in head.named_parameters() if part.grad is not None} == (
        {"projection.weight"} if which == 2 else {"weight"}
    )


def test_the_same_seed_makes_the_same_head() -> None:
    for first, second in zip(heads(), heads(), strict=True):
        assert torch.equal(first.keys(), second.keys())
    assert not torch.equal(ItemHead.random(30, 32, 0).keys(), ItemHead.random(30, 32, 1).keys())


def test_a_started_head_keeps_what_items_are_to_each_other() -> None:
    table = semantic()
    centred = (table - table.mean(0)).double()
    inner = centred @ centred.T
    for width in (12, 16, 32):  # as wide, and wider: turned, but not bent
        keys = ItemHead.started(table, width, 0).keys().detach().double()
        found = keys @ keys.T
        torch.testing.assert_close(found / found.trace(), inner / inner.trace(), atol=1e-6, rtol=1e-4)
        assert float(found.trace()) == pytest.approx(30, rel=1e-4)
    same_width = ItemHead.started(table, 12, 0).keys().detach().double()
    torch.testing.assert_close(same_width / same_width.norm(), centred / centred.norm(), atol=1e-6, rtol=1e-4)


def test_a_narrower_started_head_has_the_principal_axes() -> None:
    table = semantic()
    centred = (table - table.mean(0)).double().numpy()
    values = np.linalg.eigvalsh(centred.T @ centred)[::-1]
    keys = ItemHead.started(table, 5, 0).keys().detach().double().numpy()
    found = np.linalg.eigvalsh(keys.T @ keys)[::-1]
    np.testing.assert_allclose(found / found.sum(), values[:5] / values[:5].sum(), rtol=1e-4)


def test_tied_keys_are_a_projection_of_centred_embeddings() -> None:
    table = semantic()
    head = ItemHead.tied(table, 32, 0)
    assert head.projection is not None
    centred = table - table.mean(0)
    scaled = centred / centred.square().sum(1).mean().sqrt()
    torch.testing.assert_close(head.keys(), scaled @ head.projection.weight.T)
    assert list(head.state_dict()) == ["projection.weight"]  # the embeddings are those of a parent


def test_embeddings_that_say_nothing(dataset: Dataset) -> None:
    for make in (ItemHead.started, ItemHead.tied):
        with pytest.raises(RectoolError, match="vectors of the items are all the same, or not finite"):
            make(torch.ones(5, 4), 8, 0)
    with pytest.raises(RectoolError, match=f"has 30 items, but .* {dataset.items}"):
        ItemHead.random(30, 32, 0).of(dataset)
    with pytest.raises(ValueError, match="keys, or semantic embeddings with a projection"):
        ItemHead(None, semantic(), None)
    with pytest.raises(ValueError, match="keys, or semantic embeddings with a projection"):
        ItemHead(nn.Parameter(semantic()), semantic(), nn.Linear(12, 8))
