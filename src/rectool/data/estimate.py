"""How much disk and memory a preparation will want, from the size of what it reads."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rectool.data.settings import Resources

COMPRESSED = {".gz": 4.0, ".zip": 4.0, ".parquet": 4.0}
"""How many bytes of plain text a byte of such a file stands for, roughly."""
DISK_PER_TEXT = 0.35
SCRATCH_PER_TEXT = 1.6
MEMORY_PER_TEXT = 3.0
MEMORY_PER_LIMIT = 1.15
BASE_MEMORY = 250 << 20
"""Measured at 20 and 60 million rows; see docs/performance.md."""
TORCH_MEMORY = 450 << 20
"""Of Python with torch."""
BYTES_PER_ROW = 60
"""Of the log of a data set, once it is read: its columns, histories, samples."""
DISK_PER_MADE_ROW, SCRATCH_PER_MADE_ROW, MEMORY_PER_MADE_ROW = 10, 20, 300
DISK_PER_MADE_ITEM = 55
"""Of synthetic data; measured at 54 thousand to 1.6 million rows."""


@dataclass(frozen=True)
class Plan:
    """What a preparation would do.

    Attributes:
        reads: files and artifacts.
        disk_bytes: estimated size of the artifact.
        scratch_bytes: estimated size of temporary files, at most.
        memory_bytes: estimated peak memory.
    """

    reads: Sequence[str]
    disk_bytes: int
    scratch_bytes: int
    memory_bytes: int


def estimate(reads: Sequence[str], resources: Resources) -> Plan:
    """A plan with sizes; what is yet to be downloaded counts nothing."""
    text = 0.0
    for name in reads:
        path = Path(name)
        if path.is_file():
            text += path.stat().st_size * COMPRESSED.get(path.suffix, 1.0)
    limit = resources.memory_bytes() or int(0.8 * _machine_memory())
    memory = BASE_MEMORY + int(min(text * MEMORY_PER_TEXT, limit * MEMORY_PER_LIMIT))
    return Plan(reads, int(text * DISK_PER_TEXT), int(text * SCRATCH_PER_TEXT), memory)


def estimate_made(reads: Sequence[str], rows: int, items: int) -> Plan:
    """A plan for data that are made and not read."""
    return Plan(
        reads,
        rows * DISK_PER_MADE_ROW + items * DISK_PER_MADE_ITEM,
        rows * SCRATCH_PER_MADE_ROW,
        BASE_MEMORY + rows * MEMORY_PER_MADE_ROW,
    )


def _machine_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
