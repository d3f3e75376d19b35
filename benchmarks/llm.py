"""The language-model engine side by side with what scripts do: training, scoring, distilling.

    RECTOOL_TEST_DATA=... python benchmarks/llm.py        # prompts of collm-ml-1m, tokenised as Llama 2 does
    python benchmarks/llm.py                              # made-up tokens of the same lengths
    python benchmarks/llm.py --only tune --seconds 10 --repeats 1

All run a random Llama (hidden 256, 8 layers, vocabulary 32,000) in fp32. Training is LoRA of rank 8 on queries
and values, 16 prompts per step; "Trainer" is Hugging Face's, as Alpaca-style scripts use it (peers/with_trainer.py).
"like" has prompts of 10 titles, of nearly one length, "mixed" of 1 to 48. Each runs in a process of its own, in turn,
several times; the best run of each counts. "score" is 100 candidates of one user, "distill" titles in a sentence of the
template's; there the slow way is one prompt after the other through the whole model.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peers.clock import Clock, Over
from peers.llama import NO, VOCABULARY, YES, llama, lora

from rectool import console
from rectool.llm.backbone import tokenizer_of
from rectool.llm.encode import hidden_states
from rectool.llm.head import AnswerHead
from rectool.prompts.prompts import Answers
from rectool.prompts.tokens import TokenRows, bounds
from rectool.training import loop
from rectool.training.answers import AnswerCriterion
from rectool.training.llm_way import BATCH_TOKENS
from rectool.training.prompted import PromptObjective
from rectool.training.run import Run
from rectool.training.settings import Fit
from rectool.training.token_parts import TokenParts

HERE = Path(__file__).parent
CPU = torch.device("cpu")
TRAINED = {
    "tune": ("like", {"rectool": None, "Trainer, longest": "longest", "Trainer, 512": "512"}),
    "mixed": (
        "mixed",
        {"rectool": None, "rectool, packed": None, "Trainer, longest": "longest", "Trainer, 1024": "1024"},
    ),
}
CANDIDATES, SHARED, TAIL = 100, 166, 32
"""Rows of one user, the tokens that they share, and those that each has besides."""
ITEMS, FRAME = 1000, 11
"""Items to distil, and the tokens of the template before the title."""


def made_up(lengths: np.ndarray, random: np.random.Generator) -> TokenRows:
    return TokenRows(random.integers(3, VOCABULARY, int(lengths.sum())).astype(np.int32), bounds(lengths))


def prompts(kind: str, count: int) -> TokenRows:
    """Prompts of the CoLLM split where that data lies on disk, of 10 titles or 1 to 48 of them; else made up."""
    random = np.random.default_rng(0)
    folder = os.environ.get("RECTOOL_TEST_DATA")
    if folder:
        return real(Path(folder), kind, count)
    if kind == "like":
        return made_up(random.integers(88, 213, count), random)
    return made_up(50 + random.integers(1, 49, count) * random.integers(10, 17, count), random)


def real(folder: Path, kind: str, count: int, template_name: str = "collm-text", **soft: int) -> TokenRows:
    from rectool.artifacts import open_artifact
    from rectool.data.dataset import Dataset
    from rectool.prompts import template
    from rectool.prompts.prompts import Prompts

    random = np.random.default_rng(0)
    source = folder / "collm-ml-1m"
    with tempfile.TemporaryDirectory() as made:
        data = Path(made, "data")
        files = sorted(str(path) for path in source.glob("*.parquet"))
        log = next(path for path in files if "items" not in path)
        table = [sys.executable, "-m", "rectool", "prep", "table", log, "--items", str(source / "items.parquet")]
        subprocess.run([*table, "--out", str(data), "--quiet"], check=True)
        dataset = Dataset(open_artifact(data, "dataset"))
        start, stop = dataset.histories(liked_only=True).slices(dataset.targets("train"))
        rows = dataset.targets("train")
        tokenizer = tokenizer_of(folder / "tokenizers/llama2")
        if kind == "like":
            rows = random.choice(rows[stop - start >= 10], count, replace=False)
            return Prompts(template.load(template_name), tokenizer, history=10, soft=soft).rows(dataset, rows)
        rows = random.choice(rows[(stop > start) & (stop - start <= 48)], count, replace=False)
        return Prompts(template.load("collm-text"), tokenizer, history=48).rows(dataset, rows)


def train(path: Path, seconds: float, packed: bool) -> None:
    """rectool's own loop and objective; each of its steps tells the clock that it begins."""
    log, clock = np.load(path), Clock(seconds)
    tokens = TokenRows(log["ids"], log["offsets"])
    model = lora(llama())

    class Timed(PromptObjective):
        def targets(self, batch: np.ndarray) -> int:
            clock.step(len(batch))
            return super().targets(batch)

    head = AnswerHead(model, Answers(("Yes", "No"), (YES, NO)), "softmax")
    parts = TokenParts(BATCH_TOKENS["cpu"], packed)
    criterion = AnswerCriterion(head, log["label"].astype(np.int8), CPU)
    objective = Timed(model, model, tokens, criterion, parts, dict, CPU)
    with suppress(Over):
        loop.fit(objective, Fit(steps=10**6, batch_size=16, optimizer="adamw", learning_rate=1e-4), Run(0, CPU))


