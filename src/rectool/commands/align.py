"""`rectool align`: a collaborative model and semantic embeddings -> both, and the network between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from rectool import console
from rectool.commands.flags import command
from rectool.commands.making import make_artifact
from rectool.commands.options import Data, Talk, Train
from rectool.commands.showing import validation_table
from rectool.commands.vectors import check_vectors
from rectool.training.align_settings import Alignment, Sides, Started
from rectool.training.settings import Fit

if TYPE_CHECKING:
    from rectool.artifacts import Draft, Manifest


def register(app: typer.Typer) -> None:
    """Add `rectool align`."""
    command(
        app,
        "align",
        examples=[
            "rectool align data/ml-1m --semantic runs/items --metric uauc --out runs/aligned",
            "rectool align data/ml-1m --semantic runs/items --loss bce --biases --align-weight 0.5 --out runs/aligned",
            "rectool align data/games --semantic runs/bge --cf runs/sasrec --negatives batch --no-train-semantic "
            "--out runs/aligned",
        ],
    )(align)


def align(data: Data, sides: Sides, model: Started, alignment: Alignment, fit: Fit, make: Train, talk: Talk) -> None:
    """Train a collaborative model so that its items agree with their semantic embeddings."""
    from rectool.artifacts import Input, open_artifact
    from rectool.data.dataset import Dataset
    from rectool.training.align import Aligning

    elsewhere = {**make.parents(), "dataset": data.data}
    dataset = Dataset(open_artifact(data.data, "dataset", elsewhere=make.parents()))
    semantic = open_artifact(sides.semantic, "semantic", elsewhere=make.parents())
    check_vectors("--semantic", semantic, dataset.artifact)
    sources = [Input("dataset", data.data, artifact=dataset.artifact)]
    sources.append(Input("semantic", sides.semantic, artifact=semantic))
    cf = None
    if sides.cf is not None:
        cf = open_artifact(sides.cf, "cf", elsewhere=elsewhere)
        cf.parent("dataset")
        sources.append(Input("cf", sides.cf, artifact=cf))
    aligning = Aligning.of(dataset, semantic, cf, model, alignment, fit)

    def build(draft: Draft) -> None:
        from rectool.commands.resuming import run_of
        from rectool.devices import device_named

        aligning.train(draft, run_of(make, draft, device_named(fit.device)))

    make_artifact(
        "aligned",
        ["rectool", "align"],
        make,
        [data, sides, alignment, fit, *([model] if cf is None else [])],
        plan=lambda: aligning.plan([str(source.path) for source in sources]),
        inputs=lambda: sources,
        build=build,
        show=_show,
    )


def _show(made: Manifest) -> None:
    """The model beside the prior, and how well both sides agree."""
    found = made.metrics
    prior = dict(found["prior"])
    validation_table([(found["model"], found["valid"]), (f"{prior.pop('model')} (prior)", prior)])
    console.table("alignment", ("", ""), [(name, f"{value:.4f}") for name, value in found["alignment"].items()])
