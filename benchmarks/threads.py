"""How many threads a small model is best trained with, on a machine of one's own and beside other programs.

    python benchmarks/threads.py                # on a quiet machine
    python benchmarks/threads.py --beside 2     # while two other programs of one thread each are busy

Each way trains a language model of the size of `prep backbone --size nano` in a process of its own, in turn, several
times; the best turn counts. OpenMP's threads wait for each other by spinning unless told otherwise, which a machine
with more threads than cores pays for.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

WAYS = {
    "one thread": {"OMP_NUM_THREADS": "1"},
    "all cores": {"OMP_NUM_THREADS": str(os.cpu_count())},
    "all cores, waiting asleep": {"OMP_NUM_THREADS": str(os.cpu_count()), "OMP_WAIT_POLICY": "PASSIVE"},
}
TOKENS, LENGTH = 1024, 64


def main() -> None:
    """Print the ways and how they compare with the first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each turn, after a warm-up")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--beside", type=int, default=0, help="busy programs of one thread each")
    parser.add_argument("--train", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.train:
        print(train(chosen.seconds))
        return
    with busy(chosen.beside):
        turns = [{name: measured(way, chosen.seconds) for name, way in WAYS.items()} for _ in range(chosen.repeats)]
    best = {name: max(turn[name] for turn in turns) for name in WAYS}
    first = next(iter(best.values()))
    for name, rate in best.items():
        print(f"{name:<28} {rate:6.1f} steps/s   {rate / first:4.2f} times")


def measured(way: dict[str, str], seconds: float) -> float:
    """Steps per second of a process with these variables."""
    command = [sys.executable, __file__, "--train", "--seconds", str(seconds)]
    done = subprocess.run(command, env={**os.environ, **way}, capture_output=True, text=True, check=True)
    return float(done.stdout)


@contextmanager
def busy(count: int) -> Iterator[None]:
    """While other programs train, too."""
    command = [sys.executable, __file__, "--train", "--seconds", "3600"]
    others = [
        subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
        for _ in range(count)
    ]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def train(seconds: float) -> float:
    """Steps per second of training for so long."""
    import torch
    from transformers import LlamaForCausalLM

    from rectool.training.backbone import configured
    from rectool.training.backbone_settings import Small

    small = Small()
    model = LlamaForCausalLM(configured(small, small.shape.vocabulary))
    optimizer = torch.optim.AdamW(model.parameters())
    ids = torch.randint(small.shape.vocabulary, (TOKENS // LENGTH, LENGTH))

    def step() -> None:
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()

    for _ in range(3):
        step()
    begun, steps = time.monotonic(), 0
    while time.monotonic() - begun < seconds:
        step()
        steps += 1
    return steps / (time.monotonic() - begun)


if __name__ == "__main__":
    main()
