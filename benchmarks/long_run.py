"""Whether a long run stays small: memory, log and checkpoints of 10,000 steps, looked at every 1,000.

    python benchmarks/long_run.py                         # train-cf and tune-lora, 10,000 steps each
    python benchmarks/long_run.py --steps 2000 --every 200 --only train-cf

Each command runs for real on the embedded data, in a process of its own, with validation every 100 steps and a
checkpoint every 2 seconds. A process that keeps something of each step or validation grows from mark to mark; the
last line of each says by how much it grew after its first quarter, per 1,000 steps.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

WATCH = """
import json, os, sys
from pathlib import Path
from rectool import cli
from rectool.training.loop import _Loop

every, target = int(sys.argv.pop(1)), Path(sys.argv.pop(1))
after = _Loop._after_step

def look(loop):
    after(loop)
    if loop.at.step % every == 0:
        with open("/proc/self/statm") as file:
            resident = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        saved = sorted(Path(".").glob(".*.partial/checkpoints/step-*"))
        held = sum(file.stat().st_size for each in saved for file in each.glob("*"))
        mark = {"step": loop.at.step, "resident": resident, "checkpoints": len(saved), "held": held}
        with target.open("a") as file:
            file.write(json.dumps(mark) + "\\n")

_Loop._after_step = look
cli.main()
"""
FIT = ("--validate-steps", "100", "--patience", "0", "--checkpoint-minutes", "0.0334", "--precision", "fp32")
CF = ("--model", "sasrec", "--embedding-size", "32", "--batch-size", "64")
LORA = ("--llm", "backbone", "--rank", "4", "--history", "3", "--batch-size", "4", "--validate-rows", "40")
STAGES = {"train-cf": ("train-cf", "data", *CF, *FIT), "tune-lora": ("tune-lora", "data", *LORA, *FIT)}
MADE_FIRST = (
    ("prep", "synthetic", "--users", "300", "--items", "200", "--out", "data"),
    ("prep", "backbone", "data", "--vocabulary", "1000", "--exercises", "20", "--steps", "20", "--out", "backbone"),
)


def main() -> None:
    """Run the stages and print a table of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--every", type=int, default=1_000)
    parser.add_argument("--only", choices=sorted(STAGES))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for words in MADE_FIRST:
            subprocess.run([sys.executable, "-m", "rectool", *words, "--quiet"], cwd=folder, check=True)
        for stage in [given.only] if given.only else STAGES:
            measure(stage, given.steps, given.every, folder)


def measure(stage: str, steps: int, every: int, folder: Path) -> None:
    """Run one stage and print what was seen at each mark."""
    out, marks, log = folder / stage, folder / f"{stage}.marks", folder / f"{stage}.log"
    words = [*STAGES[stage], "--steps", str(steps), "--out", out.name]
    with log.open("wb") as file:
        subprocess.run(
            [sys.executable, "-c", WATCH, str(every), str(marks), *words],
            cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL, stderr=file, check=True,
        )  # fmt: skip
    seen: list[dict[str, Any]] = [json.loads(line) for line in marks.read_text().splitlines()]
    print(f"\n{stage}, {steps:,} steps\n{'step':>8} {'resident MB':>12} {'checkpoints':>12} {'they hold MB':>13}")
    for mark in seen:
        resident, held = mark["resident"] / 1e6, mark["held"] / 1e6
        print(f"{mark['step']:8,} {resident:12.1f} {mark['checkpoints']:12} {held:13.2f}")
    early = seen[max(0, len(seen) // 4 - 1)]
    growth = (seen[-1]["resident"] - early["resident"]) / 1e6 / ((seen[-1]["step"] - early["step"]) / 1000)
    run = json.loads((out / "rectool.json").read_text())
    curve = (out / "curve.parquet").stat().st_size / 1e3
    print(
        f"growth {growth:+.2f} MB per 1,000 steps after step {early['step']:,}; log {log.stat().st_size / 1e3:.1f} kB, "
        f"curve.parquet {curve:.1f} kB of {run['counts']['curve_points']:,} points; {run['run']['wall_seconds']:.0f} s"
    )


if __name__ == "__main__":
    main()
