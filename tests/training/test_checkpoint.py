"""Checkpoints: what is saved comes back bit for bit, whatever was cut short, damaged or full."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from torch import nn

from rectool.errors import RectoolError
from rectool.training import checkpoint
from rectool.training.checkpoint import Checkpoints, load_optimizer_state, optimizer_state

TENSORS = {"weight": torch.arange(6.0).reshape(2, 3)}


def folders(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    return (
        one.dtype == other.dtype
        and one.shape == other.shape
        and one.contiguous().view(-1).view(torch.uint8).equal(other.contiguous().view(-1).view(torch.uint8))
    )


# Saving and loading


def test_what_is_saved_comes_back_bit_for_bit(tmp_path: Path) -> None:
    tied = torch.randn(4, 4)
    tensors = {
        "double": torch.tensor([0.1, math.nan, -0.0, math.inf], dtype=torch.float64),
        "half": torch.randn(3).half(),
        "brain": torch.randn(3).bfloat16(),
        "random": torch.get_rng_state(),
        "flags": torch.tensor([True, False]),
        "scalar": torch.tensor(7),
        "empty": torch.zeros(0, 3),
        "also empty": torch.zeros(0),
        "tied": tied,
        "tied too": tied,
        "turned": tied.t(),
        "part": tied[1:3, ::2],
        "parameter": nn.Parameter(torch.randn(2)),
    }
    state = {"epoch": 3, "best": 0.1 + 0.2, "worst": -math.inf, "large": 2**127 + 1, "list": [1, None, True, "é"]}
    Checkpoints(tmp_path / "deep/er").save(12, tensors, state)

    found = Checkpoints(tmp_path / "deep/er").latest()
    assert found is not None
    assert (found.step, found.state) == (12, state)
    assert found.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert same_bits(found.tensors[name], tensor.detach()), name


def test_without_a_checkpoint_there_is_none(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path).latest() is None
    assert Checkpoints(tmp_path / "none").latest() is None


@pytest.mark.parametrize(("keep", "left"), [(1, [30]), (2, [9, 30]), (5, [1, 2, 9, 30])])
def test_the_newest_are_kept(keep: int, left: list[int], tmp_path: Path) -> None:
    saved = Checkpoints(tmp_path, keep)
    for step in (1, 2, 9, 30):
        saved.save(step, TENSORS, {})
    assert folders(tmp_path) == sorted(f"step-{step}" for step in left)
    assert saved.latest().step == 30


def test_a_step_can_be_saved_again(tmp_path: Path) -> None:
    saved = Checkpoints(tmp_path)
    saved.save(1, TENSORS, {})
    for time in range(4):
        saved.save(2, TENSORS, {"time": time})
        assert saved.latest().state == {"time": time}
        assert len(folders(tmp_path)) == 2


# What was cut short, damaged or full


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from rectool.training.checkpoint import Checkpoints

sys.path.insert(0, {here!r})
from breaking import Breaking
from kill_points import in_child

root, count = Path({root!r}), 0
survived = False
while not survived:
    count += 1
    folder = root / str(count)
    for step in (1, 2):
        Checkpoints(folder).save(step, {{"weight": torch.full((50,), float(step))}}, {{"step": step}})
    def save():
        with Breaking(count, kill=True):
            Checkpoints(folder).save({step}, {{"weight": torch.full((50,), 3.0)}}, {{"step": 3}})
    survived = in_child(save)
"""


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder in memory: a kill loses nothing there, and it is fast."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as path:
        yield Path(path)


