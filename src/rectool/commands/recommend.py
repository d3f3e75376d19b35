"""`rectool recommend`: a data set and a model -> the best items of each user."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from rectool import console
from rectool.commands.flags import command
from rectool.commands.making import make_artifact
from rectool.commands.options import Evaluated, Resumable, Talk
from rectool.commands.showing import on_terminal
from rectool.errors import RectoolError
from rectool.evaluation.recommend_settings import Asked, Reranking
from rectool.evaluation.settings import Computing, Grounding, Language, Masking, Measuring, Untuned, given
from rectool.prompts.settings import Prompting

if TYPE_CHECKING:
    from rectool.artifacts import Artifact, Draft, Input, Manifest
    from rectool.data.estimate import Plan
    from rectool.evaluation.recommend import Audience, Recommending
    from rectool.evaluation.subjects import Collaborative, Subject

SHOWN = 5
"""Users whose lists are shown."""
BYTES_PER_LISTED, WRITTEN_PER_LISTED = 32, 16
"""Of an item in a list: in memory, and in recommendations.parquet."""


def register(app: typer.Typer) -> None:
    """Add `rectool recommend`."""
    command(
        app,
        "recommend",
        examples=[
            "rectool recommend data/ml-1m runs/mf --users 42 --k 5 --out runs/mf-42",
            "rectool recommend data/ml-1m runs/sasrec --out runs/sasrec-all",
            "rectool recommend data/ml-1m runs/sasrec --likes 'Alien (1979); Heat (1995)' --out runs/new-user",
            "rectool recommend data/ml-1m runs/lora --retriever runs/mf --candidates 50 --users users.txt "
            "--out runs/lora-top",
        ],
    )(recommend)


def recommend(
    evaluated: Evaluated,
    asked: Asked,
    reranking: Reranking,
    language: Language,
    prompting: Prompting,
    untuned: Untuned,
    grounding: Grounding,
    masking: Masking,
    computing: Computing,
    make: Resumable,
    talk: Talk,
) -> None:
    """Find the best items of users: of the whole catalogue, or, by a yes/no model, of what a retriever finds."""
    from rectool.artifacts import Input, open_artifact
    from rectool.data.dataset import Dataset
    from rectool.evaluation import subjects

    if "dataset" in make.parents():
        raise RectoolError(f"--parent dataset: the data set is {evaluated.data}, the first argument")
    dataset = Dataset(open_artifact(evaluated.data, "dataset", elsewhere=make.parents()))
    model = subjects.find(
        evaluated.model,
        evaluated.data,
        Measuring(),
        language,
        prompting,
        untuned,
        make.parents(),
        grounding=grounding,
        masking=masking,
    )
    retriever = _retriever(model, evaluated, asked, reranking, make)
    sources = [Input("dataset", evaluated.data, artifact=dataset.artifact), *model.inputs(), *_others(asked, retriever)]

    @cache
    def audience() -> Audience:
        from rectool.evaluation.recommend import Audience

        return Audience.find(dataset, asked)

    @cache
    def recommending() -> Recommending:
        from rectool.evaluation.recommend import Recommending

        scorer = model.load(dataset, computing, make.seed)
        finder = None if retriever is None else retriever.load(dataset, computing, make.seed)
        return Recommending(scorer, finder, reranking.candidates, audience(), asked, make.seed)

    def plan() -> Plan:
        recommending()
        models = [model] if retriever is None else [model, retriever]
        return _plan(dataset.artifact, models, len(audience().users), asked.k, sources)

    def build(draft: Draft) -> None:
        from rectool.commands.resuming import work_of
        from rectool.devices import device_named, used
        from rectool.evaluation.recommend import write

        found = recommending().run(work_of(make, draft))
        if found is None:
            return
        write(found, dataset, draft.path)
        draft.metrics.update(recommending().about())
        draft.run.update(used(device_named(computing.device)))

    make_artifact(
        "recommendations",
        ["rectool", "recommend"],
        make,
        [evaluated, asked, reranking, *model.settings, computing],
        plan=plan,
        inputs=lambda: sources,
        build=build,
        show=lambda made: _show(made, make.out),
        above=model.above,
    )


def _retriever(
    model: Subject, evaluated: Evaluated, asked: Asked, reranking: Reranking, make: Resumable
) -> Collaborative | None:
    """What finds the candidates, if the model needs any.

    Raises:
        RectoolError: it needs them and there is none, or the other way round.
    """
    from rectool.artifacts import open_artifact
    from rectool.evaluation import subjects

    if model.ranks:
        kind = "collaborative" if isinstance(model, subjects.Collaborative) else "next-item"
        for flag in given(reranking):
            raise RectoolError(f"{flag}: {evaluated.model} is a {kind} model, which ranks the catalogue itself")
        return None
    if reranking.retriever is None:
        raise RectoolError(
            "a language model that answers questions rates items one by one; name a model of rectool train-cf that "
            "finds them: --retriever DIR"
        )
    if reranking.candidates < asked.k:
        raise RectoolError(f"--candidates {reranking.candidates} must not be fewer than --k {asked.k}")
    found = open_artifact(reranking.retriever, "cf", elsewhere={**make.parents(), "dataset": evaluated.data})
    found.parent("dataset")
    return subjects.Collaborative(found)


def _others(asked: Asked, retriever: Collaborative | None) -> list[Input]:
    """What is read beside the data set and the model."""
    from rectool.artifacts import Input

    files = [Input(f"users:{number}", path) for number, path in enumerate(asked.files(), start=1)]
    if retriever is not None:
        files.append(Input("retriever", retriever.artifact.path, artifact=retriever.artifact))
    return files


def _plan(data: Artifact, models: Sequence[Subject], users: int, k: int, sources: list[Input]) -> Plan:
    from rectool.data.estimate import BYTES_PER_ROW, TORCH_MEMORY, Plan

    memory = TORCH_MEMORY + 3 * sum(model.weight_bytes() for model in models)
    memory += BYTES_PER_ROW * data.manifest.counts["interactions"] + BYTES_PER_LISTED * users * k
    return Plan([str(source.path) for source in sources], WRITTEN_PER_LISTED * users * k, 0, memory)


def _show(made: Manifest, out: Path) -> None:
    """On a terminal: the lists of the first users."""
    if not on_terminal():
        return
    import pyarrow.parquet as pq

    lists: dict[str, list[dict[str, Any]]] = {}
    first = pq.ParquetFile(out / "recommendations.parquet").iter_batches(SHOWN * made.metrics["k"])
    for row in next(first).to_pylist() if made.counts["recommendations"] else []:
        new = f"new user {row['new_user']}"
        lists.setdefault(new if row["user_id"] is None else f"user {console.printable(row['user_id'])}", []).append(row)
    for name, rows in list(lists.items())[:SHOWN]:
        cells = [
            (
                f"{row['rank']:>2}  {console.printable(row['title'])}",
                console.printable(row["item_id"]),
                f"{row['score']:.4f}",
            )
            for row in rows
        ]
        console.table(name, ("", "item", "score"), cells)
    if made.metrics["users"] > SHOWN:
        console.show(f"{made.metrics['users'] - SHOWN:,} users more are in {out / 'recommendations.parquet'}")
