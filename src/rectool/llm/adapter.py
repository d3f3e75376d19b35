"""Adapters on disk: ordinary PEFT files, which `PeftModel.from_pretrained` loads."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from peft import PeftConfig, PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from rectool.errors import RectoolError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@contextmanager
def peft_of_today() -> Iterator[None]:
    """Without warnings of peft's that are no concern of whoever runs a command: it uses a name that is deprecated."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        warnings.filterwarnings("ignore", "Found missing adapter keys", UserWarning)  # `put_on` refuses them
        yield


def weights_of(model: PeftModel) -> dict[str, Tensor]:
    """The adapter's weights on the CPU, named as in its file."""
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}


def save(model: PeftModel, folder: Path, base: str) -> None:
    """Write the adapter's two files.

    Args:
        base: what `base_model_name_or_path` says: a name of the hub, or a path relative to `folder`.

    Raises:
        OSError: the disk is full or refuses.
    """
    config = model.active_peft_config
    before = config.base_model_name_or_path, config.inference_mode
    config.base_model_name_or_path, config.inference_mode = base, True
    try:
        text = json.dumps(config.to_dict(), indent=2, sort_keys=True, default=sorted)  # sets are not JSON
    finally:
        config.base_model_name_or_path, config.inference_mode = before
    save_file(weights_of(model), folder / WEIGHTS, metadata={"format": "pt"})
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")


def put_on(model: PreTrainedModel, folder: Path, *, merge: bool, device: torch.device) -> PreTrainedModel | PeftModel:
    """The model with the adapter of a folder, live, or merged into its weights, which computes the same for less.

    Raises:
        RectoolError: the files are damaged, or the adapter is none of this model's, or of a kind that changes prompts.
    """
    if not (folder / WEIGHTS).is_file():
        raise RectoolError(f"{folder} has no {WEIGHTS}; rectool reads adapters from safetensors only")
    try:
        config = PeftConfig.from_pretrained(str(folder))
        if config.is_prompt_learning:
            raise RectoolError(
                f"{folder} is an adapter of kind {config.peft_type.value}; rectool reads LoRA and its like"
            )
        with safe_open(folder / WEIGHTS, "pt") as file:
            there = set(file.keys())
        with peft_of_today():
            live = PeftModel.from_pretrained(model, str(folder), config=config, torch_device=str(device)).eval()
        wanted = weights_of(live).keys()
        if wanted != there:
            raise ValueError(f"{min(wanted ^ there)} is in one of them only")
    except (SafetensorError, RuntimeError, ValueError, KeyError, TypeError, OSError) as problem:
        said = " ".join(str(problem).split())[:300]
        raise RectoolError(f"the adapter {folder} does not fit the model {model.name_or_path}: {said}") from problem
    return live.merge_and_unload() if merge else live
