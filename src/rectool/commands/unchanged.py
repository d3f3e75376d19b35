"""`--update` where nothing has changed: told from manifests alone, before anything that computes is imported."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rectool import __version__, processes
from rectool.commands.flags import command_line
from rectool.commands.making import report_kept
from rectool.commands.options import Make
from rectool.errors import RectoolError
from rectool.settings import recorded

if TYPE_CHECKING:
    from rectool.artifacts import Manifest


def kept(name: str, groups: Sequence[Any]) -> bool:
    """Say that all is up to date, where the very same command made what stands at `--out` of what is still as it was.

    False does not mean that something has changed: the command itself then looks at its settings and inputs.

    Args:
        name: the command's own, the last of its words.
        groups: all its settings.
    """
    make = next((group for group in groups if isinstance(group, Make)), None)
    if make is None or not make.update or make.dry_run or make.parent or processes.world_size() > 1:
        return False
    from rectool.artifacts import folder, kinds, open_artifact
    from rectool.artifacts.artifact import is_whole, manifest_exists
    from rectool.artifacts.inputs import standing

    try:
        folder.settle(make.out, is_whole, replace=True)
        if not manifest_exists(make.out):
            return False
        artifact = open_artifact(make.out)
        made = artifact.manifest
        if made.kind_version != kinds.named(made.kind).version or not _same_words(made, name, make, groups):
            return False
        stand = standing(artifact)
    except RectoolError:  # the command itself says it better
        return False
    if stand is None or not stand.issuperset(_named(groups, make)):
        return False
    report_kept(make.out, made)
    return True


def _same_words(made: Manifest, name: str, make: Make, groups: Sequence[Any]) -> bool:
    """Whether this rectool was told the same in the same folder, and took the same for what it was not told."""
    from rectool.artifacts import folder

    line, settings = command_line([name], groups), recorded(groups)
    if (made.rectool, made.seed, list(made.command[-len(line) :])) != (__version__, make.seed, line):
        return False
    if folder.real(make.out / made.directory) != folder.real(Path.cwd()):
        return False
    return all(setting in settings and settings[setting] == value for setting, value in made.settings.items())


def _named(groups: Sequence[Any], make: Make) -> Iterator[Path]:
    """Where what is read stands now, as the flags name it: whatever is no recorded setting, and is there."""
    from rectool.artifacts import folder

    for group in groups:
        for field in dataclasses.fields(group) if group is not make else ():
            value = getattr(group, field.name)
            if field.metadata["recorded"]:
                continue
            for each in value if isinstance(value, tuple) else (value,):
                if isinstance(each, str | Path) and Path(each).exists():
                    yield folder.real(Path(each))
