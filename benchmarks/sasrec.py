"""Training SASRec side by side with a plain PyTorch loop, RecTools and RecBole: targets per second.

    python benchmarks/sasrec.py                    # one thread, 30,000 users, 24,000 items
    python benchmarks/sasrec.py --memory           # peak memory of full-softmax over 1 million items
    python benchmarks/sasrec.py --only rectool --repeats 1 --seconds 10

All train d 64, 2 blocks, 2 heads, length 50, dropout .2, Adam, on the same generated log, in which lengths
are spread as in Amazon's 5-core logs (median 6, long tail). Each runs in a process of its own, in its own
loop, in turn, several times; the best run of each counts, by wall and by CPU time. Targets are real ones:
items after a user's first, no padding. "Bare products" are the three matrix products that a full softmax cannot
do without. The peers are installed into benchmarks/.peers at the first call, and left out, with a word, where
that fails.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from peers.clock import Clock, Over

from rectool import console
from rectool.artifacts.schemas import SPLITS
from rectool.data.dataset import Dataset
from rectool.data.histories import Histories, HistoryRule
from rectool.errors import Stopped
from rectool.models.model import Size
from rectool.models.sasrec import SASRec, SASRecSettings
from rectool.models.saved import Trained
from rectool.training import loop
from rectool.training.checkpoint import Checkpoints
from rectool.training.next_item import BlockObjective
from rectool.training.run import Run
from rectool.training.settings import Fit, Loss, Objective
from rectool.training.validation import Validation

HERE = Path(__file__).parent
PEERS = HERE / ".peers"
CLOCKS = ("wall", "cpu")
LENGTH = 50
TAIL = 2.2
"""Of the lengths' Pareto distribution, which begins at 5: median 6, mean 8.4."""


@dataclass(frozen=True)
class Way:
    """A program with a loss.

    Attributes:
        like: ways of the same loss are compared.
        script: in peers/; None for rectool.
        package: what the script imports from the peers' environment; None for this one's.
    """

    name: str
    like: str
    loss: str
    script: str | None = None
    package: str | None = None


WAYS = (
    Way("rectool bce", "bce", "bce"),
    Way("PyTorch bce", "bce", "bce", "with_pytorch.py"),
    Way("RecTools BCE", "bce", "BCE", "with_rectools.py", "rectools"),
    Way("rectool full-softmax", "softmax", "full-softmax"),
    Way("PyTorch softmax", "softmax", "softmax", "with_pytorch.py"),
    Way("RecTools softmax", "softmax", "softmax", "with_rectools.py", "rectools"),
    Way("RecBole CE", "softmax", "CE", "with_recbole.py", "recbole"),
    Way("bare products", "softmax", "products", "with_pytorch.py"),
    Way("rectool sampled-softmax", "sampled", "sampled-softmax"),
)
REQUIREMENTS = {"rectools": ["rectools[torch]==0.19.0", "numpy<2"], "recbole": ["recbole==1.2.1", "numpy<2"]}


def generate(path: Path, users: int, items: int) -> None:
    """A log sorted by user: lengths from 5 with a long tail, cut at 51; each item occurs, few are common."""
    random = np.random.default_rng(0)
    counts = np.minimum(np.floor(5 * (1 - random.random(users)) ** (-1 / TAIL)), LENGTH + 1).astype(np.int64)
    user = np.repeat(np.arange(users, dtype=np.int32), counts)
    item = np.floor(items * random.random(len(user)) ** 3).astype(np.int32)
    floor = np.arange(min(len(item), 5 * items), dtype=np.int32) % items
    item[: len(floor)] = floor
    random.shuffle(item)
    np.savez(path, user=user, item=item, items=items)
    targets = counts - 1
    print(
        f"{users:,} users, {items:,} items, {targets.sum():,} targets; lengths: median {np.median(counts):.0f}, "
        f"mean {counts.mean():.1f}; padded to {LENGTH}, {1 - targets.mean() / LENGTH:.0%} is padding"
    )


