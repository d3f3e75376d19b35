"""The catalogue ranked by language models: by an item head's keys, or by how near written titles come to items.

Shapes: N rows   H hidden size   I items
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from rectool.data.dataset import Dataset
from rectool.errors import RectoolError
from rectool.evaluation.rank import Exclude, Ranking, rank_queries, rank_scores
from rectool.evaluation.score import Progress, Rows
from rectool.llm.body import reading
from rectool.llm.grounding import BEAMS, UNREACHED, Ground, Grounder, grounder
from rectool.llm.head import AnswerHead
from rectool.llm.item_head import ItemHead
from rectool.llm.recommender import Recommender
from rectool.llm.title_head import TitleHead

WRITTEN_TOKENS = 16
"""Of a title, about: what is written counts as so many tokens more of a prompt, for each beam."""


@dataclass(frozen=True)
class Grounded:
    """How titles that a model writes become items.

    Attributes:
        by: the nearest item embedding (BIGRec), or a search among the titles there are.
        beams: of the search.
    """

    by: Ground = "nearest"
    beams: int = BEAMS


class LanguageRanker:
    """Ranks the catalogue for rows of one data set; what all of them need of the catalogue is made once, here.

    Args:
        rows: (N,) rows of the log in any order, repeats allowed.
        grounded: for a title head.
        budget: tokens encoded together; None for what suits the device.

    Attributes:
        asked: (N,) the prompts of the rows.

    Raises:
        RectoolError: the model answers yes/no questions, cannot write, or a prompt cannot be made.
    """

    def __init__(
        self,
        recommender: Recommender,
        dataset: Dataset,
        rows: Rows,
        *,
        grounded: Grounded | None = None,
        budget: int | None = None,
    ) -> None:
        self.recommender, self.dataset, self.rows, self.budget = recommender, dataset, rows, budget
        if isinstance(recommender.head, AnswerHead):
            raise RectoolError(f"{recommender.name} rates rows; it does not rank the catalogue")
        self.asked = recommender.asked(dataset, rows)
        self._grounder: Grounder | None = None
        self._written = 0
        if isinstance(recommender.head, TitleHead):
            by = grounded or Grounded()
            self._written = WRITTEN_TOKENS * by.beams
            soft = recommender.soft
            with reading(recommender.model):
                self._grounder = grounder(
                    by.by,
                    recommender.model,
                    recommender.head,
                    recommender.prompts,
                    dataset,
                    recommender.device,
                    beams=by.beams,
                    mask=recommender.mask,
                    soft=None if soft is None else partial(soft.vectors, self.asked.wanted),
                    budget=budget,
                )

    @property
    def costs(self) -> NDArray[np.int64]:
        """(N,) about how many tokens the model reads for each row."""
        return self.asked.tokens.lengths + self._written

    def rank(self, start: int, stop: int, *, k: int, exclude: Exclude = "none", progress: Progress) -> Ranking:
        """Rank all items for the rows from `start` to `stop`, as `rank.rank_rows` does.

        Items that no written title came to are in no list of best items.

        Raises:
            RectoolError: a score is not finite, or the device has no memory for a row.
        """
        recommender, device, rows = self.recommender, self.recommender.device, self.rows[start:stop]
        tokens = self.asked.tokens.take(np.arange(start, stop))
        if self._grounder is not None:
            with reading(recommender.model), nullcontext() if recommender.soft is None else reading(recommender.soft):
                scores = self._grounder.scores(tokens, progress=progress)
                return _reached(rank_scores(self.dataset, rows, scores, k=k, exclude=exclude, device=device))
        head = recommender.head
        assert isinstance(head, ItemHead)
        queries = torch.empty(len(rows), head.hidden_size, device=device)
        for places, hidden in recommender.states_of(
            tokens, wanted=self.asked.wanted, budget=self.budget, progress=progress
        ):
            queries[torch.from_numpy(places).to(device)] = hidden.float()
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            keys = head.keys().float()
        return rank_queries(self.dataset, rows, queries, keys, k=k, exclude=exclude)


def rank(
    recommender: Recommender,
    dataset: Dataset,
    rows: Rows,
    *,
    k: int,
    exclude: Exclude = "none",
    grounded: Grounded | None = None,
    budget: int | None = None,
    progress: Progress | None = None,
) -> Ranking:
    """Rank all items for each row (N,) of the log; see `LanguageRanker.rank`.

    Raises:
        RectoolError: the model answers yes/no questions, a prompt cannot be made, or a score is not finite.
    """
    ranker = LanguageRanker(recommender, dataset, rows, grounded=grounded, budget=budget)
    return ranker.rank(0, len(rows), k=k, exclude=exclude, progress=progress or (lambda _: None))


def _reached(ranking: Ranking) -> Ranking:
    """A ranking without the items in its lists that no written title came to."""
    nothing = ranking.top_scores <= UNREACHED
    ranking.top_items[nothing], ranking.top_scores[nothing] = -1, -np.inf
    return ranking
