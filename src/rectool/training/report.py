"""What the manifest of a trained model says of its training."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq

from rectool import devices, processes
from rectool.artifacts import Draft
from rectool.artifacts.schemas import CURVE
from rectool.training.run import Fitted, Run


def report(draft: Draft, run: Run, fitted: Fitted | None) -> None:
    """Fill in the figures of a run, and write its curve; `fitted` is None where there was nothing to fit."""
    draft.run.update(devices.used(run.device), world_size=processes.world_size())
    if fitted is None:
        return
    at = fitted.progress
    draft.metrics.update(
        steps=at.step,
        epochs=at.epoch,
        best_step=at.best_step if at.best is not None else at.step,
        stopped_early=fitted.stopped_early,
        skipped_steps=at.skipped,
        targets_per_second=round(fitted.targets_per_second, 1),
    )
    if at.curve:
        columns = [list(column) for column in zip(*at.curve, strict=True)]
        pq.write_table(pa.table(columns, schema=CURVE), draft.path / "curve.parquet")
