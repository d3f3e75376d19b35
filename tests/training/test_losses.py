"""Losses against their formulas, written down naively in double precision."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from rectool.training import losses
from rectool.training.losses import Robust, catalogue_loss

N, I, D, K = 37, 53, 8, 11  # noqa: E741


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=[1, 4 * I * 17 + 3, 8 << 20], ids=["few rows", "half of the rows", "all rows"])
def buffer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Bytes of logits that may exist at a time."""
    monkeypatch.setitem(losses.BUFFER_BYTES, "cpu", request.param)
    return int(request.param)


def inputs(scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Queries (N, D), keys (I, D), targets (N,), some of them twice."""
    return torch.randn(N, D) * scale, torch.randn(I, D) * scale, torch.randint(I, (N,))


def robust(weight: float = 0.7, temperature: float = 0.3) -> Robust:
    return Robust(torch.rand(I).softmax(0), weight, temperature)


def naive_robust(queries: Tensor, keys: Tensor, targets: Tensor, term: Robust) -> Tensor:
    """weight * sum over targets of log sum_i exp(popularity_i / temperature (y_i - [i = t])^2)."""
    total = torch.zeros((), dtype=torch.float64)
    for query, target in zip(queries, targets.tolist(), strict=True):
        scores = keys @ query
        wanted = torch.zeros(len(keys), dtype=torch.float64)
        wanted[target] = 1
        total = total + ((term.popularity.double() / term.temperature * (scores - wanted) ** 2).exp().sum()).log()
    return term.weight * total


def naive_cross_entropy(queries: Tensor, keys: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(queries @ keys.T, targets, reduction="sum")


def with_gradients(loss: Callable[[Tensor, Tensor], Tensor], queries: Tensor, keys: Tensor) -> list[Tensor]:
    """The loss, and its gradient by queries and keys, of three times itself: what comes from above counts."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in (queries, keys)]
    value = loss(*leaves)
    return [value, *torch.autograd.grad(3 * value, leaves)]


# The whole catalogue


@pytest.mark.parametrize(("cross_entropy", "with_robust"), [(True, False), (True, True), (False, True)])
@pytest.mark.parametrize(("scale", "tolerance"), [(0.1, 1e-6), (1.0, 1e-5), (2.0, 1e-4)])
def test_catalogue_loss_is_the_formula(
    cross_entropy: bool, with_robust: bool, scale: float, tolerance: float, buffer: int
) -> None:
    queries, keys, targets = inputs(scale)
    term = robust() if with_robust else None

    def naive(queries: Tensor, keys: Tensor) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        if cross_entropy:
            total = total + naive_cross_entropy(queries, keys, targets)
        if term is not None:
            total = total + naive_robust(queries, keys, targets, term)
        return total

    ours = with_gradients(
        lambda q, k: catalogue_loss(q, k, targets, cross_entropy=cross_entropy, robust=term), queries, keys
    )
    expected = with_gradients(naive, queries.double(), keys.double())
    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=tolerance, atol=tolerance)


def test_scores_of_any_size_do_not_overflow(buffer: int) -> None:
    queries, keys, targets = inputs(30.0)
    ours = with_gradients(lambda q, k: catalogue_loss(q, k, targets), queries, keys)
    expected = with_gradients(lambda q, k: naive_cross_entropy(q, k, targets), queries.double(), keys.double())
    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-2)


def test_a_batch_without_targets_costs_nothing() -> None:
    queries, keys, targets = inputs()
    found = with_gradients(lambda q, k: catalogue_loss(q, k, targets[:0]), queries[:0], keys)
    assert found[0] == 0
    assert not found[2].any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_gradients_are_of_the_type_of_what_they_belong_to(dtype: torch.dtype) -> None:
    queries, keys, targets = inputs()
    value, *gradients = with_gradients(lambda q, k: catalogue_loss(q, k, targets), queries.to(dtype), keys.to(dtype))
    assert value.dtype == torch.float32
    assert {gradient.dtype for gradient in gradients} == {dtype}


