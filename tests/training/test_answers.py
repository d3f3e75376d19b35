"""The yes/no objective against the slow way: logits of the whole vocabulary at every position, one prompt at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.training.objectives import gradients, summed, tuned
from torch import Tensor, nn

from rectool.llm.head import AnswerHead
from rectool.prompts.layout import Answers
from rectool.prompts.tokens import TokenRows, bounds
from rectool.training.answers import AnswerCriterion
from rectool.training.asking import compute_twice
from rectool.training.lora_settings import Lora
from rectool.training.prompted import PromptObjective, Trainable
from rectool.training.token_parts import TokenParts

CPU = torch.device("cpu")
ANSWERS = Answers(("Yes", "No"), (41, 17))
ROWS = 24


@pytest.fixture(scope="module")
def tokens() -> TokenRows:
    """Prompts of 3 to 40 tokens."""
    chance = np.random.default_rng(0)
    lengths = chance.integers(3, 40, ROWS)
    return TokenRows(chance.integers(3, 300, lengths.sum()).astype(np.int32), bounds(lengths))


LABELS = np.random.default_rng(1).integers(0, 2, ROWS).astype(np.int8)


def made(
    folder: Path, tokens: TokenRows, parts: TokenParts, lora: Lora, answer_loss: Any = "softmax"
) -> PromptObjective:
    model, _ = tuned(folder, lora)
    criterion = AnswerCriterion(AnswerHead(model, ANSWERS, answer_loss), LABELS, CPU)
    return PromptObjective(Trainable(model), model, tokens, criterion, parts, dict, CPU)


def slow(objective: PromptObjective, batch: Any, answer_loss: str) -> tuple[float, dict[str, Tensor]]:
    """A prompt at a time, logits of the whole vocabulary, cross-entropy over both answers."""

    def loss(sample: int) -> Tensor:
        ids = torch.from_numpy(objective.tokens.padded(np.array([sample]))[0])
        logits = objective.model(input_ids=ids).logits[0, -1]
        label = torch.tensor(int(LABELS[sample]))
        if answer_loss == "softmax":
            both = logits[list(ANSWERS.ids)]
            return nn.functional.cross_entropy(both[None], 1 - label[None])
        return nn.functional.binary_cross_entropy_with_logits(logits[ANSWERS.ids[0]], label.float())

    return summed(objective.module, map(loss, batch))


@pytest.mark.parametrize("answer_loss", ["softmax", "yes-logit"])
@pytest.mark.parametrize("lora", [Lora(dropout=0.0), Lora(full=True)], ids=["lora", "full"])
@pytest.mark.parametrize(
    ("architecture", "tied"), [("llama", False), ("llama", True), ("qwen2", False), ("qwen3", True), ("gpt2", True)]
)
@pytest.mark.parametrize("parts", [TokenParts(10_000), TokenParts(90), TokenParts(90, packed=True)])
def test_loss_and_gradients_are_those_of_the_slow_way(
    parts: TokenParts,
    architecture: str,
    tied: bool,
    lora: Lora,
    answer_loss: str,
    tokens: TokenRows,
    tiny_llm: Callable[..., Path],
) -> None:
    objective = made(tiny_llm(architecture, tied=tied), tokens, parts, lora, answer_loss)
    batch = np.array([3, 0, 17, 22, 5, 6, 11, 2, 9])
    loss, own = gradients(objective, batch)
    expected_loss, expected = slow(objective, batch, answer_loss)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert own.keys() == expected.keys()
    torch.testing.assert_close(own, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("count", [1, 2, 3, 50])
def test_parts_of_a_batch_add_up_to_it(
    count: int, checkpointing: bool, tokens: TokenRows, tiny_llm: Callable[..., Path]
) -> None:
    folder = tiny_llm("llama")
    whole = made(folder, tokens, TokenParts(10_000), Lora(dropout=0.0))
    cut = made(folder, tokens, TokenParts(200), Lora(dropout=0.0))
    if checkpointing:
        compute_twice(cut.model)
    batch = np.arange(ROWS)
    assert len(whole.parts(batch, 1)) == 1
    assert len(cut.parts(batch, count)) >= min(count, ROWS)
    (loss, own), (expected_loss, expected) = gradients(cut, batch, count), gradients(whole, batch)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    torch.testing.assert_close(own, expected, rtol=1e-3, atol=1e-6)


def test_batches_are_of_like_length_and_have_every_row_once(tokens: TokenRows, tiny_llm: Callable[..., Path]) -> None:
    objective = made(tiny_llm("llama"), tokens, TokenParts(10_000), Lora())
    batches = objective.batches(4, (0, 0))
    assert sorted(np.concatenate(batches).tolist()) == list(range(ROWS))
    assert [objective.targets(batch) for batch in batches] == [4] * 6
    assert max(np.ptp(tokens.lengths[batch]) for batch in batches) < np.ptp(tokens.lengths) / 2
    assert [batch.tolist() for batch in objective.batches(4, (0, 0))] == [batch.tolist() for batch in batches]
    assert [batch.tolist() for batch in objective.batches(4, (0, 1))] != [batch.tolist() for batch in batches]


def test_no_logits_of_the_vocabulary_are_made(tokens: TokenRows, tiny_llm: Callable[..., Path]) -> None:
    objective = made(tiny_llm("llama"), tokens, TokenParts(10_000), Lora())

    def refuse(*_: object) -> None:
        raise AssertionError("the head was run")

    objective.model.get_output_embeddings().register_forward_pre_hook(refuse)
    gradients(objective, np.arange(ROWS))
