"""Run by test_distributed.py in each of two processes: trains what it is told to, and notes what came of it.

`two_processes.py DATA CASES OUT`; CASES is a JSON file of cases by name, each with a `model`, its settings
(`given`), those of the loop (`fit`), and perhaps `trouble` ("nan" or "stop", in the second process alone) and
`resume`, a case to go on from. The files of a case are written to OUT/NAME-RANK, and its error, if there is one.
"""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from rectool import console, processes
from rectool.artifacts import Draft, open_artifact
from rectool.data.dataset import Dataset
from rectool.errors import RectoolError
from rectool.training.checkpoint import Checkpoints
from rectool.training.choice import choose
from rectool.training.loop import _Loop
from rectool.training.run import Run
from rectool.training.settings import Collaborative, Fit, Objective, Start
from rectool.training.train_cf import train

TROUBLED_STEP = 4


def run(dataset: Dataset, name: str, case: dict[str, Any], out: Path) -> None:
    objective, fit = Objective(**case.get("objective", {})), Fit(**case["fit"])
    choice = choose(dataset, Collaborative(model=case["model"], **case["given"]), objective, fit, Start())
    own = out / f"{name}-{processes.rank()}"
    own.mkdir(parents=True)
    run = Run(
        seed=0,
        device=torch.device("cpu"),
        checkpoints=Checkpoints(out / f"{case.get('resume', name)}-checkpoints"),
        resumed="resume" in case,
    )
    real = _Loop._backward

    def troubled(loop: _Loop, *arguments: Any) -> Any:
        loss = real(loop, *arguments)
        if loop.at.step + 1 == TROUBLED_STEP and processes.rank() == 1:
            if case["trouble"] == "nan":
                return loss * float("nan")
            signal.raise_signal(signal.SIGTERM)
        return loss

    try:
        _Loop._backward = troubled if "trouble" in case else real
        train(Draft(own, own), dataset, choice, objective, fit, run)
    except RectoolError as problem:
        (own / "error").write_text(str(problem))
    finally:
        _Loop._backward = real


def main(data: str, cases: str, out: str) -> None:
    console.configure(quiet=True, json=False)

    def work() -> None:
        dataset = Dataset(open_artifact(Path(data), "dataset"))
        for name, case in json.loads(Path(cases).read_text()).items():
            run(dataset, name, case, Path(out))

    processes.together(work, everywhere=True)
    processes.end(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
