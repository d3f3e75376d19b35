"""What a report says of where results come from: commands, stages, settings that differ, data, versions."""

from __future__ import annotations

import json
import os
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rectool.artifacts import Artifact, lineage
from rectool.artifacts.lineage import Node, Step
from rectool.evaluation.compare import Comparison
from rectool.evaluation.runs import Run

RESULT = "eval"
"""What stands before the settings of a result itself, where those of what it was made from have its role."""


@dataclass(frozen=True)
class Branch:
    """One line of a lineage, with what it was made from."""

    role: str
    path: str
    kind: str
    state: str
    parents: Sequence[Branch]


@dataclass
class Stage:
    """An artifact that some run was made from, or the run's result itself.

    Attributes:
        seconds, memory (bytes), device, processes: as its manifest says, or None.
        runs: that it is part of.
    """

    path: str
    kind: str
    command: str
    seconds: float | None
    memory: int | None
    device: str | None
    processes: int | None
    runs: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Origin:
    """Where a run comes from.

    Attributes:
        commands: that make it and all that it was made from, parents first.
        seconds: that all of its stages took, or None where one does not say so.
    """

    run: Run
    node: Node
    tree: Branch
    commands: Sequence[str]
    seconds: float | None


@dataclass(frozen=True)
class Setting:
    """A setting that two runs have and that differs, with its value in each run, empty where a run has none."""

    name: str
    values: Sequence[str]


@dataclass(frozen=True)
class Data:
    """A data set: what is counted in all and by split, where it is still there."""

    name: str
    tasks: Sequence[str]
    counts: Sequence[tuple[str, str]]
    splits: Sequence[str]
    rows: Sequence[tuple[str, Sequence[str]]]


def of(run: Run) -> Origin:
    """Where a run comes from, as far as it can be found."""
    node = lineage.tree(run.artifact)
    seconds = [_number(each.manifest.run.get("wall_seconds")) for each in steps(node).values()]
    known = [value for value in seconds if value is not None]
    total = sum(known) if len(known) == len(seconds) else None
    return Origin(run, node, _branch(node), commands([node]), total)


def commands(nodes: Sequence[Node]) -> list[str]:
    """What rebuilds all of some lineages, parents first and each once, for the folder that this runs in.

    They are those of `lineage.script`, but name folders from here, not from the root of this machine.
    """
    lines = []
    for step in dict.fromkeys(step for node in nodes for step in lineage.steps(node)):
        elsewhere = os.path.relpath(step.where) if step.where else "."
        lines.append(step.again if elsewhere == "." else f"(cd {shlex.quote(elsewhere)} && {step.again})")
    return lines


def steps(node: Node) -> dict[Step, Artifact]:
    """What the commands of a lineage made, by `lineage.steps`, parents first; of several parts the first."""
    found: dict[Step, Artifact] = {}
    for step in lineage.steps(node):
        if step.artifact is not None:
            found.setdefault(step, step.artifact)
    return found


def stages(origins: Sequence[Origin]) -> list[Stage]:
    """What every command of some lineages made, each once, parents before what is made from them."""
    found: dict[Step, Stage] = {}
    for origin in origins:
        for step, artifact in steps(origin.node).items():
            found.setdefault(step, _stage(artifact)).runs.append(origin.run.name)
    return list(found.values())


def versions(origins: Sequence[Origin]) -> list[tuple[str, list[tuple[str, int]]]]:
    """Programs by name, with their versions and how many stages ran with each."""
    every = {step: made.manifest for origin in origins for step, made in steps(origin.node).items()}
    counted: dict[str, Counter[str]] = {"rectool": Counter(), "python": Counter()}
    for made in every.values():
        libraries = made.run.get("libraries")
        known = libraries if isinstance(libraries, dict) else {}
        for name, version in {"rectool": made.rectool, "python": made.run.get("python"), **known}.items():
            if isinstance(version, str):
                counted.setdefault(name, Counter())[version] += 1
    return [(name, sorted(found.items())) for name, found in counted.items() if found]


