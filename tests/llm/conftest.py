"""Tiny models with random weights, adapters that do something, and rows of random tokens."""

from __future__ import annotations

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

from rectool.artifacts import open_artifact
from rectool.data.dataset import Dataset
from rectool.data.histories import HistoryRule
from rectool.llm.adapter import peft_of_today
from rectool.llm.soft_parts import Parts
from rectool.models.model import Size
from rectool.models.saved import Trained
from rectool.models.table import model_class
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
    """The slow way: each row alone through the whole model, all hidden states kept, `layer` of them read.

    Where there are vectors (K, H) each token is embedded by itself, an id of -1 - k as vector k, with gradients.
    """

    def encode(model: Any, tokens: TokenRows, layer: int = -1, soft: Tensor | None = None) -> Tensor:
        states = []
        with torch.set_grad_enabled(soft is not None):
            for start, stop in zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True):
                ids = torch.from_numpy(tokens.ids[start:stop].astype(np.int64))
                inputs = {"input_ids": ids[None]}
                if soft is not None:
                    embed = model.get_input_embeddings()
                    inputs = {"inputs_embeds": torch.stack([embed(i) if i >= 0 else soft[-1 - i] for i in ids])[None]}
                states.append(model(**inputs, output_hidden_states=True).hidden_states[layer][0, -1])
        return torch.stack(states)

    return encode


@pytest.fixture(scope="session")
def with_references() -> Callable[..., TokenRows]:
    """Rows with about every fourth token a reference to one of K vectors: `with_references(tokens, K)`.

    Which token is which reference is one rule for all rows, so that those that began alike still do.
    """

    def make(tokens: TokenRows, count: int) -> TokenRows:
        ids = np.where(tokens.ids % 4 == 0, -1 - tokens.ids // 4 % count, tokens.ids)
        return TokenRows(ids.astype(np.int32), tokens.offsets)

    return make


@pytest.fixture
def vectors() -> Tensor:
    """(5, 32) soft vectors with a gradient."""
    return torch.randn(5, 32, generator=torch.Generator().manual_seed(3)).requires_grad_()


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
def dataset(synthetic: Callable[[int, int], Path]) -> Dataset:
    """The embedded data set made tiny."""
    return Dataset(open_artifact(synthetic(40, 50), "dataset"))


@pytest.fixture(scope="session")
def soft_parts(dataset: Dataset) -> Callable[..., Parts]:
    """A collaborative model of width 8 with random weights, and semantic embeddings of width 12: `soft_parts("mf")`."""

    def make(name: str, **settings: Any) -> Parts:
        kind = model_class(name)
        with torch.random.fork_rng():
            torch.manual_seed(4)
            chosen = kind.Settings(embedding_size=8, **({"heads": 2} if name == "sasrec" else {}), **settings)
            model = kind(chosen, Size(dataset.users, dataset.items)).eval()
            for parameter in model.parameters():
                nn.init.normal_(parameter, std=0.5)
            history = HistoryRule(liked_only=True, length=6) if kind.reads_history else None
            semantic = torch.randn(dataset.items, 12)
        return Parts(collaborative=Trained(name, model, "ctr", history, "sigmoid"), semantic=semantic)

    return make


@pytest.fixture(scope="session")
def spanned() -> Callable[..., TokenRows]:
    """Rows of a common beginning, some titles of 1 to 5 tokens with separators, and an end: `spanned([4, 0, 7])`.

    Titles are those of 12 items, so that rows share them; `soft`: each third is a reference (see `with_references`).
    """

    def make(counts: Sequence[int], *, beginning: int = 6, soft: bool = False, seed: int = 0) -> TokenRows:
        chance = np.random.default_rng(seed)
        titles = [chance.integers(3, 800, length).tolist() for length in chance.integers(1, 6, 12)]
        if soft:
            titles[::3] = [[-1 - place % 5, *title] for place, title in enumerate(titles[::3])]
        common = chance.integers(3, 800, beginning).tolist()
        rows: list[list[int]] = []
        spans: list[tuple[int, int, int]] = []
        for count in counts:
            row = list(common)
            for item in chance.integers(0, len(titles), count).tolist():
                row += [801, 802][: int(chance.integers(1, 3))]
                spans.append((len(row), len(row) + len(titles[item]), item))
                row += titles[item]
            rows.append([*row, *chance.integers(3, 800, 3).tolist()])
        ids = np.array([token for row in rows for token in row], np.int32)
        lengths = np.array([len(row) for row in rows], np.int64)
        places = np.array(spans, np.int32).reshape(-1, 3)
        return TokenRows(ids, bounds(lengths), places, bounds(np.array(counts, np.int64)))

    return make
