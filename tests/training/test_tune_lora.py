"""Two processes tune a model as one does with the doubled batch."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from rectool.data.dataset import Dataset

SCRIPT = Path(__file__).with_name("two_tuners.py")
FIT = {"batch_size": 8, "epochs": 2, "learning_rate": 0.01, "batch_tokens": 400}
CASES: dict[str, dict[str, Any]] = {
    "lora": {"lora": {"dropout": 0.0}, "fit": FIT},
    "full": {"lora": {"full": True}, "fit": {**FIT, "learning_rate": 0.001}, "answering": {"samples": 60}},
    "dropping": {"fit": {**FIT, "checkpointing": "on"}, "answering": {"samples": 60}},
    "item": {
        "lora": {"dropout": 0.0},
        "fit": FIT,
        "predicting": {"task": "next-item", "mask": "in:1,cr:1"},
        "answering": {"samples": 60},
    },
    "title": {
        "lora": {"dropout": 0.0},
        "fit": FIT,
        "predicting": {"task": "next-item", "head": "title"},
        "answering": {"samples": 60},
    },
}


@pytest.fixture(scope="module")
def both(tiny: Path, tiny_llm: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes made of all cases: NAME-RANK."""
    out = tmp_path_factory.mktemp("both")
    (out / "cases.json").write_text(json.dumps(CASES))
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    words = [sys.executable, *launcher, str(SCRIPT), *map(str, (tiny, tiny_llm("llama"), out / "cases.json", out))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RECTOOL_CACHE": str(out / "cache")}
    done = subprocess.run(words, capture_output=True, text=True, timeout=240, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def run() -> Callable[..., Any]:
    """`run` of the script, for one process."""
    described = importlib.util.spec_from_file_location("two_tuners", SCRIPT)
    assert described is not None
    assert described.loader is not None
    module = importlib.util.module_from_spec(described)
    described.loader.exec_module(module)
    return module.run


def losses(path: Path) -> list[float]:
    points = pq.read_table(path / "curve.parquet").to_pylist()
    return [point["value"] for point in points if point["split"] == "train"]


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("lora", "adapter_model.safetensors"),
        ("full", "model.safetensors"),
        ("item", "adapter_model.safetensors"),
        ("item", "head.safetensors"),
        ("title", "adapter_model.safetensors"),
    ],
)
def test_two_processes_equal_one_with_the_doubled_batch(
    name: str,
    weights: str,
    both: Path,
    run: Callable[..., Any],
    dataset: Dataset,
    tiny_llm: Callable[..., Path],
    tmp_path: Path,
) -> None:
    case = CASES[name]
    fit = {**case["fit"], "batch_size": 2 * case["fit"]["batch_size"]}
    draft = run(dataset, str(tiny_llm("llama")), {**case, "fit": fit}, tmp_path / "one")
    found, expected = (load_file(path / "last" / weights) for path in (both / f"{name}-0", tmp_path / "one"))
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=2e-4)
    metrics = json.loads((both / f"{name}-0/metrics.json").read_text())
    assert metrics.keys() == draft.metrics.keys()
    assert losses(both / f"{name}-0") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    for metric, value in draft.metrics["valid"].items():
        assert metrics["valid"][metric] == pytest.approx(value, rel=1e-2)
    assert metrics["priors"] == draft.metrics["priors"]
    assert metrics["steps"] == draft.metrics["steps"]


@pytest.mark.parametrize("name", ["lora", "dropping"])
def test_both_have_the_same_weights_whatever_chance_drops(name: str, both: Path) -> None:
    weights = [(both / f"{name}-{rank}/adapter_model.safetensors").read_bytes() for rank in (0, 1)]
    assert weights[0] == weights[1]
