"""Training a collaborative model: from a data set to weights, vectors and a curve."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from rectool import console, processes
from rectool.artifacts import Draft
from rectool.artifacts.schemas import CURVE
from rectool.data.dataset import Dataset
from rectool.errors import disk_errors
from rectool.models import saved
from rectool.models.model import SequenceModel, Sequences, Size, TrainingRows
from rectool.models.priors import start_from_mean
from rectool.models.saved import Trained
from rectool.models.table import model_class
from rectool.training import loop
from rectool.training.choice import Choice
from rectool.training.ctr import BlockwiseObjective, PointwiseObjective
from rectool.training.loop import LOWER_IS_BETTER
from rectool.training.next_item import BlockObjective, RowObjective
from rectool.training.run import Fitted, Run
from rectool.training.run import Objective as Minimised
from rectool.training.settings import Fit, Loss, Objective
from rectool.training.start import ItemStart
from rectool.training.validation import Validation

PRIORS = {"ctr": "bias", "next-item": "popularity"}
"""What needs no training, to be told beside every model of a task."""
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
    validation = Validation.of(dataset, trained, run.device, settings.validate_rows, run.seed)
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
        fitted = loop.fit(_objective(trained, dataset, objective, choice.loss, validation, run.device), settings, run)
        last = deepcopy(trained.model)
        last.load_state_dict(fitted.last, strict=False)
        trained.model.load_state_dict(fitted.best, strict=False)
        for each in (last, trained.model):
            ItemStart.plain(each)
        with disk_errors(draft.path, "choose another --out"):
            tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in last.state_dict().items()}
            save_file(tensors, draft.path / "last.safetensors")
    _write(draft, dataset, trained, run.device)
    prior = _prior(rows, trained, validation, choice.metric)
    _report(draft, trained, fitted, validation, prior, choice.metric, run)


def untrained(dataset: Dataset, choice: Choice, run: Run) -> Trained:
    """A model as it is before it has seen any row."""
    torch.manual_seed(run.seed)
    net = choice.kind(choice.settings, Size(dataset.users, dataset.items)).to(run.device)
    return Trained(choice.name, net, choice.task, choice.history, choice.probability)


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
        values = validation(candidate) if len(candidates) > 1 else {}
        value = values.get(metric, 0.0) * (-1 if metric in LOWER_IS_BETTER else 1)
        if best is None or value > best_value:
            best, best_value = candidate, value
    assert best is not None
    if left_open:
        chosen = ", ".join(f"{name} {getattr(best.model.settings, name):g}" for name in left_open)
        found = f"the best of {len(candidates)}" if metric in values else "as none is better"
        console.say(f"{trained.name}: {chosen}, {found} by {metric} on validation")
    return best


def _objective(
    trained: Trained, dataset: Dataset, settings: Objective, loss: Loss, validation: Validation, device: torch.device
) -> Minimised:
    if trained.task == "ctr":
        pointwise = BlockwiseObjective if isinstance(trained.model, SequenceModel) else PointwiseObjective
        return pointwise(trained, dataset, loss, validation, device)
    kind = BlockObjective if isinstance(trained.model, SequenceModel) else RowObjective
    return kind(trained, dataset, settings, loss, validation, device)


def _write(draft: Draft, dataset: Dataset, trained: Trained, device: torch.device) -> None:
    trained.model.eval()
    with torch.inference_mode():
        users = user_vectors(trained, dataset, device)
        items = trained.model.item_vectors().float().cpu().numpy()
    saved.save(trained, users, items, draft.path)


def user_vectors(trained: Trained, dataset: Dataset, device: torch.device) -> NDArray[np.float32]:
    """The vectors of all users (U, D); a sequence model encodes the history that ends with training."""
    rows = dataset.targets("train")
    last = np.full(dataset.users, -1, np.int64)
    last[dataset.user[rows]] = rows
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


def _prior(rows: TrainingRows, trained: Trained, validation: Validation, metric: str) -> dict[str, Any] | None:
    """What the prior of the task reaches on the same validation rows."""
    name = PRIORS[trained.task]
    if trained.name == name:
        return None
    kind = model_class(name)
    model = kind(kind.Settings(), trained.model.size)
    prior = Trained(name, model, trained.task, None, "sigmoid" if trained.probability else None)
    return {"model": name, **validation(counted(prior, rows, validation, metric))}


def _report(
    draft: Draft,
    trained: Trained,
    fitted: Fitted | None,
    validation: Validation,
    prior: dict[str, Any] | None,
    metric: str,
    run: Run,
) -> None:
    """Fill in the manifest's figures, and write the curve."""
    draft.metrics.update(model=trained.name, task=trained.task, metric=metric, valid=validation(trained), prior=prior)
    draft.metrics["parameters"] = sum(p.numel() for p in trained.model.parameters())
    draft.run.update(device=_device_name(run.device), world_size=processes.world_size())
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
    columns = [list(column) for column in zip(*at.curve, strict=True)]
    pq.write_table(pa.table(columns, schema=CURVE), draft.path / "curve.parquet")


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
