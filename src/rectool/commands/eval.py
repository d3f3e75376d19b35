"""`rectool eval`: a data set and a model -> predictions and metrics."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from rectool import console
from rectool.commands.flags import command
from rectool.commands.making import make_artifact
from rectool.commands.options import Make, Talk
from rectool.errors import RectoolError
from rectool.evaluation.settings import Computing, Measuring, Ranked, Rating
from rectool.settings import setting

if TYPE_CHECKING:
    from rectool.artifacts import Artifact, Draft, Manifest
    from rectool.data.estimate import Plan
    from rectool.evaluation.evaluate import Evaluation

BASE_MEMORY = 450 << 20
"""Of Python with torch."""
BYTES_PER_ROW = 60
"""Of the log: its columns and histories."""
BYTES_PER_TARGET, WRITTEN_PER_TARGET = 150, 40
"""Of a target row: what is predicted and measured of it, and its line in predictions.parquet."""
BYTES_PER_LISTED = 16
"""Of an item in the list of a target row."""


@dataclass(frozen=True)
class Evaluated:
    """What is evaluated, and on what."""

    data: Path = setting(argument=True, recorded=False, help="The data set, made by rectool prep.")
    model: Path = setting(argument=True, recorded=False, help="The model, made by rectool train-cf.")


def register(app: typer.Typer) -> None:
    """Add `rectool eval`."""
    command(
        app,
        "eval",
        examples=[
            "rectool eval data/ml-1m runs/mf --out runs/mf-test",
            "rectool eval data/ml-1m runs/mf --warm 'count>3' --threshold valid --out runs/mf-warm",
            "rectool eval data/games runs/sasrec --exclude history --topk --out runs/sasrec-test",
        ],
    )(evaluate)


def evaluate(
    evaluated: Evaluated,
    measuring: Measuring,
    rating: Rating,
    ranked: Ranked,
    computing: Computing,
    make: Make,
    talk: Talk,
) -> None:
    """Measure a model on rows that it was not trained on: predictions, metrics by group, intervals."""
    from rectool.artifacts import Input

    data, model = _open(evaluated, make)

    @cache
    def evaluation() -> Evaluation:
        from rectool.data.dataset import Dataset
        from rectool.devices import device_named
        from rectool.evaluation.evaluate import Evaluation
        from rectool.models import saved

        device = device_named(computing.device)
        trained = saved.load(model, device)
        return Evaluation(
            trained, Dataset(data), measuring, rating, ranked, device, computing.batch_tokens, seed=make.seed
        )

    def build(draft: Draft) -> None:
        from rectool.evaluation.evaluate import write

        found = evaluation().run()
        write(found, draft.path, topk=ranked.topk)
        draft.metrics.update(found.report)
        draft.run["device"] = str(evaluation().device)

    make_artifact(
        "result",
        ["rectool", "eval"],
        make,
        [evaluated, measuring, rating, ranked, computing],
        plan=lambda: _plan(data, model, evaluation()),
        inputs=lambda: [
            Input("dataset", evaluated.data, artifact=data),
            Input("model", evaluated.model, artifact=model),
        ],
        build=build,
        show=_show,
    )


def _open(evaluated: Evaluated, make: Make) -> tuple[Artifact, Artifact]:
    """The data set and the model. Raises RectoolError unless the model is of this data set."""
    from rectool.artifacts import open_artifact

    if "dataset" in make.parents():
        raise RectoolError(f"--parent dataset: the data set is {evaluated.data}, the first argument")
    data = open_artifact(evaluated.data, "dataset", elsewhere=make.parents())
    model = open_artifact(evaluated.model, "cf", elsewhere={**make.parents(), "dataset": evaluated.data})
    model.parent("dataset")
    return data, model


def _plan(data: Artifact, model: Artifact, evaluation: Evaluation) -> Plan:
    """What would be done, after checking that it can be."""
    from rectool.data.estimate import Plan

    targets = len(evaluation.targets())
    held, written = BYTES_PER_TARGET, WRITTEN_PER_TARGET
    if evaluation.task == "next-item":
        listed = BYTES_PER_LISTED * max(evaluation.ranked.ks())
        held, written = held + listed, written + (listed if evaluation.ranked.topk else 0)
    weights = 3 * model.manifest.files["weights.safetensors"].bytes
    memory = BASE_MEMORY + weights + BYTES_PER_ROW * data.manifest.counts["interactions"] + held * targets
    return Plan([str(data.path), str(model.path)], written * targets, 0, memory)


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
        *([name, *(_cell(cells[name, group]) for group in groups)] for name in names),
    ]
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
    if uauc is not None:
        skipped, users = uauc["skipped_users"], uauc["users"]
        notes.append(f"uauc: the mean over users with both classes; {skipped:,} of {users:,} users are skipped")
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
