"""Training a collaborative model: from a data set to weights, vectors and a curve."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from rectool.artifacts import Draft
from rectool.data.dataset import Dataset
from rectool.errors import disk_errors
from rectool.evaluation.scorer import CollaborativeScorer
from rectool.models import saved
from rectool.models.model import FactorModel, SequenceModel, Sequences, Size
from rectool.models.priors import start_from_mean
from rectool.models.saved import Trained
from rectool.training import loop
from rectool.training.choice import Choice
from rectool.training.counting import PRIORS, counted, prior, training_rows
from rectool.training.ctr import BlockwiseObjective, PointwiseObjective
from rectool.training.next_item import BlockObjective, RowObjective
from rectool.training.report import report
from rectool.training.run import Objective as Minimised
from rectool.training.run import Run
from rectool.training.settings import Fit, Loss, Objective
from rectool.training.start import ItemStart
from rectool.training.validation import Validation

RANKED_BY_PAIRS = 500
"""Validation rows at most, unless told otherwise, where a ranking scores each pair by itself."""
USERS_AT_A_TIME = 4096


def train(
    draft: Draft,
    dataset: Dataset,
    choice: Choice,
    objective: Objective,
    settings: Fit,
    run: Run,
    start: ItemStart | None = None,
) -> None:
    """Train a model and write it into the draft of a `cf` artifact.

    Args:
        choice: made of `objective` and `settings`.
        run: its device is that of `settings`.
        start: what item embeddings start from; None for chance.

    Raises:
        RectoolError: the loss is no longer finite, or the vectors of `start` are of no use.
        Stopped: with a checkpoint.
    """
    run = replace(run, metric=choice.metric)
    trained = untrained(dataset, choice, run)
    validation = validation_of(dataset, trained, settings, run)
    rows = training_rows(dataset, trained)
    fitted = None
    if trained.model.counted:
        trained = counted(trained, rows, validation, choice.metric)
    else:
        trained.model.observe(rows)
        if choice.loss == "squared-error":
            start_from_mean(trained.model, rows)
        if start is not None:
            start.begin(trained.model, trained.model.settings.init_scale)
        fitted = loop.fit(objective_of(trained, dataset, objective, choice.loss, validation, run.device), settings, run)
        last = deepcopy(trained.model)
        last.load_state_dict(fitted.last, strict=False)
        trained.model.load_state_dict(fitted.best, strict=False)
        for each in (last, trained.model):
            ItemStart.plain(each)
        with disk_errors(draft.path, "choose another --out"):
            tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in last.state_dict().items()}
            save_file(tensors, draft.path / "last.safetensors")
    write(draft.path, dataset, trained, run.device)
    beside = None
    if trained.name != PRIORS[trained.task]:
        beside = prior(dataset, trained.task, trained.probability is not None, validation, choice.metric)
    draft.metrics.update(
        model=trained.name,
        task=trained.task,
        metric=choice.metric,
        valid=validation(CollaborativeScorer(trained, run.device)),
        prior=beside,
        parameters=sum(parameter.numel() for parameter in trained.model.parameters()),
    )
    report(draft, run, fitted)


def untrained(dataset: Dataset, choice: Choice, run: Run) -> Trained:
    """A model as it is before it has seen any row."""
    torch.manual_seed(run.seed)
    net = choice.kind(choice.settings, Size(dataset.users, dataset.items)).to(run.device)
    return Trained(choice.name, net, choice.task, choice.history, choice.probability)


def validation_of(dataset: Dataset, trained: Trained, settings: Fit, run: Run) -> Validation:
    """What a model is measured on while it is trained."""
    limit = settings.validate_rows or (RANKED_BY_PAIRS if _ranks_by_pairs(trained) else None)
    return Validation.of(dataset, trained.task, run.device, limit, run.seed)


def _ranks_by_pairs(trained: Trained) -> bool:
    """Whether ranking costs a score of every pair of a row and an item."""
    return trained.task == "next-item" and not (isinstance(trained.model, FactorModel) or trained.model.counted)


def objective_of(
    trained: Trained, dataset: Dataset, settings: Objective, loss: Loss, validation: Validation, device: torch.device
) -> Minimised:
    """What the training of a model minimises."""
    if trained.task == "ctr":
        pointwise = BlockwiseObjective if isinstance(trained.model, SequenceModel) else PointwiseObjective
        return pointwise(trained, dataset, loss, validation, device)
    kind = BlockObjective if isinstance(trained.model, SequenceModel) else RowObjective
    return kind(trained, dataset, settings, loss, validation, device)


def write(folder: Path, dataset: Dataset, trained: Trained, device: torch.device) -> None:
    """Write the files of a `cf` artifact, its curve aside."""
    trained.model.eval()
    with torch.inference_mode():
        users = user_vectors(trained, dataset, device)
        items = trained.model.item_vectors().float().cpu().numpy()
    saved.save(trained, users, items, folder)


def user_vectors(trained: Trained, dataset: Dataset, device: torch.device) -> NDArray[np.float32]:
    """The vectors of all users (U, D); a sequence model encodes the history that ends with training."""
    last = dataset.last_train_rows
    known = last >= 0
    start = stop = np.zeros(dataset.users, np.int64)
    items = np.zeros(1, np.int32)
    if trained.history is not None:
        histories = dataset.histories(liked_only=trained.history.liked_only)
        items = histories.items
        first, end = histories.slices(last[known])
        counts = dataset.label[last[known]] == 1 if trained.history.liked_only else np.ones(len(end), np.bool_)
        stop = stop.copy()
        stop[known] = end + counts  # the last train row belongs to the history too
        start = np.zeros_like(stop)
        start[known] = np.maximum(first, stop[known] - trained.history.length)
    parts = []
    for begin in range(0, dataset.users, USERS_AT_A_TIME):
        part = slice(begin, begin + USERS_AT_A_TIME)
        users = torch.arange(dataset.users)[part].to(device)
        sequences = Sequences.gather(items, start[part], stop[part], device)
        parts.append(trained.model.user_vectors(users, sequences).float().cpu().numpy())
    vectors: NDArray[np.float32] = np.concatenate(parts)
    return vectors
