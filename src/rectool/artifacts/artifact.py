"""Opening an artifact: strictly, before any work is done with it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rectool.artifacts import checking, digests, folder, kinds, manifest
from rectool.artifacts.manifest import Manifest, Parent
from rectool.errors import RectoolError, WrongKind


@dataclass(frozen=True)
class Artifact:
    """An artifact that has been opened: its manifest and the headers of its files are sound.

    Attributes:
        path: its folder, as it was named.
        manifest: what it says of itself.
        elsewhere: parents that were named by hand (`--parent ROLE=PATH`), by role.
        below: the folders through whose parents this one was reached.
    """

    path: Path
    manifest: Manifest
    elsewhere: Mapping[str, Path] = field(default_factory=dict)
    below: tuple[Path, ...] = ()

    def file(self, name: str) -> Path:
        """Where a file of it stands. Raises RectoolError where that is no file, or leads out of the artifact."""
        return checking.inside(self.path, name)

    def parent(self, role: str) -> Artifact:
        """Open a parent, found by its relative path or named by `--parent`.

        Raises:
            RectoolError: it has no such parent, the parent is not there, or it is not the one it was.
        """
        for parent in self.manifest.parents:
            if parent.role == role:
                if not parent.is_artifact:
                    raise RectoolError(f"{self.path}: its {role} {parent.path} is no artifact")
                return self._open_parent(parent)
        roles = ", ".join(parent.role for parent in self.manifest.parents) or "none"
        raise RectoolError(f"{self.path} has no parent {role!r}; its parents are: {roles}")

    def parent_path(self, parent: Parent) -> Path:
        """Where a parent is expected: as named by hand, else relative to this artifact; of a hub's model its name."""
        if parent.kind == manifest.HUB:
            return self.elsewhere.get(parent.role, Path(parent.path))
        return self.elsewhere.get(parent.role, self.path / parent.path)

    def verify(self) -> None:
        """Hash every file again and check every value.

        Raises:
            RectoolError: names the first file that differs, with both digests.
        """
        for name, record in self.manifest.files.items():
            found = digests.of_file(self.file(name))
            if found != record.sha256:
                raise RectoolError(f"{self.file(name)} has changed: it was {record.sha256}, it is {found}")
        kind = kinds.named(self.manifest.kind)
        checking.contents(self.path, kind)
        if kind.name == "dataset":
            for name, found in digests.of_dataset(self.path).items():
                _same_digest(self.path, name, self.manifest.digests.get(name, "absent"), found)

    def _open_parent(self, parent: Parent) -> Artifact:
        path = self.parent_path(parent)
        if not path.exists() and not folder.is_cut_short(path, is_whole):
            raise RectoolError(
                f"{self.path} was made from {path} ({parent.role}), which is not there; "
                f"say where it is with --parent {parent.role}=PATH"
            )
        below = (*self.below, folder.real(self.path))
        if folder.real(path) in below:
            raise RectoolError(f"{self.path} is damaged: its {parent.role} {path} is made from {self.path} itself")
        opened = open_artifact(path, parent.kind, elsewhere=self.elsewhere, below=below)
        self.check_parent(parent, opened)
        return opened

    def check_parent(self, parent: Parent, opened: Artifact) -> None:
        """Raises RectoolError, naming both digests, if `opened` is not what this artifact was made from."""
        free = kinds.named(self.manifest.kind).follows if parent.kind == "dataset" else ()
        for name, digest in parent.digests.items():
            if name in free:
                continue
            found = opened.manifest.digests.get(name, "absent")
            if found != digest:
                before = os.path.normpath(self.path / parent.path)
                raise RectoolError(
                    f"{self.path} was made from a {parent.role} whose {name} is {digest}, but {opened.path} has "
                    f"{found}; the one it was made from stood at {before}: name that one (--parent {parent.role}=PATH "
                    f"where no place is given to it), or make {self.path} again"
                )


def open_artifact(
    path: Path,
    kind: str | None = None,
    *,
    elsewhere: Mapping[str, Path] | None = None,
    verify: bool = False,
    below: tuple[Path, ...] = (),
) -> Artifact:
    """Open an artifact after checking kind, versions, files, schemas, counts and its parents' digests.

    A swap that a kill cut short is finished first. Parents that are not there are not an error until
    they are asked for; a parent that is there must be the one it was.

    Args:
        kind: the kind that is needed, or None for any.
        elsewhere: where parents lie, by role, if not where they were.
        verify: hash every file again and check every value.
        below: for `Artifact.parent`: the folders through whose parents this one is reached.

    Raises:
        RectoolError: one line that names the file and what to do.
    """
    path = folder.no_uri(path)
    while True:
        folder.settle(path, is_whole)
        before = folder.identity(path)
        try:
            artifact = _open(path, kind, elsewhere or {}, below)
            if verify:
                artifact.verify()
            return artifact
        except (OSError, RectoolError) as problem:
            if folder.identity(path) != before:  # replaced by a writer while it was read
                continue
            if before is None and folder.is_cut_short(path, is_whole):  # or about to be
                continue
            if isinstance(problem, OSError):
                raise RectoolError(f"{path} cannot be read: {problem.strerror}") from problem
            raise


