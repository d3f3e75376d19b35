"""`rectool eval`: a data set and a model -> predictions and metrics."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import typer

from rectool import console
from rectool.commands.flags import command
from rectool.commands.making import make_artifact
from rectool.commands.options import Evaluated, Resumable, Talk
from rectool.errors import RectoolError
from rectool.evaluation.settings import Computing, Grounding, Language, Masking, Measuring, Ranked, Rating, Untuned
from rectool.prompts.settings import Prompting

if TYPE_CHECKING:
    from rectool.artifacts import Artifact, Draft, Manifest
    from rectool.data.estimate import Plan
    from rectool.evaluation.evaluate import Evaluation
    from rectool.evaluation.subjects import Subject

BYTES_PER_TARGET, WRITTEN_PER_TARGET = 150, 40
"""Of a target row: what is predicted and measured of it, and its line in predictions.parquet."""
BYTES_PER_LISTED = 16
"""Of an item in the list of a target row."""


def register(app: typer.Typer) -> None:
    """Add `rectool eval`."""
    command(
        app,
        "eval",
        examples=[
            "rectool eval data/ml-1m runs/mf --out runs/mf-test",
            "rectool eval data/ml-1m runs/mf --warm 'count>3' --threshold valid --out runs/mf-warm",
            "rectool eval data/games runs/sasrec --exclude history --topk --out runs/sasrec-test",
            "rectool eval data/ml-1m runs/lora --out runs/lora-test",
            "rectool eval data/games runs/titles --ground trie --beams 20 --out runs/titles-test",
            "rectool eval data/ml-1m --llm Qwen/Qwen2-0.5B --noun movies --shots 4 --out runs/qwen-test",
        ],
    )(evaluate)


def evaluate(
    evaluated: Evaluated,
    measuring: Measuring,
    rating: Rating,
    ranked: Ranked,
    language: Language,
    prompting: Prompting,
    untuned: Untuned,
    grounding: Grounding,
    masking: Masking,
    computing: Computing,
    make: Resumable,
    talk: Talk,
) -> None:
    """Measure a model on rows that it was not trained on: predictions, metrics by group, intervals."""
    from rectool.artifacts import Input, open_artifact
    from rectool.evaluation import subjects

    if "dataset" in make.parents():
        raise RectoolError(f"--parent dataset: the data set is {evaluated.data}, the first argument")
    data = open_artifact(evaluated.data, "dataset", elsewhere=make.parents())
    model = subjects.find(
        evaluated.model,
        evaluated.data,
        measuring,
        language,
        prompting,
        untuned,
        make.parents(),
        grounding=grounding,
        masking=masking,
    )

    @cache
    def evaluation() -> Evaluation:
        from rectool.data.dataset import Dataset
        from rectool.evaluation.evaluate import Evaluation

        dataset = Dataset(data)
        return Evaluation(model.load(dataset, computing, make.seed), dataset, measuring, rating, ranked, seed=make.seed)

    def build(draft: Draft) -> None:
        from rectool.commands.resuming import work_of
        from rectool.devices import device_named, used
        from rectool.evaluation.evaluate import write

        found = evaluation().run(work_of(make, draft))
        if found is None:
            return
        write(found, draft.path, topk=ranked.topk)
        draft.metrics.update(found.report)
        draft.run.update(used(device_named(computing.device)))

    make_artifact(
        "result",
        ["rectool", "eval"],
        make,
        [evaluated, measuring, rating, ranked, *model.settings, computing],
        plan=lambda: _plan(data, model, evaluation()),
        inputs=lambda: [Input("dataset", evaluated.data, artifact=data), *model.inputs()],
        build=build,
        show=_show,
        above=model.above,
    )


def _plan(data: Artifact, model: Subject, evaluation: Evaluation) -> Plan:
    """What would be done, after checking that it can be."""
    from rectool.data.estimate import BYTES_PER_ROW, TORCH_MEMORY, Plan

    evaluation.deciding()
    targets = len(evaluation.targets())
    held, written = BYTES_PER_TARGET, WRITTEN_PER_TARGET
    if evaluation.task == "next-item":
        listed = BYTES_PER_LISTED * max(evaluation.ranked.ks())
        held, written = held + listed, written + (listed if evaluation.ranked.topk else 0)
    memory = TORCH_MEMORY + 3 * model.weight_bytes()
    memory += BYTES_PER_ROW * data.manifest.counts["interactions"] + held * targets
    reads = [str(data.path), *(str(source.path) for source in model.inputs())]
    return Plan(reads, written * targets, 0, memory)


def _show(made: Manifest) -> None:
    """Metrics by group, each with its interval, and what they depend on."""
    found = made.metrics
    lines = found["metrics"]
    groups = list(dict.fromkeys(line["group"] for line in lines))
    cells = {(line["metric"], line["group"]): line for line in lines}
    names = list(dict.fromkeys(line["metric"] for line in lines))
    by_group = [cells[names[0], group] for group in groups]
    table = [
        ["", *groups],
        ["rows", *(f"{line['rows']:,}" for line in by_group)],
        ["users", *(f"{line['users']:,}" for line in by_group)],
    ]
    priors = found.get("priors", [])
    for name in names:
        table.append([name, *(_cell(cells[name, group]) for group in groups)])
        table += [row for prior in priors if (row := _beside(prior, name, groups))]
    title = f"{found['model']}, {found['task']}, {found['split']} rows"
    for places in _parts(table):
        columns, *rows = ([row[place] for place in places] for row in table)
        console.table(title, columns, rows)
    for note in _notes(found, cells.get(("uauc", "all"))):
        console.show(note)


def _parts(table: Sequence[Sequence[str]]) -> list[list[int]]:
    """Which columns to show together, the first in each part, so that the terminal is wide enough."""
    widths = [max(len(line) for row in table for line in row[place].split("\n")) + 3 for place in range(len(table[0]))]
    together = max(1, (shutil.get_terminal_size().columns - 1 - widths[0]) // max(widths[1:]))
    return [[0, *range(1, len(widths))[start : start + together]] for start in range(0, len(widths) - 1, together)]


def _beside(prior: dict[str, Any], metric: str, groups: Sequence[str]) -> list[str]:
    """The row of a prior below that of a model; empty for a metric that is not measured of priors."""
    values = {line["group"]: line["value"] for line in prior["metrics"] if line["metric"] == metric}
    shown = ["-" if values.get(group) is None else f"{values[group]:.4f}" for group in groups]
    return [f"  {prior['model']}", *shown] if values else []


def _cell(line: dict[str, Any]) -> str:
    """Value, and below it the interval."""
    if line["value"] is None:
        return "-"
    decimals = 1 if line["metric"].startswith("popularity") else 4
    spread = f" ± {line['spread']:.{decimals}f}" if line.get("spread") is not None else ""
    interval = f"\n[{line['low']:.{decimals}f}, {line['high']:.{decimals}f}]" if line["low"] is not None else ""
    return f"{line['value']:.{decimals}f}{spread}{interval}"


def _notes(found: dict[str, Any], uauc: dict[str, Any] | None) -> list[str]:
    """What the figures depend on, one line each."""
    rule = found["warm"]
    warm = "a train row, or one in the context of such" if rule == "seen" else f"more than {rule[6:]} train rows"
    notes = [f"warm: user and item each have {warm}; cold: all others"]
    if "language_model" in found:
        notes += _language_notes(found["language_model"])
    if uauc is not None:
        skipped, users = uauc["skipped_users"], uauc["users"]
        notes.append(f"uauc: the mean over users with both classes; {skipped:,} of {users:,} users are skipped")
    if found.get("priors"):
        notes.append("item mean, user + item mean: smoothed mean labels of train rows, which need no model")
    if found["threshold"] is not None:
        origin = "as given" if found["threshold_from"] == "given" else "the best F1 on validation rows"
        notes.append(f"taken for liked: probability from {found['threshold']:.4g} on, {origin}")
    elif found["task"] == "ctr":
        notes.append(f"{found['model']} gives no probabilities, so that there are AUC and UAUC only")
    if found["task"] == "next-item":
        without = {
            "none": "",
            "history": " but those of the user's earlier rows",
            "train": " but those of the user's train rows",
        }
        candidates = f"candidates: all items{without[found['exclude']]}"
        notes.append(candidates + ("" if found["exclude"] == "none" else "; the row's own item always is one"))
        targets = "all rows" if found["targets"] == "all" else "rows that are not disliked"
        notes.append(f"targets: {targets}; items that tie with the target count one half")
    if found["draws"]:
        level = f"{100 * found['confidence']:g}%"
        notes.append(f"intervals: {level}, bootstrap over users, {found['draws']:,} draws")
    if found["repeats"] > 1:
        notes.append(f"means over {found['repeats']} repeats, ± standard deviation")
    return notes


def _language_notes(about: dict[str, Any]) -> list[str]:
    """What concerns a language model alone."""
    notes = []
    trained_on = about["trained_on"]
    if trained_on is not None and not trained_on["same"]:
        other = "another data set" if trained_on["same"] is False else "which is not there to be compared with this one"
        notes.append(f"tuned on {console.printable(trained_on['data'])}, {other}")
    if about["shortened"]:
        longer = f"longer than {about['max_tokens']:,} tokens: they lack their oldest titles"
        notes.append(f"{about['shortened']:,} prompts were {longer}")
    if "ground" in about:
        way = {"nearest": "the items of the nearest embeddings", "trie": "of the titles that the items have"}
        notes.append(f"titles are written by {about['beams']} beams, {way[about['ground']]}")
    if "soft_tokens" in about:
        unknown = about["unknown_rows"]
        instead = {"trained": "a vector that was trained for all such", "mean": "the mean of the others"}
        notes.append(
            f"{unknown['unknown_user']:,} rows tell of a user and {unknown['unknown_item']:,} of an item without a "
            f"vector: {instead[about['unknown']]} stands there"
        )
    return notes
