"""How this process deals with memory that it takes and frees in each step."""

from __future__ import annotations

import torch

KEPT_BYTES = 31 << 20
"""Just below the largest block for which glibc raises its limits."""


def keep_freed_memory() -> None:
    """Have the C library keep what is freed for the next step instead of handing it back to the kernel.

    glibc takes large blocks from the kernel, which clears each page at its first touch: a third of a
    small step on a CPU. Freeing one such block tells it to keep blocks of that size, and twice as much
    at the end of the heap (mallopt(3), M_MMAP_THRESHOLD). Elsewhere this does nothing.
    """
    torch.empty(KEPT_BYTES, dtype=torch.uint8)
