"""Full ranking: the place of each row's item among all items, and the best items, with bounded memory.

Shapes: N rows asked for, R rows that are ranked together, I items, C items of a slice of the catalogue,
K best items, D' width of queries and keys.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from rectool.data.dataset import Dataset
from rectool.data.histories import HistoryRule
from rectool.evaluation.score import Batch, Progress, Rows, in_batches, refuse_not_finite, scoring
from rectool.models.model import CatalogueScores, FactorModel, Model

Exclude: TypeAlias = Literal["history", "train", "none"]

ROWS = 512
"""Rows of a matrix product: with fewer it is slower, with more a slice of their scores leaves the cache."""
FACTOR_BYTES = {"cpu": 16 << 20, "cuda": 256 << 20}
"""Of two buffers of scores of a factor model; on a CPU what stays in its cache."""
TABLE_BYTES = {"cpu": 256 << 20, "cuda": 4 << 30}
"""Of the scores of other models, for all items at once."""
LARGEST_SLICE = 1 << 24
"""Items up to which a sum of signs is exact in float32."""
GROUP = 64
"""Neighbouring items of which only the highest score is looked at, as long as it is not high enough."""
LOWEST = torch.iinfo(torch.int64).min


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
    k = min(k, dataset.items)
    ranker = _Ranker(dataset, rows, k, _Exclusion(dataset, exclude), device)
    kind = FACTOR_BYTES if isinstance(model, FactorModel) else TABLE_BYTES
    most_bytes = memory_bytes or kind[device.type]
    with scoring(model):
        if isinstance(model, FactorModel):
            queries, keys = _factors(model, history, dataset, rows, device, batch_tokens)
            together = min(ROWS, len(rows))
            products = torch.empty(2, together, _width(dataset.items, together, most_bytes), device=device)
            with torch.autocast(device.type, enabled=False):  # whoever calls may train in half precision
                for start in range(0, len(rows), ROWS):
                    places = np.arange(start, min(start + ROWS, len(rows)))
                    ranker.rank_factors(places, queries[start : start + ROWS], keys, products)
                    if progress is not None:
                        progress(len(places))
        else:

            def rank_batch(batch: Batch) -> None:
                ranker.rank_table(batch.places, model.rank(batch.users, batch.sequences))

            most_rows = max(1, most_bytes // (8 * dataset.items))
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

    def __init__(self, dataset: Dataset, rows: Rows, k: int, exclusion: _Exclusion, device: torch.device) -> None:
        self.dataset, self.rows, self.k, self.exclusion, self.device = dataset, rows, k, exclusion, device
        n = len(rows)
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
        """Rank a block (R,) by scores of all items."""
        table = torch.empty(len(places), self.dataset.items, device=self.device)
        width = _width(self.dataset.items, len(places), FACTOR_BYTES[self.device.type])
        for start in range(0, self.dataset.items, width):
            stop = min(start + width, self.dataset.items)
            table[:, start:stop] = scores(start, stop)
        targets = torch.from_numpy(self.dataset.item[self.rows[places]]).to(self.device).long()
        own = table.gather(1, targets[:, None])[:, 0]
        spare = torch.empty(len(places), width, device=self.device)
        self._rank(places, lambda start, stop: table[:, start:stop], own, spare)

    def _rank(self, places: Rows, scores: CatalogueScores, target: Tensor, spare: Tensor) -> None:
        rows = self.rows[places]
        block = _Block(
            items=self.dataset.items,
            k=self.k,
            own=_Pairs(np.arange(len(rows)), self.dataset.item[rows], self.device),
            excluded=_Pairs(*self.exclusion.pairs(rows), self.device),
        )
        found = block.sweep(scores, target, spare)
        if not torch.equal(found.own, target):
            found = block.sweep(scores, found.own, spare)
        own = found.own.cpu().numpy()
        refuse_not_finite(found.greatest.cpu().numpy(), rows, self.dataset)
        refuse_not_finite(own, rows, self.dataset)
        top_scores, top_items = _unpacked(found.best)
        self.ranking.rank[places] = found.rank.cpu().numpy()
        self.ranking.score[places] = own
        self.ranking.top_items[places] = top_items.cpu().numpy()
        self.ranking.top_scores[places] = top_scores.cpu().numpy()


@dataclass(frozen=True)
class _Swept:
    """What one pass over the catalogue finds for a block.

    Attributes:
        rank: (R,) int64.
        own: (R,) score of the row's item, as it came in its slice.
        greatest: (R,) the highest score of a candidate; NaN if any score is.
        best: (R, K) int64, packed.
    """

    rank: Tensor
    own: Tensor
    greatest: Tensor
    best: Tensor


@dataclass(frozen=True)
class _Block:
    """Rows that are ranked together.

    Attributes:
        own: the item of each row.
        excluded: items that are no candidates of rows.
    """

    items: int
    k: int
    own: _Pairs
    excluded: _Pairs

    def sweep(self, scores: CatalogueScores, target: Tensor, spare: Tensor) -> _Swept:
        """Go through the catalogue once.

        Counts by signs: the sum of sign(score - target) + 1 over all other items is twice the higher
        ones plus the equal ones. An excluded item, at -inf, adds nothing.

        Args:
            target: (R,) scores to count against.
            spare: (R, C), to be written over; its width is that of the slices.
        """
        width = spare.shape[1]
        own, twice = torch.empty_like(target), torch.zeros_like(target, dtype=torch.int64)
        greatest = torch.full_like(target, -torch.inf)
        best = _Best(len(target), self.k, target.device)
        for start in range(0, self.items, width):
            stop = min(start + width, self.items)
            part = scores(start, stop)  # (R, C)
            part[self.excluded.within(start, stop)] = -torch.inf
            row, column = self.own.within(start, stop)
            own[row] = part[row, column]
            signs = torch.sub(part, target[:, None], out=spare[:, : stop - start]).sign_()
            twice += signs.sum(1).long() + (stop - start)
            greatest = torch.maximum(greatest, best.add(part, start))
        twice -= (own - target).sign().long() + 1
        return _Swept(1 + twice // 2, own, greatest, best.packed)


class _Best:
    """The best K items of each row of a block, as slices of the catalogue come by in order.

    Attributes:
        packed: (R, K) int64.
        enough: (R,) the lowest score that is still among them.
    """

    def __init__(self, rows: int, k: int, device: torch.device) -> None:
        self.packed = torch.full((rows, k), LOWEST, device=device)
        self.enough = torch.full((rows,), torch.finfo(torch.float32).min, device=device)

    def add(self, scores: Tensor, start: int) -> Tensor:
        """Look at a slice (R, C) whose first item is `start`; returns its highest scores (R,)."""
        k = self.packed.shape[1]
        if scores.shape[1] % GROUP:
            scores = functional.pad(scores, (0, -scores.shape[1] % GROUP), value=-torch.inf)
        groups = scores.view(len(scores), -1, GROUP)
        highest = groups.amax(-1)  # (R, C / GROUP)
        if start == 0 and highest.shape[1] >= k:  # K groups hold K items at least as high as the lowest of theirs
            self.enough = torch.maximum(self.enough, highest.topk(k).values[:, -1])
        row, group = (highest >= self.enough[:, None]).nonzero(as_tuple=True)
        if len(row):
            found = groups[row, group]  # (groups found, GROUP)
            place, column = (found >= self.enough[row, None]).nonzero(as_tuple=True)
            self._merge(row[place], _packed(found[place, column], start + group[place] * GROUP + column))
        return highest.amax(1)

    def _merge(self, row: Tensor, new: Tensor) -> None:
        """Let items in: their rows (T,), in order, and themselves (T,), packed."""
        rows, nth, counts = torch.unique_consecutive(row, return_inverse=True, return_counts=True)
        k = self.packed.shape[1]
        together = new.new_full((len(rows), k + int(counts.max())), LOWEST)
        together[:, :k] = self.packed[rows]
        place = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[nth]
        together[nth, k + place] = new
        self.packed[rows] = best = together.topk(k).values
        # What equals the last of them comes too late: those before it have lower numbers.
        last = _unpacked(best[:, -1])[0]
        self.enough[rows] = torch.nextafter(last, torch.full_like(last, torch.inf))


class _Pairs:
    """Pairs of a row of a block and an item, by slices of the catalogue."""

    def __init__(self, row: Rows, item: NDArray[np.int32], device: torch.device) -> None:
        order = np.argsort(item, kind="stable")
        self._sorted = item[order]
        self._row = torch.from_numpy(row[order]).to(device)
        self._item = torch.from_numpy(self._sorted).to(device).long()

    def within(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Row, and place in the slice, of the pairs whose item is from `start` to below `stop`."""
        first, last = np.searchsorted(self._sorted, (start, stop))
        return self._row[first:last], self._item[first:last] - start


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


def _width(items: int, rows: int, most_bytes: int) -> int:
    """Items of a slice, of which two buffers for some rows take no more than `most_bytes`."""
    width = min(LARGEST_SLICE, most_bytes // (8 * max(1, rows)))
    return max(1, min(items, width // GROUP * GROUP or width))


def _packed(scores: Tensor, items: Tensor) -> Tensor:
    """Score (float32) and item in one int64: greater for the higher score, then for the lower item."""
    bits = (scores + 0.0).view(torch.int32)  # + 0.0: -0.0 equals 0.0
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (ordered.long() << 32) - items


def _unpacked(packed: Tensor) -> tuple[Tensor, Tensor]:
    """Scores float32 and items int32; -inf and -1 for what is not there, or excluded."""
    items = -packed & 0xFFFFFFFF
    ordered = ((packed + items) >> 32).int()
    scores = (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).view(torch.float32)
    nothing = (packed == LOWEST) | (scores == -torch.inf)
    return scores.masked_fill(nothing, -torch.inf), items.masked_fill(nothing, -1).int()
