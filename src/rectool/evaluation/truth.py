"""The best that any model can reach on synthetic data, whose truth is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rectool.evaluation.auc import auc, uauc

CUTOFFS = 5, 10


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


def _rated(rows: pa.Table) -> dict[str, float | int | None]:
    users, labels, scores = (np.asarray(rows.column(name)) for name in ("user", "label", "true_probability"))
    by_user = uauc(users, labels, scores)
    return {
        "auc": _number(auc(labels, scores)),
        "uauc": _number(by_user.value),
        "users": by_user.users,
        "skipped_users": by_user.skipped,
    }


def _ranked(rows: pa.Table) -> dict[str, float | int | None]:
    ranks = np.asarray(rows.column("true_rank"))
    reached: dict[str, float | int | None] = {}
    for k in CUTOFFS:
        hit = ranks <= k
        reached[f"hr@{k}"] = float(hit.mean())
        reached[f"ndcg@{k}"] = float((hit / np.log2(1.0 + ranks)).mean())
    return reached


def _number(value: float) -> float | None:
    """JSON has no NaN."""
    return None if np.isnan(value) else float(value)
