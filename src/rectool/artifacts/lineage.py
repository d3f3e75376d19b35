"""Where an artifact comes from: the tree back to the raw files, and the commands that rebuild it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path

from rectool.artifacts import digests, folder
from rectool.artifacts.artifact import Artifact, ancestors, is_there, open_artifact
from rectool.artifacts.manifest import HUB, RAW, Parent
from rectool.errors import RectoolError


@dataclass(frozen=True)
class Node:
    """One artifact, raw file or model of a hub in the lineage.

    Attributes:
        parent: how its child records it; None for the artifact that was asked for.
        stood: where it stood when its child was made, or would if all of this had been moved together; of the
            artifact that was asked for, and of a model of a hub, the path.
        artifact: None for a raw file, a model of a hub, and an artifact that is not found.
    """

    path: Path
    stood: Path
    parent: Parent | None = None
    artifact: Artifact | None = None
    children: list[Node] = field(default_factory=list)

    @property
    def is_on_hub(self) -> bool:
        return self.parent is not None and self.parent.kind == HUB

    @property
    def is_lost(self) -> bool:
        """Whether it is an artifact that is not found."""
        return self.parent is not None and self.parent.is_artifact and self.artifact is None

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


@dataclass(frozen=True)
class Step:
    """A line of what rebuilds a lineage.

    Attributes:
        where: the folder that the command runs in.
        line: the command as it was run, or a comment.
        again: the command as it rebuilds, or the comment.
        artifact: what it made, or None.
    """

    where: str
    line: str
    again: str
    artifact: Artifact | None = field(compare=False)


def tree(artifact: Artifact) -> Node:
    """The artifact with everything it was made of, as far as it can be found.

    A parent is looked for as `Artifact.parent_path` says; then where a `--parent` of a command that was recorded
    further up says, and where it would be if what it is a parent of had not been moved.
    """
    return _node(artifact, None, folder.real(artifact.path), {})


def parents_first(node: Node, seen: set[Path] | None = None) -> Iterator[Node]:
    """Everything in a lineage, parents before what is made from them, each once."""
    seen = set() if seen is None else seen
    for child in node.children:
        yield from parents_first(child, seen)
    path = folder.real(node.path)
    if path not in seen:
        seen.add(path)
        yield node


def steps(origin: Node) -> list[Step]:
    """What rebuilds everything in a lineage, parents first; comments say what no command is known for.

    What has been moved is made where it stood, since there the commands of what is made from it look for it.
    """
    found = []
    for node in parents_first(origin):
        note = gap(node)
        if note is not None:
            found.append(_remark(note))
        if node.artifact is None:
            continue
        made = node.artifact.manifest
        if not made.command:
            adopted = _comment(f"{node.path} was adopted")
            found.append(Step("", adopted, adopted, node.artifact))
            continue
        if folder.real(node.path) != folder.real(node.stood):
            found.append(_remark(f"{folder.real(node.path)} is made anew where it stood: {node.stood}"))
        line, again = (" ".join(map(quoted, words)) for words in (made.command, _rebuilding(node)))
        found.append(Step(_directory(node), line, f"{again} --update", node.artifact))
    return found


def gap(node: Node) -> str | None:
    """What a script lacks that is to make this, for people."""
    if node.is_lost and node.parent is not None:
        state = "is no artifact any more" if node.is_there() else "is not there any more"
        return (
            f"made by a command that is not known: {node.stood} {state} (--parent {node.parent.role}=PATH says "
            "where it is)"
        )
    out = _out(node)
    if out is not None and not folder.real(node.stood).is_relative_to(folder.real(out)):
        return f"{node.stood} was moved after it was made: its command makes {out}"
    return None


def script(origin: Node) -> str:
    """A shell script that runs the recorded commands, parents first, skipping what is up to date.

    It stands on its own: each command runs in the folder it was run in.
    """
    lines = ["#!/usr/bin/env bash", _comment(f"Rebuilds {folder.real(origin.path).name}."), "set -euo pipefail"]
    at = None
    for step in steps(origin):
        if step.where not in ("", at):
            lines.append(f"cd {quoted(step.where)}")
            at = step.where
        lines.append(step.again)
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


def _remark(text: str) -> Step:
    return Step("", _comment(text), _comment(text), None)


def _directory(node: Node) -> str:
    """Where the command of an artifact ran."""
    assert node.artifact is not None
    return os.path.normpath(node.stood / node.artifact.manifest.directory)


def _out(node: Node) -> Path | None:
    """The folder that the command of an artifact makes; None where it does not say."""
    words = node.artifact.manifest.command if node.artifact is not None else []
    given = [after for word, after in pairwise(words) if word == "--out"]
    return Path(os.path.normpath(Path(_directory(node), given[-1]))) if given else None


def _rebuilding(node: Node) -> list[str]:
    """The command of an artifact without the places of moved parents that are made where they stood."""
    assert node.artifact is not None
    again = {
        each.parent.role
        for each in parents_first(node)
        if each.parent and each.artifact and each.artifact.manifest.command
    }
    words: list[str] = []
    for word in node.artifact.manifest.command:
        if words[-1:] == ["--parent"] and word.partition("=")[0] in again:
            words.pop()
        else:
            words.append(word)
    return words


def _named(node: Node) -> dict[str, Path]:
    """The places of parents that the command of an artifact was told."""
    words = node.artifact.manifest.command if node.artifact is not None else []
    given = [after.partition("=") for word, after in pairwise(words) if word == "--parent"]
    return {role: Path(_directory(node), path) for role, _, path in given}


def _node(artifact: Artifact, parent: Parent | None, stood: Path, named: Mapping[str, Path]) -> Node:
    node = Node(artifact.path, stood, parent, artifact)
    named = {**_named(node), **named}
    for above, opened in ancestors(artifact):
        path = artifact.parent_path(above)
        if above.kind == HUB:
            node.children.append(Node(path, path, above))
            continue
        place = Path(os.path.normpath(stood / above.path))
        if above.is_artifact and opened is None:
            opened = _opened(artifact, above, [*([named[above.role]] if above.role in named else []), place])
        if opened is not None:
            node.children.append(_node(opened, above, place, named))
        else:
            node.children.append(Node(path if path.exists() or not place.exists() else place, place, above))
    return node


def _opened(artifact: Artifact, parent: Parent, places: Iterable[Path]) -> Artifact | None:
    """A parent at the first of some places at which it stands; None where it stands at none."""
    below = (*artifact.below, folder.real(artifact.path))
    for place in places:
        with suppress(RectoolError):
            if is_there(place) and folder.real(place) not in below:
                found = open_artifact(place, parent.kind, elsewhere=artifact.elsewhere, below=below)
                artifact.check_parent(parent, found)
                return found
    return None
