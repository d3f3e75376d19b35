"""`rectool prep backbone`: a data set -> a small language model from its own texts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from rectool import console
from rectool.commands.flags import command
from rectool.commands.making import make_artifact
from rectool.commands.options import Data, Talk, Train
from rectool.training.backbone_settings import Pretraining, Small

if TYPE_CHECKING:
    from rectool.artifacts import Draft, Manifest
    from rectool.data.estimate import Plan


def register(app: typer.Typer) -> None:
    """Add `backbone` to `rectool prep`."""
    command(
        app,
        "backbone",
        examples=[
            "rectool prep backbone data/synthetic --out runs/nano",
            "rectool prep backbone data/ml-1m --size micro --max-time 1h --out runs/micro",
            "rectool prep backbone data/sequences --prompt hatllm --out runs/nano-next",
        ],
    )(backbone)


def backbone(data: Data, small: Small, fit: Pretraining, make: Train, talk: Talk) -> None:
    """A small language model from a data set's own texts, to try the whole chain offline."""
    from rectool.artifacts import Input, open_artifact
    from rectool.data.dataset import Dataset
    from rectool.prompts import template

    dataset = Dataset(open_artifact(data.data, "dataset", elsewhere=make.parents()))

    def build(draft: Draft) -> None:
        from rectool.commands.resuming import run_of
        from rectool.devices import device_named
        from rectool.training import backbone

        backbone.make(draft, dataset, small, fit, run_of(make, draft, device_named(fit.device)))

    def plan() -> Plan:
        from rectool.training.backbone import estimate

        return estimate(dataset, small, fit)

    make_artifact(
        "backbone",
        ["rectool", "prep", "backbone"],
        make,
        [data, small, fit],
        plan=plan,
        inputs=lambda: [Input("dataset", data.data, artifact=dataset.artifact), *template.inputs(small.prompt)],
        build=build,
        show=_show,
    )


def _show(made: Manifest) -> None:
    found = made.metrics
    if found["perplexity"] is not None:
        size, perplexity = f"{found['size']}: {found['parameters']:,} parameters", found["perplexity"]
        console.show(f"{size}, perplexity {perplexity:.2f} on held-out texts")
