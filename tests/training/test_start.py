"""Item embeddings that start from other vectors: by a learned map of them, or by their principal axes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rectool.artifacts import Draft
from rectool.data.dataset import Dataset
from rectool.errors import RectoolError
from rectool.models.table import MODELS, model_class
from rectool.training.counting import training_rows
from rectool.training.run import Run
from rectool.training.settings import Fit
from rectool.training.start import ItemStart, ProjectedItems
from rectool.training.train_cf import train, untrained

CPU = torch.device("cpu")
WIDTH = 8


@pytest.fixture
def vectors(dataset: Dataset) -> Tensor:
    """(I, 12), far from the origin, along a few axes of very different size."""
    torch.manual_seed(0)
    sizes = torch.tensor([20.0, 9, 5, 4, 3, 2, 1.5, 1, 0.1, 0.1, 0.1, 0.1])
    turn, _ = torch.linalg.qr(torch.randn(12, 12))
    return torch.randn(dataset.items, 12) * sizes @ turn + 50


@pytest.fixture
def begun(dataset: Dataset, vectors: Tensor, chosen: Callable[..., Any]) -> Callable[..., Any]:
    def begin(by: Any, model: str = "mf", scale: float = 0.05, of: Tensor = vectors, **given: Any) -> Any:
        choice, _ = chosen(dataset, model, embedding_size=WIDTH, init_scale=scale, **given)
        trained = untrained(dataset, choice, Run(0, CPU))
        trained.model.observe(training_rows(dataset, trained))
        ItemStart(of, by).begin(trained.model, scale)
        return trained.model

    return begin


def test_principal_axes(begun: Callable[..., Any], vectors: Tensor) -> None:
    """The best approximation of the centred vectors in so few dimensions: no other keeps more of their products."""
    net = begun("pca")
    weight = net.item.weight.detach()
    assert isinstance(net.item, nn.Embedding)
    assert net.item.weight.requires_grad
    assert float(weight.std()) == pytest.approx(0.05, rel=1e-4)
    centred = (vectors - vectors.mean(0)).double()
    values, axes = torch.linalg.eigh(centred.T @ centred)
    assert (values.diff() > 0).all()
    best = centred @ axes[:, -WIDTH:] @ axes[:, -WIDTH:].T @ centred.T
    products = (weight @ weight.T).double()
    torch.testing.assert_close(products / products.norm(), best / best.norm(), rtol=1e-3, atol=1e-5)
    variances = weight.var(0)
    assert (variances.diff() < 0).all()  # the largest axis first


def test_a_projection_is_linear_and_of_the_models_own_scale(begun: Callable[..., Any], vectors: Tensor) -> None:
    net = begun("projection")
    table = net.item
    assert isinstance(table, ProjectedItems)
    assert {name for name, _ in net.named_parameters() if name.startswith("item.")} == {"item.map.weight"}
    weight = table.weight.detach()
    assert weight.shape == (net.size.items, WIDTH)
    assert float(weight.std()) == pytest.approx(0.05, rel=0.4)
    centred = vectors - vectors.mean(0)
    torch.testing.assert_close(weight, centred @ table.map.weight.detach().T)
    items = torch.tensor([[3, 1], [0, 3]])
    torch.testing.assert_close(table(items), table.weight[items])


def test_the_projection_learns_and_the_vectors_stay(begun: Callable[..., Any]) -> None:
    net = begun("projection")
    before = net.item.source.clone()
    net.item.weight.square().sum().backward()
    assert net.item.map.weight.grad.any()
    assert not net.item.source.requires_grad
    assert net.item.source.equal(before)


def test_afterwards_the_model_is_an_ordinary_one(begun: Callable[..., Any]) -> None:
    net = begun("projection", model="sasrec", heads=2)
    expected = net.item.weight.detach().clone()
    ItemStart.plain(net)
    assert isinstance(net.item, nn.Embedding)
    assert net.item.weight.equal(expected)
    assert "item.weight" in net.state_dict()
    assert not [name for name in net.state_dict() if "map" in name or "source" in name]
    ItemStart.plain(net)  # nothing more to do
    assert net.item.weight.equal(expected)


@pytest.mark.parametrize("model", [name for name in MODELS if not model_class(name).counted])
@pytest.mark.parametrize("by", ["projection", "pca"])
def test_every_model_with_item_embeddings_can_be_begun(model: str, by: str, begun: Callable[..., Any]) -> None:
    net = begun(by, model=model, of=torch.randn(begun("pca").size.items, 2 * WIDTH))
    width = 2 * WIDTH if model == "ncf" else WIDTH
    assert net.item.weight.shape == (net.size.items, width)


def test_half_precision_vectors(begun: Callable[..., Any], vectors: Tensor) -> None:
    assert begun("pca", of=vectors.half()).item.weight.dtype == torch.float32


@pytest.mark.parametrize("by", ["projection", "pca"])
@pytest.mark.parametrize("value", [1.0, float("nan"), float("inf")])
def test_vectors_that_say_nothing_are_refused(
    by: str, value: float, begun: Callable[..., Any], dataset: Dataset
) -> None:
    with pytest.raises(RectoolError, match="the vectors of the items are all the same, or not finite"):
        begun(by, of=torch.full((dataset.items, 12), value))


def test_too_few_axes_are_refused(begun: Callable[..., Any], vectors: Tensor) -> None:
    with pytest.raises(RectoolError) as error:
        begun("pca", of=vectors[:, :5])
    assert str(error.value).endswith("vectors have too few axes for --embedding-size 8")
    assert begun("projection", of=vectors[:, :5]).item.weight.shape[1] == WIDTH


@pytest.mark.parametrize("by", ["projection", "pca"])
def test_trained_from_there(
    by: Any, dataset: Dataset, vectors: Tensor, chosen: Callable[..., Any], tmp_path: Path
) -> None:
    """At a rate of 0 the saved embeddings are the start; trained, they stay in the span of a projection's vectors."""
    from safetensors.torch import load_file

    tables = {}
    for rate in (0.0, 0.1):
        choice, objective = chosen(dataset, "mf", embedding_size=WIDTH)
        draft = Draft(tmp_path / str(rate), tmp_path / "scratch")
        draft.path.mkdir()
        settings = Fit(epochs=2, learning_rate=rate)
        train(draft, dataset, choice, objective, settings, Run(0, CPU), ItemStart(vectors, by))
        tables[rate] = load_file(draft.path / "weights.safetensors")["item.weight"]
        assert load_file(draft.path / "embeddings.safetensors")["item"].equal(tables[rate])
        last = load_file(draft.path / "last.safetensors")
        assert last.keys() == load_file(draft.path / "weights.safetensors").keys()
    trained = untrained(dataset, choice, Run(0, CPU))
    trained.model.observe(training_rows(dataset, trained))
    ItemStart(vectors, by).begin(trained.model, choice.settings.init_scale)
    torch.testing.assert_close(tables[0.0], trained.model.item.weight.detach())
    assert not tables[0.1].equal(tables[0.0])
    if by == "projection":
        centred = vectors - vectors.mean(0)
        fitted = centred @ torch.linalg.lstsq(centred.double(), tables[0.1].double()).solution.float()
        torch.testing.assert_close(fitted, tables[0.1], rtol=1e-3, atol=1e-4)
