"""What a run that can be resumed leaves in its partial folder: how it is made, and its checkpoints.

`.NAME.partial/checkpoints/` holds `making.json` and a folder `step-N` per checkpoint, which is complete
when its `state.json` is there. None of it ever becomes part of the artifact.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rectool.artifacts import folder
from rectool.artifacts.artifact import is_whole, manifest_exists
from rectool.artifacts.inputs import changes
from rectool.errors import RectoolError

RECORD = "making.json"
STATE = "state.json"
"""Of a checkpoint, written last. Its `saved` says when, in seconds since 1970."""
ONCE_WRITABLE = "--resume goes on from the last checkpoint once it can be written again"
"""What to do where a checkpoint cannot be written."""


@dataclass(frozen=True)
class Unfinished:
    """A run that stopped with a checkpoint.

    Attributes:
        step: of its newest checkpoint.
        recipe: how it is made, see `Making.recipe`.
        started: when its first run began, ISO 8601.
        seconds: how long it took up to that checkpoint, over all its runs.
    """

    step: int
    recipe: Mapping[str, Any]
    started: str
    seconds: float

    def changed(self, recipe: Mapping[str, Any]) -> list[str]:
        """What would be made otherwise now, for people: `learning_rate was 0.001, is 0.01`."""
        before, now = self.recipe, recipe
        made_of = sorted(before["parents"].keys() | now["parents"].keys())
        return [
            *changes({**before, "settings": 0, "parents": 0}, {**now, "settings": 0, "parents": 0}),
            *changes(before["settings"], now["settings"]),
            *(f"{role} is another one" for role in made_of if before["parents"].get(role) != now["parents"].get(role)),
        ]


def checkpoints(directory: Path) -> list[tuple[int, Path]]:
    """Step and folder of the complete checkpoints in a folder, oldest first."""
    found = []
    for path in directory.glob("step-*"):
        parts = re.fullmatch(r"step-(\d+)(?:\.(\d+))?", path.name)
        if parts and (path / STATE).is_file():
            found.append((int(parts[1]), int(parts[2] or 0), path))
    return [(step, path) for step, _, path in sorted(found)]


def write_step(path: Path, fill: Callable[[Path], object], state: Mapping[str, Any]) -> None:
    """Write a new folder `step-N`: what `fill` puts there, then `state.json`. After an error nothing of it is left.

    Raises:
        OSError: the disk is full or refuses.
    """
    path.mkdir()
    try:
        fill(path)
        folder.sync_tree(path)
        folder.write_durably(path / STATE, json.dumps({"saved": time.time(), "state": dict(state)}))
        folder.sync(path.parent)
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise


def find(out: Path) -> Unfinished | None:
    """The run that stopped on its way to `out`; None where there is none with a checkpoint, or it came to its end.

    Raises:
        RectoolError: its record is damaged.
    """
    directory = _directory(out)
    found = checkpoints(directory)
    if not found or is_whole(directory.parent):
        return None
    try:
        record = json.loads((directory / RECORD).read_text(encoding="utf-8"))
        seconds = record["seconds"] + max(0.0, _last_saved(found, record["began"]) - record["began"])
        recipe = record["recipe"]
        recipe = {**recipe, "settings": {**recipe["settings"]}, "parents": {**recipe["parents"]}}
        return Unfinished(found[-1][0], recipe, str(record["started"]), seconds)
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise RectoolError(
            f"{directory / RECORD} is damaged ({problem}); remove {directory.parent} to start anew"
        ) from None


def expect(out: Path) -> Unfinished:
    """The run that `--resume` continues. Raises RectoolError if there is none."""
    earlier = find(out)
    if earlier is not None:
        return earlier
    if manifest_exists(out):
        raise RectoolError(f"--resume: {out} is finished; --overwrite makes it anew, or choose another --out")
    raise RectoolError(f"--resume: {out} has no checkpoint to continue from; start it without --resume")


def to_resume(out: Path, recipe: Mapping[str, Any]) -> Unfinished:
    """The run that `--resume` continues. Raises RectoolError if there is none, or it is made otherwise."""
    earlier = expect(out)
    changed = earlier.changed(recipe)
    if changed:
        raise RectoolError(f"--resume: {'; '.join(changed)}; set them as they were, or start anew with --overwrite")
    return earlier


def refuse(out: Path) -> None:
    """Raises RectoolError if a run stopped on its way to `out`: it is not thrown away unasked."""
    earlier = find(out)
    if earlier is not None:
        raise RectoolError(
            f"{out} stopped at step {earlier.step}; --resume continues it, --overwrite starts anew, "
            "or choose another --out"
        )


def record(out: Path, recipe: Mapping[str, Any], started: str, seconds: float) -> None:
    """Say on disk what is being made, so that it can be continued.

    Args:
        seconds: how long earlier runs took.
    """
    directory = _directory(out)
    directory.mkdir(exist_ok=True)
    text = json.dumps({"recipe": recipe, "started": started, "seconds": seconds, "began": time.time()})
    folder.write_durably(directory / RECORD, text)


def _directory(out: Path) -> Path:
    return folder.partial_of(folder.real(out)) / folder.CHECKPOINTS


def _last_saved(found: list[tuple[int, Path]], otherwise: float) -> float:
    """When the newest checkpoint that is not damaged was saved."""
    for _, path in reversed(found):
        try:
            return float(json.loads((path / STATE).read_text(encoding="utf-8"))["saved"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return otherwise
