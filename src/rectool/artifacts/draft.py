"""Writing an artifact: into a partial folder first, put in its place only when it is whole."""

from __future__ import annotations

import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from rectool import __version__, console
from rectool.artifacts import checking, digests, folder, kinds, manifest, unfinished
from rectool.artifacts.artifact import is_whole, manifest_exists
from rectool.artifacts.manifest import FileRecord, Manifest, Parent
from rectool.errors import RectoolError, Stopped, disk_errors
from rectool.stopping import undisturbed

LIBRARIES = ("duckdb", "matplotlib", "numpy", "pyarrow", "safetensors", "torch", "transformers", "peft")


@dataclass(frozen=True)
class Making:
    """How an artifact is made: what its manifest says beside what it holds."""

    command: Sequence[str]
    settings: Mapping[str, Any]
    seed: int
    parents: Sequence[Parent]
    world_size: int = 1

    def recipe(self, kind: str) -> dict[str, Any]:
        """All that must stay the same for a run to be continued, as JSON values."""
        return {
            "kind": kind,
            "kind_version": kinds.named(kind).version,
            "settings": dict(self.settings),
            "seed": self.seed,
            "parents": {parent.role: {"kind": parent.kind, **parent.digests} for parent in self.parents},
            "world_size": self.world_size,
        }

    def of_part(self, kind: str) -> Making:
        """How an artifact of a kind is made that lies in a folder of this one: of the same parents."""
        binds = (*kinds.named(kind).binds, *kinds.named(kind).follows)
        parents = []
        for parent in self.parents:
            path, bound = parent.path, parent.digests
            if parent.kind != manifest.HUB:
                path = Path(os.path.normpath(f"../{path}")).as_posix()
            if parent.kind == "dataset":
                bound = {name: digest for name, digest in bound.items() if name in binds}
            parents.append(replace(parent, path=path, digests=bound))
        return replace(self, parents=parents)


@dataclass
class Draft:
    """An artifact being written.

    Attributes:
        path: the folder to write its files into.
        scratch: a folder for temporary files, removed with the draft.
        resumed: whether `checkpoints` holds what an earlier run left, to be continued.
        digests: sub-digests, filled in by whoever writes the files.
        metrics: figures for the manifest, likewise.
        run: what the manifest says of the run, likewise, such as `device`.
        parts: artifacts that lie in folders of this one, each valid alone, by the folder's name: kind and draft.
    """

    path: Path
    scratch: Path
    resumed: bool = False
    digests: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    run: dict[str, Any] = field(default_factory=dict)
    parts: dict[str, tuple[str, Draft]] = field(default_factory=dict)

    def part(self, name: str, kind: str) -> Draft:
        """An artifact in a folder of this one: it gets its manifest when this one does."""
        path = self.path / name
        path.mkdir()
        draft = Draft(path, self.scratch, run=self.run)
        self.parts[name] = (kind, draft)
        return draft

    @property
    def checkpoints(self) -> Path:
        """The folder of what a later run needs to continue this one; it is no part of the artifact."""
        return self.path / folder.CHECKPOINTS


@contextmanager
def write(
    out: Path,
    kind: str,
    making: Making,
    *,
    replace: bool = False,
    temp_dir: Path | None = None,
    resumable: bool = False,
    resume: bool = False,
) -> Iterator[Draft]:
    """Write an artifact to `out`; leaving the block without an error puts it in its place.

    After an error or an interrupt nothing is left of the draft; after a kill a `.NAME.partial` may
    be, which the next writer removes. An artifact that stood at `out` stays until the new one is whole.
    From the moment the manifest is on disk the new one is whole: a kill after that loses nothing.

    Args:
        replace: replace an artifact that is there, and discard a run that stopped on its way there.
        temp_dir: where to keep temporary files, if not beside the artifact.
        resumable: after an error, an interrupt or a kill keep a draft that has a checkpoint.
        resume: continue such a draft, and replace an artifact that is there. Only its checkpoints are
            kept: all other files are written again.

    Raises:
        RectoolError: `out` exists, is being written by another process, or the disk refuses; a run
            stopped there, or there is none to resume, or it was made otherwise.
    """
    out = folder.real(out)
    clock = time.monotonic()
    with folder.lock(out):
        folder.settle_locked(out, is_whole, replace=resume)
        refuse_foreign(out)
        recipe = making.recipe(kind)
        earlier = unfinished.to_resume(out, recipe) if resume else None
        if not (replace or resume):
            refuse_existing(out)
        started = earlier.started if earlier else datetime.now(UTC).isoformat(timespec="seconds")
        seconds = earlier.seconds if earlier else 0.0
        partial = folder.partial_of(out)
        try:
            with disk_errors(out, "choose another --out"):
                if resume:
                    _keep_checkpoints(partial)
                else:
                    folder.discard_partial(out, manifest.NAME)
                    partial.mkdir()
                if resumable:
                    unfinished.record(out, recipe, started, seconds)
                draft = Draft(partial, _make_scratch(partial, temp_dir), resumed=resume)
                try:
                    yield draft
                except BaseException:
                    shutil.rmtree(draft.scratch, ignore_errors=True)
                    raise
                shutil.rmtree(draft.scratch)
                seconds += time.monotonic() - clock
                for name, (of_kind, part) in draft.parts.items():
                    described = _describe(part, of_kind, making.of_part(of_kind), out / name, started, seconds)
                    folder.write_durably(part.path / manifest.NAME, described.to_json())
                manifest_text = _describe(draft, kind, making, out, started, seconds).to_json()
                folder.sync_tree(partial)
                folder.write_durably(partial / manifest.NAME, manifest_text)
                folder.put_in_place(out)
        except BaseException as problem:
            with undisturbed(), suppress(OSError):  # where the disk refuses this, too, the next writer does it
                folder.put_back(out)
                if not (resumable and _is_of_use(partial)):
                    folder.discard_partial(out, manifest.NAME)
                elif not isinstance(problem, Stopped):
                    console.say(f"{out}: what was done up to the last checkpoint is kept; --resume continues it")
            raise


