"""`rectool adopt`: a manifest for files that another program wrote."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import typer

from rectool import console
from rectool.commands.flags import command
from rectool.commands.options import Talk, Work
from rectool.settings import setting


@dataclass(frozen=True)
class Adoption:
    """Which folder to take in, and as what."""

    directory: Path = setting(argument=True, recorded=False, help="Folder of the files.")
    kind: str = setting(metavar="KIND", recorded=False, help="What they are: dataset, cf, semantic or result.")
    data: Path | None = setting(None, metavar="DATA", recorded=False, help="The dataset that they belong to.")


def register(app: typer.Typer) -> None:
    command(
        app,
        "adopt",
        examples=[
            "rectool adopt embeddings/minilm --kind semantic --data data/ml-1m",
            "rectool adopt data/mine --kind dataset",
        ],
    )(adopt)


def adopt(adoption: Adoption, work: Work, talk: Talk) -> None:
    """Take in files of another program: check every value, then give them a manifest."""
    from rectool.artifacts import adopting, lineage, open_artifact

    directory, kind = adoption.directory, adoption.kind
    if not (work.overwrite or work.update):
        adopting.refuse_made(directory)
    data = None
    if adoption.data is not None:
        data = open_artifact(adoption.data, "dataset", elsewhere=work.parents())
    lineage.refuse_unknown(lineage.tree(data) if data else None, work.parents())
    with console.step(f"checking {directory}"):
        made = adopting.check(directory, kind, data, seed=work.seed)
    skipped = work.update and adopting.is_made(directory, made)
    if not (work.dry_run or skipped):
        adopting.write(directory, made, replace=work.overwrite or work.update)
    console.table("counts", ("", ""), [(name, f"{count:,}") for name, count in made.counts.items()])
    done = "is up to date" if skipped else f"would be adopted as {kind}" if work.dry_run else f"adopted as {kind}"
    console.say(f"{directory}: {done}")
    console.result(
        {
            "artifact": str(directory),
            "kind": kind,
            "dry_run": work.dry_run,
            "skipped": skipped,
            "digest": made.digests["artifact"],
            "counts": made.counts,
        }
    )
