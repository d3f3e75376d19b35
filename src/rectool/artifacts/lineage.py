"""Where an artifact comes from: the tree back to the raw files, and the commands that rebuild it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rectool.artifacts import digests, folder
from rectool.artifacts.artifact import Artifact, ancestors
from rectool.artifacts.manifest import RAW, Parent


@dataclass(frozen=True)
class Node:
    """One artifact or raw file in the lineage.

    Attributes:
        parent: how its child records it; None for the artifact that was asked for.
        artifact: None for a raw file, and for an artifact that is not where it was.
    """

    path: Path
    parent: Parent | None = None
    artifact: Artifact | None = None
    children: list[Node] = field(default_factory=list)

    def is_there(self) -> bool:
        return self.path.exists()

    def is_unchanged(self) -> bool:
        """Whether a raw file that is there has the bytes it had; hashes it."""
        return (
            self.parent is None
            or self.parent.kind != RAW
            or self.parent.digests == {"file": digests.of_file(self.path)}
        )


def tree(artifact: Artifact) -> Node:
    """The artifact with everything it was made of, as far as it can be found."""
    return _node(artifact, None)


def script(artifact: Artifact) -> str:
    """A shell script that runs the recorded commands, parents first, skipping what is up to date.

    It stands on its own: each command runs in the folder it was run in.
    """
    lines = ["#!/usr/bin/env bash", f"# Rebuilds {artifact.path.name}.", "set -euo pipefail"]
    at = None
    for node in _parents_first(tree(artifact)):
        if node.artifact is None:
            continue
        made = node.artifact.manifest
        where = os.path.normpath(folder.real(node.path) / made.directory)
        if where != at:
            lines.append(f"cd {shlex.quote(where)}")
            at = where
        lines.append(shlex.join([*made.command, "--update"]) if made.command else f"# {node.path} was adopted")
    return "\n".join(lines) + "\n"


def _node(artifact: Artifact, parent: Parent | None) -> Node:
    node = Node(artifact.path, parent, artifact)
    for above, opened in ancestors(artifact):
        node.children.append(_node(opened, above) if opened else Node(artifact.parent_path(above), above))
    return node


def _parents_first(node: Node, seen: set[Path] | None = None) -> Iterator[Node]:
    seen = set() if seen is None else seen
    for child in node.children:
        yield from _parents_first(child, seen)
    path = folder.real(node.path)
    if path not in seen:
        seen.add(path)
        yield node
