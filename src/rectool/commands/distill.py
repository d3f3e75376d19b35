"""`rectool distill`: a data set and a language model -> a vector for each item."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from rectool import console
from rectool.commands.flags import command
from rectool.commands.making import make_artifact
from rectool.commands.options import Data, Resumable, Talk
from rectool.commands.showing import on_terminal
from rectool.llm.distill_settings import Pooled, Reading, Source
from rectool.prompts.settings import Prompting

if TYPE_CHECKING:
    from rectool.artifacts import Manifest


def register(app: typer.Typer) -> None:
    """Add `rectool distill`."""
    command(
        app,
        "distill",
        examples=[
            "rectool distill data/ml-1m --llm Qwen/Qwen2-0.5B --noun movies --out runs/items",
            "rectool distill data/ml-1m --adapter runs/lora --dtype fp16 --out runs/items",
            "rectool distill data/games --llm BAAI/bge-small-en-v1.5 --pooling cls --normalise --out runs/bge",
        ],
    )(distill)


def distill(
    data: Data,
    source: Source,
    pooled: Pooled,
    prompting: Prompting,
    reading: Reading,
    make: Resumable,
    talk: Talk,
) -> None:
    """Turn the text of each item into the vector that a language model, or an encoder, makes of it."""
    from rectool.artifacts import Input, open_artifact
    from rectool.commands.resuming import work_of
    from rectool.data.dataset import Dataset
    from rectool.llm.distill import Distilling

    dataset = Dataset(open_artifact(data.data, "dataset", elsewhere=make.parents()))
    distilling = Distilling.find(source, pooled, prompting, reading, make.parents())
    make_artifact(
        "semantic",
        ["rectool", "distill"],
        make,
        [data, source, pooled, prompting, reading],
        plan=lambda: distilling.plan(dataset),
        inputs=lambda: [Input("dataset", data.data, artifact=dataset.artifact), *distilling.inputs()],
        build=lambda draft: distilling.run(dataset, draft, work_of(make, draft)),
        show=_show,
        above=("backbone",) if source.adapter is not None else (),
    )


def _show(made: Manifest) -> None:
    """On a terminal: what lies near to a few items, to be judged by eye."""
    found = made.metrics
    if not on_terminal():
        return
    rows = [[console.printable(near["title"]), *map(_neighbour, near["nearest"])] for near in found["neighbours"]]
    width = max((len(row) for row in rows), default=1)
    columns = ["item", *(f"nearest {place}" for place in range(1, width))]
    console.table("nearest items, by cosine", columns, rows)


def _neighbour(near: dict[str, Any]) -> str:
    return f"{console.printable(near['title'])} ({near['cosine']:.3f})"
