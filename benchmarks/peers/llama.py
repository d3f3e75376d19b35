"""What all programs of benchmarks/llm.py and proj.py share: a random Llama, and prompts as token ids."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

VOCABULARY, HIDDEN, LAYERS = 32_000, 256, 8
YES, NO = 3869, 1939
"""Token ids of the answers: Llama 2's, and as good as any others for a random model."""
USERS, ITEMS = 1000, 1000
"""Of the collaborative model: a token id of -1 - k stands for vector k, users first."""


def llama(positions: int = 2048) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=688,
        num_hidden_layers=LAYERS,
        num_attention_heads=8,
        max_position_embeddings=positions,
    )
    return LlamaForCausalLM(config)


def lora(model: LlamaForCausalLM) -> Any:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=8, lora_alpha=16, lora_dropout=0.05, target_modules=["q_proj", "v_proj"])
    return get_peft_model(model, config)


def projection() -> tuple[torch.Tensor, torch.nn.Sequential]:
    """Vectors of a collaborative model (USERS + ITEMS, 64), and what maps them to the hidden size."""
    torch.manual_seed(1)
    up, down = torch.nn.Linear(64, 640), torch.nn.Linear(640, HIDDEN)
    return torch.randn(USERS + ITEMS, 64), torch.nn.Sequential(up, torch.nn.ReLU(), down)


def read(path: Path) -> tuple[list[np.ndarray], np.ndarray]:
    """Token ids of each prompt, and labels (N,)."""
    log = np.load(path)
    bounds = log["offsets"]
    return [log["ids"][start:stop] for start, stop in itertools.pairwise(bounds)], log["label"]
