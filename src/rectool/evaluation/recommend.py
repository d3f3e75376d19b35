"""The best items of users: out of the whole catalogue, or out of what another model has found.

Shapes: N users   K best items   C candidates   P pairs of a user and a candidate
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rectool.artifacts.schemas import RECOMMENDATIONS
from rectool.artifacts.shards import Work
from rectool.data.dataset import Dataset
from rectool.data.finding import items_named, users_named
from rectool.data.questions import ask, rows_of
from rectool.errors import RectoolError, disk_errors
from rectool.evaluation.recommend_settings import Asked
from rectool.evaluation.scorer import CollaborativeScorer, Computation, Evaluable, computed

FILE = "recommendations.parquet"
PAIRS = 1 << 14
"""Pairs that are made ready together where a model rates them one by one."""
WRITTEN = 1 << 17
"""Rows of the table that are made together."""


@dataclass(frozen=True)
class Lists:
    """The best items of users, best first.

    Attributes:
        users: (N,) int32, rising; new users from the number of users on.
        items: (N, K) int32; -1 where there are fewer.
        scores: (N, K) float32; -inf there.
    """

    users: NDArray[np.int32]
    items: NDArray[np.int32]
    scores: NDArray[np.float32]


@dataclass(frozen=True)
class Audience:
    """For whom.

    Attributes:
        known: rows of users.parquet, rising.
        likes: items that each new user liked, oldest first.
    """

    dataset: Dataset
    known: NDArray[np.int32]
    likes: tuple[NDArray[np.int32], ...]

    @classmethod
    def find(cls, dataset: Dataset, asked: Asked) -> Audience:
        """Those that flags name; all users if none does.

        Raises:
            RectoolError: there is no such user or item, or several items may be meant.
        """
        likes = tuple(items_named(dataset, names, f"--likes {names[:40]!r}") for names in asked.likes)
        if not asked.users and not likes:
            return cls(dataset, np.arange(dataset.users, dtype=np.int32), likes)
        ids, where = _ids(asked)
        return cls(dataset, users_named(dataset, ids, where), likes)

    @cached_property
    def users(self) -> NDArray[np.int32]:
        """(N,) known and new ones."""
        new = self.dataset.users + np.arange(len(self.likes))
        return np.concatenate([self.known, new]).astype(np.int32)

    @cached_property
    def latest(self) -> NDArray[np.int32]:
        """(N,) the item that each has met last; -1 where there is none."""
        start, stop = rows_of(self.dataset, self.known)
        known = np.where(start < stop, self.dataset.item[stop - 1], -1)
        return np.concatenate([known, [items[-1] for items in self.likes]]).astype(np.int32)


@dataclass(frozen=True)
class Recommending:
    """A model, and for whom it chooses.

    Attributes:
        retriever: finds `candidates` items for a model that rates them one by one; None for one that ranks.
        seed: of models whose scores depend on chance.

    Raises:
        RectoolError: there are new users, and a collaborative model can tell nothing about them.
    """

    scorer: Evaluable
    retriever: Evaluable | None
    candidates: int
    audience: Audience
    asked: Asked
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.audience.likes:
            return
        for scorer in (self.scorer, self.retriever):
            if isinstance(scorer, CollaborativeScorer) and not scorer.trained.model.new_users:
                raise RectoolError(
                    f"--likes: {scorer.name} knows its users from training only; new ones need a model that reads "
                    "histories, such as sasrec"
                )

    def about(self) -> dict[str, Any]:
        """What was asked of whom."""
        retriever = self.retriever.name if self.retriever is not None else None
        return {
            "model": self.scorer.name,
            "task": self.scorer.task,
            "retriever": retriever,
            "candidates": self.candidates if retriever else None,
            "k": self.asked.k,
            "exclude": self.asked.exclude,
            "users": len(self.audience.users),
            "new_users": len(self.audience.likes),
        }

    def run(self, work: Work) -> Lists | None:
        """The best items of each user; of equal ones those with the lower numbers first.

        Returns:
            None in all processes but the main one, whose work they share.

        Raises:
            RectoolError: a score is not finite.
            Stopped: what is done so far is saved.
        """
        if self.retriever is None:
            return self._ranked(work)
        together = max(1, PAIRS // self.candidates)
        parts = []
        for start in range(0, len(self.audience.users), together):
            parts.append(self._chosen(self.retriever, start, min(start + together, len(self.audience.users)), work))
        whole = [part for part in parts if part is not None]
        if not whole:
            return None
        items, scores = zip(*whole, strict=True)
        return Lists(self.audience.users, np.concatenate(items), np.concatenate(scores))

    def _ranked(self, work: Work) -> Lists | None:
        """The best of the whole catalogue."""
        users, latest = self.audience.users, self.audience.latest
        questions = ask(self.audience.dataset, users, np.maximum(latest, 0), self.audience.likes)
        ranking = self.scorer.ranking(
            questions, questions.rows, k=self._listed(self.asked.k), exclude=self.asked.exclude
        )
        doing = f"ranking {questions.items:,} items for {len(users):,} users"
        found = computed(ranking, len(users), doing, part="users", seed=self.seed, work=work)
        if found is None:
            return None
        return Lists(users, *self._unmet(found["top_items"], found["top_scores"], latest, self.asked.k))

    def _chosen(
        self, retriever: Evaluable, start: int, stop: int, work: Work
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]] | None:
        """The best of what a retriever finds, for the users from `start` to `stop`."""
        users, latest = self.audience.users[start:stop], self.audience.latest[start:stop]
        dataset, likes = self.audience.dataset, self.audience.likes
        asked = ask(dataset, users, np.maximum(latest, 0), likes)
        found = retriever.rank(asked, asked.rows, k=self._listed(self.candidates), exclude=self.asked.exclude)
        candidates, _ = self._unmet(found.top_items, found.top_scores, latest, self.candidates)
        candidates = np.sort(candidates, axis=1)  # so that of equal scores the lower number comes first
        place, column = np.nonzero(candidates >= 0)
        pairs = ask(dataset, users[place], candidates[place, column], likes)
        part = f"users {start}"
        done = work.done(part) == len(place)
        rating = Computation([(0, len(place))], _nothing) if done else self.scorer.scoring(pairs, pairs.rows)
        doing = f"rating candidates of users {start + 1:,} to {stop:,} of {len(self.audience.users):,}"
        rated = computed(rating, len(place), doing, part=part, seed=self.seed, work=work)
        if rated is None:
            return None
        scores = np.full(candidates.shape, -np.inf, np.float32)
        scores[place, column] = rated.get("score", [])
        best = np.argsort(-scores, axis=1, kind="stable")[:, : self.asked.k]
        return np.take_along_axis(candidates, best, 1), np.take_along_axis(scores, best, 1)

    def _listed(self, k: int) -> int:
        """How many of the best to ask for: a row's own item, here the one met last, is always ranked."""
        return k + (self.asked.exclude == "history")

    def _unmet(
        self, items: NDArray[np.int32], scores: NDArray[np.float32], latest: NDArray[np.int32], k: int
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """The best `k` items (N, K) with their scores, without the one met last where it is to be left out."""
        if self.asked.exclude == "history":
            met = items == latest[:, None]
            items, scores = np.where(met, np.int32(-1), items), np.where(met, np.float32(-np.inf), scores)
            order = np.argsort(items < 0, axis=1, kind="stable")
            items, scores = np.take_along_axis(items, order, 1), np.take_along_axis(scores, order, 1)
        return items[:, :k], scores[:, :k]


def write(lists: Lists, dataset: Dataset, folder: Path) -> None:
    """Write recommendations.parquet."""
    with (
        disk_errors(folder, "choose another --out"),
        pq.ParquetWriter(folder / FILE, RECOMMENDATIONS, compression="zstd") as file,
    ):
        for table in _tables(lists, dataset):
            file.write_table(table)


def _tables(lists: Lists, dataset: Dataset) -> Iterator[pa.Table]:
    titles, item_ids, user_ids = dataset.titles(), dataset.item_ids(), dataset.user_ids()
    together = max(1, WRITTEN // max(1, lists.items.shape[1]))
    for start in range(0, len(lists.users), together):
        items, scores = lists.items[start : start + together], lists.scores[start : start + together]
        place, rank = np.nonzero(items >= 0)
        user, item = lists.users[start : start + together][place], pa.array(items[place, rank])
        known = pa.array(user, mask=user >= dataset.users)
        new = pa.array(user - dataset.users + 1, mask=user < dataset.users)
        columns: list[Any] = [
            known,
            user_ids.take(known),
            new,
            pa.array((rank + 1).astype(np.int32)),
            item,
            item_ids.take(item),
            titles.take(item),
            pa.array(scores[place, rank]),
        ]
        yield pa.table(columns, schema=RECOMMENDATIONS)


def _ids(asked: Asked) -> tuple[list[str], list[str]]:
    """Raw ids of users, and where each was named."""
    files = asked.files()
    ids, where = [], []
    for name in asked.users:
        path = Path(name)
        if path not in files:
            ids.append(name)
            where.append(f"--users {name}")
            continue
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as problem:
            raise RectoolError(f"--users {path} is no file of lines of text ({problem})") from None
        named = [(line.strip(), number) for number, line in enumerate(lines, start=1) if line.strip()]
        if not named:
            raise RectoolError(f"--users {path} is empty; write the id of a user on each line")
        ids += [line for line, _ in named]
        where += [f"{path}, line {number}" for _, number in named]
    return ids, where


def _nothing(start: int, stop: int, progress: Any) -> Any:
    """Stands for work that an earlier run has done."""
    raise AssertionError(f"rows {start} to {stop} are done")
