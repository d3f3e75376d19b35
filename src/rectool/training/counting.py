"""What needs no training: models that only count, and the priors that are told beside every other model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from rectool import console
from rectool.data.dataset import Dataset
from rectool.evaluation.scorer import CollaborativeScorer
from rectool.models.model import Size, TrainingRows
from rectool.models.saved import Trained
from rectool.models.table import Task, model_class
from rectool.training.loop import LOWER_IS_BETTER
from rectool.training.validation import Validation

PRIORS = {"ctr": "bias", "next-item": "popularity"}
"""What is told beside every model of a task."""


def training_rows(dataset: Dataset, trained: Trained) -> TrainingRows:
    """The train rows of a data set, as a model observes them; for next item they are all alike, without labels."""
    rows = dataset.targets("train")
    history = trained.history
    histories = dataset.histories(liked_only=history is not None and history.liked_only)
    start, stop = histories.slices(rows, 1)
    before = np.full(len(rows), -1, np.int64)
    before[stop > start] = histories.items[stop[stop > start] - 1]
    label = dataset.label[rows] if trained.task == "ctr" else np.full(len(rows), -1)
    columns = (dataset.user[rows], dataset.item[rows], label, before)
    return TrainingRows(
        dataset.users, dataset.items, *(torch.from_numpy(column.astype(np.int64)) for column in columns)
    )


def counted(trained: Trained, rows: TrainingRows, validation: Validation, metric: str) -> Trained:
    """A model that only counts, with what its settings leave open chosen on validation."""
    settings, kind = trained.model.settings, type(trained.model)
    left_open = {name: choices for name, choices in kind.choices.items() if getattr(settings, name) is None}
    candidates = [settings]
    for name, choices in left_open.items():
        candidates = [replace(each, **{name: choice}) for each in candidates for choice in choices]
    best, best_value = None, -np.inf
    for each in candidates:
        model = kind(each, trained.model.size)
        model.observe(rows)
        candidate = replace(trained, model=model.to(validation.device).eval())
        values = validation(CollaborativeScorer(candidate, validation.device)) if len(candidates) > 1 else {}
        value = values.get(metric, 0.0) * (-1 if metric in LOWER_IS_BETTER else 1)
        if best is None or value > best_value:
            best, best_value = candidate, value
    assert best is not None
    if left_open:
        chosen = ", ".join(f"{name} {getattr(best.model.settings, name):g}" for name in left_open)
        found = f"the best of {len(candidates)}" if metric in values else "as none is better"
        console.say(f"{trained.name}: {chosen}, {found} by {metric} on validation")
    return best


def prior(
    dataset: Dataset,
    task: Task,
    probability: bool,
    validation: Validation,
    metric: str,
    *,
    called: str | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """What the prior of a task reaches on the validation rows of a model: its name, and metrics.

    Args:
        probability: whether the model's scores say probabilities, and the prior's are measured as such.
        called: its name, if not that of its model.
        settings: of its model, such as `users`.
    """
    kind = model_class(PRIORS[task])
    model = kind(kind.Settings(**settings), Size(dataset.users, dataset.items))
    made = Trained(called or PRIORS[task], model, task, None, "sigmoid" if probability else None)
    best = counted(made, training_rows(dataset, made), validation, metric)
    return {"model": made.name, **validation(CollaborativeScorer(best, validation.device))}
