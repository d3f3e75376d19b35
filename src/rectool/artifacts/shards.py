"""Work on many rows that can be stopped after any piece of it: finished rows are kept on disk, without pickle.

A shard is a folder `step-N` with `arrays.safetensors` and, written last, `state.json`: a range of rows of one
part of the work. N counts the rows of all shards up to it.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file
from safetensors.numpy import save as to_bytes

from rectool import console, processes
from rectool.artifacts import unfinished
from rectool.errors import Stopped, disk_errors
from rectool.stopping import StopRequests

ARRAYS = "arrays.safetensors"
Arrays: TypeAlias = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Shard:
    """Rows that are done.

    Attributes:
        part: of the work, by name.
        start, stop: which rows of that part.
        arrays: by name, each (stop - start, ...).
    """

    part: str
    start: int
    stop: int
    arrays: Arrays


class Shards:
    """The shards of one run, in the order in which they were done. One process reads and writes them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def save(self, shard: Shard) -> None:
        """Write one more.

        Raises:
            RectoolError: the disk is full or refuses; the shards before it stay.
        """
        before = unfinished.checkpoints(self.directory)
        step = (before[-1][0] if before else 0) + shard.stop - shard.start
        with disk_errors(self.directory, unfinished.ONCE_WRITABLE):
            self.directory.mkdir(parents=True, exist_ok=True)
            for left in set(self.directory.glob("step-*")) - {path for _, path in before}:
                shutil.rmtree(left)
            unfinished.write_step(
                self.directory / f"step-{step}",
                lambda path: (path / ARRAYS).write_bytes(to_bytes(shard.arrays)),
                {"part": shard.part, "start": shard.start, "stop": shard.stop},
            )

    def load(self) -> list[Shard]:
        """All up to the first one that is damaged; that one, and what follows it, is removed."""
        found: list[Shard] = []
        kept = [path for _, path in unfinished.checkpoints(self.directory)]
        for path in kept:
            try:
                found.append(_read(path))
            except (OSError, ValueError, KeyError, TypeError, SafetensorError) as problem:
                console.say(f"{path} is damaged ({problem}); what it held is done again")
                break
        with disk_errors(self.directory, unfinished.ONCE_WRITABLE):
            for path in kept[len(found) :]:
                shutil.rmtree(path)
        return found


def _read(path: Path) -> Shard:
    state = json.loads((path / unfinished.STATE).read_text(encoding="utf-8"))["state"]
    shard = Shard(str(state["part"]), int(state["start"]), int(state["stop"]), load_file(path / ARRAYS))
    if any(len(array) != shard.stop - shard.start for array in shard.arrays.values()):
        raise ValueError("its arrays have another number of rows than it says")
    return shard