def objective_of(path: Path, loss: Loss, clock: Clock | None) -> BlockObjective:
    """rectool's own objective; each of its losses tells the clock that a step begins."""
    log = np.load(path)
    user, item, items = log["user"], log["item"], int(log["items"])
    split = np.full(len(user), SPLITS.index("train"), np.int8)
    split[np.flatnonzero(np.diff(user, prepend=-1))] = SPLITS.index("context")
    split[np.flatnonzero(np.diff(user, append=-1))[: 100 if clock is None else 0]] = SPLITS.index("valid")
    columns = SimpleNamespace(
        user=user,
        item=item,
        users=int(user[-1]) + 1,
        items=items,
        targets=lambda name: np.flatnonzero(split == SPLITS.index(name)),
        histories=lambda liked_only: Histories(user, item),
    )
    dataset, device = cast(Dataset, columns), torch.device("cpu")
    torch.manual_seed(0)
    model = SASRec(SASRecSettings(embedding_size=64, max_length=LENGTH, layers=2, heads=2), Size(columns.users, items))
    trained = Trained("sasrec", model, "next-item", HistoryRule(False, LENGTH), None)
    validation = Validation(dataset, dataset.targets("valid"), device)

    class Timed(BlockObjective):
        def loss(self, samples: np.ndarray) -> torch.Tensor:
            if clock is not None:
                clock.step(self.targets(samples))
            return super().loss(samples)

    return Timed(trained, dataset, Objective(), loss, validation, device)


def run_rectool(path: Path, loss: Loss, seconds: float) -> None:
    objective = objective_of(path, loss, Clock(seconds))
    with suppress(Over):
        loop.fit(objective, Fit(steps=10**9, validate_steps=10**9), Run(0, torch.device("cpu")))


def run_memory(path: Path, loss: Loss) -> None:
    """Training, a checkpoint, going on from it, validation, best and last weights: the peak of all that."""
    device, settings = torch.device("cpu"), Fit(steps=5, validate_steps=5)
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(Path(folder))
        with suppress(Stopped):
            loop.fit(objective_of(path, loss, None), settings, Run(0, device, checkpoints, max_seconds=1e-3))
        print(json.dumps({"after": "a checkpoint", "peak": peak()}))
        fitted = loop.fit(objective_of(path, loss, None), settings, Run(0, device, checkpoints, True, metric="hr@10"))
        assert fitted.progress.step == settings.steps
        assert fitted.progress.best is not None
    print(json.dumps({"after": "going on, validation and the best weights", "peak": peak()}))


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def environment() -> Path | None:
    """The peers' Python, made if need be."""
    python = PEERS / "bin/python"
    if not python.exists():
        print(f"making {PEERS} with torch {torch.__version__} and the peers: some minutes", flush=True)
        try:
            subprocess.run([sys.executable, "-m", "venv", str(PEERS)], check=True)
            (PEERS / ".gitignore").write_text("*\n")
            install(python, [f"torch=={torch.__version__.partition('+')[0]}"])
        except subprocess.CalledProcessError as problem:
            print(f"no environment for the peers, they are left out: {problem}")
            return None
    return python


def install(python: Path, requirements: list[str]) -> None:
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", *requirements], check=True)


def available(package: str, python: Path) -> bool:
    """Whether a peer can be imported, after an attempt to install it."""
    check = [str(python), "-c", f"import {package}"]
    if subprocess.run(check, capture_output=True).returncode:
        with suppress(subprocess.CalledProcessError):
            install(python, REQUIREMENTS[package])
    found = subprocess.run(check, capture_output=True, text=True)
    if found.returncode:
        reason = (found.stderr.strip().splitlines() or ["no reason given"])[-1]
        print(f"{package} cannot be installed here and is left out: {reason}")
    return found.returncode == 0


