"""Checkpoints: the state of training on disk, without pickle, whole after a kill at any moment."""

from __future__ import annotations

import json
import re
import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from rectool import console, processes
from rectool.artifacts import unfinished
from rectool.artifacts.unfinished import STATE, checkpoints
from rectool.errors import RectoolError, disk_errors

TENSORS = "tensors.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """Where training stood after a step.

    Attributes:
        step: optimizer steps done.
        state: JSON values; floats are bit for bit what they were, infinities and NaN included.
        tensors: by name, on the CPU.
    """

    step: int
    state: dict[str, Any]
    tensors: dict[str, torch.Tensor]


class Checkpoints:
    """The checkpoints of one run: `step-N/` with `tensors.safetensors` and, written last, `state.json`.

    Of several processes the main one writes and reads, and the others get what it has read.
    """

    def __init__(self, directory: Path, keep: int = 2) -> None:
        """`keep`: how many to keep; older ones are removed once a newer one is on disk."""
        self.directory = directory
        self.keep = keep

    def save(self, step: int, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
        """Write a checkpoint; the ones before it stay until it is whole and on disk.

        What is left of one that was cut short is removed, and so is one of a later step: it is damaged, or
        `latest` would have returned it.

        Raises:
            RectoolError: the disk is full or refuses; the last good checkpoint stays.
        """
        if not processes.is_main():
            return
        before = checkpoints(self.directory)
        whole = {path for _, path in before}
        earlier = [path for at, path in before if at < step]
        path = self.directory / f"step-{step}"
        if path in whole:  # it stays until this one is whole
            path = self.directory / f"step-{step}.1"
        with disk_errors(self.directory, unfinished.ONCE_WRITABLE):
            self.directory.mkdir(parents=True, exist_ok=True)
            for left in set(self.directory.glob("step-*")) - whole:
                shutil.rmtree(left)
            unfinished.write_step(path, lambda path: _write_tensors(path / TENSORS, tensors), state)
            for other in whole - set(earlier[max(0, len(earlier) - self.keep + 1) :]):
                shutil.rmtree(other)

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint that can be read, or None if there is none; says so if a newer one is damaged.

        All processes call it.

        Raises:
            RectoolError: there are some, and all are damaged.
        """
        if not processes.is_main():
            head = processes.broadcast_json()
            if head is None:
                return None
            step, state = head
            return Checkpoint(step, state, processes.broadcast_tensors({}))
        found = self._newest()
        processes.broadcast_json(found and (found.step, found.state))
        if found is not None:
            processes.broadcast_tensors(found.tensors)
        return found

    def _newest(self) -> Checkpoint | None:
        found = checkpoints(self.directory)
        for step, path in reversed(found):
            try:
                state = json.loads((path / STATE).read_text(encoding="utf-8"))["state"]
                return Checkpoint(step, state, load_file(path / TENSORS))
            except (OSError, ValueError, KeyError, TypeError, SafetensorError) as problem:
                console.say(f"{path} is damaged ({problem}); going back to the checkpoint before it")
        if found:
            raise RectoolError(f"{self.directory}: all checkpoints are damaged; --overwrite starts anew")
        return None


def _write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Raises OSError where the disk refuses."""
    storages: set[int] = set()
    apart: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        if value.untyped_storage().data_ptr() in storages:  # safetensors refuses tensors that share memory
            value = value.clone()
        storages.add(value.untyped_storage().data_ptr())
        apart[name] = value
    try:
        save_file(apart, path)
    except SafetensorError as problem:
        number = re.search(r"os error (\d+)", str(problem))
        raise OSError(int(number[1]) if number else 0, str(problem), str(path)) from problem


def optimizer_state(
    optimizer: torch.optim.Optimizer, names: Sequence[str]
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The state of an optimizer as named tensors and a JSON value, exactly.

    Args:
        names: of its parameters, in its order.

    Returns:
        Tensors `NAME/KEY`, such as `embedding.weight/exp_avg`, and what is no tensor: `entries` by
        parameter name, and `groups`, the options of each parameter group.
    """
    stored = optimizer.state_dict()
    tensors: dict[str, torch.Tensor] = {}
    state: dict[str, Any] = {"names": list(names), "entries": {}, "groups": []}
    _check_names(optimizer, names)
    for index, entries in stored["state"].items():
        state["entries"][names[index]] = _apart(entries, f"{names[index]}/", tensors)
    for number, group in enumerate(stored["param_groups"]):
        options = {key: value for key, value in group.items() if key != "params"}
        state["groups"].append(_apart(options, f"group {number}/", tensors))
    return tensors, state


def load_optimizer_state(
    optimizer: torch.optim.Optimizer,
    names: Sequence[str],
    tensors: Mapping[str, torch.Tensor],
    state: Mapping[str, Any],
) -> None:
    """Put back what `optimizer_state` took; other tensors are ignored.

    Raises:
        RectoolError: it is the state of other parameters.
    """
    _check_names(optimizer, names)
    now = optimizer.state_dict()
    if state["names"] != list(names) or len(state["groups"]) != len(now["param_groups"]):
        raise RectoolError("the checkpoint holds the optimizer state of other parameters; start anew with --overwrite")
    own: defaultdict[str, dict[str, torch.Tensor]] = defaultdict(dict)
    for name, tensor in tensors.items():
        owner, of, key = name.rpartition("/")
        if of:
            own[owner][key] = tensor.clone()
    groups = []
    for number, (group, values) in enumerate(zip(now["param_groups"], state["groups"], strict=True)):
        lists = {key: tuple(value) for key, value in values.items() if isinstance(group.get(key), tuple)}
        groups.append({**values, **lists, **own[f"group {number}"], "params": group["params"]})
    entries = {
        index: {**state["entries"][name], **own[name]} for index, name in enumerate(names) if name in state["entries"]
    }
    optimizer.load_state_dict({"state": entries, "param_groups": groups})


def _apart(values: Mapping[str, Any], prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    """The values that are no tensors; a tensor goes to `tensors`."""
    tensors.update({prefix + key: value for key, value in values.items() if isinstance(value, torch.Tensor)})
    return {key: value for key, value in values.items() if not isinstance(value, torch.Tensor)}


def _check_names(optimizer: torch.optim.Optimizer, names: Sequence[str]) -> None:
    count = sum(len(group["params"]) for group in optimizer.param_groups)
    if len(names) != count or len(set(names)) != count:
        raise ValueError(f"{count} parameters, but {len(names)} names, {len(set(names))} of them different")
