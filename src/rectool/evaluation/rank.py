"""Full ranking: the place of each row's item among all items, and the best items, with bounded memory.

Shapes: N rows asked for, R rows that are ranked together, I items, K best items, D' width of queries and keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rectool.data.dataset import Dataset
from rectool.data.histories import HistoryRule
from rectool.evaluation.score import Batch, Progress, Rows, in_batches, refuse_not_finite, scoring
from rectool.evaluation.sweep import Block, Pairs, slice_width, unpacked
from rectool.models.model import CatalogueScores, FactorModel, Model

Exclude: TypeAlias = Literal["history", "train", "none"]

ROWS = 512
"""Rows of a matrix product: with fewer it is slower, with more a slice of their scores leaves the cache."""
FACTOR_BYTES = {"cpu": 16 << 20, "cuda": 256 << 20}
"""Of two buffers of scores of a factor model; on a CPU what stays in its cache."""
TABLE_BYTES = {"cpu": 256 << 20, "cuda": 4 << 30}
"""Of the scores of other models, for all items at once."""


@dataclass(frozen=True)
class Ranking:
    """Where rows' items stand in the catalogue.

    Attributes:
        rank: (N,) int64, 1 + items with a higher score + half (rounded down) of the others with the
            same score.
        score: (N,) float32, of the row's own item.
        top_items: (N, K) int32, best first, among equals the lower number first; -1 where fewer than K
            items are candidates.
        top_scores: (N, K) float32, -inf there.
    """

    rank: NDArray[np.int64]
    score: NDArray[np.float32]
    top_items: NDArray[np.int32]
    top_scores: NDArray[np.float32]


def rank_rows(
    model: Model,
    history: HistoryRule | None,
    dataset: Dataset,
    rows: Rows,
    *,
    k: int,
    exclude: Exclude = "none",
    device: torch.device,
    batch_tokens: int | None = None,
    memory_bytes: int | None = None,
    progress: Progress | None = None,
) -> Ranking:
    """Rank the catalogue for each row, from the row's own history and nothing later.

    A factor model's queries and keys are computed once; products of blocks of them go into one buffer,
    slice by slice, with the best K so far at hand. Of other models, as many rows are ranked together
    as all their scores fit into memory.

    Args:
        history: what the model reads; None for one that reads none.
        rows: (N,) rows of the log in any order, repeats allowed.
        k: how many of the best items to keep; no more than there are items.
        exclude: items that are no candidates: those of the user's earlier rows in the log, whatever
            the model reads of them; those of the user's train rows; or none. The row's own item stays.
        device: where the model is.
        batch_tokens: of what is encoded together, as in `score.in_batches`.
        memory_bytes: of the buffers for scores, beside queries, keys and what is returned.

    Raises:
        RectoolError: a score is not finite; names the row of interactions.parquet.
    """
    if isinstance(model, FactorModel):
        with scoring(model):
            queries, keys = _factors(model, history, dataset, rows, device, batch_tokens)
            return rank_queries(
                dataset, rows, queries, keys, k=k, exclude=exclude, memory_bytes=memory_bytes, progress=progress
            )
    ranker = _Ranker(dataset, rows, k, exclude, device)

    def rank_batch(batch: Batch) -> None:
        ranker.rank_table(batch.places, model.rank(batch.users, batch.sequences))

    most_rows = max(1, (memory_bytes or TABLE_BYTES[device.type]) // (8 * dataset.items))
    with scoring(model):
        in_batches(
            rank_batch,
            history,
            dataset,
            rows,
            device=device,
            tokens=batch_tokens,
            most_rows=most_rows,
            progress=progress,
        )
    return ranker.ranking


@torch.inference_mode()
def rank_queries(
    dataset: Dataset,
    rows: Rows,
    queries: Tensor,
    keys: Tensor,
    *,
    k: int,
    exclude: Exclude = "none",
    memory_bytes: int | None = None,
    progress: Progress | None = None,
) -> Ranking:
    """Rank the catalogue for each row by inner products, as `rank_rows` does.

    Args:
        queries: (N, D') float32, of the rows.
        keys: (I, D') float32, of all items, on the same device.
        k, exclude, memory_bytes: see `rank_rows`.

    Raises:
        RectoolError: a score is not finite; names the row of interactions.parquet.
    """
    device = queries.device
    ranker = _Ranker(dataset, rows, k, exclude, device)
    width = slice_width(dataset.items, min(ROWS, len(rows)), memory_bytes or FACTOR_BYTES[device.type])
    products = torch.empty(2, min(ROWS, len(rows)), width, device=device)
    with torch.autocast(device.type, enabled=False):  # whoever calls may train in half precision
        for start in range(0, len(rows), ROWS):
            places = np.arange(start, min(start + ROWS, len(rows)))
            ranker.rank_factors(places, queries[start : start + ROWS], keys, products)
            if progress is not None:
                progress(len(places))
    return ranker.ranking


def rank_scores(
    dataset: Dataset,
    rows: Rows,
    scores: Iterable[tuple[Rows, Tensor]],
    *,
    k: int,
    exclude: Exclude = "none",
    device: torch.device,
) -> Ranking:
    """Rank the catalogue for each row by scores of all items, as `rank_rows` does.

    Args:
        scores: places in `rows` (B,) and their scores (B, I) float32 on the device, each row once.
        k, exclude: see `rank_rows`.

    Raises:
        RectoolError: a score is not finite; names the row of interactions.parquet.
    """
    ranker = _Ranker(dataset, rows, k, exclude, device)
    for places, table in scores:
        ranker.rank_scores(places, table)
    return ranker.ranking


def _factors(
    model: FactorModel,
    history: HistoryRule | None,
    dataset: Dataset,
    rows: Rows,
    device: torch.device,
    batch_tokens: int | None,
) -> tuple[Tensor, Tensor]:
    """Queries of the rows (N, D') and keys of all items (I, D')."""
    keys = queries = torch.empty(0, 0, device=device)

    def encode(batch: Batch) -> None:
        nonlocal keys, queries
        if len(keys):
            found = model.queries(batch.users, batch.sequences)
        else:  # both at once, where both come out of the same work
            found, keys = model.factors(batch.users, batch.sequences)
            keys = keys.float().contiguous()
            queries = keys.new_empty(len(rows), keys.shape[1])
        queries[torch.from_numpy(batch.places).to(device)] = found.float()

    in_batches(encode, history, dataset, rows, device=device, tokens=batch_tokens)
    return queries, keys


class _Ranker:
    """Ranks blocks of rows and keeps what came out."""

    def __init__(self, dataset: Dataset, rows: Rows, k: int, exclude: Exclude, device: torch.device) -> None:
        self.dataset, self.rows, self.k, self.device = dataset, rows, min(k, dataset.items), device
        self.exclusion = _Exclusion(dataset, exclude)
        n, k = len(rows), self.k
        self.ranking = Ranking(
            rank=np.empty(n, np.int64),
            score=np.empty(n, np.float32),
            top_items=np.empty((n, k), np.int32),
            top_scores=np.empty((n, k), np.float32),
        )

    def rank_factors(self, places: Rows, queries: Tensor, keys: Tensor, products: Tensor) -> None:
        """Rank a block (R,) by its queries (R, D'); products: (2, at least R, C), to be written over."""
        buffer, spare = products[:, : len(places)]

        def scores(start: int, stop: int) -> Tensor:
            return torch.mm(queries, keys[start:stop].T, out=buffer[:, : stop - start])

        # Of the same kind of product as in the slices: another one may differ in the last bit, and
        # then equal scores would not be seen to be equal.
        targets = torch.from_numpy(self.dataset.item[self.rows[places]]).to(self.device).long()
        self._rank(places, scores, (queries @ keys[targets].T).diagonal().contiguous(), spare)

    def rank_table(self, places: Rows, scores: CatalogueScores) -> None:
        """Rank a block (R,) by scores of all items, which come in slices."""
        table = torch.empty(len(places), self.dataset.items, device=self.device)
        width = slice_width(self.dataset.items, len(places), FACTOR_BYTES[self.device.type])
        for start in range(0, self.dataset.items, width):
            stop = min(start + width, self.dataset.items)
            table[:, start:stop] = scores(start, stop)
        self.rank_scores(places, table)

    def rank_scores(self, places: Rows, table: Tensor) -> None:
        """Rank a block (R,) by its scores (R, I), which may be written over."""
        width = slice_width(self.dataset.items, len(places), FACTOR_BYTES[self.device.type])
        targets = torch.from_numpy(self.dataset.item[self.rows[places]]).to(self.device).long()
        own = table.gather(1, targets[:, None])[:, 0]
        spare = torch.empty(len(places), width, device=self.device)
        self._rank(places, lambda start, stop: table[:, start:stop], own, spare)

    def _rank(self, places: Rows, scores: CatalogueScores, target: Tensor, spare: Tensor) -> None:
        rows = self.rows[places]
        block = Block(
            items=self.dataset.items,
            k=self.k,
            own=Pairs(np.arange(len(rows)), self.dataset.item[rows], self.device),
            excluded=Pairs(*self.exclusion.pairs(rows), self.device),
        )
        found = block.sweep(scores, target, spare)
        if not torch.equal(found.own, target):
            found = block.sweep(scores, found.own, spare)
        own = found.own.cpu().numpy()
        refuse_not_finite(found.greatest.cpu().numpy(), rows, self.dataset)
        refuse_not_finite(own, rows, self.dataset)
        top_scores, top_items = unpacked(found.best)
        self.ranking.rank[places] = found.rank.cpu().numpy()
        self.ranking.score[places] = own
        self.ranking.top_items[places] = top_items.cpu().numpy()
        self.ranking.top_scores[places] = top_scores.cpu().numpy()


class _Exclusion:
    """The items that are no candidates of a row, as slices of one array."""

    def __init__(self, dataset: Dataset, rule: Exclude) -> None:
        self.dataset = dataset
        self.items = dataset.item
        self.slices: Callable[[Rows], tuple[Rows, Rows]]
        if rule == "history":
            histories = dataset.histories(liked_only=False)
            self.items, self.slices = histories.items, histories.slices
        elif rule == "train":
            train = dataset.targets("train")
            self.items, users = dataset.item[train], dataset.user[train]
            self.slices = lambda rows: (
                np.searchsorted(users, dataset.user[rows], "left"),
                np.searchsorted(users, dataset.user[rows], "right"),
            )
        else:
            self.slices = lambda rows: (np.zeros_like(rows), np.zeros_like(rows))

    def pairs(self, rows: Rows) -> tuple[Rows, NDArray[np.int32]]:
        """Place in `rows` and item, of all that is excluded; a row's own item never is."""
        start, stop = self.slices(rows)
        counts = stop - start
        place = np.repeat(np.arange(len(rows)), counts)
        items = self.items[np.arange(len(place)) + np.repeat(start - (np.cumsum(counts) - counts), counts)]
        others = items != self.dataset.item[rows][place]
        return place[others], items[others]
