"""Models of the Hugging Face hub: what they have, at which commit, and their files, in the hub's own cache.

`HF_HOME`, `HF_ENDPOINT`, `HF_TOKEN` and `HF_HUB_OFFLINE` are huggingface_hub's, and mean here what they mean there.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from logging import CRITICAL
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (  # type: ignore[attr-defined]
    GatedRepoError,
    HFValidationError,
    HTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import logging
from huggingface_hub.utils.tqdm import tqdm

from rectool import console
from rectool.errors import RectoolError


@dataclass(frozen=True)
class HubModel:
    """A model of the hub at one commit.

    Attributes:
        files: what it has, with the bytes of each where they are known.
    """

    name: str
    commit: str
    files: Mapping[str, int | None]

    def fetch(self, files: Sequence[str]) -> Path:
        """The folder of the cache with these files of it, downloaded where they are not there yet.

        Raises:
            RectoolError: access is not granted, the disk is full, or the download broke off.
        """
        missing = [file for file in files if self._cached(file) is None]
        if missing:
            total = sum(self.files[file] or 0 for file in missing)
            _refuse_full_disk(self.name, total)
            try:
                with console.transfer(f"downloading {self.name}", total or None) as count, _one_line(self.name):
                    for file in missing:
                        hf_hub_download(self.name, file, revision=self.commit, tqdm_class=_told(count))
            except _NoAnswer as problem:
                raise RectoolError(
                    f"the download of {self.name} broke off ({problem}); run the same command again: "
                    "the files that came whole are kept"
                ) from problem
        found = self._cached(files[0])
        assert found is not None
        return found.parent

    def _cached(self, file: str) -> Path | None:
        found = try_to_load_from_cache(self.name, file, revision=self.commit)
        return Path(found) if isinstance(found, str) else None


def look_up(name: str, revision: str | None = None) -> HubModel:
    """Ask the hub for a model; without an answer look for it in the cache.

    Args:
        revision: a branch, tag or commit; None for the main branch.

    Raises:
        RectoolError: there is no such model or revision, or the hub does not answer and the cache has none.
    """
    try:
        with _one_line(name, revision):
            info = HfApi().model_info(name, revision=revision, files_metadata=True)
            files = {file.rfilename: file.size for file in info.siblings or ()}
            if "config.json" not in files:
                return HubModel(name, str(info.sha), files)
            # Asked for by its revision, the commit is remembered, and found again when the hub does not answer.
            config = Path(hf_hub_download(name, "config.json", revision=revision, tqdm_class=_told(lambda _: None)))
            return HubModel(name, config.parent.name, files)
    except _NoAnswer as silence:
        cached = try_to_load_from_cache(name, "config.json", revision=revision)
        if not isinstance(cached, str):
            raise RectoolError(
                f"there is no folder {name}, and the hub cannot be asked for a model of that name ({silence}); "
                f"none is in {constants.HF_HUB_CACHE}"
            ) from silence
        folder = Path(cached).parent
        if not constants.HF_HUB_OFFLINE:
            console.say(f"{name}: the hub does not answer; taking commit {folder.name[:12]} from the cache")
        return HubModel(name, folder.name, {path.name: path.stat().st_size for path in folder.iterdir()})


class _NoAnswer(Exception):
    """The hub cannot be asked, or does not answer in full; the message says why."""


@contextmanager
def _one_line(name: str, revision: str | None = None) -> Iterator[None]:
    """Turn what goes wrong with a model of the hub into one line, and keep huggingface_hub's own off the screen.

    Raises:
        RectoolError: it cannot be had.
        _NoAnswer: it may be had another time.
    """
    level = logging.get_verbosity()
    logging.set_verbosity(CRITICAL)
    try:
        yield
    except GatedRepoError as problem:
        raise RectoolError(
            f"{name} is gated: accept its conditions at {constants.ENDPOINT}/{name}, then log in with: hf auth login"
        ) from problem
    except RevisionNotFoundError as problem:
        raise RectoolError(f"{name} has no revision {revision}; {constants.ENDPOINT}/{name} lists them") from problem
    except (RepositoryNotFoundError, HFValidationError) as problem:
        raise RectoolError(
            f"there is no folder {name}, and no model of that name at {constants.ENDPOINT}; check the spelling, "
            "and for a private model log in with: hf auth login"
        ) from problem
    except OfflineModeIsEnabled as problem:
        raise _NoAnswer("HF_HUB_OFFLINE is set") from problem
    except (HTTPError, OSError, RuntimeError) as problem:  # xet's are of the last kind
        number = getattr(problem, "errno", None)
        if number in (errno.ENOSPC, errno.EDQUOT):
            raise RectoolError(_full(name)) from problem
        if number in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise RectoolError(
                f"{constants.HF_HUB_CACHE} cannot be written ({problem}); let HF_HOME name a folder that can"
            ) from problem
        raise _NoAnswer(_reason(problem)) from problem
    finally:
        logging.set_verbosity(level)


def _reason(problem: BaseException) -> str:
    """The first words of the first cause: what the network said."""
    while problem.__cause__ is not None:
        problem = problem.__cause__
    lines = str(problem).splitlines() or [type(problem).__name__]
    return lines[0][:200]


def _refuse_full_disk(name: str, needed: int) -> None:
    cache = Path(constants.HF_HUB_CACHE)
    there = next(path for path in (cache, *cache.parents) if path.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise RectoolError(f"{_full(name)}: it needs {needed / 1e9:,.1f} GB, {free / 1e9:,.1f} GB are free")


def _full(name: str) -> str:
    return (
        f"the disk of {constants.HF_HUB_CACHE} is too full for {name}; free some space, or let HF_HOME name a folder "
        "on another disk"
    )


def _told(count: Callable[[int], None]) -> type[tqdm]:
    """A bar that shows nothing, but tells how many bytes have come."""

    class Told(tqdm):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **{**named, "disable": True})  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> bool | None:
            count(int(n or 0))
            return None

    return Told