def _open(path: Path, kind: str | None, elsewhere: Mapping[str, Path], below: tuple[Path, ...]) -> Artifact:
    if not path.exists():
        if folder.partial_of(folder.real(path)).exists():
            raise RectoolError(f"{path} is not finished; the command that makes it goes on with --resume or --update")
        made_by = f"; make one with: {kinds.named(kind).made_by}" if kind else ""
        raise RectoolError(f"{path} does not exist{made_by}")
    if not path.is_dir():
        made_by = f"; rectool prep table {path} --out DIR makes a dataset of a table" if kind == "dataset" else ""
        raise RectoolError(f"{path} is a file, but an artifact is a folder{made_by}")
    found = manifest.read(path)
    if found.kind not in kinds.KINDS:
        raise RectoolError(
            f"{path} is of kind {found.kind!r}, written by rectool {found.rectool}; this rectool knows only "
            f"{', '.join(kinds.KINDS)}: upgrade with: pip install -U 'rectool>={found.rectool}'"
        )
    expected = kinds.named(found.kind)
    if kind is not None and found.kind != kind:
        if (path / kind / manifest.NAME).exists():
            raise RectoolError(f"{path} is {kinds.an(found.kind)} artifact; name the {kind} in it: {path / kind}")
        raise WrongKind(
            f"{path} is {kinds.an(found.kind)} artifact, but {kinds.an(kind)} is needed; make one with: "
            f"{kinds.named(kind).made_by}",
            kind,
        )
    if found.kind_version > expected.version:
        raise RectoolError(
            f"{path} has version {found.kind_version} of kind {found.kind}, written by rectool {found.rectool}; "
            f"this rectool reads up to {expected.version}: upgrade with: pip install -U 'rectool>={found.rectool}'"
        )
    artifact = Artifact(path, found, elsewhere, below)
    _check_files(artifact)
    _same_digest(path, "artifact", found.digests["artifact"], digests.of_artifact(found.kind, found.files))
    for name, count in checking.headers(path, expected).items():
        if found.counts.get(name) != count:
            said = f"{found.counts[name]:,}" if name in found.counts else "an unknown number of"
            raise RectoolError(f"{path} should have {said} {name}, but its files have {count:,}")
    for parent in found.parents:
        if parent.is_artifact and (parent.role in elsewhere or is_there(artifact.parent_path(parent))):
            artifact.parent(parent.role)
    return artifact


def is_whole(directory: Path) -> bool:
    """Whether a folder was written to its end: the manifest is written last."""
    return manifest_exists(directory)


def manifest_exists(directory: Path) -> bool:
    return (directory / manifest.NAME).exists()


def binding(parent: Artifact, kind: str) -> dict[str, str]:
    """What of a parent an artifact of a kind records: of a data set its sub-digests, else all of it."""
    child = kinds.named(kind)
    names = (*child.binds, *child.follows) if parent.manifest.kind == "dataset" else ("artifact",)
    for name in names:
        if name not in parent.manifest.digests:
            raise RectoolError(f"{parent.path / manifest.NAME} is damaged: it has no field digests[{name!r}]")
    return {name: parent.manifest.digests[name] for name in names}


def ancestors(artifact: Artifact) -> Iterator[tuple[Parent, Artifact | None]]:
    """Each parent of an artifact with the artifact itself, or None for what is none and for what is not there."""
    for parent in artifact.manifest.parents:
        present = parent.is_artifact and is_there(artifact.parent_path(parent))
        yield parent, artifact.parent(parent.role) if present else None


def is_there(path: Path) -> bool:
    """Whether an artifact stands at a path, were it in a swap that was cut short."""
    return manifest_exists(path) or folder.is_cut_short(path, is_whole)


def _check_files(artifact: Artifact) -> None:
    expected = kinds.named(artifact.manifest.kind)
    for name in sorted(expected.files.keys() - expected.optional - artifact.manifest.files.keys()):
        raise RectoolError(f"{artifact.path / manifest.NAME} is damaged: it has no field files[{name!r}]")
    for name, record in artifact.manifest.files.items():
        path = checking.inside(artifact.path, name)
        if not path.is_file():
            raise RectoolError(f"{path} is missing, but the manifest names it; make {artifact.path} again")
        size = path.stat().st_size
        if size != record.bytes:
            raise RectoolError(f"{path} has {size:,} bytes, but was written with {record.bytes:,}; make it again")


def _same_digest(path: Path, name: str, expected: str, found: str) -> None:
    if expected != found:
        raise RectoolError(f"{path}: the digest of {name} was {expected}, it is {found}")
