"""Scores of rows of the log, in batches with hardly any padding.

Shapes: N rows asked for, B rows of a batch, L longest history of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rectool.data.dataset import Dataset
from rectool.data.histories import Histories, HistoryRule
from rectool.errors import RectoolError
from rectool.models.model import Model, Sequences

Rows = NDArray[np.int64]
Progress = Callable[[int], None]
"""Told how many more rows are done."""

BATCH_TOKENS = {"cpu": 1 << 13, "cuda": 1 << 19}
"""Tokens of a batch by default: what fits a cache, and what keeps a GPU busy."""


@dataclass(frozen=True)
class Batch:
    """Rows that are scored together.

    Attributes:
        places: (B,) int64, which of the rows asked for they are.
        users, items: (B,) int64, on the device.
        sequences: their histories.
    """

    places: Rows
    users: Tensor
    items: Tensor
    sequences: Sequences


def score_rows(
    model: Model,
    history: HistoryRule | None,
    dataset: Dataset,
    rows: Rows,
    *,
    device: torch.device,
    batch_tokens: int | None = None,
    progress: Progress | None = None,
) -> NDArray[np.float32]:
    """The model's score of each row's user and item, from the row's own history and nothing later.

    Args:
        history: what the model reads; None for one that reads none.
        rows: (N,) rows of the log in any order, repeats allowed.
        device: where the model is.
        batch_tokens: see `in_batches`.

    Returns:
        (N,) float32.

    Raises:
        RectoolError: a score is not finite; names the row of interactions.parquet.
    """
    scores = torch.empty(len(rows), device=device)

    def score(batch: Batch) -> None:
        scores[torch.from_numpy(batch.places).to(device)] = model.score(
            batch.users, batch.items, batch.sequences
        ).float()

    with scoring(model):
        in_batches(score, history, dataset, rows, device=device, tokens=batch_tokens, progress=progress)
    found: NDArray[np.float32] = scores.cpu().numpy()
    refuse_not_finite(found, rows, dataset)
    return found


def in_batches(
    work: Callable[[Batch], None],
    history: HistoryRule | None,
    dataset: Dataset,
    rows: Rows,
    *,
    device: torch.device,
    tokens: int | None = None,
    most_rows: int | None = None,
    progress: Progress | None = None,
) -> None:
    """Do something for all rows, longest histories first, so that rows of a batch are of nearly one length.

    A batch that the device has no memory for is cut in half, and so are all after it.

    Args:
        rows: (N,) rows of the log.
        tokens: places for items in a batch, padding included; a row without a history counts as one.
        most_rows: of a batch.

    Raises:
        RectoolError: one row alone is too much for the device.
    """
    histories = dataset.histories(liked_only=history.liked_only) if history is not None else None
    lengths = np.zeros(len(rows), np.int64)  # (N,)
    if histories is not None and history is not None:
        start, stop = histories.slices(rows, history.length)
        lengths = stop - start
    order = np.argsort(-lengths, kind="stable")
    limit = tokens or BATCH_TOKENS[device.type]
    done = 0
    while done < len(order):
        fitting = max(1, limit // max(1, int(lengths[order[done]])))
        places = order[done : done + min(fitting, most_rows or fitting)]
        try:
            work(
                Batch(
                    places,
                    users=_column(dataset.user, rows[places], device),
                    items=_column(dataset.item, rows[places], device),
                    sequences=sequences_of(histories, rows[places], history, device),
                )
            )
        except torch.OutOfMemoryError:
            if len(places) == 1:
                raise RectoolError(f"{device} has no memory for a single row; choose another --device") from None
            limit = len(places) // 2 * max(1, int(lengths[order[done]]))
            continue
        done += len(places)
        if progress is not None:
            progress(len(places))


def sequences_of(histories: Histories | None, rows: Rows, rule: HistoryRule | None, device: torch.device) -> Sequences:
    """The histories of rows as a rule has them, as wide as the longest of them.

    Args:
        histories: the view that the rule asks for (`Dataset.histories`); None, with the rule, for no history.
        rows: (B,) rows of the log.
    """
    if histories is None or rule is None:
        nothing = torch.zeros(len(rows), 0, dtype=torch.int64, device=device)
        return Sequences(nothing, torch.zeros(len(rows), dtype=torch.int64, device=device))
    start, stop = histories.slices(rows, rule.length)
    lengths = stop - start
    items = histories.padded(rows, int(lengths.max(initial=0)), padding=0, side="right")
    return Sequences(torch.from_numpy(items).to(device).long(), torch.from_numpy(lengths).to(device))


@contextmanager
def scoring(model: Model) -> Iterator[None]:
    """Without dropout and gradients; afterwards the model is in the mode it was in."""
    before = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(before)


def refuse_not_finite(scores: NDArray[np.float32], rows: Rows, dataset: Dataset) -> None:
    """Raises RectoolError that names the first row (N,) of the log whose score (N,) is not a finite number."""
    finite = np.isfinite(scores)
    if not finite.all():
        place = int(np.argmin(finite))
        raise RectoolError(
            f"the model's scores for {dataset.row_name(int(rows[place]))} are not finite ({scores[place]}); "
            "train it again, with a lower learning rate for one"
        )


def _column(column: NDArray[np.int32], rows: Rows, device: torch.device) -> Tensor:
    return torch.from_numpy(column[rows]).to(device).long()
