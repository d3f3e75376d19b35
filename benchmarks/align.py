"""The alignment of a large catalogue beside the bare matrix products that it cannot do without.

    python benchmarks/align.py                                # 100,000 items x 2,048, three steps of an epoch's 98
    python benchmarks/align.py --items 20000 --steps 20 --threads 1

Matrix factorisation (d 64), a projector of 640 hidden units and a frozen table, negatives over the whole catalogue,
1,024 items and 1,024 targets per step, in rectool's own loop, optimizer included. The bare products of a step are the
cosines of its items with the catalogue and their gradient: (1024, H) @ (H, I) and (1024, I) @ (I, H), with the
projector's three pairs. Both run in turn, several times, and the best of each counts; an epoch takes every item once.
Peak memory is that of the process, training and one validation together.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rectool import console
from rectool.models.mf import MatrixFactorization, MatrixFactorizationSettings
from rectool.models.model import Sequences, Size
from rectool.models.projector import Projector
from rectool.models.semantic import SemanticTable
from rectool.training import loop
from rectool.training.align_settings import Alignment
from rectool.training.alignment import AlignedParts, AlignObjective
from rectool.training.losses import rows_at_a_time, squared_error
from rectool.training.run import Run
from rectool.training.settings import Fit

EMBEDDING, HIDDEN, BATCH = 64, 640, 1024
CPU = torch.device("cpu")


class Ratings:
    """The collaborative part: made-up labels of pairs, as many as there are items."""

    def __init__(self, model: MatrixFactorization, count: int) -> None:
        chance = np.random.default_rng(0)
        self.module: nn.Module = model
        self.model = model
        self.columns = [
            torch.from_numpy(chance.integers(0, high, count)) for high in (model.size.users, model.size.items, 2)
        ]

    def batches(self, size: int, seed: tuple[int, ...]) -> list[NDArray[np.int64]]:
        order = np.random.default_rng(seed).permutation(len(self.columns[0]))
        return [order[start : start + size] for start in range(0, len(order), size)]

    def targets(self, batch: NDArray[np.int64]) -> int:
        return len(batch)

    def parts(self, samples: NDArray[np.int64], count: int) -> list[NDArray[np.int64]]:
        return [samples[place::count] for place in range(count)]

    def loss(self, samples: NDArray[np.int64]) -> Tensor:
        users, items, labels = (column[samples] for column in self.columns)
        nothing = Sequences(torch.zeros(len(users), 0, dtype=torch.int64), torch.zeros_like(users))
        return squared_error(self.model.score(users, items, nothing), labels)

    def validate(self) -> Mapping[str, float]:
        return {}


class Untold(AlignObjective):
    """Without validation, so that only steps are timed."""

    def validate(self) -> Mapping[str, float]:
        return {}


def steps(objective: AlignObjective, count: int) -> float:
    """Seconds per step of the loop."""
    settings = Fit(steps=count, batch_size=BATCH, patience=0)
    return BATCH / loop.fit(objective, settings, Run(seed=0, device=CPU)).targets_per_second


def bare(table: Tensor, count: int) -> float:
    """Seconds per step of the products alone, cut as the loss cuts them."""
    items, width = table.shape
    anchors, inner, vectors = torch.randn(BATCH, width), torch.randn(BATCH, HIDDEN), torch.randn(BATCH, EMBEDDING)
    up, down = torch.randn(HIDDEN, EMBEDDING), torch.randn(width, HIDDEN)
    rows = rows_at_a_time(BATCH, table)
    scores, gradient = torch.empty(rows, items), torch.empty(BATCH, width)
    started = time.perf_counter()
    for _ in range(count):
        for start in range(0, BATCH, rows):
            part = anchors[start : start + rows]
            torch.mm(part, table.T, out=scores[: len(part)])
            torch.mm(scores[: len(part)], table, out=gradient[start : start + rows])
        (vectors @ up.T, inner @ down.T, gradient @ down, gradient.T @ inner, inner @ up, inner.T @ vectors)
    return (time.perf_counter() - started) / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    console.configure(quiet=True, json=False)
    table = SemanticTable(torch.randn(options.items, options.width), trained=False)
    model = MatrixFactorization(MatrixFactorizationSettings(EMBEDDING), Size(10_000, options.items))
    parts = AlignedParts(model, table, Projector(EMBEDDING, HIDDEN, options.width, "gelu"))
    objective = Untold(parts, Ratings(model, options.items), Alignment(anchors=BATCH), CPU, 0)
    ours, products = [], []
    for _ in range(options.repeats):
        ours.append(steps(objective, options.steps))
        products.append(bare(table.distilled, options.steps))
    parts.eval()
    started = time.perf_counter()
    objective.losses()
    measured = time.perf_counter() - started
    epoch = options.items / BATCH
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"{options.items:,} items x {options.width:,}, {options.threads} threads")
    print(f"  align          {min(ours):8.2f} s per step, {epoch * min(ours):8.0f} s per epoch")
    print(f"  bare products  {min(products):8.2f} s per step, {epoch * min(products):8.0f} s per epoch")
    print(f"  ratio          {min(ours) / min(products):8.2f}")
    print(f"  a validation   {measured:8.2f} s")
    print(f"  peak memory    {peak / 1e9:8.2f} GB")


if __name__ == "__main__":
    main()