class Work:
    """Does work on rows piece by piece, heeds the wish to stop, and goes on where an earlier run stopped.

    Several processes share the rows of each piece, each row taken once; the main one collects and saves.
    """

    def __init__(
        self,
        directory: Path | None = None,
        *,
        resumed: bool = False,
        save_seconds: float = 600.0,
        max_seconds: float | None = None,
    ) -> None:
        """Args:
        directory: of the shards; None saves nothing.
        resumed: go on from the shards that are there.
        save_seconds: between saves.
        max_seconds: stop after this time.
        """
        self.stops = StopRequests(max_seconds if processes.is_main() else None)
        self.save_seconds = save_seconds
        self._shards = Shards(directory) if directory is not None and processes.is_main() else None
        self._earlier = self._shards.load() if self._shards is not None and resumed else []
        self._done = processes.broadcast_json(_rows_of_parts(self._earlier))
        self._unsaved: list[Shard] = []
        self._saved_at = time.monotonic()

    def done(self, part: str) -> int:
        """How many rows of a part earlier runs have done: those from row 0 on."""
        return int(self._done.get(part, 0))

    @contextmanager
    def counted(self, part: str, doing: str, rows: int, unit: str = "rows") -> Iterator[Callable[[int], None]]:
        """A step over all rows of a part; yields what counts those that are done here, where all processes take alike.

        Args:
            doing: what is done, for people.
        """
        done = now = self.done(part)

        def count(more: int) -> None:
            nonlocal now
            now += more * processes.world_size()

        with console.step(doing, fraction=lambda: min(1.0, now / max(1, rows))) as step:
            yield count
            step.amount, step.unit = rows - done, unit

    def run(self, part: str, pieces: Sequence[tuple[int, int]], compute: Callable[[int, int], Arrays]) -> Arrays | None:
        """Compute something of all rows.

        Args:
            part: a name of its own for each part of the work.
            pieces: (start, stop) of each, one after the other, from row 0 on: between them the work can stop.
            compute: arrays of the rows from `start` to `stop`, each (stop - start, ...), one row at least.

        Returns:
            By name, (rows, ...); None in all processes but the main one.

        Raises:
            Stopped: a signal or the time asked for it; what is done is saved.
        """
        total = pieces[-1][1] if pieces else 0
        results: Arrays = {}
        for shard in self._earlier:
            if shard.part == part:
                _put(results, shard, total)
        done = self.done(part)
        if done:
            console.say(f"going on from row {done:,} of {total:,}")
        with self.stops:
            for first, stop in pieces:
                start = max(first, done)
                if start >= stop:
                    continue
                shard = Shard(part, start, stop, _shared(start, stop, compute))
                if processes.is_main():
                    _put(results, shard, total)
                    self._unsaved.append(shard)
                self._after(stop, total)
        return results if processes.is_main() else None

    def _after(self, row: int, total: int) -> None:
        """Save when it is time to, and stop if any process has been told to; the main one's clock is that of all."""
        due = processes.is_main() and time.monotonic() - self._saved_at >= self.save_seconds
        stop, due = _any(self.stops.wanted(), due)
        if stop or due:
            self._save()
        if stop:
            raise Stopped(
                f"stopped at row {row:,} of {total:,} ({self.stops.reason or 'another process'}); "
                "the same command with --resume goes on",
                interrupted=self.stops.interrupted,
            )

    def _save(self) -> None:
        """Write what has been done since the last time, one shard for each part."""
        for part in dict.fromkeys(shard.part for shard in self._unsaved):
            rows = [shard for shard in self._unsaved if shard.part == part]
            arrays = {name: np.concatenate([shard.arrays[name] for shard in rows]) for name in rows[0].arrays}
            if self._shards is not None:
                self._shards.save(Shard(part, rows[0].start, rows[-1].stop, arrays))
        self._unsaved.clear()
        self._saved_at = time.monotonic()


def _rows_of_parts(shards: Sequence[Shard]) -> dict[str, int]:
    return {shard.part: shard.stop for shard in shards}


def _put(results: Arrays, shard: Shard, total: int) -> None:
    for name, array in shard.arrays.items():
        if name not in results:
            results[name] = np.empty((total, *array.shape[1:]), array.dtype)
        results[name][shard.start : shard.stop] = array


def _shared(start: int, stop: int, compute: Callable[[int, int], Arrays]) -> Arrays:
    """The arrays of some rows, of which each process computes a part."""
    size = processes.world_size()
    if size == 1:
        return compute(start, stop)
    import torch

    bounds = [start + (stop - start) * number // size for number in range(size + 1)]
    counts = [bounds[number + 1] - bounds[number] for number in range(size)]
    begin, count = bounds[processes.rank()], counts[processes.rank()]
    arrays = compute(begin, begin + count) if count else compute(start, start + 1)  # one, to know the shapes
    together: Arrays = {}
    for name in sorted(arrays):
        own = np.ascontiguousarray(arrays[name][:count])
        width = own.dtype.itemsize * int(np.prod(own.shape[1:]))
        rows = torch.from_numpy(own.reshape(-1).view(np.uint8).reshape(count, width))
        gathered = processes.all_gather_rows(rows, counts).numpy()
        together[name] = gathered.view(own.dtype).reshape(stop - start, *own.shape[1:])
    return together


def _any(stop: bool, due: bool) -> tuple[bool, bool]:
    """What any process says."""
    if processes.world_size() == 1:
        return stop, due
    import torch

    summed = processes.all_reduce_sum(torch.tensor([float(stop), float(due)]))
    return bool(summed[0] > 0), bool(summed[1] > 0)