def command(way: Way, python: Path | None, log: Path, arguments: argparse.Namespace) -> list[str]:
    common = [str(log), way.loss, str(arguments.seconds), str(arguments.threads)]
    if way.script is None:
        return [sys.executable, __file__, "--run", *common]
    return [str(python if way.package else sys.executable), str(HERE / "peers" / way.script), *common]


def measure(arguments: argparse.Namespace) -> None:
    chosen = [way for way in WAYS if any(word.lower() in way.name.lower() for word in arguments.only.split(","))]
    python = environment() if any(way.package for way in chosen) else None
    usable = {
        package: python is not None and available(package, python)
        for package in {way.package for way in chosen} - {None}
    }
    chosen = [way for way in chosen if usable.get(way.package, True)]
    found: dict[Way, list[dict[str, Any]]] = {way: [] for way in chosen}
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.npz"
        generate(log, arguments.users, arguments.items)
        for _ in range(arguments.repeats):
            for way in list(found):
                done = subprocess.run(
                    command(way, python, log, arguments), env=environ(arguments.threads), capture_output=True, text=True
                )
                if done.returncode:
                    print(f"{way.name} failed and is left out: {done.stderr.strip().splitlines()[-1:]}")
                    del found[way]
                    continue
                found[way].append(json.loads(done.stdout.strip().splitlines()[-1]))
    report(found, arguments)


def environ(threads: int) -> dict[str, str]:
    return {**os.environ, **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))}


def report(found: dict[Way, list[dict[str, Any]]], arguments: argparse.Namespace) -> None:
    def best(way: Way, clock: str) -> float:
        return max(run["targets"] / run[clock] for run in found[way])

    runs_of = f"best of {arguments.repeats} runs of {arguments.seconds:g} s"
    print(f"torch {torch.__version__}, {arguments.threads} thread(s), {runs_of}")
    print(f"{'':24} {'targets/s':>10} {'per CPU s':>10} {'kernel':>7} {'peak GB':>8}   rectool's by wall, by CPU")
    for way, runs in found.items():
        if not runs:
            continue
        ours = next((other for other in found if other.like == way.like and other.script is None), way)
        ratios = "" if ours == way else " ".join(f"{best(ours, clock) / best(way, clock):8.2f} x" for clock in CLOCKS)
        kernel = sum(run["system"] for run in runs) / sum(run["cpu"] for run in runs)
        speeds = " ".join(f"{best(way, clock):>10,.0f}" for clock in CLOCKS)
        print(f"{way.name:24} {speeds} {kernel:>7.0%} {max(run['peak'] for run in runs) / 1e9:>8.2f}   {ratios}")


def measure_memory(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.npz"
        generate(log, arguments.users, arguments.memory_items)
        for loss in ("full-softmax",):
            run = [sys.executable, __file__, "--run-memory", str(log), loss, "0", str(arguments.threads)]
            done = subprocess.run(run, env=environ(arguments.threads), stdout=subprocess.PIPE, text=True, check=True)
            for line in done.stdout.splitlines():
                figures = json.loads(line)
                print(f"{loss}: peak {figures['peak'] / 1e9:.2f} GB after {figures['after']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=30_000)
    parser.add_argument("--items", type=int, default=24_000)
    parser.add_argument("--seconds", type=float, default=20, help="of each run, after its warm-up")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--only", default="rectool,PyTorch,RecTools,RecBole,bare", help="words in the names of what to run"
    )
    parser.add_argument("--memory", action="store_true", help="measure the peak memory of rectool, and nothing else")
    parser.add_argument("--memory-items", type=int, default=1_000_000)
    parser.add_argument("--run", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--run-memory", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    inner = arguments.run or arguments.run_memory
    if inner:
        console.configure(quiet=True, json=False)
        log, loss, seconds, threads = inner
        torch.set_num_threads(int(threads))
        run_rectool(Path(log), loss, float(seconds)) if arguments.run else run_memory(Path(log), loss)
    elif arguments.memory:
        measure_memory(arguments)
    else:
        measure(arguments)


if __name__ == "__main__":
    main()
