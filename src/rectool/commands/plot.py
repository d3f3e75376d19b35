"""`rectool plot`: artifacts -> figures, each with the data behind it. One command per kind of figure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from rectool import console
from rectool.commands.flags import command
from rectool.commands.making import make_artifact
from rectool.commands.options import Make, Talk
from rectool.commands.usage import Group
from rectool.errors import RectoolError
from rectool.evaluation.settings import Computing, Language, Measuring, Untuned
from rectool.figures.settings import (
    Alignment,
    Asked,
    Attending,
    Baseline,
    Many,
    Measured,
    Names,
    Results,
    Stages,
    Strips,
    refuse_mixed,
)
from rectool.prompts.settings import Prompting

if TYPE_CHECKING:
    from rectool.artifacts import Draft, Input, Manifest
    from rectool.evaluation.runs import Run
    from rectool.figures.drawing import Drawing
    from rectool.figures.pairs import Pairs
    from rectool.figures.results import Wanted

app = typer.Typer(cls=Group, no_args_is_help=True, help="Artifacts -> figures, each with the data behind it.")

WRITTEN_BYTES = 500_000
"""By a figure, about."""


@command(app, "curves", examples=["rectool plot curves runs/mf runs/aligned runs/hybrid --out figures/curves"])
def curves(stages: Stages, names: Names, make: Make, talk: Talk) -> None:
    """Training curves across stages, with the borders between them."""
    from rectool.artifacts import Input, open_artifact
    from rectool.evaluation.runs import named
    from rectool.figures import stages as figures

    called = named(stages.stage, names.name)
    found = [open_artifact(path, elsewhere=make.parents()) for path in stages.stage]
    _plot(
        "curves",
        make,
        [stages, Names(tuple(called))],
        [Input(f"stage-{number}", one.path, artifact=one) for number, one in enumerate(found, 1)],
        lambda: [figures.drawing(found, called)],
    )


@command(app, "bars", examples=["rectool plot bars runs/mf-test runs/hybrid-test --out figures/bars"])
def bars(results: Results, names: Names, make: Make, talk: Talk) -> None:
    """AUC and UAUC of results with the negative log loss (or HR and NDCG), best first; warm and cold rows."""
    _plot_results("bars", results, names, make)


@command(app, "radar", examples=["rectool plot radar runs/mf-test runs/hybrid-test --out figures/radar"])
def radar(results: Results, names: Names, make: Make, talk: Talk) -> None:
    """All metrics of results at once."""
    _plot_results("radar", results, names, make)


@command(
    app,
    "improvement",
    examples=["rectool plot improvement runs/hybrid-test --baseline runs/icl-test --out figures/improvement"],
)
def improvement(results: Results, baseline: Baseline, names: Names, make: Make, talk: Talk) -> None:
    """Relative improvement over a baseline, metric by metric."""
    _plot_results("improvement", results, names, make, baseline)


@command(
    app,
    "classes",
    examples=["rectool plot classes runs/icl-test runs/hybrid-test --rows 200 --out figures/classes"],
)
def classes(results: Results, strips: Strips, names: Names, make: Make, talk: Talk) -> None:
    """Strips of predicted classes against the labels, row by row."""
    from rectool.figures import classes as figures

    runs, called = _runs(results, names)
    _plot(
        "classes",
        make,
        [results, Names(called), strips],
        _result_inputs(runs),
        lambda: [figures.drawing(runs, strips, make.seed)],
    )


@command(
    app,
    "embeddings",
    examples=[
        "rectool plot embeddings runs/aligned --out figures/embeddings",
        "rectool plot embeddings runs/aligned --cf runs/mf --semantic runs/semantic --out figures/embeddings",
    ],
)
def embeddings(alignment: Alignment, make: Make, talk: Talk) -> None:
    """Both embeddings of items in one plane (t-SNE), with and without alignment."""
    from rectool.figures import embeddings as figures

    _plot_pairs("embeddings", alignment, make, lambda pairs: figures.drawing(pairs, make.seed))


@command(
    app,
    "cosine",
    examples=["rectool plot cosine runs/aligned --cf runs/mf --semantic runs/semantic --out figures/cosine"],
)
def cosine(alignment: Alignment, make: Make, talk: Talk) -> None:
    """Cosine similarity of both embeddings of an item, and of those of different items."""
    from rectool.figures import cosine as figures

    _plot_pairs("cosine", alignment, make, lambda pairs: figures.drawing(pairs, make.seed))


@command(
    app,
    "attention",
    examples=[
        "rectool plot attention data/ml-1m runs/hybrid --row 1000 --layers 2,24 --out figures/attention",
        "rectool plot attention data/games runs/bigrec runs/hatllm --llm gpt2 --within-across --out figures/across",
    ],
)
def attention(
    asked: Asked,
    attending: Attending,
    many: Many,
    names: Names,
    language: Language,
    prompting: Prompting,
    untuned: Untuned,
    computing: Computing,
    make: Make,
    talk: Talk,
) -> None:
    """Which parts of a prompt look at which, layer by layer; or how much tokens look inside items and across them."""
    refuse_mixed(attending, many, untuned, names)
    if many.within_across:
        _plot_within_across(asked, many, names, language, prompting, computing, make)
    else:
        _plot_prompt(asked, attending, language, prompting, untuned, computing, make)


@command(
    app,
    "sensitivity",
    examples=[
        "rectool plot sensitivity runs/depths --out figures/sensitivity",
        "rectool plot sensitivity runs/depths runs/sizes --metric hr@5 --out figures/sensitivity",
    ],
)
def sensitivity(results: Results, measured: Measured, names: Names, make: Make, talk: Talk) -> None:
    """A metric over the depths of a mask, and over sizes of models."""
    from rectool.figures import sensitivity as figures

    runs, called = _runs(results, names)
    _plot(
        "sensitivity",
        make,
        [results, Names(called), measured],
        _result_inputs(runs),
        lambda: [figures.drawing(runs, measured)],
    )


def _plot_prompt(
    asked: Asked,
    attending: Attending,
    language: Language,
    prompting: Prompting,
    untuned: Untuned,
    computing: Computing,
    make: Make,
) -> None:
    from rectool.artifacts import Input, open_artifact
    from rectool.evaluation import subjects
    from rectool.figures import attention as figures

    if len(asked.model) > 1:
        raise RectoolError(f"--row is of one model, not of {len(asked.model)}; show several with --within-across")
    path = asked.model[0] if asked.model else None
    data = open_artifact(asked.data, "dataset", elsewhere=make.parents())
    model = subjects.find(path, asked.data, Measuring(), language, prompting, untuned, make.parents())

    def drawings() -> list[Drawing]:
        from rectool.data.dataset import Dataset

        dataset = Dataset(data)
        return [figures.drawing(model.load(dataset, computing, make.seed), dataset, attending)]

    _plot(
        "attention",
        make,
        [asked, attending, *model.settings, computing],
        [Input("dataset", asked.data, artifact=data), *model.inputs()],
        drawings,
        memory=3 * model.weight_bytes(),
        above=model.above,
    )


def _plot_within_across(
    asked: Asked,
    many: Many,
    names: Names,
    language: Language,
    prompting: Prompting,
    computing: Computing,
    make: Make,
) -> None:
    from rectool.artifacts import Input, open_artifact
    from rectool.figures import several

    data = open_artifact(asked.data, "dataset", elsewhere=make.parents())
    compared = several.find(asked, names, language, prompting, make.parents())

    def drawings() -> list[Drawing]:
        from rectool.data.dataset import Dataset

        return several.drawings(compared, Dataset(data), many, computing, make.seed)

    _plot(
        "attention",
        make,
        [asked, many, Names(compared.names), language, prompting, computing],
        [Input("dataset", asked.data, artifact=data), *compared.inputs()],
        drawings,
        memory=3 * compared.weight_bytes(),
        above=compared.above,
    )


def _plot_results(wanted: Wanted, results: Results, names: Names, make: Make, baseline: Baseline | None = None) -> None:
    from rectool.evaluation.runs import place, single
    from rectool.figures.results import drawings

    base = single(baseline.baseline) if baseline is not None else None
    runs, called = _runs(results, names, base)
    against = runs[place(base, [run.artifact.path for run in runs])] if base is not None else None
    groups = [results, Names(called), *([baseline] if baseline is not None else [])]
    _plot(wanted, make, groups, _result_inputs(runs, against), lambda: drawings(wanted, runs, against))


def _plot_pairs(kind: str, alignment: Alignment, make: Make, draw: Callable[[Sequence[Pairs]], Drawing]) -> None:
    from rectool.figures import pairs

    sources = pairs.find(alignment, make.parents())
    _plot(
        kind,
        make,
        [alignment],
        sources.inputs(),
        lambda: [draw(sources.load(make.seed))],
        memory=sources.bytes(),
    )


def _runs(results: Results, names: Names, baseline: Path | None = None) -> tuple[list[Run], tuple[str, ...]]:
    from rectool.evaluation import runs

    paths = runs.find(results.result, [baseline] if baseline is not None else [])
    called = runs.named(paths, names.name)
    return runs.read(paths, called), tuple(called)


def _result_inputs(runs: Sequence[Run], baseline: Run | None = None) -> list[Input]:
    from rectool.artifacts import Input

    return [
        Input("baseline" if run is baseline else f"result-{number}", run.artifact.path, artifact=run.artifact)
        for number, run in enumerate(runs, 1)
    ]


def _plot(
    kind: str,
    make: Make,
    groups: Sequence[Any],
    inputs: Sequence[Input],
    drawings: Callable[[], Sequence[Drawing]],
    *,
    memory: int = 0,
    above: Collection[str] = (),
) -> None:
    from rectool.data.estimate import BASE_MEMORY, Plan

    def build(draft: Draft) -> None:
        from rectool.figures.drawing import write

        with console.step(f"drawing {kind}"):
            draft.metrics.update(write(drawings(), draft.path))

    def show(made: Manifest) -> None:
        for name in made.metrics:
            console.show(f"{make.out / name}.png")

    make_artifact(
        "figure",
        ["rectool", "plot", kind],
        make,
        groups,
        plan=lambda: Plan([str(source.path) for source in inputs], WRITTEN_BYTES, 0, BASE_MEMORY + memory),
        inputs=lambda: inputs,
        build=build,
        show=show,
        above=above,
    )