def differing(origins: Sequence[Origin]) -> list[Setting]:
    """The settings that two runs or more have and that are not the same in all of those, by name."""
    every = [_settings(origin.node) for origin in origins]
    found = []
    for name in dict.fromkeys(name for settings in every for name in settings):
        values = [settings.get(name) for settings in every]
        if len({value for value in values if value is not None}) > 1:
            found.append(Setting(name, [value or "" for value in values]))
    return found


def data(comparisons: Sequence[Comparison]) -> list[Data]:
    """The data sets of some comparisons, each once."""
    tasks: dict[str, list[Comparison]] = {}
    for comparison in comparisons:
        digests = comparison.runs[0].data().digests
        tasks.setdefault(json.dumps(digests, sort_keys=True), []).append(comparison)
    return [_data(members) for members in tasks.values()]


def _data(comparisons: Sequence[Comparison]) -> Data:
    first, tasks = comparisons[0].runs[0], [comparison.task for comparison in comparisons]
    artifact = first.dataset()
    if artifact is None:
        return Data(first.data_name(), tasks, [], [], [])
    made = artifact.manifest
    found = made.metrics.get("splits")
    splits = (
        {name: split for name, split in found.items() if isinstance(split, dict)} if isinstance(found, dict) else {}
    )
    lines = {name: _counts(split) for name, split in splits.items()}
    names = list(dict.fromkeys(name for counts in lines.values() for name in counts))
    rows = [(name, [counts.get(name, "") for counts in lines.values()]) for name in names]
    overall = [(name, f"{count:,}") for name, count in made.counts.items()]
    return Data(first.data_name(), tasks, overall, list(lines), rows)


def _counts(split: dict[str, Any]) -> dict[str, str]:
    """A split's figures as they are shown, those of its groups among them."""
    shown: dict[str, str] = {}
    groups = split.get("groups")
    for name, value in {**split, **(groups if isinstance(groups, dict) else {})}.items():
        if isinstance(value, int) and not isinstance(value, bool):
            shown[name.replace("_", " ")] = f"{value:,}"
        elif isinstance(value, float):
            shown[name.replace("_", " ")] = f"{value:.2%}"
        elif isinstance(value, str):
            shown[name.replace("_", " ")] = value[:10]
    return shown


def _settings(node: Node) -> dict[str, str]:
    """All settings and seeds of a lineage but its data set's, by role and name; of one role the nearest counts."""
    found: dict[str, str] = {}
    level, seen = [node], set()
    while level:
        for each in level:
            role = each.parent.role if each.parent else RESULT
            if each.artifact is None or each.artifact.manifest.kind == "dataset" or role in seen:
                continue
            seen.add(role)
            made = each.artifact.manifest
            for name, value in {**made.settings, "seed": made.seed}.items():
                found[f"{role} {name}"] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        level = [child for each in level for child in each.children]
    return found


def _stage(artifact: Artifact) -> Stage:
    made = artifact.manifest
    device, memory, processes = (made.run.get(name) for name in ("device", "peak_memory_bytes", "world_size"))
    return Stage(
        path=os.path.relpath(artifact.path),
        kind=made.kind,
        command=" ".join(made.command[: 3 if made.command[1:2] == ["prep"] else 2]),
        seconds=_number(made.run.get("wall_seconds")),
        memory=memory if isinstance(memory, int) else None,
        device=device if isinstance(device, str) else None,
        processes=processes if isinstance(processes, int) else None,
    )


def _branch(node: Node) -> Branch:
    made = node.artifact.manifest if node.artifact is not None else None
    if not node.is_there():
        state = "not there any more"
    elif node.is_lost:
        state = "no artifact any more"
    elif made is not None:
        state = made.digests["artifact"][7:19]
    else:
        digests = node.parent.digests if node.parent else {}
        state = digests.get("commit", digests.get("file", "sha256:")[7:19])
    return Branch(
        role=node.parent.role if node.parent else "",
        path=str(node.path) if node.is_on_hub else os.path.relpath(node.path),
        kind=made.kind if made is not None else node.parent.kind if node.parent else "",
        state=state,
        parents=[_branch(child) for child in node.children],
    )


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
