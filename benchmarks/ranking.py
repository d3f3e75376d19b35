"""Full ranking beside the bare matrix product and torch.topk that it cannot do without.

    python benchmarks/ranking.py     # 10,000 users, 1 million items, width 64, top 20

Beside the best 20 items, full ranking finds the rank of each row's own item. Each way runs in a process
of its own, twice, in turn; the quicker run and the higher memory of each count. Memory is the peak of the
process less what it held before: queries and keys are held by both.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch

from rectool.data.dataset import Dataset
from rectool.data.histories import Histories
from rectool.evaluation.rank import rank_rows
from rectool.models.mf import MatrixFactorization, MatrixFactorizationSettings
from rectool.models.model import Size


def bare(queries: torch.Tensor, keys: torch.Tensor, k: int, rows: int, columns: int) -> torch.Tensor:
    """Products of `rows` queries with `columns` keys, in one buffer; their topk, and the topk of these."""
    best = torch.empty(len(queries), k, dtype=torch.int64)
    buffer = torch.empty(rows, columns)
    for start in range(0, len(queries), rows):
        block = queries[start : start + rows]
        values, items = [], []
        for first in range(0, len(keys), columns):
            part = keys[first : first + columns]
            found = torch.mm(block, part.T, out=buffer[: len(block), : len(part)]).topk(k)
            values.append(found.values)
            items.append(found.indices + first)
        chosen = torch.cat(values, 1).topk(k).indices
        best[start : start + rows] = torch.cat(items, 1).gather(1, chosen)
    return best


def measure(way: str, arguments: argparse.Namespace) -> dict[str, Any]:
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    users, items = arguments.users, arguments.items
    settings = MatrixFactorizationSettings(embedding_size=arguments.width, biases=False)
    model = MatrixFactorization(settings, Size(users, items))
    user, item = np.arange(users, dtype=np.int32), random.integers(0, items, users, dtype=np.int32)
    log = SimpleNamespace(user=user, item=item, items=items, histories=lambda liked_only: Histories(user, item))
    dataset, rows = cast(Dataset, log), np.arange(users)
    ways: dict[str, Callable[[], Any]] = {
        "rank_rows": lambda: rank_rows(model, None, dataset, rows, k=arguments.k, device=torch.device("cpu")).top_items,
        **{
            name: lambda shape=shape: bare(model.user.weight, model.item.weight, arguments.k, *shape)
            for name, shape in shapes(arguments).items()
        },
    }
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    with torch.inference_mode():
        best = torch.as_tensor(ways[way]()).long()
        seconds = time.perf_counter() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        chosen = (model.user.weight[:100, None] * model.item.weight[best[:100]]).sum(-1).sort(-1).values
    return {
        "way": way,
        "seconds": seconds,
        "peak": peak * 1024,
        "own": (peak - before) * 1024,
        "scores": float(chosen.sum()),
    }


def shapes(arguments: argparse.Namespace) -> dict[str, tuple[int, int]]:
    """Rows and items of each bare way, by its name."""
    sizes = (shape.replace("all", str(arguments.items)).split("x") for shape in arguments.shapes)
    return {f"bare {shape}": (int(size[0]), int(size[1])) for shape, size in zip(arguments.shapes, sizes, strict=True)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=10_000)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--k", type=int, default=20)
    parser.add_argument(
        "--shapes", nargs="+", default=["64xall", "512x16384"], help="rows x items of the bare products to try"
    )
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        print(json.dumps(measure(arguments.way, arguments)))
        return
    ways = ["rank_rows", *shapes(arguments)]
    runs: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
    for _ in range(arguments.runs):
        for way in ways:
            command = [sys.executable, __file__, *sys.argv[1:], "--way", way]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            runs[way].append(json.loads(done.stdout))
    scores = [run["scores"] for found in runs.values() for run in found]
    assert np.allclose(scores, scores[0], rtol=1e-5), "the ways found different items"
    quickest = {way: min(run["seconds"] for run in found) for way, found in runs.items()}
    print(f"{arguments.users:,} users, {arguments.items:,} items, width {arguments.width}, top {arguments.k}")
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    least = min(seconds for way, seconds in quickest.items() if way != "rank_rows")
    operations = 2 * arguments.users * arguments.items * arguments.width
    for way, seconds in quickest.items():
        peak, own = (max(run[name] for run in runs[way]) / 2**30 for name in ("peak", "own"))
        print(
            f"{way:16} {seconds:7.2f} s, {seconds / least:.2f} x the quickest bare way, "
            f"{operations / seconds / 1e9:4.0f} GFLOP/s, peak {peak:.2f} GiB ({own:.2f} of its own)"
        )


if __name__ == "__main__":
    main()
