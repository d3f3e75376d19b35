"""From what a language model writes to items: scores of all items, which the catalogue is ranked by.

Shapes: N rows   B rows of a batch   I items   D distinct titles   M beams   C ways to go on   H hidden size
   V vocabulary
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from rectool.data.dataset import Dataset
from rectool.llm.body import Soft, refuse_too_long
from rectool.llm.mask_plan import CAUSAL, MaskPlan
from rectool.llm.pooled import pooled_states
from rectool.llm.reading import BATCH_TOKENS, Budget, Encoded, Longs, Reader, default_budget, in_batches, token_bytes
from rectool.llm.title_head import TitleHead
from rectool.llm.trie import Trie
from rectool.llm.writing import Guide, refuse_unable, write
from rectool.prompts.catalogue import Catalogue
from rectool.prompts.prompts import Prompts
from rectool.prompts.tokens import TokenRows, bounds

Ground = Literal["nearest", "trie"]
"""nearest: what is written, whatever it is, stands for the items whose titles' embeddings are nearest (BIGRec).
trie: nothing but titles of the data set can be written."""
BEAMS = 20
UNREACHED = -1e9
"""The score of an item that no beam has come to: below all log-probabilities, and the same for all of them."""
CPU_TOKENS = 4 * BATCH_TOKENS
"""A batch of prompts on a CPU by default: the steps that follow have few tokens of each."""


class Grounder(Protocol):
    """Scores of all items, from what a model writes after prompts."""

    def scores(self, tokens: TokenRows, *, progress: Callable[[int], None] = lambda _: None) -> Iterator[Encoded]:
        """The scores of all items after each prompt (N,), higher for those that come first.

        Items of one title have one score.

        Args:
            tokens: with spans, where there is a mask.
            progress: told how many more rows are done.

        Yields:
            Each row once, in no particular order: (places (B,), scores (B, I) float32, on the device).

        Raises:
            RectoolError: a prompt is longer than the model can read, or one alone is too much for the device.
        """


def grounder(
    ground: Ground,
    model: nn.Module,
    head: TitleHead,
    prompts: Prompts,
    dataset: Dataset,
    device: torch.device,
    *,
    beams: int = BEAMS,
    mask: MaskPlan = CAUSAL,
    soft: Soft | None = None,
    budget: int | None = None,
) -> Grounder:
    """What grounds the titles that a model writes in the items of a data set; their titles are read once, here.

    Args:
        prompts: of task next-item.
        beams: texts that are followed at a time after each prompt; 1 writes greedily.
        mask: of the prompts; what is written is of no item, and titles by themselves have no mask.
        soft: what ids below 0 stand for.
        budget: tokens encoded together; None for what suits the device.

    Raises:
        RectoolError: the prompts are of another task, or the model cannot write.
    """
    outputs = prompts.outputs(dataset, np.arange(dataset.items))
    writer = _Writer(Reader(model, soft=soft, mask=mask), head, beams, dataset.items, device, budget)
    if ground == "trie":
        return TrieGrounder(writer, Trie.of(outputs, device))
    longest = int(outputs.lengths.max(initial=1))
    return NearestGrounder(writer, prompts, FreeGuide(beams, prompts.tokenizer.stop, longest), dataset)


@dataclass(frozen=True)
class _Writer:
    """Writes after prompts, in batches."""

    reader: Reader
    head: TitleHead
    beams: int
    items: int
    device: torch.device
    budget: int | None

    def batches(self, tokens: TokenRows, guide: Guide, work: Callable[[Longs], Tensor]) -> Iterator[Encoded]:
        """Do some work for each batch of prompts, of about one length."""
        reader, lengths = self.reader, tokens.lengths
        refuse_too_long(tokens, reader.config)
        refuse_unable(reader, int(lengths.max(initial=0)) + guide.longest, self.device)
        usual = default_budget(reader.config, reader.dtype, self.device)
        room = Budget(self.budget or (usual if self.device.type == "cuda" else CPU_TOKENS), self.device)
        run, kept = token_bytes(reader.config, reader.dtype)
        kept_in_all = 1.5 * kept * reader.depth / run  # with room for more
        scores = 2 * 4 * self.items / run
        written = self.beams * (1 + guide.longest * kept_in_all)
        return in_batches(np.arange(len(tokens)), lengths * (1 + kept_in_all) + written + scores, work, room)


@dataclass(frozen=True)
class TrieGrounder:
    """An item's score is the log-probability of its title, if it is among those that a beam search over all titles ends
    with; `UNREACHED` otherwise."""

    writer: _Writer
    trie: Trie

    def scores(self, tokens: TokenRows, *, progress: Callable[[int], None] = lambda _: None) -> Iterator[Encoded]:
        guide = TitleGuide(self.trie)
        title = torch.from_numpy(self.trie.title).to(self.writer.device)

        def work(places: Longs) -> Tensor:
            found = write(self.writer.reader, self.writer.head, tokens, places, guide, self.writer.beams)
            scores = torch.full((len(places), self.trie.titles), UNREACHED, device=self.writer.device)
            scores[found.row, self.trie.ends[found.state]] = found.score
            return scores[:, title]

        for places, scores in self.writer.batches(tokens, guide, work):
            progress(len(places))
            yield places, scores


class NearestGrounder:
    """An item's score is minus the distance (L2) of its title's embedding from that of the most probable text.

    Both are read with the same model, as texts by themselves (BIGRec, section 3.3); the embedding is the state at the
    last token.
    """

    def __init__(self, writer: _Writer, prompts: Prompts, guide: FreeGuide, dataset: Dataset) -> None:
        self.writer, self.prompts, self.guide = writer, prompts, guide
        titles = Catalogue(dataset).titles.to_pylist()
        self._known = {title: number for number, title in enumerate(dict.fromkeys(titles))}
        self._title = torch.tensor([self._known[title] for title in titles], device=writer.device)
        embeddings = self._embedded(list(self._known))
        self._middle = embeddings.mean(0)  # distances from there are small, and so is what rounding makes of them
        self._keys = embeddings - self._middle  # (D, H)
        self._squares = self._keys.square().sum(1)

    def scores(self, tokens: TokenRows, *, progress: Callable[[int], None] = lambda _: None) -> Iterator[Encoded]:
        for places, ids in self.writer.batches(tokens, self.guide, partial(self._written, tokens)):
            queries = self._queries(self._texts(ids))
            squares = self._squares + queries.square().sum(1)[:, None] - 2 * queries @ self._keys.T
            progress(len(places))
            yield places, -squares.clamp(min=0).sqrt()[:, self._title]

    def _written(self, tokens: TokenRows, places: Longs) -> Tensor:
        """The tokens (B, T) of the most probable text after each of some prompts."""
        found = write(self.writer.reader, self.writer.head, tokens, places, self.guide, self.writer.beams)
        first = torch.searchsorted(found.row, torch.arange(len(places), device=found.row.device))
        return found.tokens[first]

    def _texts(self, ids: Tensor) -> list[str]:
        stop = self.prompts.tokenizer.stop
        rows = [[id for id in row if id >= 0 and id != stop] for row in ids.tolist()]
        return [self.prompts.title_in(self.prompts.tokenizer.text(row)) for row in rows]

    def _queries(self, texts: list[str]) -> Tensor:
        """(B, H), those of a data set's titles what they are there."""
        known = torch.tensor([self._known.get(text, -1) for text in texts], device=self._keys.device)
        queries = self._keys[known]
        others = list(dict.fromkeys(text for text in texts if text not in self._known))
        if others:
            number = {text: place for place, text in enumerate(others)}
            which = [number[text] for text in texts if text not in self._known]
            queries[known < 0] = (self._embedded(others) - self._middle)[which]
        return queries

    def _embedded(self, texts: list[str]) -> Tensor:
        """(D, H) float32 embeddings of texts."""
        tokenizer, reader = self.prompts.tokenizer, self.writer.reader
        found = tokenizer.encode([text or "." for text in texts])
        start = np.tile(np.array(tokenizer.start, np.int32), len(texts))
        starts = TokenRows(start, bounds(np.full(len(texts), len(tokenizer.start))))
        tokens = starts.followed_by(TokenRows(found.ids, bounds(found.lengths)))
        output = torch.empty(len(texts), reader.config.get_text_config(decoder=True).hidden_size)
        output = output.to(self.writer.device)
        for places, states in pooled_states(
            reader.model, tokens, "last", causal=True, device=self.writer.device, budget=self.writer.budget
        ):
            output[torch.from_numpy(places).to(output.device)] = states.float()
        return output


