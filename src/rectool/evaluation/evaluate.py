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
from numpy.typing import NDArray

from rectool import console
from rectool.artifacts.schemas import TOPK
from rectool.artifacts.shards import Work
from rectool.data.dataset import Dataset
from rectool.errors import RectoolError, disk_errors
from rectool.evaluation.groups import WarmRule, group_rows, training_counts
from rectool.evaluation.metrics import best_threshold
from rectool.evaluation.predictions import FILE, Predictions
from rectool.evaluation.priors import measure_priors
from rectool.evaluation.rank import Ranking
from rectool.evaluation.report import Line, measure_ctr, measure_ranking
from rectool.evaluation.score import Rows
from rectool.evaluation.scorer import Computation, Evaluable, computed, probabilities
from rectool.evaluation.settings import Measuring, Ranked, Rating, refuse_for_other_task
from rectool.models.table import Task


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
        seed: of the bootstrap, and of the first repeat.

    Raises:
        RectoolError: flags that do not go with the task or the model.
    """

    scorer: Evaluable
    dataset: Dataset
    measuring: Measuring
    rating: Rating
    ranked: Ranked
    seed: int = 0

    def __post_init__(self) -> None:
        refuse_for_other_task(self.task, self.rating, self.ranked)
        if self.rating.given() is None and self.scorer.probability is None:
            raise RectoolError(
                f"--threshold valid: {self.scorer.name}, trained for {self.scorer.task}, gives no probabilities"
            )

    @property
    def task(self) -> Task:
        """What was asked for, or what the model was trained for."""
        return self.measuring.task or self.scorer.task

    def targets(self) -> Rows:
        """The rows of the split that the task has for targets, in the log's order (N,).

        Raises:
            RectoolError: there are none.
        """
        split = self.measuring.split
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

    def deciding(self) -> Rows | None:
        """The labelled validation rows that `--threshold valid` is chosen on (V,); None where one is given.

        Raises:
            RectoolError: none of them has label 1, so that no threshold is better than another.
        """
        if self.rating.given() is not None:
            return None
        rows = self.dataset.targets("valid")
        rows = rows[self.dataset.label[rows] >= 0]
        if not np.any(self.dataset.label[rows] == 1):
            raise RectoolError(
                f"--threshold valid: {self.dataset.artifact.file('interactions.parquet')} has no valid rows with label "
                "1, on which one can be chosen; give one, such as --threshold 0.5"
            )
        return rows

    def run(self, work: Work | None = None) -> Evaluated | None:
        """Score or rank, then measure.

        Args:
            work: what the scoring is done by; by default it is done at one go.

        Returns:
            None in all processes but the main one, whose scoring they share.

        Raises:
            RectoolError: there are no targets, no threshold can be chosen, or a score is not finite.
            Stopped: what is scored so far is saved.
        """
        work = work or Work()
        rows, deciding = self.targets(), self.deciding()
        found = [self._once(rows, deciding, self.seed + repeat, work) for repeat in range(self._repeats())]
        every = [evaluated for evaluated in found if evaluated is not None]
        if not every:
            return None
        first, *others = every
        if not others:
            return first
        lines = summary([evaluated.report["metrics"] for evaluated in every])
        report = {**first.report, "repeats": len(every), "metrics": lines}
        return Evaluated(first.predictions, first.ranking, report)

    def _repeats(self) -> int:
        asked = self.measuring.repeats
        if asked > 1 and not self.scorer.stochastic:
            console.say(f"--repeats {asked}: scores of {self.scorer.name} do not depend on chance; evaluated once")
            return 1
        return asked

    def _once(self, rows: Rows, deciding: Rows | None, seed: int, work: Work) -> Evaluated | None:
        return self._next_item(rows, seed, work) if self.task == "next-item" else self._ctr(rows, deciding, seed, work)

    def _ctr(self, rows: Rows, deciding: Rows | None, seed: int, work: Work) -> Evaluated | None:
        scoring = self.scorer.scoring(self.dataset, rows)
        scores = self._scored(scoring, len(rows), self.measuring.split, seed, work)
        threshold = self.rating.given() if self.scorer.probability is not None else None
        if deciding is not None:
            known = scores
            if self.measuring.split != "valid":
                of_valid = self.scorer.scoring(self.dataset, deciding)
                known = self._scored(of_valid, len(deciding), "valid", seed, work)
            threshold = self._chosen_threshold(deciding, known)
        if scores is None:
            return None
        predictions = self._predictions(rows, scores, probability=probabilities(self.scorer, scores), **scoring.columns)
        with self._measured(len(rows)):
            lines = measure_ctr(predictions, threshold=threshold, **self._bootstrap())
            priors = measure_priors(self.dataset, predictions)
        origin = None if threshold is None else "given" if deciding is None else "valid"
        report = self._report(lines, threshold=threshold, threshold_from=origin, priors=priors, **scoring.about)
        return Evaluated(predictions, None, report)

    def _next_item(self, rows: Rows, seed: int, work: Work) -> Evaluated | None:
        ks = self.ranked.ks()
        split = self.measuring.split
        computation = self.scorer.ranking(self.dataset, rows, k=max(ks), exclude=self.ranked.exclude)
        doing = f"ranking {self.dataset.items:,} items for {split} rows"
        found = computed(computation, len(rows), doing, part=f"{split} {seed}", seed=seed, work=work)
        if found is None:
            return None
        ranking = Ranking(**found)
        predictions = self._predictions(rows, ranking.score, rank=ranking.rank)
        counts = training_counts(self.dataset)
        with self._measured(len(rows)):
            lines = measure_ranking(predictions, ranking.top_items, ks=ks, item_counts=counts, **self._bootstrap())
        about = {"exclude": self.ranked.exclude, "k": list(ks), "targets": self.ranked.targets}
        return Evaluated(predictions, ranking, self._report(lines, **about, **computation.about))

    def _scored(self, scoring: Computation, rows: int, split: str, seed: int, work: Work) -> NDArray[np.float32] | None:
        doing, part = f"scoring {split} rows", f"{split} {seed}"
        found = computed(scoring, rows, doing, part=part, seed=seed, work=work)
        return None if found is None else found["score"]

    def _chosen_threshold(self, rows: Rows, scores: NDArray[np.float32] | None) -> float | None:
        """The threshold of the best F1; None where there are no scores, in other processes than the main one."""
        if scores is None:
            return None
        probability = probabilities(self.scorer, scores)
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

    @contextmanager
    def _measured(self, rows: int) -> Iterator[None]:
        with console.step(f"measuring, {self.measuring.draws:,} draws") as step:
            yield
            step.amount = rows

    def _report(self, lines: Sequence[Line], **about: Any) -> dict[str, Any]:
        nothing = {"threshold": None, "threshold_from": None, "exclude": None, "k": None, "targets": None}
        return {
            "task": self.task,
            "split": self.measuring.split,
            "model": self.scorer.name,
            "warm": str(WarmRule.parse(self.measuring.warm)),
            **nothing,
            **about,
            "repeats": 1,
            "draws": self.measuring.draws,
            "confidence": self.measuring.confidence,
            "metrics": list(lines),
        }


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
