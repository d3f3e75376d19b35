"""Collaborative models on disk: the `cf` artifact."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rectool.artifacts import Artifact
from rectool.artifacts.checking import explained
from rectool.artifacts.documents import understood
from rectool.data.histories import HistoryRule
from rectool.errors import RectoolError, disk_errors
from rectool.models.model import Model, Size
from rectool.models.table import Task, model_class

LIGHT_LAYERS = 100
"""As many may be without tensors of their own, as those of LightGCN are."""
LONGEST_HISTORY = 1 << 20


@dataclass(frozen=True)
class Trained:
    """A model that can be used, with what it was trained for.

    Attributes:
        name: in the table of models.
        history: the history it reads; None where its scores depend on none.
        probability: "sigmoid" if that makes a probability of label 1 of its scores, else None.
    """

    name: str
    model: Model
    task: Task
    history: HistoryRule | None
    probability: Literal["sigmoid"] | None


def save(trained: Trained, users: NDArray[np.float32], items: NDArray[np.float32], folder: Path) -> None:
    """Write weights, embeddings of users (U, D) and items (I, D), and config."""
    embeddings = {"user": torch.from_numpy(users), "item": torch.from_numpy(items)}
    with disk_errors(folder, "choose another --out"):
        save_file(tensors_of(trained.model), folder / "weights.safetensors")
        save_file({name: tensor.contiguous() for name, tensor in embeddings.items()}, folder / "embeddings.safetensors")
        (folder / "config.json").write_text(json.dumps(config_of(trained), indent=1) + "\n", encoding="utf-8")


def load(artifact: Artifact, device: torch.device | str = "cpu") -> Trained:
    """Read a `cf` artifact.

    Raises:
        RectoolError: its config names no model of ours, or its weights are not that model's.
    """
    path = artifact.file("config.json")
    return restored(json.loads(path.read_bytes()), path, artifact.file("weights.safetensors"), device)


def config_of(trained: Trained) -> dict[str, Any]:
    """All that `restored` needs beside weights, as JSON."""
    return {
        "model": trained.name,
        "task": trained.task,
        "users": trained.model.size.users,
        "items": trained.model.size.items,
        "history": asdict(trained.history) if trained.history is not None else None,
        "probability": trained.probability,
        "settings": asdict(trained.model.settings),
    }


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """What a module holds, as safetensors takes it."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}


def restored(config: dict[str, Any], said: Path, weights: Path, device: torch.device | str = "cpu") -> Trained:
    """The model of a config and a file of weights.

    Args:
        said: the file that the config stands in.

    Raises:
        RectoolError: as in `load`.
    """
    with understood(said, "rectool train-cf"):
        kind = model_class(str(config["model"]))
        settings: Any = kind.Settings(**config["settings"])
        size = Size(int(config["users"]), int(config["items"]))
        task, probability, history = config["task"], config["probability"], config["history"]
        if task not in get_args(Task) or probability not in ("sigmoid", None):
            raise ValueError(f"task {task!r}, probability {probability!r}")
        rule = HistoryRule(**history) if history is not None else None
        if rule is not None and not 0 <= int(rule.length) < LONGEST_HISTORY:
            raise ValueError(f"a history of {rule.length}")
        _refuse_larger(kind, settings, size, weights)
        model = kind(settings, size)
    try:
        model.restore(load_file(weights))
    except (RuntimeError, SafetensorError, OSError) as problem:
        why = " ".join(str(problem).split())
        raise RectoolError(f"{weights} does not fit {said.name}: {why}") from None
    return Trained(config["model"], model.to(device).eval(), task, rule, probability)


def _refuse_larger(kind: type[Model], settings: Any, size: Size, weights: Path) -> None:
    """Raises ValueError if a model would be larger than its weights, before room is made for it."""
    with explained(weights), safe_open(weights, "pt") as file:
        shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118
    stored = sum(map(math.prod, shapes))
    if not 0 <= getattr(settings, "layers", 0) <= max(LIGHT_LAYERS, len(shapes)):
        raise ValueError(f"{settings.layers} layers, but {len(shapes)} tensors")
    with torch.device("meta"):
        empty = kind(settings, size)
    values = sum(parameter.numel() for parameter in empty.parameters())
    if values > stored:
        raise ValueError(f"{values:,} values, but {weights.name} has {stored:,}")
