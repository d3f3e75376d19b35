"""The flags that commands share."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from rectool import console, processes
from rectool.errors import RectoolError
from rectool.settings import setting

SEEDS = 2**32
"""What is below this is a seed to all libraries."""


@dataclass(frozen=True)
class Data:
    """What is trained on, or read."""

    data: Path = setting(argument=True, recorded=False, help="The data set, made by rectool prep.")


@dataclass(frozen=True)
class Evaluated:
    """What is evaluated, and on what."""

    data: Path = setting(argument=True, recorded=False, help="The data set, made by rectool prep.")
    model: Path | None = setting(
        None,
        argument=True,
        recorded=False,
        help="The model: made by rectool train-cf, tune-lora or prep backbone, or a Hugging Face folder.",
    )


@dataclass(frozen=True, kw_only=True)
class Talk:
    """How a command speaks."""

    panel: ClassVar[str] = "Output"

    quiet: bool = setting(False, recorded=False, help="Say nothing but errors.")
    json: bool = setting(False, recorded=False, help="Print one JSON object on stdout when done.")
    debug: bool = setting(False, recorded=False, help="Show the traceback of an error.")

    def __post_init__(self) -> None:
        main = processes.is_main()
        console.configure(quiet=self.quiet or not main, json=self.json and main)


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
        if self.seed < 0:
            raise RectoolError(f"--seed must not be negative, but is {self.seed}")
        if self.seed >= SEEDS:
            raise RectoolError(f"--seed {self.seed} must be below {SEEDS}")
        if self.overwrite and self.update:
            raise RectoolError("--overwrite and --update contradict each other; give one")


@dataclass(frozen=True, kw_only=True)
class Make(Work):
    """How a command makes an artifact."""

    out: Path = setting(metavar="DIR", recorded=False, help="Folder of the new artifact.")


@dataclass(frozen=True, kw_only=True)
class Resumable(Make):
    """How a command whose work takes long makes an artifact: it can be stopped, and resumed."""

    resume: bool = setting(False, recorded=False, help="Continue a run that was stopped, from what it has kept.")
    max_time: str | None = setting(
        None, metavar="TIME", recorded=False, help="Stop, to be continued, when it has run this long, such as 8h30m."
    )
    checkpoint_minutes: float = setting(
        10.0, metavar="MINUTES", recorded=False, help="Time between saves of what is done so far."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for flag in ("overwrite", "update"):
            if self.resume and getattr(self, flag):
                raise RectoolError(f"--resume and --{flag} contradict each other; give one")
        if not 0 < self.checkpoint_minutes < float("inf"):
            raise RectoolError(f"--checkpoint-minutes {self.checkpoint_minutes:g} must be more than 0")
        self.max_seconds()

    def max_seconds(self) -> float | None:
        """`--max-time` in seconds, None for no limit. Raises RectoolError for what is no time."""
        if self.max_time is None:
            return None
        parts = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", self.max_time)
        hours, minutes, seconds = (int(part or 0) for part in parts.groups()) if parts else (0, 0, 0)
        total = 3600 * hours + 60 * minutes + seconds
        if total == 0:
            raise RectoolError(f"--max-time {self.max_time} is not a time such as 8h30m, 45m or 90s")
        return float(total)


@dataclass(frozen=True, kw_only=True)
class Train(Resumable):
    """How a command that trains makes an artifact."""

    keep: int = setting(2, metavar="N", recorded=False, help="How many checkpoints to keep while it runs.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.keep < 1:
            raise RectoolError(f"--keep {self.keep} must be at least 1")
