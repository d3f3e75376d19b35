"""Two processes do what one with the doubled batch does, and end together."""

from __future__ import annotations

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

from rectool.artifacts import Draft, folder, open_artifact, unfinished
from rectool.data.dataset import Dataset
from rectool.training.run import Run
from rectool.training.settings import Fit
from rectool.training.train_cf import train

SCRIPT = Path(__file__).with_name("two_processes.py")
FIT = {"batch_size": 16, "epochs": 3, "learning_rate": 0.01, "clip": 1.0, "schedule": "cosine", "warmup": 0.2}
SASREC = {"embedding_size": 8, "heads": 2, "max_length": 8, "dropout": 0.0}
CASES: dict[str, dict[str, Any]] = {
    "ctr-mf": {"model": "mf", "given": {"embedding_size": 8}},
    "ctr-sasrec": {"model": "sasrec", "given": SASREC},
    "next-sasrec": {"model": "sasrec", "given": SASREC, "objective": {"task": "next-item"}},
    "next-robust": {
        "model": "lightgcn",
        "given": {"embedding_size": 8},
        "objective": {"task": "next-item", "robust": 0.1},
    },
    "bias": {"model": "bias", "given": {}},
}
DROPPING = {**SASREC, "dropout": 0.3}
TROUBLES: dict[str, dict[str, Any]] = {
    "whole": {"model": "sasrec", "given": DROPPING},
    "stopped": {"model": "sasrec", "given": DROPPING, "trouble": "stop"},
    "resumed": {"model": "sasrec", "given": DROPPING, "resume": "stopped"},
    "nan": {"model": "sasrec", "given": DROPPING, "trouble": "nan"},
}


def together(*command: object) -> subprocess.CompletedProcess[str]:
    """Run a module in two processes."""
    words = [sys.executable, "-m", *map(str, command)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(words, capture_output=True, text=True, timeout=240, check=False, env=environment)


@pytest.fixture(scope="module")
def both(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes made of all cases: NAME-RANK."""
    out = tmp_path_factory.mktemp("both")
    cases = {name: {"fit": FIT, **case} for name, case in {**CASES, **TROUBLES}.items()}
    (out / "cases.json").write_text(json.dumps(cases))
    launcher = ("torch.distributed.run", "--standalone", "--nproc-per-node", 2)
    done = together(*launcher, SCRIPT, tiny, out / "cases.json", out)
    assert done.returncode == 0, done.stderr
    return out


def assert_alike(one: Path, other: Path, tolerance: float) -> None:
    """The same weights within rounding, but for the biases of attention's keys.

    These change nothing: their gradient is rounding alone, of which Adam makes steps of full size.
    """
    found, expected = load_file(one), load_file(other)
    for tensors in (found, expected):
        for name in [name for name in tensors if name.endswith("attention_in.bias")]:
            query, _, value = tensors[name].chunk(3)
            tensors[name] = torch.cat((query, value))
    torch.testing.assert_close(found, expected, rtol=10 * tolerance, atol=tolerance)


def losses(path: Path) -> list[tuple[int, float]]:
    points = pq.read_table(path / "curve.parquet").to_pylist()
    return [(point["step"], point["value"]) for point in points if point["split"] == "train"]


@pytest.mark.parametrize("name", CASES)
def test_two_processes_equal_one_with_the_doubled_batch(
    name: str, both: Path, dataset: Dataset, chosen: Callable[..., Any], tmp_path: Path
) -> None:
    case = CASES[name]
    choice, objective = chosen(dataset, case["model"], **case["given"], **case.get("objective", {}))
    draft = Draft(tmp_path, tmp_path)
    train(draft, dataset, choice, objective, Fit(**{**FIT, "batch_size": 32}), Run(0, torch.device("cpu")))
    ranks = [load_file(both / f"{name}-{rank}/weights.safetensors") for rank in (0, 1)]
    for tensor, here in ranks[0].items():
        assert here.equal(ranks[1][tensor]), "both have the same weights"
    assert_alike(both / f"{name}-0/weights.safetensors", tmp_path / "weights.safetensors", 1e-4)
    if name != "bias":
        assert_alike(both / f"{name}-0/last.safetensors", tmp_path / "last.safetensors", 1e-4)
        found, expected = losses(both / f"{name}-0"), losses(tmp_path)
        assert [step for step, _ in found] == [step for step, _ in expected]
        assert len(found) == 3
        assert [value for _, value in found] == pytest.approx([value for _, value in expected], rel=1e-5)


def test_where_one_process_is_told_to_stop_all_stop_and_go_on_bit_for_bit(both: Path) -> None:
    said = [(both / f"stopped-{rank}/error").read_text() for rank in (0, 1)]
    assert "stopped at step 4 of " in said[0]
    assert "(another process), with a checkpoint" in said[0]
    assert "stopped at step 4 of " in said[1]
    assert "(terminated), with a checkpoint" in said[1]
    for name in ("weights.safetensors", "last.safetensors", "curve.parquet", "embeddings.safetensors"):
        whole = (both / "whole-0" / name).read_bytes()
        assert (both / "resumed-0" / name).read_bytes() == (both / "resumed-1" / name).read_bytes() == whole, name


def test_a_loss_that_is_no_number_in_one_process_ends_all(both: Path) -> None:
    said = [(both / f"nan-{rank}/error").read_text() for rank in (0, 1)]
    assert said[0] == said[1]
    assert "the loss is nan at step 4 " in said[0]


def test_the_whole_command(
    tiny: Path, rectool: Callable[..., Any], free_ports: Callable[[int], list[int]], tmp_path: Path
) -> None:
    """Out of time, refused to one process, and finished by two: one artifact, equal to that of one process."""
    out, alone = tmp_path / "out", tmp_path / "alone"
    words = ("train-cf", tiny, "--model", "sasrec", "--embedding-size", 8, "--heads", 2, "--dropout", 0)
    words = (
        *words,
        "--task",
        "next-item",
        "--steps",
        200,
        "--validate-steps",
        1,
        "--patience",
        0,
        "--learning-rate",
        0.01,
    )
    ports = iter(free_ports(2))

    def launched(*words: object) -> subprocess.CompletedProcess[str]:
        launcher = ("accelerate.commands.launch", "--multi_gpu", "--num_processes", 2, "--num_machines", 1)
        launcher = (*launcher, "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", next(ports))
        return together(*launcher, "-m", "rectool", *words)

    two = (*words, "--batch-size", 8, "--device", "cpu", "--out", out)
    done = launched(*two, "--checkpoint-minutes", 0.0001, "--max-time", "1s")
    assert done.returncode != 0
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert "(--max-time: 1 s have passed), with a checkpoint" in errors[0]
    assert not out.exists()
    *_, (step, _) = unfinished.checkpoints(folder.partial_of(out) / folder.CHECKPOINTS)

    refused = rectool(*two, "--resume")
    assert refused.code == 2
    assert "--resume: world_size was 2, is 1; " in refused.error

    done = launched(*two, "--resume")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(f"going on from the checkpoint of step {step}") == 1
    made = open_artifact(out, "cf", verify=True)
    assert made.manifest.run["world_size"] == 2
    assert made.manifest.metrics["steps"] == 200
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]

    assert rectool(*words, "--batch-size", 16, "--out", alone).code == 0
    assert_alike(out / "last.safetensors", alone / "last.safetensors", 1e-3)
    mine, theirs = losses(out), losses(alone)
    assert [step for step, _ in mine] == [step for step, _ in theirs]
    assert [value for _, value in mine] == pytest.approx([value for _, value in theirs], rel=1e-4)
