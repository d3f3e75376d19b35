"""Results as they are compared: found in folders, read strictly, named, and seen to be comparable."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rectool.artifacts import Artifact, folder, manifest, open_artifact
from rectool.artifacts.artifact import is_whole, manifest_exists
from rectool.console import printable
from rectool.errors import RectoolError

DEPTH = 2
"""How many levels below a folder results are looked for."""
CONDITIONS = ("task", "split", "warm", "targets", "exclude", "k")
"""Fields of metrics.json that must be equal for two results to be comparable."""


@dataclass(frozen=True)
class Measure:
    """One metric of one group of rows: a line of metrics.json.

    Attributes:
        value: None where it is undefined, and so are the ends of its interval.
        skipped_users: users whose rows are all of one class, where that matters.
        spread: standard deviation over repeats, where there were any.
    """

    group: str
    metric: str
    value: float | None
    low: float | None = None
    high: float | None = None
    users: int | None = None
    rows: int | None = None
    skipped_users: int | None = None
    spread: float | None = None


@dataclass(frozen=True)
class Run:
    """A result that is compared.

    Attributes:
        name: what it is called in tables and figures; no two runs have the same.
        about: the fields of metrics.json, its metrics aside.
        measures: by group and metric, in the order of metrics.json.
    """

    name: str
    artifact: Artifact
    about: Mapping[str, Any]
    measures: Mapping[tuple[str, str], Measure]

    @property
    def digest(self) -> str:
        """Stands for all files of the result."""
        return self.artifact.manifest.digests["artifact"]

    def value(self, group: str, metric: str) -> float | None:
        """The metric's value, or None where it is undefined or absent."""
        measure = self.measures.get((group, metric))
        return measure.value if measure is not None else None

    def rows(self, group: str) -> int | None:
        """How many rows a group has, or None where no metric of it says so."""
        counts = [measure.rows for (where, _), measure in self.measures.items() if where == group]
        return max((count for count in counts if count is not None), default=None)

    def data(self) -> manifest.Parent:
        """The data set, as the result records it; it need not be there. Raises RectoolError where it does not."""
        for parent in self.artifact.manifest.parents:
            if parent.role == "dataset":
                return parent
        raise RectoolError(f"{self.artifact.path} does not say which data set it is of: it has no parent dataset")

    def data_name(self) -> str:
        """The folder's name of the data set."""
        return printable(folder.real(self.artifact.parent_path(self.data())).name)

    def dataset(self) -> Artifact | None:
        """The data set, or None where it is not there any more."""
        return self.artifact.parent("dataset") if manifest_exists(self.artifact.parent_path(self.data())) else None

    def model(self) -> Artifact | None:
        """The model that was evaluated, or None where it is not there any more."""
        for parent in self.artifact.manifest.parents:
            if parent.role == "model" and manifest_exists(self.artifact.parent_path(parent)):
                return self.artifact.parent("model")
        return None


@dataclass(frozen=True)
class Peers:
    """Results of one task, which can be compared; the baseline is one of them."""

    task: str
    runs: Sequence[Run]
    baseline: Run | None = None


def find(paths: Sequence[Path], baselines: Sequence[Path] = ()) -> list[Path]:
    """The folders of the results that are meant, each once, in the order given; those of a folder by name.

    Args:
        baselines: come first where they are not among the others.

    Raises:
        RectoolError: a path is neither a result nor a folder with results in it.
    """
    found = [result for path in paths for result in _results(path)]
    places = set(map(folder.real, found))
    found = [baseline for baseline in baselines if folder.real(baseline) not in places] + found
    unique: dict[Path, Path] = {}
    for path in found:
        unique.setdefault(folder.real(path), path)
    return list(unique.values())


def single(path: Path) -> Path:
    """The one result that a path means. Raises RectoolError where it is a folder of several."""
    found = _results(path)
    if len(found) > 1:
        raise RectoolError(f"--baseline {path} is a folder of {len(found)} results; name one, such as {found[0]}")
    return found[0]


