"""The objective of `align` against a slow one in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from rectool.data.dataset import Dataset
from rectool.models.projector import Projector
from rectool.models.semantic import SemanticTable
from rectool.training.align_settings import Alignment
from rectool.training.alignment import AlignedParts, AlignObjective, anchor_passes, anchors_per_step
from rectool.training.counting import training_rows
from rectool.training.run import Run
from rectool.training.train_cf import objective_of, untrained
from rectool.training.validation import Validation

CPU = torch.device("cpu")
LAMBDA, TAU = 0.7, 0.3


def made(
    dataset: Dataset, chosen: Callable[..., Any], *, model: str = "mf", frozen: bool = False, **given: Any
) -> AlignObjective:
    """An objective over small parts with random parameters, those of the model included."""
    loss = {"loss": "squared-error"} if given.pop("task", "ctr") == "ctr" else {"task": "next-item"}
    choice, objective = chosen(dataset, model, embedding_size=4, **loss)
    trained = untrained(dataset, choice, Run(seed=1, device=CPU))
    trained.model.observe(training_rows(dataset, trained))
    table = SemanticTable(torch.randn(dataset.items, 6), trained=not frozen)
    parts = AlignedParts(trained.model, table, Projector(4, 8, 6, "gelu"))
    with torch.no_grad():
        for parameter in parts.parameters():
            parameter.normal_(std=0.5)
    rows = Validation.of(dataset, trained.task, CPU, None, 0)
    collaborative = objective_of(trained, dataset, objective, choice.loss, rows, CPU)
    settings = Alignment(align_weight=LAMBDA, temperature=TAU, **given)
    return AlignObjective(parts, collaborative, settings, CPU, seed=3)


def gradients(module: nn.Module) -> dict[str, Tensor]:
    found = {
        name: torch.zeros_like(each) if each.grad is None else each.grad.clone()
        for name, each in module.named_parameters()
    }
    module.zero_grad()
    return found


def slow(objective: AlignObjective, dataset: Dataset, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """mean (y - s)^2 + lambda mean InfoNCE over (I, I) cosines in float64, and its gradients."""
    module = objective.module
    values = {name: each.detach().double().requires_grad_() for name, each in module.named_parameters()}
    rows = dataset.targets("train")
    rows = rows[dataset.label[rows] >= 0][batch[batch >= 0]]
    users, items = torch.from_numpy(dataset.user[rows]).long(), torch.from_numpy(dataset.item[rows]).long()
    scores = (values["cf.user.weight"][users] * values["cf.item.weight"][items]).sum(1)
    scores = scores + values["cf.user_bias.weight"][users, 0] + values["cf.bias.weight"][items]
    scores = scores + values["cf.bias.constant"]
    collaborative = (torch.from_numpy(dataset.label[rows]).double() - scores).square().mean()
    anchors = torch.from_numpy(objective.anchors[-1 - batch[batch < 0]])
    inner = functional.gelu(values["cf.item.weight"] @ values["projector.up.weight"].T + values["projector.up.bias"])
    projected = inner @ values["projector.down.weight"].T + values["projector.down.bias"]
    table = module.semantic.distilled.double() + values.get("semantic.change", torch.zeros(()))
    cosines = functional.cosine_similarity(projected[:, None], table[None], dim=2) / TAU  # (I, I)
    if objective.settings.negatives == "batch":
        cosines = cosines[:, anchors]
        matches = torch.arange(len(anchors))
    else:
        matches = anchors
    chosen = cosines[anchors]
    aligned = -(chosen.softmax(1)[torch.arange(len(anchors)), matches]).log().mean()
    loss = collaborative + LAMBDA * aligned
    loss.backward()
    return loss, gradients_of(values)


def gradients_of(values: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.zeros_like(each) if each.grad is None else each.grad for name, each in values.items()}


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("negatives", ["catalogue", "batch"])
def test_losses_and_gradients(random_log: Any, chosen: Any, negatives: str, frozen: bool, parts: int) -> None:
    dataset = random_log(0, rows=80)
    objective = made(dataset, chosen, frozen=frozen, negatives=negatives, anchors=5)
    for batch in objective.batches(16, (0, 0)):
        shuffled = np.random.default_rng(0).permutation(batch)
        shares = objective.parts(shuffled, parts)
        assert sorted(np.concatenate(shares)) == sorted(batch)
        total = sum((objective.loss(share) for share in shares if len(share)), torch.zeros(()))
        total = total / objective.targets(batch)
        total.backward()
        found = gradients(objective.module)
        expected, expected_gradients = slow(objective, dataset, batch)
        torch.testing.assert_close(total.double(), expected, rtol=1e-5, atol=1e-6)
        assert found.keys() == expected_gradients.keys()
        for name, gradient in found.items():
            torch.testing.assert_close(gradient.double(), expected_gradients[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("model", "task"), [("mf", "next-item"), ("sasrec", "ctr"), ("sasrec", "next-item")])
def test_every_model_has_both_losses(random_log: Any, chosen: Any, model: str, task: str) -> None:
    dataset = random_log(1, rows=80)
    objective = made(dataset, chosen, model=model, task=task, anchors=4)
    objective.module.eval()
    batch = objective.batches(16, (0, 0))[0]
    rows, anchors = batch[batch >= 0], -1 - batch[batch < 0]
    weight = LAMBDA * objective.targets(batch) / len(anchors)
    expected = objective.collaborative.loss(rows) + weight * objective.align_loss(anchors, 0)
    torch.testing.assert_close(objective.loss(batch), expected)
    objective.loss(batch).backward()
    item = objective.module.cf.get_parameter("item.weight").grad
    assert item is not None
    assert item.any()


def test_each_pass_takes_every_item_once_whether_seen_or_not(random_log: Any, chosen: Any) -> None:
    dataset = random_log(0, rows=30, items=40)
    objective = made(dataset, chosen, anchors=7)
    batches = objective.batches(2, (0, 0))
    assert len(batches) > 6
    passes = np.split(objective.anchors, range(40, len(objective.anchors), 40))
    assert all(sorted(each) == list(range(40)) for each in passes if len(each) == 40)
    assert all((batch < 0).sum() <= 7 for batch in batches)
    again = objective.batches(2, (0, 0))
    assert all((one == other).all() for one, other in zip(batches, again, strict=True))
    first = objective.anchors
    objective.batches(2, (0, 1))
    assert (first != objective.anchors).any()


def test_how_many_anchors() -> None:
    assert anchors_per_step(None, 1024, 3255, 34) == 1024
    assert anchors_per_step(None, 1024, 300, 34) == 300
    assert anchors_per_step(None, 1024, 100_000, 10) == 10_000
    assert anchors_per_step(64, 1024, 100_000, 10) == 64
    lengths = [len(each) for each in anchor_passes(10, 4, 5, np.random.default_rng(0))]
    assert lengths == [4, 3, 3, 4, 3]


def test_validation_measures_both_sides(random_log: Any, chosen: Any) -> None:
    dataset = random_log(0, rows=80)
    objective = made(dataset, chosen)
    objective.module.eval()
    found = objective.validate()
    assert {"auc", "uauc", "collab_loss", "align_loss", "matched_cosine", "unmatched_cosine", "retrieval@1"} == {*found}
    assert objective.validate() == found
    everything = np.arange(len(objective.collaborative.samples.rows))  # type: ignore[attr-defined]
    expected = objective.collaborative.loss(everything).item() / len(everything)
    assert found["collab_loss"] == pytest.approx(expected)
    items = torch.arange(dataset.items)
    projected = objective.module.projector(objective.module.cf.item_vectors())
    cosines = functional.cosine_similarity(projected[:, None], objective.module.semantic()[None], dim=2)
    assert found["matched_cosine"] == pytest.approx(cosines.diagonal().mean().item(), abs=1e-5)
    assert found["align_loss"] == pytest.approx(functional.cross_entropy(cosines / TAU, items).item(), abs=1e-5)


def test_a_weight_of_zero_aligns_nothing(random_log: Any, chosen: Any) -> None:
    objective = made(random_log(0), chosen)
    objective.settings = Alignment(align_weight=0)
    batch = objective.batches(16, (0, 0))[0]
    torch.testing.assert_close(objective.loss(batch), objective.collaborative.loss(batch[batch >= 0]))
