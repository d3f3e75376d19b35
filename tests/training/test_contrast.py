"""InfoNCE and agreement against matrices in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from rectool.training import losses
from rectool.training.contrast import agreement, info_nce

TAU = 0.2
MATCHES = torch.tensor([3, 0, 11, 7, 3])


@pytest.fixture
def sides() -> tuple[Tensor, Tensor]:
    chance = torch.Generator().manual_seed(0)
    return torch.randn(5, 6, generator=chance), torch.randn(12, 6, generator=chance)


@pytest.fixture(params=[1, 2, 100])
def rows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many rows of cosines at a time."""
    monkeypatch.setattr(losses, "rows_at_a_time", lambda count, keys: request.param)
    monkeypatch.setattr("rectool.training.contrast.rows_at_a_time", lambda count, keys: request.param)


def naive(anchors: Tensor, candidates: Tensor) -> Tensor:
    """Term by term: the quotients of exponentials of cosines."""
    total = anchors.new_zeros(())
    for anchor, match in zip(anchors, MATCHES.tolist(), strict=True):
        cosines = torch.stack([functional.cosine_similarity(anchor, each, dim=0) for each in candidates])
        terms = (cosines / TAU).exp()
        total = total - (terms[match] / terms.sum()).log()
    return total


@pytest.mark.usefixtures("rows")
@pytest.mark.parametrize("frozen", [False, True])
def test_info_nce_and_its_gradients(sides: tuple[Tensor, Tensor], frozen: bool) -> None:
    anchors, candidates = (each.clone().requires_grad_() for each in sides)
    candidates.requires_grad_(not frozen)
    unit = functional.normalize(anchors, dim=1), functional.normalize(candidates, dim=1)
    loss = info_nce(*unit, MATCHES, TAU)
    (3 * loss).backward()
    slow = [each.double().requires_grad_() for each in sides]
    expected = naive(*slow)
    (3 * expected).backward()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(anchors.grad, slow[0].grad, rtol=1e-4, atol=1e-5, check_dtype=False)
    if frozen:
        assert candidates.grad is None
    else:
        torch.testing.assert_close(candidates.grad, slow[1].grad, rtol=1e-4, atol=1e-5, check_dtype=False)


@pytest.mark.usefixtures("rows")
def test_agreement(sides: tuple[Tensor, Tensor]) -> None:
    anchors, candidates = sides
    candidates[7] = anchors[3]  # one is found
    cosines = functional.normalize(anchors.double()) @ functional.normalize(candidates.double()).T
    own = torch.zeros_like(cosines, dtype=torch.bool)
    own[torch.arange(5), MATCHES] = True
    found = agreement(functional.normalize(anchors), functional.normalize(candidates), MATCHES, TAU)
    assert found["matched_cosine"] == pytest.approx(float(cosines[own].mean()), abs=1e-6)
    assert found["unmatched_cosine"] == pytest.approx(float(cosines[~own].mean()), abs=1e-6)
    assert found["retrieval@1"] == float((cosines.argmax(1) == MATCHES).double().mean()) > 0
    assert found["align_loss"] == pytest.approx(float(naive(anchors.double(), candidates.double())) / 5, abs=1e-5)


def test_an_item_beside_its_twin_is_found() -> None:
    anchors = functional.normalize(torch.tensor([[1.0, 2.0], [0.0, 1.0]]))
    candidates = anchors[[0, 0, 1]]
    assert agreement(anchors, candidates, torch.tensor([1, 2]), TAU)["retrieval@1"] == 1


def test_the_gradient_of_frozen_candidates_is_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    products = []
    real = Tensor.addmm_
    monkeypatch.setattr(Tensor, "addmm_", lambda *args, **named: products.append(1) or real(*args, **named))
    anchors, candidates = torch.randn(5, 6, requires_grad=True), torch.randn(12, 6)
    info_nce(anchors, candidates, MATCHES, TAU).backward()
    assert products == []
    info_nce(anchors, candidates.requires_grad_(), MATCHES, TAU).backward()
    assert products == [1]
