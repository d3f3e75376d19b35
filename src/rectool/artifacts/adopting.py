"""Taking in files that another program wrote: checked value by value, then given a manifest."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from rectool import __version__
from rectool.artifacts import checking, digests, folder, kinds, manifest
from rectool.artifacts.artifact import Artifact
from rectool.artifacts.draft import file_records
from rectool.artifacts.inputs import Input
from rectool.artifacts.manifest import Manifest
from rectool.errors import RectoolError, disk_errors


def check(directory: Path, kind: str, data: Artifact | None, *, seed: int = 0) -> Manifest:
    """Check every value of the files, and describe them.

    Args:
        kind: what they are said to be.
        data: the data set that they belong to; a dataset belongs to none.

    Raises:
        RectoolError: names the file and row that is wrong, or the flag that is missing.
    """
    expected = kinds.named(kind)
    if not directory.is_dir():
        raise RectoolError(f"{directory} is not a folder")
    if expected.binds and data is None:
        raise RectoolError(f"--kind {kind} belongs to a data set; name it with --data DATA")
    if not expected.binds and data is not None:
        raise RectoolError(f"--kind {kind} belongs to no data set; leave out --data")
    checking.contents(directory, expected, data.manifest.counts if data is not None else None)
    files = {name: record for name, record in file_records(directory).items() if name in expected.files}
    parents = [Input("dataset", data.path, artifact=data).parent(directory, kind)] if data is not None else []
    return Manifest(
        kind=kind,
        kind_version=expected.version,
        rectool=__version__,
        command=[],
        directory=".",
        settings={},
        seed=seed,
        parents=parents,
        files=files,
        digests={
            "artifact": digests.of_artifact(kind, files),
            **(digests.of_dataset(directory) if kind == "dataset" else {}),
        },
        counts=checking.headers(directory, expected),
        run={"started": datetime.now(UTC).isoformat(timespec="seconds")},
    )


def refuse_made(directory: Path) -> None:
    """Raises RectoolError if the folder has a manifest."""
    if (directory / manifest.NAME).exists():
        raise RectoolError(f"{directory} has a manifest already; --overwrite replaces it")


def is_made(directory: Path, made: Manifest) -> bool:
    """Whether the folder has a manifest that says the same of the same files."""
    if not (directory / manifest.NAME).exists():
        return False
    there = manifest.read(directory)
    return (there.kind, there.digests, there.parents, there.seed) == (made.kind, made.digests, made.parents, made.seed)


def write(directory: Path, made: Manifest, *, replace: bool) -> None:
    """Write the manifest into the folder.

    Raises:
        RectoolError: one is there and is not to be replaced, or the folder cannot be written.
    """
    if not replace:
        refuse_made(directory)
    with folder.lock(folder.real(directory)), disk_errors(directory):
        folder.write_durably(directory / manifest.NAME, made.to_json())
