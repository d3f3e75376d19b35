"""Adapter files: what cannot be put on a model is one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PromptTuningConfig
from safetensors.torch import load_file, save_file

from rectool.errors import RectoolError
from rectool.llm import adapter

CPU = torch.device("cpu")

Loaded = Callable[..., Any]


@pytest.fixture
def saved(loaded: Loaded, adapted: Loaded, tmp_path: Path) -> Path:
    adapter.save(adapted(loaded("llama")), tmp_path, "ann/tiny")
    return tmp_path


def test_the_name_of_the_base_is_what_is_said(saved: Path) -> None:
    config = json.loads((saved / adapter.CONFIG).read_text())
    assert config["base_model_name_or_path"] == "ann/tiny"
    assert config["target_modules"] == ["q_proj", "v_proj"]


def test_weights_are_those_that_are_live(loaded: Loaded, adapted: Loaded, saved: Path) -> None:
    live = adapter.put_on(loaded("llama"), saved, merge=False, device=CPU)
    expected = adapter.weights_of(adapted(loaded("llama")))
    found = adapter.weights_of(live)
    assert found.keys() == expected.keys() == load_file(saved / adapter.WEIGHTS).keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_of_another_architecture(loaded: Loaded, saved: Path) -> None:
    with pytest.raises(RectoolError, match=r"the adapter .* does not fit the model .*gpt2: Target modules"):
        adapter.put_on(loaded("gpt2"), saved, merge=True, device=CPU)


def test_of_another_width(loaded: Loaded, saved: Path) -> None:
    with pytest.raises(RectoolError, match=r"does not fit the model .*llama: .*size mismatch"):
        adapter.put_on(loaded("llama", hidden_size=16), saved, merge=True, device=CPU)


@pytest.mark.parametrize("layers", [1, 3])
def test_of_another_depth(loaded: Loaded, saved: Path, layers: int) -> None:
    with pytest.raises(RectoolError, match=r"layers.\d.self_attn.q_proj.lora_A.weight is in one of them only"):
        adapter.put_on(loaded("llama", num_hidden_layers=layers), saved, merge=True, device=CPU)


def test_with_a_missing_weight(loaded: Loaded, saved: Path) -> None:
    state = load_file(saved / adapter.WEIGHTS)
    state.pop(min(state))
    save_file(state, saved / adapter.WEIGHTS)
    with pytest.raises(RectoolError, match=r"lora_A.weight is in one of them only"):
        adapter.put_on(loaded("llama"), saved, merge=True, device=CPU)


def test_cut_short(loaded: Loaded, saved: Path) -> None:
    whole = (saved / adapter.WEIGHTS).read_bytes()
    for part in (whole[:1000], whole[:-8], b""):
        (saved / adapter.WEIGHTS).write_bytes(part)
        with pytest.raises(RectoolError, match=r"the adapter .* does not fit the model"):
            adapter.put_on(loaded("llama"), saved, merge=True, device=CPU)
    (saved / adapter.CONFIG).write_text("{")
    with pytest.raises(RectoolError, match=r"the adapter .* does not fit the model"):
        adapter.put_on(loaded("llama"), saved, merge=True, device=CPU)


def test_pickled(loaded: Loaded, saved: Path) -> None:
    torch.save(load_file(saved / adapter.WEIGHTS), saved / "adapter_model.bin")
    (saved / adapter.WEIGHTS).unlink()
    with pytest.raises(RectoolError, match=r"has no adapter_model.safetensors; rectool reads adapters from"):
        adapter.put_on(loaded("llama"), saved, merge=True, device=CPU)


def test_of_a_kind_that_changes_prompts(loaded: Loaded, saved: Path) -> None:
    PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4).save_pretrained(str(saved))
    with pytest.raises(RectoolError, match="is an adapter of kind PROMPT_TUNING; rectool reads LoRA"):
        adapter.put_on(loaded("llama"), saved, merge=True, device=CPU)
