"""First-order Markov chain: how often the last item of a history was followed by each other one.

    P(i | last) = (n(last, i) + k p(i)) / (n(last) + k)

n counts the training rows whose history ends in `last` and that are not disliked, p(i) is the item's
add-one smoothed share of all rows that are not disliked, k the smoothing. Without a history it is p(i).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rectool.models import priors
from rectool.models.model import CatalogueScores, Model, Sequences, Size, TrainingRows


@dataclass(frozen=True)
class MarkovSettings:
    """How many rows' worth of popularity each item's followers get; None is chosen on validation."""

    max_length: ClassVar[int] = 1

    smoothing: float | None = None

    def __post_init__(self) -> None:
        priors.check_smoothing(self.smoothing)


class Markov(Model):
    """Scores are log P, for CTR too.

    Vectors are those of someone without a history: (1) for users, log p(i) for items.

    Transitions lie in one sorted array of last * I + next, so that the followers of an item in a
    slice of the catalogue are a slice of it. T of them are different.
    """

    Settings: ClassVar = MarkovSettings
    reads_history: ClassVar = True
    new_users: ClassVar = True
    counted: ClassVar = True
    logits: ClassVar = False
    choices: ClassVar = {"smoothing": priors.SMOOTHINGS}
    settings: MarkovSettings
    transition: Tensor  # (T,) int64, sorted
    count: Tensor  # (T,) float32
    left: Tensor  # (I + 1,) float32, n(last); the last place is for no history, and stays 0
    log_share: Tensor  # (I,) float32, log p

    def __init__(self, settings: MarkovSettings, size: Size) -> None:
        super().__init__(settings, size)
        self.register_buffer("transition", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("count", torch.zeros(0))
        self.register_buffer("left", torch.zeros(size.items + 1))
        self.register_buffer("log_share", torch.zeros(size.items))

    @property
    def smoothing(self) -> float:
        return priors.chosen_smoothing(self.settings.smoothing)

    def observe(self, rows: TrainingRows) -> None:
        priors.chosen_smoothing(self.settings.smoothing)
        counted = rows.liked & (rows.previous >= 0)
        last, item = rows.previous[counted], rows.item[counted]
        transition, count = torch.unique(last * self.size.items + item, return_counts=True)
        self.replace("transition", transition)
        self.replace("count", count)
        self.replace("left", torch.bincount(last, minlength=self.size.items + 1))
        self.replace("log_share", priors.log_shares(rows))

    def score(self, users: Tensor, items: Tensor, sequences: Sequences) -> Tensor:
        last = self.last(sequences)
        wanted = last * self.size.items + items
        place = torch.searchsorted(self.transition, wanted)
        found = torch.searchsorted(self.transition, wanted, right=True) > place
        count = self.left.new_zeros(len(items))
        count[found] = self.count[place[found]]
        return self.log_probability(count, items) - self.log_total(last)

    def rank(self, users: Tensor, sequences: Sequences) -> CatalogueScores:
        last = self.last(sequences)
        log_total = self.log_total(last)[:, None]

        def scores(start: int, stop: int) -> Tensor:
            items = torch.arange(start, stop, device=last.device)
            unseen = self.log_probability(self.left.new_zeros(stop - start), items)
            table = unseen.expand(len(last), -1) - log_total  # (B, stop - start)
            first = torch.searchsorted(self.transition, last * self.size.items + start)  # (B,)
            hits = torch.searchsorted(self.transition, last * self.size.items + stop) - first
            row = torch.repeat_interleave(torch.arange(len(last), device=last.device), hits)  # (hits in all,)
            within = torch.arange(len(row), device=last.device) - (hits.cumsum(0) - hits)[row]
            place = first[row] + within
            item = self.transition[place] - last[row] * self.size.items
            table[row, item - start] = self.log_probability(self.count[place], item) - log_total[row, 0]
            return table

        return scores

    def user_vectors(self, users: Tensor, sequences: Sequences) -> Tensor:
        return self.log_share.new_ones(len(users), 1)

    def item_vectors(self) -> Tensor:
        return self.log_share[:, None]

    def last(self, sequences: Sequences) -> Tensor:
        """The last item of each history, I where there is none: (B,)."""
        if sequences.items.shape[1] == 0:
            return torch.full_like(sequences.lengths, self.size.items)
        at = (sequences.lengths - 1).clamp(min=0)
        item = sequences.items.gather(1, at[:, None])[:, 0]
        return torch.where(sequences.lengths > 0, item, self.size.items)

    def log_probability(self, count: Tensor, items: Tensor) -> Tensor:
        """log(n(last, i) + k p(i)), still to be divided by n(last) + k."""
        return (count + self.smoothing * self.log_share[items].exp()).log()

    def log_total(self, last: Tensor) -> Tensor:
        """log(n(last) + k)."""
        return (self.left[last] + self.smoothing).log()
