"""The flags that commands share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from rectool import console
from rectool.errors import RectoolError
from rectool.settings import setting


@dataclass(frozen=True, kw_only=True)
class Talk:
    """How a command speaks."""

    panel: ClassVar[str] = "Output"

    quiet: bool = setting(False, recorded=False, help="Say nothing but errors.")
    json: bool = setting(False, recorded=False, help="Print one JSON object on stdout when done.")
    debug: bool = setting(False, recorded=False, help="Show the traceback of an error.")

    def __post_init__(self) -> None:
        console.configure(quiet=self.quiet, json=self.json)


@dataclass(frozen=True, kw_only=True)
class Elsewhere:
    """Where parents lie."""

    panel: ClassVar[str] = "Artifact"

    parent: tuple[str, ...] = setting(
        (), metavar="ROLE=PATH", recorded=False, help="A parent that has moved; may be repeated."
    )

    def __post_init__(self) -> None:
        self.parents()

    def parents(self) -> dict[str, Path]:
        """The parents that were named, by role. Raises RectoolError for what is not ROLE=PATH."""
        parents = {}
        for value in self.parent:
            role, mark, path = value.partition("=")
            if not (role and mark and path):
                raise RectoolError(
                    f"--parent {value} is not of the form ROLE=PATH, such as --parent dataset=data/ml-1m"
                )
            parents[role] = Path(path)
        return parents


@dataclass(frozen=True, kw_only=True)
class Work(Elsewhere):
    """How a command that writes does its work, whatever it writes."""

    seed: int = setting(0, metavar="N", recorded=False, help="Seed of all that is random.")
    overwrite: bool = setting(False, recorded=False, help="Replace what is there.")
    update: bool = setting(False, recorded=False, help="Keep what is there if nothing has changed.")
    dry_run: bool = setting(
        False, recorded=False, help="Check everything, say what would be read and written, do nothing."
    )
    settings: Path | None = setting(
        None, metavar="FILE", recorded=False, help="A TOML file of flags; those on the command line win."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.overwrite and self.update:
            raise RectoolError("--overwrite and --update contradict each other; give one")


@dataclass(frozen=True, kw_only=True)
class Make(Work):
    """How a command makes an artifact."""

    out: Path = setting(metavar="DIR", recorded=False, help="Folder of the new artifact.")
