"""The best that any model can reach on synthetic data, whose truth is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rectool.errors import RectoolError
from rectool.evaluation.auc import auc, uauc
from rectool.evaluation.groups import REPORTED
from rectool.evaluation.metrics import gains, hits, metric, number_or_none
from rectool.evaluation.predictions import Predictions

CUTOFFS = 5, 10
RATED = ("auc", "uauc", "log_loss", "brier")
"""Metrics in which nothing beats the true probabilities but by chance."""
RANKED = ("hr@", "ndcg@", "mrr@", "recall@")
"""The same of the true ranks, with the cut-off after it."""


def best_reachable(directory: Path) -> dict[str, dict[str, float | int | None]]:
    """By split, what the truth itself reaches.

    Args:
        directory: of a data set that has the side column `true_probability`, of which come AUC and UAUC, or
            `true_rank`, of which come HR and NDCG at 5 and 10 over the whole catalogue, what was taken before left out.
    """
    path = directory / "interactions.parquet"
    of_ratings = "true_probability" in pq.read_schema(path).names
    columns = ["user", "label", "true_probability"] if of_ratings else ["true_rank"]
    table = pq.read_table(path, columns=["split", *columns])
    reached: dict[str, dict[str, float | int | None]] = {}
    for split in ("train", "valid", "test"):
        rows = table.filter(pc.equal(table.column("split"), split))
        if rows.num_rows:
            reached[split] = _rated(rows) if of_ratings else _ranked(rows)
    return reached


def reached(
    directory: Path, predictions: Predictions, groups: Sequence[str], metrics: Sequence[str]
) -> dict[tuple[str, str], float]:
    """What the truth reaches on the rows that were predicted, by group and metric, as far as there is a truth.

    Args:
        directory: of the data set. True ranks leave out what was taken before, as the truth never takes an item
            twice: they bound ranks with and without those items.

    Raises:
        RectoolError: a row that was predicted is not in the data set.
    """
    path = directory / "interactions.parquet"
    ranked = predictions.rank is not None
    column = "true_rank" if ranked else "true_probability"
    if column not in pq.read_schema(path).names:
        return {}
    known = pq.read_table(path, columns=[column]).column(column)
    if len(predictions.row) and int(predictions.row[-1]) >= len(known):
        raise RectoolError(f"{path} has {len(known):,} rows, but row {predictions.row[-1]} of it was predicted")
    values = known.take(pa.array(predictions.row))
    if values.null_count or (not ranked and (predictions.label < 0).any()):
        return {}
    truth = np.asarray(values)
    known_best = replace(predictions, rank=truth) if ranked else replace(predictions, score=truth, probability=truth)
    names = [name for name in metrics if (name.startswith(RANKED) if ranked else name in RATED)]
    found = {}
    for group in (name for name in groups if name in REPORTED):
        rows = known_best.members(group)
        for name in names if rows.any() else []:
            value = metric(name).of(known_best.targets(rows))
            if not np.isnan(value):
                found[group, name] = value
    return found


def _rated(rows: pa.Table) -> dict[str, float | int | None]:
    users, labels, scores = (np.asarray(rows.column(name)) for name in ("user", "label", "true_probability"))
    by_user = uauc(users, labels, scores)
    return {
        "auc": number_or_none(auc(labels, scores)),
        "uauc": number_or_none(by_user.value),
        "users": by_user.users,
        "skipped_users": by_user.skipped,
    }


def _ranked(rows: pa.Table) -> dict[str, float | int | None]:
    ranks = np.asarray(rows.column("true_rank"))
    reached: dict[str, float | int | None] = {}
    for k in CUTOFFS:
        reached[f"hr@{k}"] = float(hits(ranks, k).mean())
        reached[f"ndcg@{k}"] = float(gains(ranks, k).mean())
    return reached
