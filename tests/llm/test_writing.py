"""Beam search from a cache that all beams share, against the slow way: each text alone, in full, each time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import MambaConfig, MambaForCausalLM

from rectool.errors import RectoolError
from rectool.llm.grounding import TitleGuide
from rectool.llm.mask_plan import CAUSAL, MaskPlan
from rectool.llm.masks import mask_inputs, spans_of
from rectool.llm.reading import Reader
from rectool.llm.title_head import TitleHead
from rectool.llm.trie import Trie
from rectool.llm.writing import refuse_unable, write
from rectool.prompts.tokens import TokenRows, bounds

CPU = torch.device("cpu")
ARCHITECTURES = ("llama", "qwen2", "qwen3", "mistral", "gpt2")
PLANS = ("in:1,cr:1", "or:1,cr-last:1", "isolate:1,cr-pre:1", "cr:*")


def prompts(seed: int = 0, count: int = 6) -> TokenRows:
    """Rows of 2 to 30 tokens, with items of 1 to 3 tokens in them."""
    chance = np.random.default_rng(seed)
    ids: list[int] = []
    spans, lengths, counts = [], [], []
    for _ in range(count):
        items = int(chance.integers(0, 5))
        row = chance.integers(3, 300, 1).tolist()
        for item in range(items):
            size = int(chance.integers(1, 4))
            spans.append([len(row), len(row) + size, item])
            row += chance.integers(3, 300, size + 1).tolist()
        row += chance.integers(3, 300, 1).tolist()
        ids += row
        lengths.append(len(row))
        counts.append(items)
    found = np.array(spans, np.int32).reshape(-1, 3)
    return TokenRows(np.array(ids, np.int32), bounds(np.array(lengths)), found, bounds(np.array(counts)))


def titles(seed: int = 1, count: int = 12, longest: int = 5) -> TokenRows:
    """Texts of few tokens, so that many begin alike; some are the beginning of others, some are the same."""
    chance = np.random.default_rng(seed)
    lengths = chance.integers(1, longest + 1, count)
    return TokenRows((3 + chance.integers(0, 3, lengths.sum())).astype(np.int32), bounds(lengths))


def slow_scores(model: Any, head: TitleHead, tokens: TokenRows, row: int, text: list[int], plan: MaskPlan) -> float:
    """The log-probability of a text after one prompt, masks and all, in one pass."""
    reader = Reader(model, mask=plan)
    whole = tokens.take(np.array([row])).followed_by(TokenRows(np.array(text, np.int32), bounds(np.array([len(text)]))))
    ids = torch.from_numpy(whole.padded(np.array([0]))[0])
    masks = {}
    if reader.is_masked:
        masks = mask_inputs(reader.kinds, spans_of(whole, np.array([0]), ids.shape[1], CPU))
    states = reader.states(ids, use_cache=False, **masks)[0, -len(text) - 1 : -1]
    chosen = head.logits(states).detach().log_softmax(1)[torch.arange(len(text)), torch.tensor(text)]
    return float(chosen.sum())


@dataclass(frozen=True)
class Tokens:
    """A guide that allows each token below 8 but 0, up to token 2."""

    longest: int

    def steps(self, states: Tensor, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        owner = torch.arange(len(states)).repeat_interleave(7)
        token = torch.arange(1, 8).repeat(len(states))
        return owner, token, (token == 2).long()

    def ends(self, states: Tensor) -> Tensor:
        return states == 1

    def goes_on(self, states: Tensor) -> Tensor:
        return states == 0


def slow_search(score: Callable[[list[int]], float], longest: int, beams: int) -> list[tuple[float, list[int]]]:
    """Beam search in lists, each text scored by itself."""
    done: list[tuple[float, list[int]]] = []
    going: list[list[int]] = [[]]
    for width in range(1, longest + 1):
        pool = [(value, text, True) for value, text in done]
        for text in going:
            for token in range(1, 8):
                longer = [*text, token]
                pool.append((score(longer), longer, token == 2 or width == longest))
        pool = sorted(pool, key=lambda each: -each[0])[:beams]
        done = [(value, text) for value, text, ended in pool if ended]
        going = [text for _, text, ended in pool if not ended]
        if not going:
            break
    return done


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("plan", [CAUSAL, *map(MaskPlan, PLANS)], ids=str)
def test_beam_search_is_that_of_the_slow_way(loaded: Callable[..., Any], architecture: str, plan: MaskPlan) -> None:
    model, tokens = loaded(architecture), prompts()
    head = TitleHead(model)
    beams, guide = 3, Tokens(4)
    places = np.array([4, 0, 5, 2, 3])
    found = write(Reader(model, mask=plan), head, tokens, places, guide, beams)
    assert found.row.tolist() == sorted(found.row.tolist())
    for place, row in enumerate(places):
        own = found.row == place
        expected = slow_search(
            lambda text, row=row: slow_scores(model, head, tokens, row, text, plan), guide.longest, beams
        )
        assert [[id for id in text if id >= 0] for text in found.tokens[own].tolist()] == [text for _, text in expected]
        np.testing.assert_allclose(found.score[own].numpy(), [value for value, _ in expected], atol=2e-4)


@pytest.mark.parametrize("plan", [CAUSAL, MaskPlan("in:1,cr-last:1")], ids=str)
def test_enough_beams_score_every_title(loaded: Callable[..., Any], plan: MaskPlan) -> None:
    model, tokens, texts = loaded("llama"), prompts(3), titles()
    head, trie = TitleHead(model), Trie.of(texts, CPU)
    places = np.arange(len(tokens))
    found = write(Reader(model, mask=plan), head, tokens, places, TitleGuide(trie), trie.titles)
    assert len(found.row) == len(tokens) * trie.titles
    for row, state, score in zip(found.row.tolist(), found.state.tolist(), found.score.tolist(), strict=True):
        title = int(np.flatnonzero(trie.title == int(trie.ends[state]))[0])
        text = texts.ids[texts.offsets[title] : texts.offsets[title + 1]].tolist()
        assert score == pytest.approx(slow_scores(model, head, tokens, row, text, plan), abs=2e-4)


def test_prompts_that_are_done_are_forgotten(loaded: Callable[..., Any]) -> None:
    """Whatever is in the batch beside it, a prompt gets the same: also where most of the others end long before."""
    model, tokens = loaded("qwen2"), prompts(5, 12)
    reader, head, guide = Reader(model), TitleHead(model), Tokens(9)
    together = write(reader, head, tokens, np.arange(12), guide, 2)
    ends = (together.tokens >= 0).sum(1)
    assert ends.min() < 5
    for row in range(12):
        alone = write(reader, head, tokens, np.array([row]), guide, 2)
        own = together.row == row
        width = alone.tokens.shape[1]
        assert together.tokens[own, :width].tolist() == alone.tokens.tolist()
        torch.testing.assert_close(together.score[own], alone.score, atol=1e-4, rtol=0)


def test_half_precision_and_adapters(loaded: Callable[..., Any], adapted: Callable[[Any], Any]) -> None:
    tokens = prompts()
    for model, tolerance in ((adapted(loaded("llama")), 2e-4), (loaded("llama").bfloat16(), 0.3)):
        refuse_unable(Reader(model), 40, CPU)
        head, plan = TitleHead(model), MaskPlan("in:1,cr:1")
        found = write(Reader(model, mask=plan), head, tokens, np.arange(3), Tokens(3), 2)
        for row, text, score in zip(found.row.tolist(), found.tokens.tolist(), found.score.tolist(), strict=True):
            slow = slow_scores(model, head, tokens, row, [id for id in text if id >= 0], plan)
            assert score == pytest.approx(slow, abs=tolerance)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_models_that_can_write(loaded: Callable[..., Any], architecture: str) -> None:
    refuse_unable(Reader(loaded(architecture)), 40, CPU)


def test_models_that_cannot(loaded: Callable[..., Any]) -> None:
    with pytest.raises(RectoolError, match="have 600 tokens, but the model reads 512"):
        refuse_unable(Reader(loaded("llama")), 600, CPU)
    with pytest.raises(RectoolError, match="do not keep all 40 tokens"):
        refuse_unable(Reader(loaded("mistral", sliding_window=20)), 40, CPU)
    refuse_unable(Reader(loaded("mistral", sliding_window=20)), 20, CPU)
    model = MambaForCausalLM(MambaConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, state_size=4))
    with pytest.raises(RectoolError, match="mamba"):
        refuse_unable(Reader(model), 20, CPU)
