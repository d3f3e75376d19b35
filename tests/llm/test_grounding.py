"""From written titles to items, against scoring each title by itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor

from rectool.data.dataset import Dataset
from rectool.errors import RectoolError
from rectool.llm.backbone import tokenizer_of
from rectool.llm.grounding import UNREACHED, Ground, grounder
from rectool.llm.mask_plan import CAUSAL, MaskPlan
from rectool.llm.title_head import TitleHead
from rectool.prompts import template as templates
from rectool.prompts.prompts import Prompts
from rectool.prompts.tokens import TokenRows

CPU = torch.device("cpu")
ROWS = np.array([40, 3, 77, 200, 12])
SHARED = (4, 31)
"""Items that have one title here."""


@dataclass(frozen=True)
class Twins(Dataset):
    """A data set in which two items have one title."""

    def titles(self) -> pa.Array:
        titles = super().titles().to_pylist()
        titles[SHARED[1]] = titles[SHARED[0]]
        return pa.array(titles)


@pytest.fixture
def twins(dataset: Dataset) -> Dataset:
    return Twins(dataset.artifact)


@pytest.fixture
def model(loaded: Callable[..., Any]) -> Any:
    return loaded("llama")


@pytest.fixture
def prompts(tiny_llm: Callable[..., Any]) -> Prompts:
    return Prompts(templates.load("hatllm"), tokenizer_of(tiny_llm()), history=4)


def scores_of(found: Any, tokens: TokenRows) -> Tensor:
    """(N, I)"""
    told: list[int] = []
    parts = list(found.scores(tokens, progress=told.append))
    assert sum(told) == len(tokens)
    places = np.concatenate([places for places, _ in parts])
    assert sorted(places.tolist()) == list(range(len(tokens)))
    return torch.cat([scores for _, scores in parts])[torch.from_numpy(np.argsort(places))]


def log_probability(model: Any, prompt: np.ndarray, title: np.ndarray) -> float:
    ids = torch.from_numpy(np.concatenate([prompt, title]).astype(np.int64))[None]
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0, len(prompt) - 1 : -1].log_softmax(1)
    return float(logits.gather(1, ids[0, len(prompt) :, None]).sum())


def row_of(tokens: TokenRows, row: int) -> np.ndarray:
    return tokens.ids[tokens.offsets[row] : tokens.offsets[row + 1]]


def test_a_title_scores_its_log_probability(twins: Dataset, model: Any, prompts: Prompts) -> None:
    tokens, outputs = prompts.rows(twins, ROWS), prompts.outputs(twins, np.arange(twins.items))
    found = grounder("trie", model, TitleHead(model), prompts, twins, CPU, beams=twins.items, budget=300)
    scores = scores_of(found, tokens)
    for row in range(len(ROWS)):
        for item in range(0, twins.items, 7):
            slow = log_probability(model, row_of(tokens, row), row_of(outputs, item))
            assert float(scores[row, item]) == pytest.approx(slow, abs=1e-3)
    assert torch.equal(scores[:, SHARED[0]], scores[:, SHARED[1]])


def test_few_beams_reach_few_items(twins: Dataset, model: Any, prompts: Prompts) -> None:
    tokens, head = prompts.rows(twins, ROWS), TitleHead(model)
    every = scores_of(grounder("trie", model, head, prompts, twins, CPU, beams=twins.items), tokens)
    few = scores_of(grounder("trie", model, head, prompts, twins, CPU, beams=6), tokens)
    reached = few > UNREACHED
    titles = twins.titles().to_pylist()
    for row in range(len(ROWS)):
        assert len({titles[item] for item in reached[row].nonzero()[:, 0].tolist()}) == 6
    torch.testing.assert_close(few[reached], every[reached], atol=1e-4, rtol=0)
    assert (few[~reached] == UNREACHED).all()
    assert (every > UNREACHED).all()


def test_masked_prompts_are_written_after_by_the_mask(dataset: Dataset, model: Any, prompts: Prompts) -> None:
    tokens, head = prompts.rows(dataset, ROWS, spans=True), TitleHead(model)
    plain, masked = (
        scores_of(grounder("trie", model, head, prompts, dataset, CPU, beams=60, mask=plan), tokens)
        for plan in (CAUSAL, MaskPlan("in:1,cr:1"))
    )
    assert (plain > UNREACHED).all()
    assert float((plain - masked).abs().max()) > 0.01


def greedy(model: Any, prompt: np.ndarray, stop: int, most: int) -> list[int]:
    ids = prompt.astype(np.int64).tolist()
    for _ in range(most):
        with torch.no_grad():
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == stop:
            break
    return ids[len(prompt) :]


def test_the_nearest_titles_come_first(twins: Dataset, model: Any, prompts: Prompts) -> None:
    tokens = prompts.rows(twins, ROWS)
    head = TitleHead(model)
    scores = scores_of(grounder("nearest", model, head, prompts, twins, CPU, beams=1), tokens)
    tokenizer, titles = prompts.tokenizer, twins.titles().to_pylist()
    longest = int(prompts.outputs(twins, np.arange(twins.items)).lengths.max())
    assert tokenizer.stop is not None

    def embedded(text: str) -> Tensor:
        ids = [*tokenizer.start, *tokenizer.encode([text or "."]).ids.tolist()]
        with torch.no_grad():
            states = model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states[-1][0]
        return states[-1]

    keys = torch.stack([embedded(title) for title in titles])
    for row in range(len(ROWS)):
        written = greedy(model, row_of(tokens, row), tokenizer.stop, longest)
        query = embedded(prompts.title_in(tokenizer.text(written)))
        torch.testing.assert_close(scores[row], -(keys - query).norm(dim=1), atol=2e-3, rtol=1e-3)
    assert torch.equal(scores[:, SHARED[0]], scores[:, SHARED[1]])


def test_a_title_of_the_data_set_is_nearest_to_itself(
    twins: Dataset, model: Any, prompts: Prompts, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = prompts.rows(twins, ROWS)
    found: Any = grounder("nearest", model, TitleHead(model), prompts, twins, CPU, beams=2)
    titles = twins.titles().to_pylist()
    said = [titles[SHARED[0]], "neither of them", titles[9], "neither of them", ""]
    monkeypatch.setattr(type(found), "_texts", lambda self, ids: said[: len(ids)])
    monkeypatch.setattr(
        type(found.writer), "batches", lambda self, tokens, guide, work: [(np.arange(5), work(ROWS * 0))]
    )
    scores = scores_of(found, tokens)
    assert scores[0].topk(2).indices.sort().values.tolist() == list(SHARED)
    assert int(scores[2].argmax()) == 9
    assert torch.equal(scores[1], scores[3])
    assert float(scores[0].max()) > -1e-2 > float(scores[1].max())


@pytest.mark.parametrize("ground", ["nearest", "trie"])
def test_batches_change_nothing(dataset: Dataset, model: Any, prompts: Prompts, ground: Ground) -> None:
    tokens, head = prompts.rows(dataset, ROWS), TitleHead(model)
    one, all_at_once = (
        scores_of(grounder(ground, model, head, prompts, dataset, CPU, beams=3, budget=budget), tokens)
        for budget in (1, 100_000)
    )
    torch.testing.assert_close(one, all_at_once, atol=1e-3, rtol=1e-3)


def test_what_is_refused(dataset: Dataset, model: Any, prompts: Prompts, tiny_llm: Callable[..., Any]) -> None:
    other = Prompts(templates.load("collm-text"), tokenizer_of(tiny_llm()))
    with pytest.raises(RectoolError, match="next-item is needed"):
        grounder("trie", model, TitleHead(model), other, dataset, CPU)
    long = prompts.rows(dataset, ROWS)
    model.config.max_position_embeddings = int(long.lengths.max()) + 3
    with pytest.raises(RectoolError, match="the longest prompt and the longest title"):
        list(grounder("trie", model, TitleHead(model), prompts, dataset, CPU).scores(long))
