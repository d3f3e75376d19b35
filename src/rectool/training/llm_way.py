"""In which way training a language model fits its device: how many tokens at a time, with checkpointing or without."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from rectool.errors import RectoolError
from rectool.training.llm_estimate import Setup
from rectool.training.lora_settings import Checkpointing

BATCH_TOKENS = {"cpu": 1 << 10, "cuda": 1 << 14}
"""Computed at a time by default, where memory allows: what a CPU's caches hold, what keeps a GPU busy."""
FEWEST_TOKENS = {"cpu": 1 << 8, "cuda": 1 << 11}
"""With fewer at a time computing activations twice is faster."""


@dataclass(frozen=True)
class Way:
    """How a step is computed.

    Attributes:
        tokens: at a time, padding included; a longer row is computed by itself.
        bytes: that this takes, as estimated.
    """

    tokens: int
    checkpointing: bool
    bytes: int


@dataclass(frozen=True)
class Wanted:
    """What was asked for, and what the rows ask for.

    Attributes:
        batch_tokens: None for what the device has room for.
        longest: tokens of the longest row.
        step: tokens of a step at most.
    """

    batch_tokens: int | None
    checkpointing: Checkpointing
    longest: int
    step: int


def choose_way(setup: Setup, wanted: Wanted, room: int) -> Way:
    """The fastest way that fits: many tokens at a time, then fewer, then with checkpointing.

    Args:
        room: bytes that the device has.

    Raises:
        RectoolError: none fits; names the flags that would make it fit.
    """
    ways = _ways(setup, wanted)
    for way in ways:
        if way.bytes <= room:
            return way
    least = min(way.bytes for way in ways)
    raise RectoolError(
        f"training takes about {in_gigabytes(least)} on {setup.device}, where {in_gigabytes(room)} are free; "
        f"{_advice(setup, wanted, room)}"
    )


def in_gigabytes(count: int) -> str:
    """`5.2 GB`."""
    return f"{count / 1e9:,.1f} GB"


def _ways(setup: Setup, wanted: Wanted) -> list[Way]:
    """From the fastest to that which takes the least."""
    kind = setup.device.type
    both = {"auto": (False, True), "on": (True,), "off": (False,)}[wanted.checkpointing]
    ways = []
    for checkpointing in both:
        fewest = wanted.longest
        if not checkpointing and len(both) > 1:
            fewest = max(fewest, FEWEST_TOKENS[kind])
        tokens = min(wanted.batch_tokens or BATCH_TOKENS[kind], wanted.step)
        while True:
            ways.append(Way(tokens, checkpointing, setup.bytes(max(tokens, wanted.longest), checkpointing)))
            if tokens <= fewest or wanted.batch_tokens is not None:
                break
            tokens = max(tokens // 2, fewest)
    return ways


def _advice(setup: Setup, wanted: Wanted, room: int) -> str:
    """Which flags would make it fit: each that does alone, else as many together as it takes."""
    changes = _changes(setup, wanted)
    alone = [flag for flag, change in changes.items() if _fits(*change(setup, wanted), room)]
    if alone:
        return f"it fits with {' or '.join(alone)}"
    flags = []
    for flag, change in changes.items():
        setup, wanted = change(setup, wanted)
        flags.append(flag)
        if _fits(setup, wanted, room):
            return f"it fits with {' and '.join(flags)}"
    return "choose a smaller --llm, shorter prompts (--max-tokens, --history), or a device that has more"


def _changes(setup: Setup, wanted: Wanted) -> dict[str, Callable[[Setup, Wanted], tuple[Setup, Wanted]]]:
    """What can still be done about memory, by the flag that does it; what costs least comes first."""
    gpu = setup.device.type == "cuda"
    found: dict[str, Callable[[Setup, Wanted], tuple[Setup, Wanted]]] = {}
    if wanted.batch_tokens is not None and wanted.batch_tokens > wanted.longest:
        found[f"--batch-tokens {wanted.longest}"] = lambda setup, wanted: (
            setup,
            replace(wanted, batch_tokens=wanted.longest),
        )
    if wanted.checkpointing == "off":
        found["--checkpointing on"] = lambda setup, wanted: (setup, replace(wanted, checkpointing="on"))
    if gpu and setup.dtype == torch.float32:
        found["--precision fp16"] = lambda setup, wanted: (replace(setup, dtype=torch.float16), wanted)
    if setup.full:
        found["LoRA (no --full)"] = lambda setup, wanted: (setup.with_adapters(), wanted)
    elif gpu and not setup.quantized:
        found["--quantize 4bit"] = lambda setup, wanted: (replace(setup, quantized=True), wanted)
    return found


def _fits(setup: Setup, wanted: Wanted, room: int) -> bool:
    return any(way.bytes <= room for way in _ways(setup, wanted))
