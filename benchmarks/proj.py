"""Training soft tokens of a frozen language model, side by side with a step as CoLLM's code makes it.

    RECTOOL_TEST_DATA=... python benchmarks/proj.py       # prompts of collm-ml-1m, tokenised as Llama 2 does
    python benchmarks/proj.py                             # made-up tokens of the same lengths
    python benchmarks/proj.py --rows 40 --seconds 5 --repeats 1

All run a random Llama (hidden 256, 8 layers, vocabulary 32,000), frozen, in fp32; what is trained is the network that
maps vectors of users and items to its space, 16 prompts per step. "CoLLM's step" (peers/with_collm.py) runs the whole
prompt with gradients on and makes logits of the vocabulary; "no prefix" is rectool without the way that prefixes have,
"cached" rectool from the second epoch on, prefixes kept. Each way runs in a process of its own, in turn, several times;
the best run of each counts. At the end loss and gradient of one batch are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peers.clock import Clock, Over
from peers.llama import ITEMS, NO, USERS, YES, llama, projection
from torch import Tensor

from llm import environ, made_up, real
from rectool import console
from rectool.data.batches import shuffled_batches
from rectool.llm.body import last_hidden, on
from rectool.llm.head import AnswerHead
from rectool.llm.soft_prefix import PrefixCache, cache_bytes, prefix_lengths, prefixed_last_hidden
from rectool.prompts.prompts import Answers
from rectool.prompts.tokens import TokenRows
from rectool.training import loop
from rectool.training.answers import AnswerCriterion
from rectool.training.llm_way import BATCH_TOKENS
from rectool.training.prompted import PromptObjective
from rectool.training.run import Run
from rectool.training.settings import Fit
from rectool.training.token_parts import TokenParts

HERE = Path(__file__).parent
CPU = torch.device("cpu")
WAYS = {"rectool": "prefixed", "cached": "cached", "no prefix": "plain", "CoLLM's step": None}
LENGTHS, FROM_USER, FROM_ITEM = (193, 228), (47, 55), 15
"""Tokens of a made-up prompt, of it from its user's on, and from its item's on; nine in ten of collm-ml-1m are so."""


def prompts(count: int) -> TokenRows:
    """Prompts with a reference to a user and one to an item, of 10 titles."""
    random = np.random.default_rng(0)
    folder = os.environ.get("RECTOOL_TEST_DATA")
    if folder:
        tokens = real(Path(folder), "like", count, "collm", user=1, item=1)
        ids, first = tokens.ids.copy(), -1 - USERS
        ids[tokens.ids == -1] = -1 - random.integers(0, USERS, count)
        ids[tokens.ids == -2] = first - random.integers(0, ITEMS, count)
        return TokenRows(ids, tokens.offsets)
    tokens = made_up(random.integers(*LENGTHS, count), random)
    ends = tokens.offsets[1:]
    tokens.ids[ends - random.integers(*FROM_USER, count)] = -1 - random.integers(0, USERS, count)
    tokens.ids[ends - FROM_ITEM] = -1 - USERS - random.integers(0, ITEMS, count)
    return tokens


class Objective(PromptObjective):
    """What `train-proj` computes, on references that are there already."""

    def __init__(self, tokens: TokenRows, labels: np.ndarray, way: str) -> None:
        self.table, self.projector = projection()
        self.llm, self.way = llama().requires_grad_(False).eval(), way
        self.cache = PrefixCache(cache_bytes(self.llm, tokens), CPU) if way == "cached" else None
        head = AnswerHead(self.llm, Answers(("Yes", "No"), (YES, NO)), "yes-logit")
        parts = TokenParts(BATCH_TOKENS["cpu"])
        criterion = AnswerCriterion(head, labels.astype(np.int8), CPU)
        super().__init__(self.projector, self.llm, tokens, criterion, parts, dict, CPU)
        if way != "plain":
            self.lengths = tokens.lengths - prefix_lengths(tokens)

    def batches(self, size: int, seed: tuple[int, ...]) -> list[np.ndarray]:
        return shuffled_batches(self.tokens.lengths, np.ones_like(self.lengths), size, seed)

    def hidden(self, samples: np.ndarray) -> Tensor:
        if self.way == "plain":
            return last_hidden(self.llm, *on(CPU, *self.tokens.padded(samples)), soft=self.vectors)
        return prefixed_last_hidden(self.llm, self.tokens, samples, self.vectors, CPU, self.cache)

    def vectors(self, references: np.ndarray) -> Tensor:
        return self.projector(self.table[torch.from_numpy(references)])


def train(path: Path, seconds: float, way: str) -> None:
    """rectool's own loop and objective; each of its steps tells the clock that it begins."""
    log = np.load(path)
    tokens = TokenRows(log["ids"], log["offsets"])

    class Timed(Objective):
        clock: Clock

        def targets(self, batch: np.ndarray) -> int:
            self.clock.step(len(batch))
            return super().targets(batch)

    objective = Timed(tokens, log["label"], way)
    if way == "cached":
        with torch.no_grad():
            for batch in objective.batches(16, (0,)):
                objective.hidden(batch)
    objective.clock = Clock(seconds)
    with suppress(Over):
        loop.fit(objective, Fit(steps=10**6, batch_size=16, optimizer="adamw", learning_rate=1e-4), Run(0, CPU))


