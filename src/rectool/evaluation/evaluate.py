"""One model on the rows of one split: predictions, metrics, and what these depend on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from rectool import console
from rectool.artifacts.schemas import TOPK
from rectool.data.dataset import Dataset
from rectool.errors import RectoolError, disk_errors
from rectool.evaluation.groups import WarmRule, group_rows, training_counts
from rectool.evaluation.metrics import best_threshold
from rectool.evaluation.predictions import FILE, Predictions
from rectool.evaluation.rank import Ranking, rank_rows
from rectool.evaluation.report import Line, measure_ctr, measure_ranking
from rectool.evaluation.score import Progress, Rows, score_rows
from rectool.evaluation.settings import Measuring, Ranked, Rating, Task, refuse_for_other_task
from rectool.models.saved import Trained


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation found.

    Attributes:
        predictions: of the first repeat.
        ranking: of the first repeat; None for CTR.
        report: what metrics.json holds.
    """

    predictions: Predictions
    ranking: Ranking | None
    report: dict[str, Any]


@dataclass(frozen=True)
class Evaluation:
    """A model, and how it is to be evaluated.

    Attributes:
        device: where the model is.
        batch_tokens: of what is encoded together; None for what suits the device.
        seed: of the bootstrap, and of the first repeat.

    Raises:
        RectoolError: flags that do not go with the task or the model.
    """

    trained: Trained
    dataset: Dataset
    measuring: Measuring
    rating: Rating
    ranked: Ranked
    device: torch.device
    batch_tokens: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        refuse_for_other_task(self.task, self.rating, self.ranked)
        if self.rating.given() is None and self.trained.probability is None:
            raise RectoolError(
                f"--threshold valid: {self.trained.name}, trained for {self.trained.task}, gives no probabilities"
            )

    @property
    def task(self) -> Task:
        """What was asked for, or what the model was trained for."""
        return self.measuring.task or self.trained.task

    def targets(self, split: str | None = None) -> Rows:
        """The rows of a split (that of the settings) that the task has for targets, in the log's order (N,).

        Raises:
            RectoolError: there are none.
        """
        split = split or self.measuring.split
        file = self.dataset.artifact.file("interactions.parquet")
        rows = self.dataset.targets(split)
        if len(rows) == 0:
            raise RectoolError(f"{file} has no {split} rows; choose another --split, or prepare the data with one")
        if self.task == "ctr":
            chosen = rows[self.dataset.label[rows] >= 0]
            if len(chosen) == 0:
                raise RectoolError(
                    f"{file} has no {split} rows with labels, which --task ctr is about; choose --task next-item"
                )
        else:
            chosen = rows[self.dataset.label[rows] != 0] if self.ranked.targets == "liked" else rows
            if len(chosen) == 0:
                raise RectoolError(f"{file} has only disliked {split} rows; choose --targets all")
        return chosen

    def run(self) -> Evaluated:
        """Score or rank, then measure.

        Raises:
            RectoolError: there are no targets, or a score is not finite.
        """
        rows = self.targets()
        repeats = self._repeats()
        found = [self._once(rows, self.seed + repeat) for repeat in range(repeats)]
        first = found[0]
        if repeats == 1:
            return first
        lines = summary([evaluated.report["metrics"] for evaluated in found])
        return Evaluated(first.predictions, first.ranking, {**first.report, "repeats": repeats, "metrics": lines})

    def _repeats(self) -> int:
        asked = self.measuring.repeats
        if asked > 1 and not self.trained.model.stochastic:
            console.say(f"--repeats {asked}: scores of {self.trained.name} do not depend on chance; evaluated once")
            return 1
        return asked

    def _once(self, rows: Rows, seed: int) -> Evaluated:
        torch.manual_seed(seed)
        return self._next_item(rows) if self.task == "next-item" else self._ctr(rows)

    def _ctr(self, rows: Rows) -> Evaluated:
        scores = self._scored(rows, self.measuring.split)
        probability = self.trained.probabilities(scores)
        threshold = None
        if probability is not None:
            threshold = self.rating.given()
            threshold = self._chosen_threshold() if threshold is None else threshold
        predictions = self._predictions(rows, scores, probability=probability)
        with self._measured(len(rows)):
            lines = measure_ctr(predictions, threshold=threshold, **self._bootstrap())
        origin = None if threshold is None else "valid" if self.rating.given() is None else "given"
        return Evaluated(predictions, None, self._report(lines, threshold=threshold, threshold_from=origin))

    def _next_item(self, rows: Rows) -> Evaluated:
        ks = self.ranked.ks()
        with counted(f"ranking {self.dataset.items:,} items for {self.measuring.split} rows", len(rows)) as progress:
            ranking = rank_rows(
                self.trained.model,
                self.trained.history,
                self.dataset,
                rows,
                k=max(ks),
                exclude=self.ranked.exclude,
                device=self.device,
                batch_tokens=self.batch_tokens,
                progress=progress,
            )
        predictions = self._predictions(rows, ranking.score, rank=ranking.rank)
        counts = training_counts(self.dataset)
        with self._measured(len(rows)):
            lines = measure_ranking(predictions, ranking.top_items, ks=ks, item_counts=counts, **self._bootstrap())
        about = {"exclude": self.ranked.exclude, "k": list(ks), "targets": self.ranked.targets}
        return Evaluated(predictions, ranking, self._report(lines, **about))

    def _scored(self, rows: Rows, split: str) -> NDArray[np.float32]:
        with counted(f"scoring {split} rows", len(rows)) as progress:
            return score_rows(
                self.trained.model,
                self.trained.history,
                self.dataset,
                rows,
                device=self.device,
                batch_tokens=self.batch_tokens,
                progress=progress,
            )

    def _chosen_threshold(self) -> float:
        rows = self.targets("valid")
        probability = self.trained.probabilities(self._scored(rows, "valid"))
        assert probability is not None
        return best_threshold(self.dataset.label[rows], probability)

    def _predictions(self, rows: Rows, scores: NDArray[np.float32], **columns: Any) -> Predictions:
        return Predictions(
            row=rows,
            user=self.dataset.user[rows],
            item=self.dataset.item[rows],
            label=self.dataset.label[rows],
            score=scores,
            group=group_rows(self.dataset, rows, WarmRule.parse(self.measuring.warm)),
            **columns,
        )

    def _bootstrap(self) -> dict[str, Any]:
        return {"draws": self.measuring.draws, "seed": self.seed, "confidence": self.measuring.confidence}

    def _measured(self, rows: int) -> Any:
        return counted(f"measuring, {self.measuring.draws:,} draws", rows)

    def _report(self, lines: Sequence[Line], **about: Any) -> dict[str, Any]:
        nothing = {"threshold": None, "threshold_from": None, "exclude": None, "k": None, "targets": None}
        return {
            "task": self.task,
            "split": self.measuring.split,
            "model": self.trained.name,
            "warm": str(WarmRule.parse(self.measuring.warm)),
            **nothing,
            **about,
            "repeats": 1,
            "draws": self.measuring.draws,
            "confidence": self.measuring.confidence,
            "metrics": list(lines),
        }


