"""The network that maps vectors of collaborative models to the space of a language model, and it on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from rectool.artifacts import Artifact
from rectool.errors import RectoolError, disk_errors

Activation = Literal["relu", "gelu"]
WEIGHTS, CONFIG = "weights.safetensors", "config.json"


class Projector(nn.Module):
    """act(x W1 + b1) W2 + b2: the mapping layer of SASRecLLM (eq. 8, ReLU) and Proj_CL of SeLLa-Rec (GELU)."""

    def __init__(self, inputs: int, hidden: int, outputs: int, activation: Activation) -> None:
        super().__init__()
        self.inputs, self.hidden, self.outputs, self.activation = inputs, hidden, outputs, activation
        self.up = nn.Linear(inputs, hidden)
        self.down = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) to (..., outputs)."""
        inner = self.up(x)
        out: Tensor = self.down(functional.relu(inner) if self.activation == "relu" else functional.gelu(inner))
        return out


def save(projector: Projector, folder: Path) -> None:
    """Write weights and config into a folder that is there."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in projector.state_dict().items()}
    config = {name: getattr(projector, name) for name in ("inputs", "hidden", "outputs", "activation")}
    with disk_errors(folder, "choose another --out"):
        save_file(tensors, folder / WEIGHTS)
        (folder / CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def load(source: Artifact | Path, device: torch.device | str = "cpu") -> Projector:
    """Read what `save` wrote, from an artifact or from a folder.

    Raises:
        RectoolError: its config is none of a projector, or its weights are not that projector's.
    """
    folder = source.path if isinstance(source, Artifact) else source
    path = folder / CONFIG
    try:
        config = json.loads(path.read_bytes())
        if config["activation"] not in get_args(Activation):
            raise ValueError(f"activation {config['activation']!r} is none of {', '.join(get_args(Activation))}")
        sizes = [int(config[name]) for name in ("inputs", "hidden", "outputs")]
        with torch.device("meta"):  # no room is made for more than the file of weights has
            projector = Projector(sizes[0], sizes[1], sizes[2], config["activation"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RuntimeError) as problem:
        raise RectoolError(f"{path} is not the config of a projector ({problem}); make it again") from None
    try:
        projector.load_state_dict(load_file(folder / WEIGHTS), assign=True)
    except (OSError, RuntimeError, SafetensorError) as problem:
        said = " ".join(str(problem).split())
        raise RectoolError(f"{folder / WEIGHTS} does not fit {CONFIG}: {said}") from None
    return projector.float().to(device)
