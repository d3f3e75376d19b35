"""Where an artifact comes from: the tree back to the raw files, and the commands that rebuild it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from rectool.artifacts import digests, folder
from rectool.artifacts.artifact import Artifact, ancestors
from rectool.artifacts.manifest import HUB, RAW, Parent
from rectool.errors import RectoolError


@dataclass(frozen=True)
class Node:
    """One artifact, raw file or model of a hub in the lineage.

    Attributes:
        parent: how its child records it; None for the artifact that was asked for.
        artifact: None for a raw file, a model of a hub, and an artifact that is not where it was.
    """

    path: Path
    parent: Parent | None = None
    artifact: Artifact | None = None
    children: list[Node] = field(default_factory=list)

    @property
    def is_on_hub(self) -> bool:
        return self.parent is not None and self.parent.kind == HUB

    def is_there(self) -> bool:
        return self.is_on_hub or self.path.exists()

    @cached_property
    def is_unchanged(self) -> bool:
        """Whether a raw file that is there has the bytes it had; hashes it, once."""
        return (
            self.parent is None
            or self.parent.kind != RAW
            or self.parent.digests == {"file": digests.of_file(self.path)}
        )


def tree(artifact: Artifact) -> Node:
    """The artifact with everything it was made of, as far as it can be found."""
    return _node(artifact, None)


def parents_first(node: Node, seen: set[Path] | None = None) -> Iterator[Node]:
    """Everything in a lineage, parents before what is made from them, each once."""
    seen = set() if seen is None else seen
    for child in node.children:
        yield from parents_first(child, seen)
    path = folder.real(node.path)
    if path not in seen:
        seen.add(path)
        yield node


def commands(origin: Node) -> list[tuple[str, str]]:
    """(folder, command line) of everything in a lineage that a command made, parents first."""
    steps = []
    for node in parents_first(origin):
        if node.artifact is not None:
            made = node.artifact.manifest
            where = os.path.normpath(folder.real(node.path) / made.directory)
            line = " ".join(map(quoted, made.command)) if made.command else _comment(f"{node.path} was adopted")
            steps.append((where, line))
    return steps


def script(origin: Node) -> str:
    """A shell script that runs the recorded commands, parents first, skipping what is up to date.

    It stands on its own: each command runs in the folder it was run in.
    """
    lines = ["#!/usr/bin/env bash", _comment(f"Rebuilds {folder.real(origin.path).name}."), "set -euo pipefail"]
    at = None
    for where, line in commands(origin):
        if where != at:
            lines.append(f"cd {quoted(where)}")
            at = where
        lines.append(line if line.startswith("#") else f"{line} --update")
    return "\n".join(lines) + "\n"


def refuse_unknown(origin: Node | None, named: Iterable[str]) -> None:
    """Raises RectoolError if `--parent` names a role that nothing in a lineage has."""
    for role in sorted(set(named) - (_roles(origin) if origin is not None else set())):
        raise RectoolError(f"--parent {role}: nothing that is read here was made from a parent of this role")


def _roles(node: Node) -> set[str]:
    return {child.parent.role for child in node.children if child.parent}.union(*map(_roles, node.children))


def quoted(word: str) -> str:
    """A word as bash reads it back; what a terminal would obey is spelled out."""
    if word.isprintable():
        return shlex.quote(word)
    spelled = (_plain(letter) or "".join(f"\\x{byte:02x}" for byte in letter.encode()) for letter in word)
    return f"$'{''.join(spelled)}'"


def _plain(letter: str) -> str:
    return letter if letter.isprintable() and letter not in "'\\" else ""


def _comment(text: str) -> str:
    return "# " + " ".join(text.splitlines())


def _node(artifact: Artifact, parent: Parent | None) -> Node:
    node = Node(artifact.path, parent, artifact)
    for above, opened in ancestors(artifact):
        node.children.append(_node(opened, above) if opened else Node(artifact.parent_path(above), above))
    return node