def place(path: Path, paths: Sequence[Path]) -> int:
    """Where a folder stands among folders, one of which it is."""
    return [folder.real(other) for other in paths].index(folder.real(path))


def names_of(paths: Sequence[Path]) -> list[str]:
    """Each folder's name, with as many of its parents' names as set it apart: `seed-1/mf`, `seed-2/mf`."""
    parts = [tuple(map(printable, folder.real(path).parts[1:])) for path in paths]
    lengths = [1] * len(paths)
    while True:
        names = ["/".join(part[-length:]) for part, length in zip(parts, lengths, strict=True)]
        counts = Counter(names)
        longer = [
            min(length + (counts[name] > 1), len(part))
            for name, length, part in zip(names, lengths, parts, strict=True)
        ]
        if longer == lengths:
            places = [names[:place].count(name) + 1 for place, name in enumerate(names)]
            return [name if place == 1 else f"{name} ({place})" for name, place in zip(names, places, strict=True)]
        lengths = longer


def named(paths: Sequence[Path], names: Sequence[str]) -> list[str]:
    """What `--name` calls artifacts, else `names_of` them. Raises RectoolError where there is not one name for each."""
    names = list(map(printable, names))
    if names and len(names) != len(paths):
        raise RectoolError(f"--name: {len(names)} names for {len(paths)} folders: {', '.join(map(str, paths))}")
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise RectoolError(f"--name {twice} stands twice; give each its own")
    return names or names_of(paths)


def read(paths: Sequence[Path], names: Sequence[str]) -> list[Run]:
    """Open results of one task, see `read_all`. Raises RectoolError if two cannot be compared, naming both."""
    runs = read_all(paths, names)
    for run in runs[1:]:
        _refuse_incomparable(runs[0], run)
    return runs


def read_all(paths: Sequence[Path], names: Sequence[str]) -> list[Run]:
    """Open results of any tasks. Raises RectoolError that names the file if one is not sound."""
    return [_read(name, open_artifact(path, "result")) for path, name in zip(paths, names, strict=True)]


def by_task(runs: Sequence[Run], baselines: Sequence[Run] = ()) -> list[Peers]:
    """Results task by task, in the order of the tasks' first ones, each with its baseline.

    Args:
        baselines: some of the runs.

    Raises:
        RectoolError: two results of a task cannot be compared, it has two baselines, or nothing but the baseline.
    """
    tasks: dict[str, list[Run]] = {}
    for run in runs:
        tasks.setdefault(run.about["task"], []).append(run)
    for run in baselines:
        if len(tasks) > 1 and len(tasks[run.about["task"]]) == 1:
            raise RectoolError(
                f"--baseline {run.artifact.path} is of task {run.about['task']}, and no other result here is; "
                f"the others are of task {', '.join(name for name in tasks if name != run.about['task'])}"
            )
    return [_peers(task, members, [run for run in baselines if run in members]) for task, members in tasks.items()]


def _peers(task: str, runs: Sequence[Run], baselines: Sequence[Run]) -> Peers:
    if len(baselines) > 1:
        raise RectoolError(
            f"--baseline {baselines[0].artifact.path} and --baseline {baselines[1].artifact.path} are both of task "
            f"{task}; name one baseline for each task"
        )
    for run in runs[1:]:
        _refuse_incomparable(runs[0], run)
    return Peers(task, runs, baselines[0] if baselines else None)


def _results(path: Path) -> list[Path]:
    folder.settle(path, is_whole)
    if not path.is_dir() or manifest_exists(path):
        return [path]
    level, found = [path], []
    for _ in range(DEPTH):
        below = [child for parent in level for child in _children(parent)]
        found += [child for child in below if manifest_exists(child) and manifest.read(child).kind == "result"]
        level = [child for child in below if not manifest_exists(child)]
    if not found:
        raise RectoolError(
            f"{path} is no result, nor is there one up to {DEPTH} levels below it; make one with: rectool eval"
        )
    return sorted(found, key=_by_numbers)


