"""What stands on the disk after a disturbance, and when two artifacts are the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from children import Child

MANIFEST = "rectool.json"
UNFINISHED = f".{MANIFEST}.partial"
TIMES = ("started", "wall_seconds", "peak_memory_bytes")
"""Of a manifest's `run`: what no two runs have in common."""
HOW = ("--overwrite", "--update", "--resume")
"""Flags that decide what becomes of what is there, not what is made."""


def content(artifact: Path) -> dict[str, Any]:
    """All of an artifact that two runs must have in common, by file: bytes, and what the manifest says but for times.

    That is the one definition of "the same artifact" here: every file byte for byte; the manifest without when it
    was made, how long that took and how much memory, without rates (`..._per_second`), and without `HOW`. The
    manifest of a part (`projector/rectool.json`) is compared in the same way, and left out of the whole one's list of
    files. What `adopt`, which writes into the folder itself, leaves of its manifest when it is killed is no part of it.
    """
    found: dict[str, Any] = {}
    for path in sorted(path for path in artifact.rglob("*") if path.is_file() and path.name != UNFINISHED):
        name = path.relative_to(artifact).as_posix()
        found[name] = _timeless(json.loads(path.read_text())) if path.name == MANIFEST else path.read_bytes()
    return found


def _timeless(manifest: dict[str, Any]) -> dict[str, Any]:
    run = {key: value for key, value in manifest["run"].items() if key not in TIMES}
    metrics = {key: value for key, value in manifest["metrics"].items() if not key.endswith("_per_second")}
    command = [word for word in manifest["command"] if word not in HOW]
    files = {name: record for name, record in manifest["files"].items() if not name.endswith(f"/{MANIFEST}")}
    return {**manifest, "run": run, "metrics": metrics, "command": command, "files": files}


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """The names of files that are not the same; of a manifest, of its entries."""
    names = [name for name in sorted({*one, *other}) if one.get(name) != other.get(name)]
    if names == [MANIFEST]:
        mine, theirs = one.get(MANIFEST, {}), other.get(MANIFEST, {})
        return [f"{MANIFEST}: {key}" for key in sorted({*mine, *theirs}) if mine.get(key) != theirs.get(key)]
    return names


def standing(folder: Path) -> int | None:
    """The seed of what `rectool inspect x --verify` finds in a folder; None if there is nothing.

    Raises:
        AssertionError: there is something, and it is not whole.
    """
    reader = Child(folder, ("inspect", "x", "--verify", "--json"))
    code = reader.wait()
    if code == 0:
        return int(json.loads((folder / "x" / MANIFEST).read_text())["seed"])
    assert code == 2, f"inspect ended with {code}: {reader.said}"
    assert not (folder / "x" / MANIFEST).exists(), f"what is there is not whole: {reader.said}"
    assert not (folder / ".x.old").exists(), f"the old one is there, but out of reach: {reader.said}"
    return None


def has_checkpoint(folder: Path) -> bool:
    """Whether there is a run to be continued."""
    return any(folder.glob(".x.partial/checkpoints/step-*/state.json"))
