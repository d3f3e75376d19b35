"""What a run of `train-cf` trains: its settings, checked against each other and against the data set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from rectool.data.dataset import Dataset
from rectool.data.histories import HistoryRule
from rectool.errors import RectoolError
from rectool.models.model import FactorModel, Model
from rectool.models.table import Task, model_class
from rectool.settings import flag_name
from rectool.training.settings import Collaborative, Fit, Loss, Objective, Start


@dataclass(frozen=True)
class Choice:
    """A model, what it is trained for and by, and what it then is.

    Attributes:
        name: in the table of models.
        settings: of the model's own kind.
        metric: that early stopping follows.
        history: what the model reads; None for one that reads none.
        probability: "sigmoid" if that makes a probability of label 1 of its scores.
    """

    name: str
    kind: type[Model]
    settings: Any
    task: Task
    loss: Loss
    metric: str
    history: HistoryRule | None
    probability: Literal["sigmoid"] | None


def choose(dataset: Dataset, model: Collaborative, objective: Objective, fit: Fit, start: Start) -> Choice:
    """Settle what was left open, before any work.

    Raises:
        RectoolError: settings do not go together, mean nothing to the model, or the data set has no rows for them.
    """
    kind = model_class(model.model)
    task = task_of(dataset, objective.task)
    if task not in kind.tasks:
        raise RectoolError(f"--model {model.model} is not for --task {task}")
    loss = objective.loss_for(task)
    settings = model.resolve(kind.Settings, kind.defaults.get(task, {}))
    history = None
    if kind.reads_history:
        liked_only = model.history == "liked" or (model.history is None and task == "ctr")
        history = HistoryRule(liked_only, settings.max_length)
    elif model.history is not None:
        raise RectoolError(f"--history means nothing to --model {model.model}, which reads none")
    if kind.counted:
        _refuse_for_counted(model, objective, start)
    elif task == "next-item" and not issubclass(kind, FactorModel) and (loss not in ("bce", "bpr") or objective.robust):
        raise RectoolError(f"--model {model.model} scores one pair at a time: --loss bce or bpr, and no --robust")
    metric = fit.metric_for(task)
    sigmoid = task == "ctr" and loss == "bce" and kind.logits
    if metric == "log_loss" and not sigmoid:
        raise RectoolError(f"--metric log_loss needs probabilities, which --model {model.model} does not give here")
    return Choice(model.model, kind, settings, task, loss, metric, history, "sigmoid" if sigmoid else None)


def task_of(dataset: Dataset, asked: Task | None) -> Task:
    """The task that was asked for, or else ctr where train rows have labels.

    Raises:
        RectoolError: the data set has no train rows for it.
    """
    train = dataset.targets("train")
    if len(train) == 0:
        raise RectoolError(f"{dataset.artifact.path} has no train rows; make it with another --split")
    labelled = bool((dataset.label[train] >= 0).any())
    if asked == "ctr" and not labelled:
        raise RectoolError(f"{dataset.artifact.path} has no labelled train rows; --task next-item needs none")
    return asked or ("ctr" if labelled else "next-item")


def _refuse_for_counted(model: Collaborative, objective: Objective, start: Start) -> None:
    """A model that only counts minimises nothing, and starts from nothing."""
    given = [name for name, value in vars(objective).items() if name != "task" and value != getattr(Objective, name)]
    if start.init_items is not None:
        given.append("init_items")
    for name in given:
        raise RectoolError(f"{flag_name(name)} means nothing to --model {model.model}, which only counts")
