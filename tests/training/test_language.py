"""The language-model objective against the model's own loss, and the tokenizer of small models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from rectool.prompts.tokens import TokenRows
from rectool.training.byte_pairs import BEGIN, byte_pairs
from rectool.training.language import LanguageObjective, Texts
from rectool.training.token_parts import TokenParts

ROWS = TokenRows(np.arange(1, 28, dtype=np.int32), np.array([0, 9, 11, 27]))
TEXTS = Texts(ROWS, np.ones(3, np.int64))


@pytest.mark.parametrize("first", [(1, 1, 1), (8, 1, 5)])
def test_the_loss_is_the_sum_of_the_models_own_losses(first: tuple[int, ...], tiny_llm: Callable[..., Path]) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_llm(), dtype=torch.float32)
    texts = Texts(ROWS, np.array(first))
    objective = LanguageObjective(model, texts, texts, TokenParts(12), torch.device("cpu"))
    expected, everything = torch.zeros(()), np.arange(3)
    for place in everything:
        ids = torch.from_numpy(ROWS.padded(np.array([place]))[0])
        labels = ids.masked_fill(torch.arange(ids.shape[1]) < first[place], -100)
        expected = expected + model(input_ids=ids, labels=labels).loss * (ids.shape[1] - first[place])
    targets = 27 - sum(first)
    assert objective.targets(everything) == targets
    parts = objective.parts(everything, 1)
    assert sorted(np.concatenate(parts)) == [0, 1, 2]
    torch.testing.assert_close(sum(objective.loss(part) for part in parts), expected, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        assert objective.validate()["loss"] == pytest.approx(float(expected) / targets, rel=1e-5)
    (whole,) = torch.autograd.grad(objective.loss(everything), [model.lm_head.weight])
    (naive,) = torch.autograd.grad(expected, [model.lm_head.weight])
    torch.testing.assert_close(whole, naive, rtol=1e-4, atol=1e-5)


def test_an_epoch_reads_one_chapter_after_the_other(tiny_llm: Callable[..., Path]) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_llm(), dtype=torch.float32)
    texts = Texts(TokenRows(np.arange(200, dtype=np.int32), np.arange(0, 201, 2)), np.ones(100, np.int64))
    chapters = np.arange(100) % 2
    objective = LanguageObjective(model, texts, TEXTS, TokenParts(12), torch.device("cpu"), chapters)
    batches = objective.batches(8, (0, 1))
    assert sorted(np.concatenate(batches)) == list(range(100))
    read = [chapters[batch] for batch in batches]
    assert np.array_equal(np.concatenate(read), np.repeat([0, 1], 50))


def test_no_texts_aside_measure_nothing(tiny_llm: Callable[..., Path]) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_llm(), dtype=torch.float32)
    nothing = TEXTS.take(np.arange(0))
    assert LanguageObjective(model, TEXTS, nothing, TokenParts(12), torch.device("cpu")).validate() == {}


def test_a_tokenizer_from_texts_knows_its_words_and_encodes_anything(tmp_path: Path) -> None:
    texts = ["The Haunted Lighthouse", "The Haunted Garden of Stars", "A Cosmic Garden"] * 3
    made = byte_pairs(texts, 600, words=("Yes", "No"), context=64)
    assert byte_pairs(texts, 600, words=("Yes", "No"), context=64).get_vocab() == made.get_vocab()
    for word in ("Yes", "No", " Yes", " No"):
        assert len(made.encode(word, add_special_tokens=False)) == 1
    for text in ("naïve 東京 \U0001f600", "Yes\tNo", ""):
        ids = made.encode(text)
        assert ids[0] == made.convert_tokens_to_ids(BEGIN)
        assert made.decode(ids[1:]) == text
    assert len(made) <= 600
