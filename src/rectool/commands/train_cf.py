"""`rectool train-cf`: a data set -> a collaborative model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from rectool.commands.flags import command
from rectool.commands.making import make_artifact
from rectool.commands.options import Data, Talk, Train
from rectool.commands.showing import validation_table
from rectool.commands.vectors import check_vectors
from rectool.training.settings import Collaborative, Fit, Objective, Start

if TYPE_CHECKING:
    from rectool.artifacts import Artifact, Draft, Input, Manifest
    from rectool.data.estimate import Plan
    from rectool.training.start import ItemStart


def register(app: typer.Typer) -> None:
    """Add `rectool train-cf`."""
    command(
        app,
        "train-cf",
        examples=[
            "rectool train-cf data/ml-1m --model mf --out runs/mf",
            "rectool train-cf data/ml-1m --model sasrec --epochs 50 --patience 5 --metric uauc --out runs/sasrec",
            "rectool train-cf data/games --model sasrec --task next-item --loss sampled-softmax --negatives 512 "
            "--out runs/games",
        ],
    )(train_cf)


def train_cf(
    data: Data, model: Collaborative, start: Start, objective: Objective, fit: Fit, make: Train, talk: Talk
) -> None:
    """Train a collaborative model: counts, factors, graphs or sequences."""
    from rectool.artifacts import Input, open_artifact
    from rectool.data.dataset import Dataset
    from rectool.training.choice import choose
    from rectool.training.estimate import estimate

    dataset = Dataset(open_artifact(data.data, "dataset", elsewhere=make.parents()))
    sources = [Input("dataset", data.data, artifact=dataset.artifact)]
    vectors = None
    if start.init_items is not None:
        vectors = open_artifact(start.init_items, elsewhere=make.parents())
        sources.append(Input("init-items", start.init_items, artifact=vectors))

    def plan() -> Plan:
        if vectors is not None:
            check_vectors("--init-items", vectors, dataset.artifact)
        choice = choose(dataset, model, objective, fit, start)
        return estimate(dataset, choice, fit, [str(source.path) for source in sources])

    def build(draft: Draft) -> None:
        from rectool.commands.resuming import run_of
        from rectool.devices import device_named
        from rectool.training.train_cf import train

        choice = choose(dataset, model, objective, fit, start)
        run = run_of(make, draft, device_named(fit.device))
        train(draft, dataset, choice, objective, fit, run, _start(vectors, start))

    def inputs() -> list[Input]:
        return sources

    make_artifact(
        "cf",
        ["rectool", "train-cf"],
        make,
        [data, model, start, objective, fit],
        plan=plan,
        inputs=inputs,
        build=build,
        show=_show,
    )


def _start(vectors: Artifact | None, start: Start) -> ItemStart | None:
    from rectool.training.start import ItemStart, vectors_of

    return None if vectors is None else ItemStart(vectors_of(vectors), start.init_by)


def _show(made: Manifest) -> None:
    """The model beside the prior, which needs no training."""
    found = made.metrics
    measured = [(found["model"], found["valid"])]
    if found["prior"] is not None:
        prior = dict(found["prior"])
        measured.append((f"{prior.pop('model')} (prior)", prior))
    validation_table(measured)