@pytest.mark.parametrize("step", [2, 3])
def test_a_kill_at_any_call_leaves_a_good_one(step: int, memory: Path) -> None:
    here = Path(__file__).parents[1] / "reliability"
    script = KILLED.format(here=str(here), root=str(memory), step=step)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr

    left = []
    for folder in memory.iterdir():
        found = Checkpoints(folder).latest()
        assert found.tensors["weight"].tolist() == [found.state["step"]] * 50
        left.append(found.state["step"])
        Checkpoints(folder).save(4, TENSORS, {"step": 4})
        assert Checkpoints(folder).latest().state == {"step": 4}
        assert len(folders(folder)) == 2
    assert len(left) >= 8
    assert set(left) == {2, 3}


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json"])
@pytest.mark.parametrize("damage", [cut, Path.unlink, lambda path: path.write_bytes(b"")])
def test_a_damaged_one_gives_way_to_the_one_before(
    name: str, damage: Callable[[Path], Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = Checkpoints(tmp_path)
    for step in (1, 2):
        saved.save(step, TENSORS, {"at": step})
    damage(tmp_path / "step-2" / name)

    assert saved.latest().state == {"at": 1}
    if (tmp_path / "step-2/state.json").exists():
        said = capsys.readouterr().err
        assert said.startswith(f"{tmp_path / 'step-2'} is damaged (")
        assert said.endswith("); going back to the checkpoint before it\n")
    saved.save(2, TENSORS, {"at": "2 again"})
    assert saved.latest().state == {"at": "2 again"}
    assert len(folders(tmp_path)) == 2


def test_one_of_a_later_step_goes_once_there_is_a_good_one(tmp_path: Path) -> None:
    saved = Checkpoints(tmp_path)
    for step in (1, 9):
        saved.save(step, TENSORS, {})
    cut(tmp_path / "step-9/tensors.safetensors")
    saved.save(5, TENSORS, {})
    assert folders(tmp_path) == ["step-1", "step-5"]


def test_all_damaged_is_an_error(tmp_path: Path) -> None:
    saved = Checkpoints(tmp_path)
    for step in (1, 2):
        saved.save(step, TENSORS, {})
        cut(tmp_path / f"step-{step}/tensors.safetensors")
    with pytest.raises(RectoolError, match="all checkpoints are damaged; --overwrite starts anew"):
        saved.latest()


def test_what_is_no_checkpoint_is_left_alone(tmp_path: Path) -> None:
    for name in ("step-x", "step-3"):
        (tmp_path / name).mkdir()
    (tmp_path / "making.json").write_text("{}")
    saved = Checkpoints(tmp_path)
    assert saved.latest() is None
    saved.save(1, TENSORS, {})
    assert folders(tmp_path) == ["making.json", "step-1"]


@pytest.mark.parametrize(
    ("call", "number", "said"),
    [
        ("mkdir", errno.ENOSPC, "is full; free some space"),
        ("fsync", errno.EDQUOT, "is full; free some space"),
        ("replace", errno.EIO, "Input/output error; --resume goes on from the last checkpoint once it can be written"),
    ],
)
def test_what_the_disk_refuses_leaves_the_last_one(
    call: str, number: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = Checkpoints(tmp_path)
    saved.save(1, TENSORS, {})

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(os, call, refuse)
        with pytest.raises(RectoolError, match=said):
            saved.save(2, TENSORS, {})
    assert folders(tmp_path) == ["step-1"]
    assert saved.latest().step == 1


def test_a_full_disk_is_told_by_the_tensor_file_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoint, "save_file", refuse)
    with pytest.raises(RectoolError, match=r"the disk of .* is full; free some space"):
        Checkpoints(tmp_path).save(1, TENSORS, {})
    assert folders(tmp_path) == []


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    done = mount and subprocess.run([mount, "-t", "tmpfs", "-o", "size=300k", "none", disk], capture_output=True)
    if not done or done.returncode:
        pytest.skip("no disk can be mounted here")
    try:
        saved = Checkpoints(disk)
        saved.save(1, {"weight": torch.ones(20_000)}, {})
        for step in (2, 3):
            with pytest.raises(RectoolError, match="is full; free some space"):
                saved.save(step, {"weight": torch.ones(70_000)}, {})
            assert folders(disk) == ["step-1"]
        assert saved.latest().tensors["weight"].sum() == 20_000
        saved.save(2, {"weight": torch.ones(20_000)}, {})
        assert saved.latest().step == 2
        del saved
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


# Optimizers


OPTIMIZERS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.01, betas=(0.8, 0.95)),
    "fused": lambda parameters: torch.optim.AdamW(parameters, lr=0.01, fused=True),
    "amsgrad": lambda parameters: torch.optim.AdamW(parameters, lr=0.01, amsgrad=True),
    "tensor rate": lambda parameters: torch.optim.Adam(parameters, lr=torch.tensor(0.01)),
    "adagrad": lambda parameters: torch.optim.Adagrad(parameters, lr=0.1),
    "groups": lambda parameters: torch.optim.AdamW(
        [{"params": parameters[:1], "lr": 0.02}, {"params": parameters[1:], "weight_decay": 0.5}], lr=0.01
    ),
}


