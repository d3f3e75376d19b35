"""The language-model objective against the model's own logits, one text after the other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, PreTrainedModel

from rectool.prompts.tokens import TokenRows, bounds
from rectool.training import losses
from rectool.training.language import LanguageObjective, next_token_loss
from rectool.training.token_parts import TokenParts

CPU = torch.device("cpu")


@pytest.fixture
def model(tiny_llm: Callable[..., Path]) -> PreTrainedModel:
    loaded: PreTrainedModel = AutoModelForCausalLM.from_pretrained(tiny_llm())
    return loaded


def texts(seed: int, count: int = 9) -> TokenRows:
    """Random texts of 2 to 14 tokens."""
    chance = np.random.default_rng(seed)
    lengths = chance.integers(2, 15, count)
    return TokenRows(chance.integers(0, 300, int(lengths.sum())).astype(np.int32), bounds(lengths))


def naive(model: PreTrainedModel, tokens: TokenRows, places: list[int]) -> torch.Tensor:
    """The loss with full logits, of each text by itself."""
    total = torch.zeros(())
    for place in places:
        ids = torch.from_numpy(tokens.ids[tokens.offsets[place] : tokens.offsets[place + 1]]).long()
        logits = model(input_ids=ids[None]).logits[0]
        total = total + functional.cross_entropy(logits[:-1], ids[1:], reduction="sum")
    return total


def objective(model: PreTrainedModel, budget: int = 40) -> LanguageObjective:
    return LanguageObjective(model, texts(0), texts(1), TokenParts(budget), CPU)


def gradients(model: PreTrainedModel, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def test_the_loss_and_its_gradient_are_those_of_each_text_alone(model: PreTrainedModel) -> None:
    minimised = objective(model)
    places = [4, 0, 7, 2]
    ours, expected = minimised.loss(np.array(places)), naive(model, minimised.tokens, places)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(gradients(model, ours), gradients(model, expected), rtol=1e-3, atol=1e-4)


def test_all_logits_never_exist_at_once(model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a buffer for a few rows of logits the largest tensor is that of the head itself."""
    monkeypatch.setitem(losses.BUFFER_BYTES, "cpu", 1)
    sizes: list[int] = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), named=None):  # type: ignore[no-untyped-def]
            out = function(*arguments, **(named or {}))
            sizes.extend(each.numel() for each in (out if isinstance(out, tuple) else (out,)) if torch.is_tensor(each))
            return out

    ids, lengths = torch.randint(300, (16, 12)), torch.full((16,), 12)
    with Watch():
        next_token_loss(model, ids, lengths).backward()
    head = model.get_output_embeddings().weight
    assert max(sizes) == head.numel() < 16 * 11 * len(head)


def test_targets_are_all_tokens_but_the_first(model: PreTrainedModel) -> None:
    minimised = objective(model)
    lengths = minimised.tokens.lengths
    assert minimised.targets(np.array([1, 5])) == lengths[1] + lengths[5] - 2
    epoch = minimised.batches(20, (0, 0))
    assert sorted(np.concatenate(epoch)) == list(range(9))
    assert all(minimised.targets(batch) <= 20 for batch in epoch)


def test_parts_hold_what_they_are_given_within_the_budget(model: PreTrainedModel) -> None:
    minimised = objective(model, budget=30)
    samples = np.array([8, 1, 3, 6, 0])
    for count in (1, 2):
        parts = minimised.parts(samples, count)
        assert sorted(np.concatenate(parts)) == sorted(samples)
        lengths = [minimised.tokens.lengths[part] for part in parts]
        assert all(len(each) == 1 or len(each) * each.max() <= 30 // count for each in lengths)
    whole = minimised.loss(samples)
    torch.testing.assert_close(sum(minimised.loss(part) for part in minimised.parts(samples, 2)), whole)


def test_validation_is_the_mean_loss_of_a_token_held_out(model: PreTrainedModel) -> None:
    minimised = objective(model)
    with torch.inference_mode():
        found = minimised.validate()
        total = naive(model, minimised.held_out, list(range(9)))
    assert found == {"loss": pytest.approx(float(total) / (minimised.held_out.lengths - 1).sum(), rel=1e-5)}


def test_without_held_out_texts_nothing_is_measured(model: PreTrainedModel) -> None:
    minimised = objective(model)
    minimised.held_out = minimised.held_out.take(np.arange(0))
    assert minimised.validate() == {}
