"""`rectool train-proj`: a language model and vectors of users and items -> one that reads them as soft tokens."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import typer

from rectool.commands.flags import command
from rectool.commands.making import make_artifact
from rectool.commands.options import Data, Talk, Train
from rectool.commands.showing import beside_priors
from rectool.training.lora_settings import Adapters
from rectool.training.soft_settings import FitSoft, Freezing, InheritedPrompting, SoftTokenSettings, Sources, Standing

if TYPE_CHECKING:
    from rectool.artifacts import Draft, Input
    from rectool.data.estimate import Plan
    from rectool.training.soft_tuning import SoftTuning


def register(app: typer.Typer) -> None:
    """Add `rectool train-proj`."""
    command(
        app,
        "train-proj",
        examples=[
            "rectool train-proj data/ml-1m --adapter runs/lora --cf runs/sasrec --train projector,cf --out runs/hybrid",
            "rectool train-proj data/ml-1m --adapter runs/lora --aligned runs/aligned --tokens user,item,warm "
            "--train projector,cf,semantic --out runs/sella-rec",
            "rectool train-proj data/ml-1m --llm runs/nano --adapter new --cf runs/mf --tokens history,item "
            "--train projector,lora --mix linear --out runs/llara",
        ],
    )(train_proj)


def train_proj(
    data: Data,
    standing: Standing,
    adapters: Adapters,
    sources: Sources,
    tokens: SoftTokenSettings,
    prompting: InheritedPrompting,
    freezing: Freezing,
    fit: FitSoft,
    make: Train,
    talk: Talk,
) -> None:
    """Put vectors of users and items into a language model's prompts: any part is trained, the rest stays frozen."""
    from rectool.artifacts import Input, open_artifact
    from rectool.data.dataset import Dataset

    dataset = Dataset(open_artifact(data.data, "dataset", elsewhere=make.parents()))

    @cache
    def tuning() -> SoftTuning:
        from rectool.training.soft_tuning import prepare

        return prepare(
            dataset, standing, adapters, sources, tokens, freezing, prompting, fit, make.seed, make.parents()
        )

    def inputs() -> list[Input]:
        return [Input("dataset", data.data, artifact=dataset.artifact), *tuning().parents]

    def plan() -> Plan:
        return tuning().plan([str(source.path) for source in inputs()])

    def build(draft: Draft) -> None:
        from rectool.commands.resuming import run_of
        from rectool.training.train_proj import train

        train(draft, tuning(), run_of(make, draft, tuning().device))

    make_artifact(
        "llm",
        ["rectool", "train-proj"],
        make,
        [data, standing, adapters, sources, tokens, prompting, freezing, fit],
        plan=plan,
        inputs=inputs,
        build=build,
        show=beside_priors,
        above=("backbone", "cf", "semantic", "aligned", "adapter"),
    )