def _by_numbers(path: Path) -> list[tuple[str, float]]:
    """Sorts names with numbers in them by the size of the numbers: rate-0.003, rate-0.01; size-8, size-16."""
    parts = [*re.split(r"([0-9]+(?:\.[0-9]+)?)", str(path)), "0"]
    return [(text, float(number)) for text, number in zip(parts[::2], parts[1::2], strict=True)]


def _children(directory: Path) -> list[Path]:
    """The folders in a folder, also one that is in the middle of being replaced."""
    names = {entry.name for entry in directory.iterdir() if entry.is_dir()}
    replaced = {name[1 : -len(".old")] for name in names if name.startswith(".") and name.endswith(".old")}
    children = [directory / name for name in sorted({name for name in names if not name.startswith(".")} | replaced)]
    for child in children:
        folder.settle(child, is_whole)
    return children


def _read(name: str, artifact: Artifact) -> Run:
    path = artifact.file("metrics.json")
    about = json.loads(path.read_bytes())
    try:
        json.dumps(about, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise RectoolError(f"{path} has half of a character in it, which cannot be written again") from None
    lines = about.pop("metrics", None)
    for what in CONDITIONS[:2]:
        if not isinstance(about.get(what), str):
            raise RectoolError(f"{path} does not say its {what}; make {artifact.path} again with: rectool eval")
    for what in CONDITIONS:
        _refuse_unprintable(f"{path}: {what}", about.get(what))
    threshold = about.get("threshold")
    if threshold is not None and type(threshold) not in (int, float):
        raise RectoolError(f"{path}: threshold is {threshold!r}, not a number")
    if not isinstance(lines, list):
        raise RectoolError(f"{path} has no list of metrics; make {artifact.path} again with: rectool eval")
    measures: dict[tuple[str, str], Measure] = {}
    for number, line in enumerate(lines):
        measure = _measure(f"{path}: metrics[{number}]", line)
        if measures.setdefault((measure.group, measure.metric), measure) is not measure:
            raise RectoolError(f"{path}: metrics[{number}] is a second {measure.metric} of group {measure.group}")
    return Run(name, artifact, about, measures)


def _measure(where: str, line: Any) -> Measure:
    if not isinstance(line, dict):
        raise RectoolError(f"{where} is not an object")
    for name in ("group", "metric"):
        if not isinstance(line.get(name), str):
            raise RectoolError(f"{where} has no {name}")
        _refuse_unprintable(f"{where}.{name}", line[name])
    if "value" not in line:
        raise RectoolError(f"{where} has no value; it is null where the metric is undefined")
    numbers = {name: line.get(name) for name in ("value", "low", "high", "spread")}
    counts = {name: line.get(name) for name in ("users", "rows", "skipped_users")}
    for name, number in (numbers | counts).items():
        kinds = (int,) if name in counts else (int, float)
        if number is not None and (type(number) not in kinds or not math.isfinite(number)):
            raise RectoolError(f"{where}.{name} is {number!r}, not a number")
    return Measure(line["group"], line["metric"], **numbers, **counts)


def _refuse_unprintable(where: str, value: Any) -> None:
    """Raises RectoolError for a text that a terminal or a figure cannot show."""
    if isinstance(value, str) and not value.isprintable():
        raise RectoolError(f"{where} is {value!r}, which cannot be printed")


def _refuse_incomparable(first: Run, second: Run) -> None:
    pair = f"{first.artifact.path} and {second.artifact.path} cannot be compared"
    before, after = first.data(), second.data()
    for name in ("users", "items", "interactions"):
        if before.digests.get(name) != after.digests.get(name):
            raise RectoolError(
                f"{pair}: the {name} of their data sets differ ({first.artifact.parent_path(before)}, "
                f"{second.artifact.parent_path(after)}); evaluate both on the same data"
            )
    for name in CONDITIONS:
        mine, yours = first.about.get(name), second.about.get(name)
        if mine != yours:
            raise RectoolError(f"{pair}: {name} is {_said(mine)} in one and {_said(yours)} in the other")


def _said(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else "not given" if value is None else str(value)
