"""`rectool inspect`: what an artifact is, where it comes from, and how to make it again."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from rectool import console
from rectool.commands.flags import command
from rectool.commands.options import Elsewhere, Talk
from rectool.errors import RectoolError
from rectool.prompts.settings import Prompting
from rectool.settings import setting

if TYPE_CHECKING:
    from rich.tree import Tree

    from rectool.artifacts import Artifact
    from rectool.artifacts.lineage import Node


@dataclass(frozen=True)
class Inspection:
    """What to look at, and how closely."""

    path: Path = setting(argument=True, recorded=False, help="Folder of the artifact.")
    verify: bool = setting(False, recorded=False, help="Hash every file again and check every value.")
    script: bool = setting(False, recorded=False, help="Print a shell script that rebuilds it, and nothing else.")


@dataclass(frozen=True, kw_only=True)
class OnePrompt(Prompting):
    """The prompt of which row to print, and whose tokens."""

    row: int | None = setting(
        None, metavar="N", recorded=False, help="Print the prompt of this row of the log (or of items.parquet)."
    )
    llm: str | None = setting(
        None, metavar="NAME|PATH", recorded=False, help="Model whose tokenizer reads it; a tokenizer is enough."
    )
    tokens: str | None = setting(
        None,
        metavar="NAMES",
        recorded=False,
        help="Which of user, item, warm and history it has embeddings of, with commas; by default it is text alone.",
    )
    tokens_per_id: int = setting(1, metavar="N", recorded=False, help="Embeddings in each such place.")

    def __post_init__(self) -> None:
        super().__post_init__()
        given = {"--prompt": self.prompt, "--row": self.row, "--llm": self.llm}
        missing = [flag for flag, value in given.items() if value is None]
        if missing and len(missing) < len(given):
            raise RectoolError(f"a prompt is printed with --prompt NAME --row N --llm PATH; {missing[0]} is missing")
        if self.tokens_per_id < 1:
            raise RectoolError(f"--tokens-per-id {self.tokens_per_id} must be at least 1")

    def soft(self) -> dict[str, int]:
        """How many embeddings stand in each place."""
        names = (name.strip() for name in (self.tokens or "").split(","))
        return {name: self.tokens_per_id for name in names if name}


def register(app: typer.Typer) -> None:
    command(
        app,
        "inspect",
        examples=[
            "rectool inspect data/ml-100k",
            "rectool inspect data/ml-100k --verify",
            "rectool inspect runs/mf --script > rebuild.sh",
            "rectool inspect data/ml-100k --prompt collm-text --row 1000 --llm runs/nano",
            "rectool inspect data/ml-100k --prompt collm --tokens user,item --row 1000 --llm runs/nano",
        ],
    )(inspect)


def inspect(inspection: Inspection, one_prompt: OnePrompt, elsewhere: Elsewhere, talk: Talk) -> None:
    """What an artifact is: counts, settings, files, lineage, the commands that rebuild it; or one of its prompts."""
    from rectool.artifacts import lineage, open_artifact

    if one_prompt.prompt is not None:
        _show_prompt(inspection, one_prompt, elsewhere)
        return
    artifact = open_artifact(inspection.path, elsewhere=elsewhere.parents())
    origin = lineage.tree(artifact)
    lineage.refuse_unknown(origin, elsewhere.parents())
    if inspection.script:
        for gap in filter(None, map(lineage.gap, lineage.parents_first(origin))):
            console.say(gap)
        console.show(lineage.script(origin).rstrip("\n"))
        console.result({"script": lineage.script(origin)})
        return
    if inspection.verify:
        with console.step("hashing and checking"):
            artifact.verify()
    _show(artifact, origin, verified=inspection.verify)
    console.result(
        {
            "artifact": str(artifact.path),
            "verified": inspection.verify,
            **asdict(artifact.manifest),
            "lineage": _nodes(origin, verify=inspection.verify),
        }
    )


def _show_prompt(inspection: Inspection, one_prompt: OnePrompt, elsewhere: Elsewhere) -> None:
    from rectool.artifacts import open_artifact
    from rectool.data.dataset import Dataset
    from rectool.llm.backbone import find_tokenizer
    from rectool.prompts import template
    from rectool.prompts.prompts import Prompts
    from rectool.prompts.show import show

    if inspection.verify or inspection.script:
        raise RectoolError("--prompt prints a prompt and nothing else; leave --verify and --script out")
    assert one_prompt.prompt is not None
    assert one_prompt.row is not None
    assert one_prompt.llm is not None
    artifact = open_artifact(inspection.path, "dataset", elsewhere=elsewhere.parents())
    about_items = template.load(one_prompt.prompt).task == "item"
    rows = artifact.manifest.counts["items" if about_items else "interactions"]
    if not 0 <= one_prompt.row < rows:
        table = "items.parquet" if about_items else "interactions.parquet"
        raise RectoolError(f"--row {one_prompt.row} is not a row of {artifact.file(table)}, which has {rows:,}, from 0")
    tokenizer = find_tokenizer(one_prompt.llm)
    prompts = Prompts.chosen(one_prompt, tokenizer, default=one_prompt.prompt, soft=one_prompt.soft())
    shown = show(prompts, Dataset(artifact), one_prompt.row)
    for line in shown.lines(prompts):
        console.show(line)
    console.result(shown.json(prompts))


def _show(artifact: Artifact, origin: Node, *, verified: bool) -> None:
    from rectool.artifacts import documents, lineage, manifest

    made = artifact.manifest
    console.show(
        f"{artifact.path}: {made.kind}, made {made.run.get('started', 'some time ago')} by rectool {made.rectool}"
    )
    console.show(f"digest {made.digests['artifact']}" + (" (verified)" if verified else ""))
    if made.counts:
        console.table("counts", ("", ""), [(name, f"{count:,}") for name, count in made.counts.items()])
    if made.kind == "dataset" and "splits" in made.metrics:
        from rectool.data import statistics

        with documents.understood(artifact.file(manifest.NAME), "rectool prep"):
            statistics.show(made.metrics)
    settings = {**made.settings, "seed": made.seed}
    console.table("settings", ("", ""), [(name, str(value)) for name, value in settings.items() if value is not None])
    files = [(name, f"{record.bytes:,}", record.sha256[7:19]) for name, record in made.files.items()]
    console.table("files", ("", "bytes", "sha256"), files)
    console.show("lineage")
    console.show(_tree(origin, verify=verified))
    console.show("made by")
    for step in lineage.steps(origin):
        console.show(f"  {step.line}")


def _tree(node: Node, *, verify: bool) -> Tree:
    from rich.text import Text
    from rich.tree import Tree

    tree = Tree(Text(console.printable(_line(node, verify=verify))))
    for child in node.children:
        tree.add(_tree(child, verify=verify))
    return tree


def _line(node: Node, *, verify: bool) -> str:
    kind = node.artifact.manifest.kind if node.artifact else node.parent.kind if node.parent else ""
    role = f"{node.parent.role}: " if node.parent else ""
    source = f" from {node.parent.url}" if node.parent and node.parent.url else ""
    name = node.path if node.is_on_hub else os.path.relpath(node.path)
    return f"{role}{name} ({kind}, {_state(node, verify=verify)}){source}"


def _state(node: Node, *, verify: bool) -> str:
    if not node.is_there():
        return "not there any more"
    if node.is_lost:
        return "no artifact any more"
    if node.parent is not None and node.is_on_hub:
        return f"commit {node.parent.digests.get('commit', 'unknown')}"
    if node.artifact is None and verify:
        return "unchanged" if node.is_unchanged else "CHANGED since"
    digest = node.artifact.manifest.digests["artifact"] if node.artifact else ""
    return digest[7:19] or "there"


def _nodes(node: Node, *, verify: bool) -> dict[str, Any]:
    return {
        "path": str(node.path),
        "role": node.parent.role if node.parent else None,
        "state": _state(node, verify=verify),
        "parents": [_nodes(child, verify=verify) for child in node.children],
    }
