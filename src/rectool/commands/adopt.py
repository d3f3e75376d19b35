"""`rectool adopt`: a manifest for files that another program wrote."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import typer

from rectool import console
from rectool.commands.flags import command
from rectool.commands.options import Talk
from rectool.settings import setting


@dataclass(frozen=True)
class Adoption:
    """Which folder to take in, and as what."""

    directory: Path = setting(argument=True, recorded=False, help="Folder of the files.")
    kind: str = setting(metavar="KIND", recorded=False, help="What they are: dataset, cf, semantic or result.")
    data: Path | None = setting(None, metavar="DATA", recorded=False, help="The dataset that they belong to.")
    seed: int = setting(0, metavar="N", recorded=False, help="Seed that they were made with, for the record.")
    overwrite: bool = setting(False, recorded=False, help="Replace a manifest that is there.")
    dry_run: bool = setting(False, recorded=False, help="Check the files, write nothing.")


def register(app: typer.Typer) -> None:
    command(
        app,
        "adopt",
        examples=[
            "rectool adopt embeddings/minilm --kind semantic --data data/ml-1m",
            "rectool adopt data/mine --kind dataset",
        ],
    )(adopt)


def adopt(adoption: Adoption, talk: Talk) -> None:
    """Take in files of another program: check every value, then give them a manifest."""
    from rectool.artifacts import adopting, open_artifact

    data = open_artifact(adoption.data, "dataset") if adoption.data is not None else None
    with console.step(f"checking {adoption.directory}"):
        manifest = adopting.check(adoption.directory, adoption.kind, data, seed=adoption.seed)
    if not adoption.dry_run:
        adopting.write(adoption.directory, manifest, replace=adoption.overwrite)
    console.table("counts", ("", ""), [(name, f"{count:,}") for name, count in manifest.counts.items()])
    verb = "would be adopted" if adoption.dry_run else "adopted"
    console.say(f"{adoption.directory}: {verb} as {adoption.kind}")
    console.result(
        {
            "artifact": str(adoption.directory),
            "kind": adoption.kind,
            "dry_run": adoption.dry_run,
            "digest": manifest.digests["artifact"],
            "counts": manifest.counts,
        }
    )