@contextmanager
def counted(doing: str, rows: int) -> Iterator[Progress]:
    """A step over rows; yields what counts those that are done."""
    done = 0

    def count(more: int) -> None:
        nonlocal done
        done += more

    with console.step(doing, fraction=lambda: done / max(1, rows)) as step:
        yield count
        step.amount = rows


def summary(repeats: Sequence[Sequence[Line]]) -> list[Line]:
    """Means of value, low and high over repeats of the same rows, and the values' standard deviation as `spread`.

    A metric that is not defined in some repeat is not defined.
    """
    lines = []
    for same in zip(*repeats, strict=True):
        means = {name: _mean([line[name] for line in same]) for name in ("value", "low", "high")}
        spread = None if means["value"] is None else float(np.std([line["value"] for line in same], ddof=1))
        lines.append({**same[0], **means, "spread": spread})
    return lines


def write(evaluated: Evaluated, folder: Path, *, topk: bool) -> None:
    """Write predictions.parquet and metrics.json, and topk.parquet if wanted."""
    with disk_errors(folder, "choose another --out"):
        evaluated.predictions.write(folder / FILE)
        text = json.dumps(evaluated.report, indent=1, allow_nan=False)
        (folder / "metrics.json").write_text(text + "\n", encoding="utf-8")
        if topk and evaluated.ranking is not None:
            table = topk_table(evaluated.predictions.row, evaluated.ranking)
            pq.write_table(table, folder / "topk.parquet", compression="zstd")


def topk_table(rows: Rows, ranking: Ranking) -> pa.Table:
    """The best items of each row (N,), as topk.parquet has them; rows with few candidates have fewer."""
    place, rank = np.nonzero(ranking.top_items >= 0)
    columns = [
        rows[place],
        (rank + 1).astype(np.int32),
        ranking.top_items[place, rank],
        ranking.top_scores[place, rank],
    ]
    return pa.table(columns, schema=TOPK)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(values) else None
