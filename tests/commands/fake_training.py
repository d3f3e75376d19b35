"""A command that trains a little: `rectool fake`, for tests, in one process or (run as a script) in several.

Each of its steps adds the rate, summed over all processes, to a number. It saves every second step.
"""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from rectool import cli, console, processes
from rectool.commands.flags import command
from rectool.commands.making import make_artifact
from rectool.commands.options import Talk, Train
from rectool.errors import RectoolError, Stopped
from rectool.settings import setting

if TYPE_CHECKING:
    from rectool.artifacts import Draft

STEPS = 5
app = typer.Typer()


@app.command()
def nothing() -> None:
    """A second command, without which Typer knows only one, that has no name."""


@dataclass(frozen=True)
class Fake:
    """What is trained, and what goes wrong on the way.

    `at`: `STEP:WHAT` or `STEP:WHAT:RANK`, where WHAT is stop, mistake, fault, kill or wait.
    """

    data: Path | None = setting(None, recorded=False, help="A data set.")
    rate: float = setting(0.1, help="Learning rate.")
    depth: int = setting(1, help="Another setting.")
    at: str | None = setting(None, recorded=False, help="What goes wrong.")


def fake(settings: Fake, make: Train, talk: Talk) -> None:
    """Train a little."""
    from rectool.artifacts import Input, open_artifact
    from rectool.data.estimate import Plan

    def inputs() -> list[Input]:
        data = settings.data
        return [] if data is None else [Input("dataset", data, artifact=open_artifact(data, "dataset"))]

    make_artifact(
        "semantic",
        ["rectool", "fake"],
        make,
        [settings],
        plan=lambda: Plan([], 0, 0, 0),
        inputs=inputs,
        build=lambda draft: train(draft, settings, make),
        show=lambda made: console.say(f"trained: {made.metrics}"),
    )


command(app, "fake", examples=["rectool fake --out x"])(fake)


def train(draft: Draft, settings: Fake, make: Train) -> None:
    import torch
    from safetensors.torch import save_file

    from rectool.training.checkpoint import Checkpoints

    saved = Checkpoints(draft.checkpoints, make.keep)
    step, value = 0, torch.zeros(())
    if draft.resumed:
        found = saved.latest()
        assert found is not None
        step, value = found.step, found.tensors["value"].clone()
        console.say(f"goes on from step {step}")
    (draft.path / f"left-{step}.txt").write_text("of this run")
    while step < STEPS:
        go_wrong(settings.at, step)
        value += processes.all_reduce_sum(torch.tensor(settings.rate))
        step += 1
        if step % 2 == 0:
            saved.save(step, {"value": value}, {"rank": processes.rank()})
    go_wrong(settings.at, step)
    save_file({"item": value.view(1, 1)}, draft.path / "embeddings.safetensors")
    (draft.path / "config.json").write_text(json.dumps({"rank": processes.rank()}))
    draft.metrics["value"] = float(value)
    draft.run["device"] = "abacus"


def go_wrong(at: str | None, step: int) -> None:
    when, what, *rank = (at or "-1:").split(":")
    if int(when) != step or (rank and int(rank[0]) != processes.rank()):
        return
    if what == "stop":
        raise Stopped(f"stopped at step {step}")
    if what == "mistake":
        raise RectoolError(f"the loss is nan at step {step}")
    if what == "fault":
        raise ZeroDivisionError(f"at step {step}")
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "wait":
        time.sleep(60)


if __name__ == "__main__":
    cli.app = app
    cli.main()
