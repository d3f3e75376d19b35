"""What `accelerate launch` and `torchrun` say in the environment of each process that they start."""

from __future__ import annotations

import os

ALONE = (
    "accelerate launch was told of several processes but started one, as it does without two GPUs; "
    "accelerate launch --multi_gpu --num_processes N -m rectool, or torchrun, starts several on CPUs, too"
)


def number(name: str, default: int) -> int:
    """What the launcher says under a name such as WORLD_SIZE, if it does."""
    value = os.environ.get(name, "")
    return int(value) if value.isdigit() else default


def left_alone() -> bool:
    """Whether `accelerate launch` was told of several processes and started this one alone.

    It names a place to meet only where it was told of several, and a rank only where it has started them.
    """
    told = os.environ.keys()
    return {"ACCELERATE_MIXED_PRECISION", "MASTER_ADDR", "MASTER_PORT"} <= told and "WORLD_SIZE" not in told


def threads_told() -> int | None:
    """How many threads each process is to compute with: launchers say 1 where nobody else has said."""
    return number("OMP_NUM_THREADS", 0) or None


def cores_each() -> int:
    """This process's share of the cores of its machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // number("LOCAL_WORLD_SIZE", number("WORLD_SIZE", 1)))
