"""What needs no training, measured on the rows of a model: what any model must beat."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from rectool.data.dataset import Dataset
from rectool.evaluation.predictions import Predictions
from rectool.evaluation.report import measure_ctr
from rectool.models.model import TrainingRows
from rectool.models.priors import START_SMOOTHING, mean_logits

METRICS = ("auc", "uauc", "log_loss")


def measure_priors(dataset: Dataset, predictions: Predictions) -> list[dict[str, Any]]:
    """The smoothed mean logits of train rows (`models.priors.mean_logits`) as predictions of the same rows.

    Returns:
        For the item's mean, and for that of user and item: its name as `model`, and `metrics`, each a group, a
        metric and its value. None where no train row has a label.
    """
    train = dataset.targets("train")
    train = train[dataset.label[train] >= 0]
    if len(train) == 0:
        return []
    user, item, label = (
        torch.from_numpy(column[train]).long() for column in (dataset.user, dataset.item, dataset.label)
    )
    rows = TrainingRows(dataset.users, dataset.items, user, item, label, previous=torch.full_like(item, -1))
    users, items, mean = mean_logits(rows, START_SMOOTHING)
    by_item = items[torch.from_numpy(predictions.item).long()] + mean
    by_both = by_item + users[torch.from_numpy(predictions.user).long()]
    return [_measured(predictions, "item mean", by_item), _measured(predictions, "user + item mean", by_both)]


def _measured(predictions: Predictions, name: str, logits: torch.Tensor) -> dict[str, Any]:
    scores = logits.float().numpy()
    own = replace(predictions, score=scores, probability=logits.sigmoid().float().numpy())
    lines = measure_ctr(own, threshold=None, draws=0)
    kept = [{key: line[key] for key in ("group", "metric", "value")} for line in lines if line["metric"] in METRICS]
    return {"model": name, "metrics": kept}