def compare_training(name: str, arguments: argparse.Namespace) -> None:
    kind, ways = TRAINED[name]
    runs: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "prompts.npz")
        tokens = prompts(kind, arguments.rows)
        label = np.random.default_rng(1).integers(0, 2, len(tokens))
        np.savez(path, ids=tokens.ids, offsets=tokens.offsets, label=label)
        lengths = tokens.lengths
        print(
            f"\n{name}: {len(tokens):,} prompts of {lengths.min()} to {lengths.max()} tokens, mean {lengths.mean():.0f}"
        )
        for _ in range(arguments.repeats):
            for way, width in ways.items():
                clock = [str(path), *([width] if width else []), str(arguments.seconds), str(arguments.threads)]
                script = [str(HERE / "peers/with_trainer.py"), *clock]
                if width is None:
                    script = [__file__, "--run", *clock, "packed" if "packed" in way else "padded"]
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
    print(f"{'':18} {'samples/s':>10} {'per CPU s':>10} {'peak GB':>8}   rectool is faster by wall, by CPU; its memory")
    for way, rate in speed.items():
        faster = f"{wall['rectool'] / wall[way]:.2f} x  {speed['rectool'] / rate:.2f} x"
        ratios = f"{faster}  {memory['rectool'] / memory[way]:.2f} x"
        print(f"{way:18} {wall[way]:>10.2f} {rate:>10.2f} {memory[way] / 1e9:>8.2f}   {ratios}")


def compare_reading(name: str, tokens: TokenRows, repeats: int) -> None:
    """Hidden states of rows that share their beginning: the engine, and one prompt after the other."""
    model = llama().eval()

    def engine() -> np.ndarray:
        states = np.empty((len(tokens), model.config.hidden_size), np.float32)
        for places, found in hidden_states(model, tokens, device=CPU, groups=np.zeros(len(tokens), np.int64)):
            states[places] = found.numpy()
        return states

    def apart() -> np.ndarray:
        """In batches, but sharing nothing."""
        states = np.empty((len(tokens), model.config.hidden_size), np.float32)
        for places, found in hidden_states(model, tokens, device=CPU):
            states[places] = found.numpy()
        return states

    def one_by_one() -> np.ndarray:
        states = []
        with torch.no_grad():
            for place in range(len(tokens)):
                ids = torch.from_numpy(tokens.padded(np.array([place]))[0])
                found = model(input_ids=ids, output_hidden_states=True)  # and its logits, as scripts do
                states.append(found.hidden_states[-1][0, -1].numpy())
        return np.stack(states)

    ways: dict[str, Callable[[], np.ndarray]] = {"rectool": engine, "nothing shared": apart, "one by one": one_by_one}
    best = dict.fromkeys(ways, float("inf"))
    found = {}
    for _ in range(repeats):
        for way, work in ways.items():
            begun = time.perf_counter()
            found[way] = work()
            best[way] = min(best[way], time.perf_counter() - begun)
    print(f"\n{name}: {len(tokens):,} prompts of {tokens.lengths.mean():.0f} tokens")
    for way, seconds in best.items():
        ratio, differs = seconds / best["rectool"], np.abs(found[way] - found["one by one"]).max()
        print(f"{way:18} {len(tokens) / seconds:>10.1f} prompts/s   {ratio:.2f} x   differs {differs:.0e}")


def sharing(rows: int, shared: int, tail: np.ndarray) -> TokenRows:
    random = np.random.default_rng(0)
    beginning = random.integers(3, VOCABULARY, shared)
    parts = [np.concatenate([beginning, random.integers(3, VOCABULARY, length)]) for length in tail]
    return TokenRows(np.concatenate(parts).astype(np.int32), bounds(np.array([len(part) for part in parts])))


def environ(threads: int) -> dict[str, str]:
    return {**os.environ, **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="tune,mixed,score,distill")
    parser.add_argument("--rows", type=int, default=2000, help="prompts to train on")
    parser.add_argument("--seconds", type=float, default=20, help="of each run, after its warm-up")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--run", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    console.configure(quiet=True, json=False)
    if arguments.run:
        path, seconds, threads, way = arguments.run
        torch.set_num_threads(int(threads))
        train(Path(path), float(seconds), packed=way == "packed")
        return
    torch.set_num_threads(arguments.threads)
    print(f"torch {torch.__version__}, {arguments.threads} thread(s), best of {arguments.repeats}")
    for name in arguments.only.split(","):
        if name in TRAINED:
            compare_training(name, arguments)
        elif name == "score":
            compare_reading(name, sharing(CANDIDATES, SHARED, np.full(CANDIDATES, TAIL)), arguments.repeats)
        elif name == "distill":
            tails = np.random.default_rng(0).integers(8, 29, ITEMS)
            compare_reading(name, sharing(ITEMS, FRAME, tails), arguments.repeats)
        else:
            parser.error(f"--only {name} is none of tune, mixed, score, distill")


if __name__ == "__main__":
    main()
