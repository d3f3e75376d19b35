"""In which way training fits a device, whatever its size."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from rectool.errors import RectoolError
from rectool.training.adapting import dissect, outline
from rectool.training.llm_estimate import Setup
from rectool.training.llm_way import Wanted, choose_way, in_gigabytes
from rectool.training.lora_settings import Lora

CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")
AS_IT_COMES = Wanted(batch_tokens=None, checkpointing="auto", longest=512, step=16 * 512)
TINY_LLAMA = {
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "num_hidden_layers": 22,
    "vocab_size": 32_000,
}


@pytest.fixture(scope="module")
def setup() -> Setup:
    """TinyLlama in fp16 on a GPU."""
    config = AutoConfig.for_model("llama", **TINY_LLAMA)
    return Setup(config, dissect(outline(config), Lora()), CUDA, torch.float16, False, True, False)


def test_much_room_takes_the_whole_step_at_a_time(setup: Setup) -> None:
    way = choose_way(setup, AS_IT_COMES, 80 << 30)
    assert (way.tokens, way.checkpointing) == (16 * 512, False)
    assert way.bytes == setup.bytes(16 * 512, False)
    assert choose_way(setup, replace(AS_IT_COMES, step=1 << 20), 80 << 30).tokens == 1 << 14


def test_less_room_takes_fewer_tokens_and_then_computes_twice(setup: Setup) -> None:
    found = [choose_way(setup, AS_IT_COMES, size * 10**8) for size in range(35, 220)]
    assert all(way.bytes <= size * 10**8 for size, way in zip(range(35, 220), found, strict=True))
    ways = sorted({(way.checkpointing, way.tokens) for way in found})
    assert ways == [*((False, 1024 << n) for n in (1, 2, 3)), *((True, 1024 << n) for n in range(4))]
    speeds = [(not way.checkpointing, way.tokens) for way in found]
    assert speeds == sorted(speeds)


def test_what_is_asked_for_is_done(setup: Setup) -> None:
    wanted = replace(AS_IT_COMES, batch_tokens=3000)
    assert choose_way(setup, wanted, 80 << 30).tokens == 3000
    assert choose_way(setup, wanted, 80 << 30).checkpointing is False
    assert choose_way(setup, replace(wanted, checkpointing="on"), 80 << 30).checkpointing is True
    assert choose_way(setup, wanted, 6 * 10**9).checkpointing is True
    few = choose_way(setup, replace(wanted, batch_tokens=100), 80 << 30)
    assert (few.tokens, few.bytes) == (100, setup.bytes(512, False))  # the longest row is computed by itself
    assert choose_way(setup, replace(AS_IT_COMES, checkpointing="off"), 5 * 10**9).tokens < 2048


def test_a_cpu_computes_few_tokens_at_a_time(setup: Setup) -> None:
    own = replace(setup, device=CPU, dtype=torch.float32)
    assert choose_way(own, AS_IT_COMES, 80 << 30).tokens == 1024
    assert choose_way(own, replace(AS_IT_COMES, longest=2000), 80 << 30).bytes == own.bytes(2000, False)


def refusal(setup: Setup, wanted: Wanted, size: float) -> str:
    with pytest.raises(RectoolError) as error:
        choose_way(setup, wanted, int(size * 1e9))
    return str(error.value)


@pytest.mark.parametrize(
    ("given", "asked", "size", "advice"),
    [
        ({}, {"batch_tokens": 8192}, 4.0, "it fits with --batch-tokens 512"),
        ({}, {"checkpointing": "off"}, 4.0, "it fits with --checkpointing on"),
        ({}, {"checkpointing": "off", "batch_tokens": 8192}, 5.5, "--batch-tokens 512 or --checkpointing on"),
        ({}, {"checkpointing": "off", "batch_tokens": 8192}, 3.5, "--batch-tokens 512 and --checkpointing on"),
        ({}, {}, 2.0, "it fits with --quantize 4bit"),
        ({"dtype": torch.float32}, {}, 4.0, "it fits with --precision fp16 or --quantize 4bit"),
        ({"full": True}, {}, 12.0, "it fits with LoRA (no --full)"),
        ({}, {}, 1.2, "choose a smaller --llm, shorter prompts (--max-tokens, --history), or a device that has more"),
        ({"quantized": True}, {}, 1.2, "choose a smaller --llm"),
    ],
)
def test_what_cannot_fit_is_refused_with_what_would_make_it_fit(
    given: dict[str, Any], asked: dict[str, Any], size: float, advice: str, setup: Setup
) -> None:
    if given.get("full"):
        given = {**given, "anatomy": dissect(outline(setup.config), Lora(full=True))}
    said = refusal(replace(setup, **given), replace(AS_IT_COMES, **asked), size)
    assert said.startswith("training takes about ")
    assert f" GB on cuda:0, where {size:.1f} GB are free; " in said
    assert advice in said


def test_in_gigabytes() -> None:
    assert in_gigabytes(5_240_000_000) == "5.2 GB"
