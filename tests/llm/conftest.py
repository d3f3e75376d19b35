"""Tiny models with random weights, adapters that do something, and rows of random tokens."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from rectool import cli, console
from rectool.artifacts import open_artifact
from rectool.data.dataset import Dataset
from rectool.llm.adapter import peft_of_today
from rectool.prompts.tokens import TokenRows, bounds

ARCHITECTURES = ("llama", "qwen2", "qwen3", "mistral", "gpt2")


@pytest.fixture(scope="session")
def loaded(tiny_llm: Callable[..., Path]) -> Callable[..., Any]:
    """A new tiny model in evaluation mode: `loaded("llama", tied=True)`."""

    def load(architecture: str, **options: Any) -> Any:
        return AutoModelForCausalLM.from_pretrained(tiny_llm(architecture, **options), dtype=torch.float32).eval()

    return load


@pytest.fixture(scope="session")
def adapted() -> Callable[[nn.Module], Any]:
    """A model with a live LoRA adapter whose weights are random: `adapted(model)`."""

    def adapt(model: nn.Module) -> Any:
        target = ["c_attn"] if model.config.model_type == "gpt2" else ["q_proj", "v_proj"]
        config = LoraConfig(
            r=4,
            lora_alpha=8,
            lora_dropout=0.1,
            target_modules=target,
            fan_in_fan_out=model.config.model_type == "gpt2",
            task_type="CAUSAL_LM",
        )
        with torch.random.fork_rng():
            torch.manual_seed(1)
            with peft_of_today():
                changed = get_peft_model(model, config)
            for name, parameter in changed.named_parameters():
                if "lora_B" in name:
                    nn.init.normal_(parameter, std=0.3)
        return changed.eval()

    return adapt


@pytest.fixture(scope="session")
def token_rows() -> Callable[[Sequence[Sequence[int]]], TokenRows]:
    """Rows of these ids."""

    def make(rows: Sequence[Sequence[int]]) -> TokenRows:
        ids = np.array([token for row in rows for token in row], np.int32)
        return TokenRows(ids, bounds(np.array([len(row) for row in rows], np.int64)))

    return make


@pytest.fixture(scope="session")
def one_by_one() -> Callable[..., Tensor]:
    """The slow way: each row alone through the whole model, all hidden states kept, `layer` of them read."""

    def encode(model: nn.Module, tokens: TokenRows, layer: int = -1) -> Tensor:
        states = []
        with torch.no_grad():
            for start, stop in zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True):
                ids = torch.from_numpy(tokens.ids[start:stop].astype(np.int64))[None]
                states.append(model(input_ids=ids, output_hidden_states=True).hidden_states[layer][0, -1])
        return torch.stack(states)

    return encode


@pytest.fixture(scope="session")
def prompts_of_groups() -> Callable[..., tuple[TokenRows, NDArray[np.int64]]]:
    """Rows of random tokens in groups that begin alike, in random order; and the group of each row."""

    def make(
        sizes: Sequence[int], prefixes: Sequence[int], *, rest: int = 12, seed: int = 0, vocabulary: int = 800
    ) -> tuple[TokenRows, NDArray[np.int64]]:
        chance = np.random.default_rng(seed)
        rows, groups = [], []
        for group, (size, length) in enumerate(zip(sizes, prefixes, strict=True)):
            common = chance.integers(3, vocabulary, length).tolist()
            for _ in range(size):
                rows.append(common + chance.integers(3, vocabulary, chance.integers(1, rest + 1)).tolist())
                groups.append(group)
        order = chance.permutation(len(rows))
        shuffled = [rows[place] for place in order]
        ids = np.array([token for row in shuffled for token in row], np.int32)
        return TokenRows(ids, bounds(np.array([len(row) for row in shuffled], np.int64))), np.array(groups)[order]

    return make


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The embedded data set made tiny."""
    out = tmp_path_factory.mktemp("data") / "tiny"
    with pytest.MonkeyPatch.context() as patched, pytest.raises(SystemExit) as stopped:
        words = ["prep", "synthetic", "--users", "40", "--items", "50", "--quiet", "--out", str(out)]
        patched.setattr(sys, "argv", ["rectool", *words])
        cli.main()
    assert stopped.value.code == 0
    console.configure(quiet=False, json=False)
    return Dataset(open_artifact(out, "dataset"))
