"""Which device is meant, and what it has left."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from rectool.devices import device_named, free_memory, used
from rectool.errors import RectoolError

CPU = torch.device("cpu")
MEMINFO, CONTAINER, OLD_CONTAINER = "/proc/meminfo", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/memory/memory"


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What the system's files say; those that are not named are not there."""
    said: dict[str, str] = {}

    def read(path: Path, *_: Any, **__: Any) -> str:
        if str(path) not in said:
            raise FileNotFoundError(path)
        return said[str(path)]

    monkeypatch.setattr(Path, "read_text", read)
    return said


def test_the_least_that_the_system_names(files: dict[str, str]) -> None:
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert free_memory(CPU) == machine
    files[MEMINFO] = "MemTotal: 5 kB\nMemAvailable:    3000 kB\n"
    assert free_memory(CPU) == 3_072_000
    files |= {f"{CONTAINER}.max": "max\n", f"{CONTAINER}.current": "600000\n"}
    files[f"{CONTAINER}.stat"] = "anon 300000\ninactive_file 200000\nactive_file 9\n"
    assert free_memory(CPU) == 3_072_000
    files[f"{CONTAINER}.max"] = "2000000\n"
    assert free_memory(CPU) == 2_000_000 - 600_000 + 200_000
    files[MEMINFO] = "nothing of the kind"
    assert free_memory(CPU) == 1_600_000


def test_a_container_of_an_older_system(files: dict[str, str]) -> None:
    files[MEMINFO] = "MemAvailable: 3000 kB\n"
    files |= {f"{OLD_CONTAINER}.limit_in_bytes": "9223372036854771712\n", f"{OLD_CONTAINER}.usage_in_bytes": "600000\n"}
    files[f"{OLD_CONTAINER}.stat"] = "inactive_file 7\ntotal_inactive_file 200000\ntotal_active_file 9\n"
    assert free_memory(CPU) == 3_072_000
    files[f"{OLD_CONTAINER}.limit_in_bytes"] = "2000000\n"
    assert free_memory(CPU) == 2_000_000 - 600_000 + 200_000


def test_this_machine() -> None:
    assert 1 << 20 < free_memory(CPU) <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody has, and what this process holds without using it."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1000, 5000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 300)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 100)
    assert free_memory(torch.device("cuda:0")) == 1200


def test_what_manifests_say_of_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    assert used(CPU) == {"device": "cpu"}
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device.index}")
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 1000 + device.index)
    assert used(torch.device("cuda:1")) == {"device": "GPU 1", "device_memory_bytes": 1001}


def test_each_process_needs_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(torch, "empty", lambda *_, **__: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(
        RectoolError, match="--device cuda:0: 2 processes on this machine, but 1 GPU, of which each needs"
    ):
        device_named("cuda:0")
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert device_named("cuda:1") == torch.device("cuda:1")
    assert chosen == [torch.device("cuda:1")]