@contextmanager
def away(*, resumed: bool) -> Iterator[Draft]:
    """A draft for a process that helps to make an artifact which another one writes: all of it is thrown away."""
    with tempfile.TemporaryDirectory(prefix="rectool-") as path:
        scratch = Path(path, ".scratch")
        scratch.mkdir()
        yield Draft(Path(path), scratch, resumed=resumed)


def file_records(directory: Path) -> dict[str, FileRecord]:
    """Size and digest of every file under a folder, its manifest and checkpoints aside."""
    names = sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())
    return {
        name: FileRecord((directory / name).stat().st_size, digests.of_file(directory / name))
        for name in names
        if name != manifest.NAME and not name.startswith(folder.CHECKPOINTS + "/")
    }


def refuse_existing(out: Path) -> None:
    """Raises RectoolError if an artifact stands at `out`, or a run stopped on its way there."""
    if manifest_exists(out):
        raise RectoolError(
            f"{out} exists already; --update keeps it if nothing changed, --overwrite replaces it, "
            "or choose another --out"
        )
    unfinished.refuse(out)


def refuse_foreign(out: Path) -> None:
    """Raises RectoolError if an artifact cannot stand at `out`.

    It would lie in another artifact, which is replaced as a whole one day; or something is there that is neither an
    artifact nor an empty folder.
    """
    parents = folder.real(out).parents
    above = next((path for path in parents if path.exists()), None)
    if above is not None and not above.is_dir():
        raise RectoolError(f"{out} cannot be a folder: {above} is a file; choose another --out")
    inside = next((path for path in parents if manifest_exists(path)), None)
    if inside is not None:
        raise RectoolError(f"{out} would lie in the artifact {inside}; choose an --out beside it")
    if not out.exists() or manifest_exists(out):
        return
    if not out.is_dir() or any(out.iterdir()):
        raise RectoolError(f"{out} exists and is not a rectool artifact; choose another --out")


def _keep_checkpoints(partial: Path) -> None:
    """Remove all else from a partial folder."""
    for path in partial.iterdir():
        if path.is_dir() and path.name != folder.CHECKPOINTS:
            shutil.rmtree(path)
        elif not path.is_dir():
            path.unlink()


def _is_of_use(partial: Path) -> bool:
    """Whether a partial folder can be put in its place or continued."""
    return is_whole(partial) or bool(unfinished.checkpoints(partial / folder.CHECKPOINTS))


def _make_scratch(partial: Path, temp_dir: Path | None) -> Path:
    if temp_dir is not None:
        try:
            temp_dir.mkdir(parents=True, exist_ok=True)
            return Path(tempfile.mkdtemp(prefix="rectool-", dir=temp_dir))
        except OSError as problem:
            raise RectoolError(f"--temp-dir {temp_dir} cannot be written: {problem.strerror}") from problem
    scratch = partial / ".scratch"
    scratch.mkdir()
    return scratch


def _describe(draft: Draft, kind: str, making: Making, out: Path, started: str, seconds: float) -> Manifest:
    expected = kinds.named(kind)
    counts = checking.headers(draft.path, expected)
    files = file_records(draft.path)
    return Manifest(
        kind=kind,
        kind_version=expected.version,
        rectool=__version__,
        command=list(making.command),
        directory=Path(os.path.relpath(folder.real(Path.cwd()), out)).as_posix(),
        settings=dict(making.settings),
        seed=making.seed,
        parents=list(making.parents),
        files=files,
        digests={"artifact": digests.of_artifact(kind, files), **draft.digests},
        counts=counts,
        metrics=draft.metrics,
        run={**_run(making, started, seconds), **draft.run},
    )


def _run(making: Making, started: str, seconds: float) -> dict[str, Any]:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    libraries = {}
    for name in LIBRARIES:
        try:
            libraries[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "started": started,
        "wall_seconds": round(seconds, 3),
        "peak_memory_bytes": peak if sys.platform == "darwin" else peak * 1024,
        "device": "cpu",
        "world_size": making.world_size,
        "python": ".".join(map(str, sys.version_info[:3])),
        "libraries": libraries,
    }