def compare_losses(tokens: TokenRows, labels: np.ndarray) -> None:
    """Loss and gradient of one batch, each way."""
    sys.path.append(str(HERE / "peers"))  # where that script finds its own
    from with_collm import summed_loss

    batch = np.arange(min(16, len(tokens)))
    found: dict[str, tuple[float, Tensor]] = {}
    for way, how in WAYS.items():
        objective = Objective(tokens.take(batch), labels[batch], how or "plain")
        for _ in range(2 if way == "cached" else 1):
            objective.projector.zero_grad()
            if how is None:
                each = zip(batch, labels[batch], strict=True)
                samples = [(torch.from_numpy(tokens.padded(batch[[n]])[0][0]), float(label)) for n, label in each]
                loss = summed_loss(objective.llm, objective.table, objective.projector, samples)
            else:
                loss = objective.loss(batch)
            loss.backward()
        found[way] = loss.item(), torch.cat([part.grad.flatten() for part in objective.projector.parameters()])
    loss, gradient = found["CoLLM's step"]
    for way, (own, grad) in found.items():
        print(f"{way:18} loss {own:.6f}   gradient differs {(grad - gradient).norm() / gradient.norm():.0e}")
        assert abs(own - loss) <= 1e-4 * abs(loss), way


def compare_speed(path: Path, arguments: argparse.Namespace) -> None:
    runs: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    for _ in range(arguments.repeats):
        for way, how in WAYS.items():
            clock = [str(path), str(arguments.seconds), str(arguments.threads)]
            script = [__file__, "--run", *clock, how] if how else [str(HERE / "peers/with_collm.py"), *clock]
            done = subprocess.run(
                [sys.executable, *script], env=environ(arguments.threads), capture_output=True, text=True
            )
            if done.returncode:
                print(f"{way} failed: {done.stderr.strip().splitlines()[-1:]}")
                continue
            runs[way].append(json.loads(done.stdout.strip().splitlines()[-1]))
    speed = {way: max(run["targets"] / run["cpu"] for run in done) for way, done in runs.items() if done}
    wall = {way: max(run["targets"] / run["wall"] for run in done) for way, done in runs.items() if done}
    memory = {way: max(run["peak"] for run in done) for way, done in runs.items() if done}
    slow = "CoLLM's step"
    print(
        f"{'':18} {'samples/s':>10} {'per CPU s':>10} {'peak GB':>8}   faster than CoLLM's step by wall, by CPU; memory"
    )
    for way, rate in speed.items():
        ratios = f"{wall[way] / wall[slow]:.2f} x  {rate / speed[slow]:.2f} x  {memory[way] / memory[slow]:.2f} x"
        print(f"{way:18} {wall[way]:>10.2f} {rate:>10.2f} {memory[way] / 1e9:>8.2f}   {ratios}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=500, help="prompts to train on")
    parser.add_argument("--seconds", type=float, default=20, help="of each run, after its warm-up")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--run", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    console.configure(quiet=True, json=False)
    if arguments.run:
        path, seconds, threads, way = arguments.run
        torch.set_num_threads(int(threads))
        train(Path(path), float(seconds), way)
        return
    torch.set_num_threads(arguments.threads)
    print(f"torch {torch.__version__}, {arguments.threads} thread(s), best of {arguments.repeats}")
    tokens = prompts(arguments.rows)
    before, lengths = prefix_lengths(tokens), tokens.lengths
    print(
        f"{len(tokens):,} prompts of {lengths.min()} to {lengths.max()} tokens, mean {lengths.mean():.0f}, "
        f"{before.mean():.0f} of them before the first soft token"
    )
    labels = np.random.default_rng(1).integers(0, 2, len(tokens))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "prompts.npz")
        np.savez(path, ids=tokens.ids, offsets=tokens.offsets, label=labels)
        compare_speed(path, arguments)
    compare_losses(tokens, labels)  # at last: a process begins with the peak memory of its parent


if __name__ == "__main__":
    main()