def test_logits_never_exist_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No tensor is larger than the buffer, the inputs and their gradients, however many rows there are."""
    rows, items, buffer = 500, 300, 900
    monkeypatch.setitem(losses.BUFFER_BYTES, "cpu", 4 * buffer)
    sizes: list[int] = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), named=None):  # type: ignore[no-untyped-def]
            out = function(*arguments, **(named or {}))
            sizes.extend(each.numel() for each in (out if isinstance(out, tuple) else (out,)) if torch.is_tensor(each))
            return out

    queries, keys, targets = torch.randn(rows, D), torch.randn(items, D), torch.randint(items, (rows,))
    for term in (None, Robust(torch.rand(items).softmax(0), 0.1, 1.0)):
        with Watch():
            with_gradients(lambda q, k, term=term: catalogue_loss(q, k, targets, robust=term), queries, keys)
    assert max(sizes) == max(buffer, items * D, rows * D) < rows * items / 30


# Samples


def sampled(correct: bool) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    positive, negative = torch.randn(N), torch.randn(N, K)
    hits = torch.rand(N, K) < 0.2
    hits[0] = True  # nothing is left but the target
    return positive, negative, hits, torch.randn(K) if correct else None


@pytest.mark.parametrize("correct", [True, False])
def test_sampled_softmax_is_the_formula(correct: bool) -> None:
    positive, negative, hits, log_expected = sampled(correct)
    total = 0.0
    for row in range(N):
        weights = [math.exp(positive[row])]
        for column in range(K):
            if not hits[row, column]:
                shift = float(log_expected[column]) if log_expected is not None else 0.0
                weights.append(math.exp(float(negative[row, column]) - shift))
        total -= math.log(weights[0] / sum(weights))
    assert float(losses.sampled_softmax(positive, negative, hits, log_expected)) == pytest.approx(total, rel=1e-5)


def test_a_target_among_its_negatives_gets_no_gradient_from_there() -> None:
    positive, negative, hits, _ = sampled(correct=False)
    negative.requires_grad_()
    (gradient,) = torch.autograd.grad(losses.sampled_softmax(positive, negative, hits, None), negative)
    assert gradient.isfinite().all()
    assert not gradient[hits].any()
    assert gradient[~hits].all()


@pytest.mark.parametrize("skew", [0.0, 1.0])
def test_log_q_corrected_samples_estimate_the_whole_catalogue(skew: float) -> None:
    """Whatever the negatives are drawn by; without the correction the loss is another one."""
    items, count, draws = 40, 400, 200
    scores = torch.randn(items) * 2
    shares = (skew * torch.randn(items)).softmax(0)
    target = 3
    full = float(functional.cross_entropy(scores[None], torch.tensor([target])))

    negatives = torch.multinomial(shares, draws * count, replacement=True).view(draws, count)
    hits = negatives == target
    log_expected = (count * shares).log()
    estimates = torch.stack(
        [
            losses.sampled_softmax(scores[target, None], scores[row][None], hit[None], log_expected[row])
            for row, hit in zip(negatives, hits, strict=True)
        ]
    )
    error = float(estimates.std()) / draws**0.5
    assert float(estimates.mean()) == pytest.approx(full, abs=max(4 * error, 0.02))
    plain = losses.sampled_softmax(scores[target].expand(draws), scores[negatives], hits, None) / draws
    assert abs(float(plain) - full) > 0.5


def test_bce_is_the_formula() -> None:
    positive, negative = torch.randn(N), torch.randn(N, K)
    total = 0.0
    for row in range(N):
        total -= math.log(sigma(positive[row]))
        total -= sum(math.log(1 - sigma(each)) for each in negative[row]) / K
    assert float(losses.bce(positive, negative)) == pytest.approx(total, rel=1e-5)


def test_bpr_is_the_formula() -> None:
    positive, negative = torch.randn(N), torch.randn(N, K)
    total = 0.0
    for row in range(N):
        total -= sum(math.log(sigma(positive[row] - each)) for each in negative[row]) / K
    assert float(losses.bpr(positive, negative)) == pytest.approx(total, rel=1e-5)


def test_pointwise_losses_are_the_formulas() -> None:
    scores, labels = torch.randn(N), torch.randint(2, (N,))
    logistic = squared = 0.0
    for score, label in zip(scores.tolist(), labels.tolist(), strict=True):
        logistic -= math.log(sigma(score)) if label else math.log(1 - sigma(score))
        squared += (label - score) ** 2
    assert float(losses.pointwise_bce(scores, labels)) == pytest.approx(logistic, rel=1e-5)
    assert float(losses.squared_error(scores, labels)) == pytest.approx(squared, rel=1e-5)


@pytest.mark.parametrize("loss", [losses.bce, losses.bpr])
def test_far_scores_stay_finite(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    positive, negative = torch.tensor([-1e4, 1e4]), torch.tensor([[1e4], [-1e4]])
    assert loss(positive, negative).isfinite()
    assert losses.pointwise_bce(positive, torch.tensor([1, 0])).isfinite()


def sigma(score: Tensor | float) -> float:
    return 1 / (1 + math.exp(-float(score)))
