"""Adapters on disk: ordinary PEFT files, which `PeftModel.from_pretrained` loads."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import torch
from peft import PeftConfig, PeftModel, get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from rectool.errors import RectoolError
from rectool.llm import versions

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
UNREAD = ("megatron_config", "layer_replication")
"""Settings of PEFT that import a module of any name, or make any number of copies of layers."""


@contextmanager
def peft_of_today() -> Iterator[None]:
    """Without warnings of peft's that are no concern of whoever runs a command: it uses a name that is deprecated."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        warnings.filterwarnings("ignore", "Found missing adapter keys", UserWarning)  # `put_on` refuses them
        warnings.filterwarnings(
            "ignore", "Unexpected keyword arguments", UserWarning
        )  # so are those that say something
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
        with peft_of_today():
            config = PeftConfig.from_pretrained(str(folder))
        _refuse_unknown(folder, config)
        if config.is_prompt_learning:
            raise RectoolError(
                f"{folder} is an adapter of kind {config.peft_type.value}; rectool reads LoRA and its like"
            )
        for name in UNREAD:
            if getattr(config, name, None):
                raise RectoolError(
                    f"{folder / CONFIG} has {name}, which rectool does not read; merge the adapter first"
                )
        with safe_open(folder / WEIGHTS, "pt") as file:
            there = set(file.keys())
        with peft_of_today():
            live = PeftModel.from_pretrained(
                model, str(folder), config=config, torch_device=str(device), low_cpu_mem_usage=True
            ).eval()
        wanted = get_peft_model_state_dict(live, save_embedding_layers=False).keys()
        if wanted != there:
            raise ValueError(f"{min(wanted ^ there)} is in one of them only")
    except RectoolError:
        raise
    except Exception as problem:  # each kind of adapter has code of its own in peft, which raises what it likes
        said = " ".join(str(problem).split())[:300]
        raise RectoolError(
            f"the adapter {folder} does not fit the model {model.name_or_path}: {said}"
            f"{versions.needed(folder / CONFIG, 'peft')}"
        ) from problem
    return live.merge_and_unload() if merge else live


def _refuse_unknown(folder: Path, config: PeftConfig) -> None:
    """A newer peft's setting that says nothing (null, false) may be left out; one that says something may not."""
    said = json.loads((folder / CONFIG).read_bytes())
    for name in sorted(said.keys() - config.to_dict().keys() - {"peft_version", "auto_mapping"}):
        if said[name]:
            raise RectoolError(
                f"{folder / CONFIG} has {name}, which peft {metadata.version('peft')} does not know"
                f"{versions.needed(folder / CONFIG, 'peft')}"
            )
