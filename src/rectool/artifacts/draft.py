"""Writing an artifact: into a partial folder first, put in its place only when it is whole."""

from __future__ import annotations

import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from rectool import __version__
from rectool.artifacts import checking, digests, folder, kinds, manifest
from rectool.artifacts.artifact import is_whole, manifest_exists
from rectool.artifacts.manifest import FileRecord, Manifest, Parent
from rectool.errors import RectoolError, disk_errors

LIBRARIES = ("duckdb", "numpy", "pyarrow", "safetensors", "torch", "transformers", "peft")


@dataclass(frozen=True)
class Making:
    """How an artifact is made: what its manifest says beside what it holds."""

    command: Sequence[str]
    settings: Mapping[str, Any]
    seed: int
    parents: Sequence[Parent]


@dataclass
class Draft:
    """An artifact being written.

    Attributes:
        path: the folder to write its files into.
        scratch: a folder for temporary files, removed with the draft.
        digests: sub-digests, filled in by whoever writes the files.
        metrics: figures for the manifest, likewise.
    """

    path: Path
    scratch: Path
    digests: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)


@contextmanager
def write(
    out: Path, kind: str, making: Making, *, replace: bool = False, temp_dir: Path | None = None
) -> Iterator[Draft]:
    """Write an artifact to `out`; leaving the block without an error puts it in its place.

    After an error or an interrupt nothing is left of the draft; after a kill a `.NAME.partial` may
    be, which the next writer removes. An artifact that stood at `out` stays until the new one is whole.

    Args:
        replace: replace an artifact that is there.
        temp_dir: where to keep temporary files, if not beside the artifact.

    Raises:
        RectoolError: `out` exists, is being written by another process, or the disk refuses.
    """
    out = folder.real(out)
    started = datetime.now(UTC)
    clock = time.monotonic()
    with folder.lock(out):
        folder.settle_locked(out, is_whole)
        refuse_foreign(out)
        if manifest_exists(out) and not replace:
            raise exists_error(out)
        partial = folder.partial_of(out)
        with disk_errors(out, "choose another --out"):
            if partial.exists():
                shutil.rmtree(partial)
            partial.mkdir()
        try:
            with disk_errors(out, "choose another --out"):
                draft = Draft(partial, _make_scratch(partial, temp_dir))
                try:
                    yield draft
                except BaseException:
                    shutil.rmtree(draft.scratch, ignore_errors=True)
                    raise
                shutil.rmtree(draft.scratch)
                manifest_text = _describe(draft, kind, making, out, started, time.monotonic() - clock).to_json()
                folder.sync_tree(partial)
                folder.write_durably(partial / manifest.NAME, manifest_text)
                if out.is_dir() and not any(out.iterdir()):
                    out.rmdir()
                folder.replace(out, is_whole)
        finally:
            folder.discard_partial(out)


def file_records(directory: Path) -> dict[str, FileRecord]:
    """Size and digest of every file under a folder, its manifest aside."""
    names = sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())
    return {
        name: FileRecord((directory / name).stat().st_size, digests.of_file(directory / name))
        for name in names
        if name != manifest.NAME
    }


def exists_error(out: Path) -> RectoolError:
    return RectoolError(
        f"{out} exists already; --update keeps it if nothing changed, --overwrite replaces it, or choose another --out"
    )


def refuse_foreign(out: Path) -> None:
    """Raises RectoolError if something stands at `out` that is neither an artifact nor an empty folder."""
    above = next(path for path in folder.real(out).parents if path.exists())
    if not above.is_dir():
        raise RectoolError(f"{out} cannot be a folder: {above} is a file; choose another --out")
    if not out.exists() or manifest_exists(out):
        return
    if not out.is_dir() or any(out.iterdir()):
        raise RectoolError(f"{out} exists and is not a rectool artifact; choose another --out")


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


def _describe(draft: Draft, kind: str, making: Making, out: Path, started: datetime, seconds: float) -> Manifest:
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
        run=_run(started, seconds),
    )


def _run(started: datetime, seconds: float) -> dict[str, Any]:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    libraries = {}
    for name in LIBRARIES:
        try:
            libraries[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "started": started.isoformat(timespec="seconds"),
        "wall_seconds": round(seconds, 3),
        "peak_memory_bytes": peak if sys.platform == "darwin" else peak * 1024,
        "device": "cpu",
        "world_size": 1,
        "python": ".".join(map(str, sys.version_info[:3])),
        "libraries": libraries,
    }
