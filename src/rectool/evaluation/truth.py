"""The best that any model can reach on synthetic data, whose true probabilities are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rectool.evaluation.auc import auc, uauc


def best_reachable(directory: Path) -> dict[str, dict[str, float | int | None]]:
    """AUC and UAUC, by split, of the probabilities that the labels were drawn with.

    Args:
        directory: of a data set that has the side column `true_probability`.
    """
    columns = ["user", "label", "split", "true_probability"]
    table = pq.read_table(directory / "interactions.parquet", columns=columns)
    reached: dict[str, dict[str, float | int | None]] = {}
    for split in ("train", "valid", "test"):
        rows = table.filter(pc.equal(table.column("split"), split))
        if rows.num_rows == 0:
            continue
        users, labels, scores = (np.asarray(rows.column(name)) for name in ("user", "label", "true_probability"))
        by_user = uauc(users, labels, scores)
        reached[split] = {
            "auc": _number(auc(labels, scores)),
            "uauc": _number(by_user.value),
            "users": by_user.users,
            "skipped_users": by_user.skipped,
        }
    return reached


def _number(value: float) -> float | None:
    """JSON has no NaN."""
    return None if np.isnan(value) else float(value)