@dataclass(frozen=True)
class TitleGuide:
    """A guide that allows titles alone: its states are the nodes of a trie."""

    trie: Trie

    @property
    def longest(self) -> int:
        return self.trie.depth

    def steps(self, states: Tensor, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        children, owner = self.trie.children(states)
        return owner, self.trie.token[children], children

    def ends(self, states: Tensor) -> Tensor:
        return self.trie.ends[states] >= 0

    def goes_on(self, states: Tensor) -> Tensor:
        return self.trie.goes_on(states)


@dataclass(frozen=True)
class FreeGuide:
    """A guide that allows anything, up to the end token: state 1 is after it.

    Attributes:
        beams: of the next tokens of a beam no more can come to be among the best.
    """

    beams: int
    stop: int | None
    longest: int

    def steps(self, states: Tensor, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        best = logits.topk(min(self.beams, logits.shape[1])).indices  # (M, beams)
        owner = torch.arange(len(best), device=best.device).repeat_interleave(best.shape[1])
        token = best.flatten()
        stopped = torch.zeros_like(token) if self.stop is None else (token == self.stop).long()
        return owner, token, stopped

    def ends(self, states: Tensor) -> Tensor:
        return states == 1

    def goes_on(self, states: Tensor) -> Tensor:
        return states == 0
