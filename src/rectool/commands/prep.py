"""`rectool prep`: raw data -> a dataset artifact. One command per source."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import typer

from rectool import console
from rectool.commands.flags import command
from rectool.commands.making import make_artifact
from rectool.commands.options import Make, Talk
from rectool.commands.usage import Group
from rectool.data.settings import Filters, Preparation, Resources
from rectool.data.sources.settings import AUTO, Amazon, AmazonPreparation, MovieLens, Synthetic, Table, TablePreparation
from rectool.errors import RectoolError

if TYPE_CHECKING:
    from rectool.artifacts import Draft, Input
    from rectool.data.engine import Engine
    from rectool.data.estimate import Plan
    from rectool.data.prepare import Loaded

app = typer.Typer(cls=Group, no_args_is_help=True, help="Raw data -> a dataset artifact.")


class Source(Protocol):
    """What every source can do."""

    def plan(self) -> list[str]: ...
    def inputs(self) -> list[Input]: ...
    def load(self, engine: Engine) -> Loaded: ...


@command(
    app,
    "movielens",
    examples=[
        "rectool prep movielens --variant 100k --out data/ml-100k",
        "rectool prep movielens --variant 1m --source raw/ml-1m.zip --out data/ml-1m "
        "--split months:10,5,5 --from 2001-06 --until 2003-02",
    ],
)
def movielens(
    source: MovieLens, preparation: Preparation, filters: Filters, resources: Resources, make: Make, talk: Talk
) -> None:
    """A MovieLens release, downloaded and checked, or read from a folder or zip."""
    from rectool.data.sources.movielens import Source

    _prepare("movielens", source, Source(source), preparation, filters, resources, make)


@command(
    app,
    "amazon",
    examples=[
        "rectool prep amazon --reviews reviews_Video_Games_5.json.gz --metadata meta_Video_Games.json.gz "
        "--split windows:11:8,1,1 --out data/games",
        "rectool prep amazon --category Video_Games --year 2023 --k-core 5 --out data/games-2023",
    ],
)
def amazon(
    source: Amazon, preparation: AmazonPreparation, filters: Filters, resources: Resources, make: Make, talk: Talk
) -> None:
    """An Amazon review dump of 2014, 2018 or 2023, from files or downloaded."""
    from rectool.data.sources.amazon import Source

    _prepare("amazon", source, Source(source), preparation, filters, resources, make)


@command(
    app,
    "table",
    examples=[
        "rectool prep table ratings.csv --items movies.csv --out data/mine",
        "rectool prep table clicks.parquet --user-column visitor --timestamp-unit ms --split leave-one-out "
        "--out data/clicks",
    ],
)
def table(
    source: Table, preparation: TablePreparation, filters: Filters, resources: Resources, make: Make, talk: Talk
) -> None:
    """Any table of interactions: CSV, TSV, JSON lines or Parquet, with named columns."""
    from rectool.data.sources.table import Source

    reader = Source(source, tolerant=preparation.invalid_rows == "drop")
    has_split = reader.has_split()
    if preparation.split == AUTO:
        preparation = replace(preparation, split="given" if has_split else Preparation.split)
        console.say(f"--split {preparation.split}: the interactions {'bring one' if has_split else 'bring none'}")
    _prepare("table", source, reader, preparation, filters, resources, make, has_split=has_split)


@command(
    app,
    "synthetic",
    examples=[
        "rectool prep synthetic --out data/synthetic",
        "rectool prep synthetic --task next-item --split windows:11:8,1,1 --out data/sequences",
        "rectool prep synthetic --users 100000 --items 20000 --seed 1 --out data/large",
    ],
)
def synthetic(
    source: Synthetic, preparation: Preparation, filters: Filters, resources: Resources, make: Make, talk: Talk
) -> None:
    """The embedded data sets: ratings or sequences, made offline, with titles that carry taste and a known truth."""
    from rectool.data.estimate import estimate_made
    from rectool.data.sources.synthetic import Source
    from rectool.evaluation.truth import best_reachable

    def add_truth(draft: Draft) -> None:
        draft.metrics["truth"] = best_reachable(draft.path)

    reader = Source(source, make.seed)
    _prepare(
        *("synthetic", source, reader, preparation, filters, resources, make),
        plan=lambda: estimate_made(reader.plan(), reader.rows(), source.items),
        finish=add_truth,
    )


def _prepare(
    name: str,
    settings: Any,
    source: Source,
    preparation: Preparation,
    filters: Filters,
    resources: Resources,
    make: Make,
    *,
    has_split: bool = False,
    plan: Callable[[], Plan] | None = None,
    finish: Callable[[Draft], None] | None = None,
) -> None:
    """What all sources share.

    Args:
        has_split: whether the source's log has a split of its own.
        plan: of a source that makes its rows; else it is made from the files, whose rows a dry run does not read.
    """
    from rectool.data import statistics
    from rectool.data.estimate import estimate
    from rectool.data.prepare import prepare

    if preparation.split == "given" and not has_split:
        raise RectoolError("--split given needs a split column in the interactions; choose another --split")

    def build(draft: Draft) -> None:
        prepare(draft, source.load, preparation, filters, resources)
        if finish is not None:
            finish(draft)

    make_artifact(
        "dataset",
        ["rectool", "prep", name],
        make,
        [settings, preparation, filters, resources],
        plan=plan or (lambda: estimate(source.plan(), resources)),
        inputs=source.inputs,
        build=build,
        show=lambda made: statistics.show(made.metrics),
        temp_dir=resources.temp_dir,
    )
    if make.dry_run and plan is None:
        console.say("not checked: the rows, which are read when the data set is made")