def network(kind: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).to(kind)


def train(module: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    kind = next(module.parameters()).dtype
    for step in steps:
        torch.manual_seed(step)
        optimizer.zero_grad()
        module(torch.randn(5, 3, dtype=kind)).square().mean().backward()
        optimizer.param_groups[0]["lr"] *= 0.9
        optimizer.step()


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_goes_on_bit_for_bit(name: str, kind: torch.dtype, tmp_path: Path) -> None:
    module = network(kind)
    optimizer = OPTIMIZERS[name](list(module.parameters()))
    names = [name for name, _ in module.named_parameters()]
    train(module, optimizer, range(5))
    tensors, state = optimizer_state(optimizer, names)
    Checkpoints(tmp_path).save(5, {**module.state_dict(), **tensors}, state)
    train(module, optimizer, range(5, 10))

    found = Checkpoints(tmp_path).latest()
    again = network(kind)
    again.load_state_dict({name: found.tensors[name] for name in names})
    other = OPTIMIZERS[name](list(again.parameters()))
    load_optimizer_state(other, names, found.tensors, found.state)
    train(again, other, range(5, 10))

    for one, two in zip(module.parameters(), again.parameters(), strict=True):
        assert same_bits(one.detach(), two.detach())
    expected, got = optimizer.state_dict(), other.state_dict()
    assert got["param_groups"] == expected["param_groups"]
    assert got["state"].keys() == expected["state"].keys()
    for index, entries in expected["state"].items():
        assert got["state"][index].keys() == entries.keys()
        for key, value in entries.items():
            same = same_bits(value, got["state"][index][key]) if isinstance(value, torch.Tensor) else None
            assert same or value == got["state"][index][key], key
    assert Checkpoints(tmp_path).latest().tensors["0.weight"].equal(found.tensors["0.weight"])


def test_the_state_of_an_optimizer_is_json_and_safetensors() -> None:
    module = network()
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.01)
    names = [name for name, _ in module.named_parameters()]
    assert optimizer_state(optimizer, names)[0] == {}

    train(module, optimizer, range(1))
    tensors, state = optimizer_state(optimizer, names)
    assert sorted(tensors)[:3] == ["0.bias/exp_avg", "0.bias/exp_avg_sq", "0.bias/step"]
    assert state == json.loads(json.dumps(state)) | {"groups": state["groups"]}
    assert state["groups"][0]["lr"] == 0.01 * 0.9


def test_the_state_of_other_parameters_is_refused() -> None:
    module = network()
    optimizer = torch.optim.Adam(module.parameters())
    names = [name for name, _ in module.named_parameters()]
    tensors, state = optimizer_state(optimizer, names)
    with pytest.raises(RectoolError, match="of other parameters"):
        load_optimizer_state(optimizer, names[::-1], tensors, state)
    with pytest.raises(ValueError, match="4 parameters, but 3 names"):
        optimizer_state(optimizer, names[1:])
