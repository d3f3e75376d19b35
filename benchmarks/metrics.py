"""UAUC beside the one sort of packed 64-bit keys that it cannot do without.

    python benchmarks/metrics.py     # 5 million rows, 200,000 users

All run in turn, several times; the quickest run of each counts, which a busy machine disturbs least.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np

from rectool.evaluation.auc import uauc


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--users", type=int, default=200_000)
    parser.add_argument("--runs", type=int, default=7)
    arguments = parser.parse_args()
    random = np.random.default_rng(0)
    users = random.integers(0, arguments.users, arguments.rows, dtype=np.int32)
    labels = random.integers(0, 2, arguments.rows, dtype=np.int8)
    distinct = random.random(arguments.rows, dtype=np.float32)
    cases = {
        "float32, distinct": distinct,
        "float32 of 20 values": np.round(distinct * 20) / 20,
        "float64, distinct": random.random(arguments.rows),
        "float64, both signs": random.standard_normal(arguments.rows),
        "float64 of 20 values": np.round(distinct.astype(np.float64) * 20) / 20,  # ties are made sure of by a 2nd sort
    }
    keys = (users.astype(np.uint64) << np.uint64(33)) | (distinct.view(np.uint32).astype(np.uint64) << np.uint64(1))
    keys |= labels.astype(np.uint64)
    sorts, times = [], {name: [] for name in cases}
    for _ in range(arguments.runs):
        sorts.append(seconds(lambda: np.sort(keys)))
        for name, scores in cases.items():
            times[name].append(seconds(lambda scores=scores: uauc(users, labels, scores)))
    print(f"{arguments.rows:,} rows, {arguments.users:,} users")
    print(f"{'one sort of the keys':27} {min(sorts):.3f} s")
    for name in cases:
        print(f"UAUC, {name:21} {min(times[name]):.3f} s, {min(times[name]) / min(sorts):.2f} x the sort")


if __name__ == "__main__":
    main()
