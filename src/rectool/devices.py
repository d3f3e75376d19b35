"""Devices and precisions: what `--device` and `--precision` stand for."""

from __future__ import annotations

import os
import re
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any

import torch

from rectool import launchers, processes
from rectool.errors import RectoolError

CONTROL = Path("/sys/fs/cgroup")
CONTAINERS = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
)
"""Where Linux says what a container may take, what it has taken, and how much of that are files that it would give up:
control groups of version 2 and of version 1."""


def device_named(name: str) -> torch.device:
    """What `--device` stands for; of several processes each takes the GPU of its rank on its machine.

    Raises:
        RectoolError: there is no such device, or there are fewer GPUs than processes.
    """
    if name == "auto":
        name = f"cuda:{torch.cuda.current_device()}" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise RectoolError(f"--device {name}: rectool computes on cpu and cuda (of several GPUs cuda:1); auto chooses")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as problem:
        raise RectoolError(
            f"--device {name} is not there: {str(problem).splitlines()[0]}; --device auto takes what is"
        ) from None
    if processes.world_size() > 1 and device.type == "cuda":
        here, gpus = launchers.number("LOCAL_WORLD_SIZE", 1), torch.cuda.device_count()
        if here > gpus:
            raise RectoolError(
                f"--device {name}: {here} processes on this machine, but {gpus} GPU{'s' * (gpus > 1)}, of which each "
                "needs its own; start as many as there are GPUs, or choose --device cpu"
            )
        torch.cuda.set_device(device)
    return device


def used(device: torch.device) -> dict[str, Any]:
    """What a manifest says of the device that a run was on: its name, and of a GPU the most memory that it took."""
    if device.type != "cuda":
        return {"device": device.type}
    return {
        "device": torch.cuda.get_device_name(device),
        "device_memory_bytes": torch.cuda.max_memory_allocated(device),
    }


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


def free_memory(device: torch.device) -> int:
    """Bytes that this process can still take on a device; on a CPU, of the machine's memory or its container's."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    with suppress(OSError, TypeError):
        said = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
        found.append(1024 * int(said[1]))  # type: ignore[index]
    for most, taken, stated, files in CONTAINERS:
        with suppress(OSError, ValueError, TypeError):
            said = re.search(rf"^{files} (\d+)$", (CONTROL / stated).read_text(), re.MULTILINE)
            limit, used_up = (int((CONTROL / name).read_text()) for name in (most, taken))
            found.append(limit - used_up + int(said[1]))  # type: ignore[index]
    return max(0, min(found))


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[None]:
    """A context in which a module computes in `dtype`."""
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)
