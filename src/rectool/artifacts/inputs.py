"""What an artifact is made from, as known before the work starts."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rectool.artifacts import digests, folder, kinds
from rectool.artifacts.artifact import Artifact, binding
from rectool.artifacts.manifest import HUB, RAW, Manifest, Parent
from rectool.errors import RectoolError


@dataclass(frozen=True)
class Input:
    """A raw file, an artifact, or a model of a hub that a command reads.

    Attributes:
        role: what it is to the new artifact, such as `ratings` or `dataset`.
        path: the name of a model of a hub stands here as it is.
        url: where a raw file was downloaded from, if it was.
        artifact: the opened artifact, if it is one.
        commit: of a model of a hub, if it is one.
    """

    role: str
    path: Path
    url: str | None = None
    artifact: Artifact | None = None
    commit: str | None = None

    def bytes(self) -> int:
        """Size of the raw file. Raises RectoolError where it cannot be read."""
        return self._stat().st_size

    def parent(self, out: Path, kind: str) -> Parent:
        """The record of this input in the manifest of an artifact of `kind` at `out`; hashes a raw file."""
        if self.commit is not None:
            return Parent(self.role, HUB, self.path.as_posix(), {"commit": self.commit})
        path = Path(os.path.relpath(folder.real(self.path), folder.real(out))).as_posix()
        if self.artifact is not None:
            return Parent(self.role, self.artifact.manifest.kind, path, binding(self.artifact, kind))
        status = self._stat()
        digest = {"file": digests.of_file(self.path)}
        return Parent(self.role, RAW, path, digest, status.st_size, status.st_mtime_ns, self.url)

    def unchanged(self, parent: Parent, kind: str) -> bool:
        """Whether this is what a manifest records; a raw file of the same size and time is not hashed again."""
        if self.artifact is not None:
            return parent.kind == self.artifact.manifest.kind and parent.digests == binding(self.artifact, kind)
        if self.commit is not None:
            return (parent.kind, parent.path, parent.digests) == (HUB, self.path.as_posix(), {"commit": self.commit})
        status = self._stat()
        if parent.kind != RAW or parent.bytes != status.st_size:
            return False
        return parent.modified == status.st_mtime_ns or parent.digests == {"file": digests.of_file(self.path)}

    def _stat(self) -> os.stat_result:
        try:
            found = self.path.stat()
        except OSError as problem:
            raise RectoolError(f"{self.path} cannot be read: {problem.strerror}") from None
        if not stat.S_ISREG(found.st_mode):
            raise RectoolError(f"{self.path} is not a file; write what it gives into one")
        return found


def standing(made: Artifact) -> set[Path] | None:
    """Where all that an artifact was made from stands, if each of it still is what it was.

    Returns:
        None where something is another one or gone, or is a model of a hub, of which only the hub knows.

    Raises:
        RectoolError: something of it cannot be read.
    """
    places = set()
    for parent in made.manifest.parents:
        if parent.kind == HUB:
            return None
        path = made.parent_path(parent)
        if not path.exists():
            return None
        source = Input(parent.role, path, artifact=made.parent(parent.role) if parent.is_artifact else None)
        if not source.unchanged(parent, made.manifest.kind):
            return None
        places.add(folder.real(path))
    return places


def changes(before: Mapping[str, object], now: Mapping[str, object]) -> list[str]:
    """What differs between two mappings, for people."""
    names = sorted(before.keys() | now.keys())
    return [f"{name} was {before.get(name)}, is {now.get(name)}" for name in names if before.get(name) != now.get(name)]


def same_making(
    made: Manifest, *, kind: str, kind_version: int, settings: dict[str, object], seed: int, inputs: Sequence[Input]
) -> str | None:
    """What differs between how an artifact was made and how it would be made now, or None.

    Returns:
        For people: the first setting or input that differs.
    """
    if (made.kind, made.kind_version) != (kind, kind_version):
        return f"it is {kinds.an(made.kind)} artifact of version {made.kind_version}"
    for change in changes({**made.settings, "seed": made.seed}, {**settings, "seed": seed}):
        return change
    before = {parent.role: parent for parent in made.parents}
    now = {item.role: item for item in inputs}
    for role in sorted(before.keys() | now.keys()):
        if role not in before or role not in now or not now[role].unchanged(before[role], kind):
            return f"{role} is another one"
    return None
