"""Devices and precisions: what `--device` and `--precision` stand for."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from rectool import processes
from rectool.errors import RectoolError


def device_named(name: str) -> torch.device:
    """What `--device` stands for; of several processes each takes the GPU of its rank on its machine.

    Raises:
        RectoolError: there is no such device.
    """
    if name == "auto":
        name = f"cuda:{torch.cuda.current_device()}" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as problem:
        raise RectoolError(f"--device {name} is not there: {str(problem).splitlines()[0]}") from None
    if device.type not in ("cpu", "cuda"):
        raise RectoolError(f"--device {name}: rectool computes on cpu and cuda")
    if processes.world_size() > 1 and device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def precision_named(name: str, device: torch.device) -> torch.dtype:
    """What `--precision` stands for on a device.

    Raises:
        RectoolError: the device does not have it.
    """
    if name == "auto":
        if device.type != "cuda":
            return torch.float32
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16
    if name == "fp16" and device.type == "cpu":
        raise RectoolError("--precision fp16 needs a GPU; on a CPU choose fp32 or bf16")
    return {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[name]


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[None]:
    """A context in which a module computes in `dtype`."""
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)
