"""Two processes make what one does: each row once, in order, with the metrics of one process and the doubled batch.

Batches are other ones, so that sums are rounded otherwise: scores agree to about 1e-5, not bit for bit.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_torch

from rectool.artifacts import folder, open_artifact
from rectool.commands.options import Resumable

Command = Callable[..., Any]
SCRIPT = Path(__file__).with_name("several_commands.py")
CF = "--embedding-size 8 --epochs 2 --learning-rate 0.01 --validate-rows 1"
SOFT = "--epochs 1 --samples 33 --history 3 --learning-rate 0.01 --validate-rows 1 --validate-steps 8 --device cpu"
TRAINED = {
    "train-cf": (f"train-cf DATA --model sasrec --heads 2 --dropout 0 --max-length 6 --task next-item {CF}", 7),
    "align": (f"align DATA --semantic SHELF/distill --model mf {CF}", 30),
    "tune-lora": (f"tune-lora DATA --llm LLM --dropout 0 {SOFT}", 1),
    "train-proj": (
        "train-proj DATA --adapter SHELF/tune-lora --aligned SHELF/align --train projector,cf,semantic "
        f"--tokens user,item,warm --unknown mean {SOFT}",
        4,
    ),
}
"""What trains, and the batch of each of two processes. One row to validate on is fewer than there are processes; of 33
rows the second process has none in the last step."""
SHARED = {
    "distill": "distill DATA --llm LLM",
    "eval": "eval DATA SHELF/align/cf --draws 20",
    "eval-ranks": "eval DATA SHELF/train-cf --topk --draws 20",
    "eval-pairs": "eval DATA SHELF/ncf --topk --draws 0",
    "eval-lora": "eval DATA SHELF/tune-lora --threshold valid --draws 20",
    "recommend": "recommend DATA SHELF/train-cf --k 4",
    "recommend-one": "recommend DATA SHELF/train-cf --k 4 --users u1",
    "rerank": "recommend DATA SHELF/tune-lora --retriever SHELF/train-cf --candidates 7 --k 3 --users u1 --users u31",
}
"""What shares its rows."""
FIRST = {
    "prep": "prep synthetic --users 30 --items 40 --quiet",
    "compare": "compare SHELF/eval SHELF/eval-lora --no-figures --draws 20",
    "plot": "plot bars SHELF/eval SHELF/eval-lora",
}
"""What the main process does alone."""
ORDER = ("train-cf", "distill", "align", "tune-lora", "train-proj", *list(SHARED)[1:])
PAIRS = "train-cf DATA --model ncf --task next-item --loss bce --epochs 1"
"""A model that ranks pair by pair."""
STOPPED = {"stopped": SHARED["eval-lora"], "stopped-training": TRAINED["align"][0] + " --batch-size 30"}


@dataclass(frozen=True)
class Places:
    """What two processes made, and what one did."""

    both: Path
    alone: Path

    def outcome(self, name: str, rank: int = 0) -> Any:
        return json.loads((self.both / f"{name}-{rank}.json").read_text())


@pytest.fixture
def words(data: Path, shelf: Path, tiny_llm: Callable[..., Path]) -> Callable[[str], list[str]]:
    """The words of a command line above."""
    places = {"DATA": str(data), "SHELF": str(shelf), "LLM": str(tiny_llm("llama"))}
    return lambda line: [re.sub("DATA|SHELF|LLM", lambda found: places[found[0]], word) for word in line.split()]


@pytest.fixture
def places(
    rectool: Command, shelf: Path, words: Any, free_ports: Callable[[int], list[int]], monkeypatch: pytest.MonkeyPatch
) -> Places:
    """All command lines, run once for the tests of this file: by one process, and by two that go through them all."""
    both = shelf / "both"
    if both.exists():
        return Places(both, shelf)
    assert rectool(*words(PAIRS), "--out", shelf / "ncf").code == 0
    for name in ORDER:
        line, size = TRAINED.get(name, (SHARED.get(name), 0))
        batch = ("--batch-size", 2 * size) if size else ()
        done = rectool(*words(line), *batch, "--out", shelf / name)
        assert done.code == 0, done.stderr
    plan: dict[str, list[str]] = {}
    for name in ORDER:
        line, size = TRAINED.get(name, (SHARED.get(name), 0))
        plan[name] = words(line) + (["--batch-size", str(size)] if size else [])
    plan |= {name: words(line) for name, line in FIRST.items()}
    plan = {name: [*line, "--out", str(both / name)] for name, line in plan.items()}
    for name in ("stopped", "stopped-training"):
        plan[name] = [*words(STOPPED[name]), "--out", str(both / name)]
    plan["resumed"] = [*plan["stopped"], "--resume"]
    with monkeypatch.context() as patched:
        patched.setattr(Resumable, "max_seconds", lambda make: 0.0)
        done = rectool(*words(STOPPED["stopped-training"]), "--out", both / "stopped-alone")
        assert done.code == 75, done.stderr
    plan["resumed-by-two"] = [*words(STOPPED["stopped-training"]), "--out", str(both / "stopped-alone"), "--resume"]
    both.mkdir(exist_ok=True)
    run_in_two(both, plan, free_ports(len(plan)))
    return Places(both, shelf)


def run_in_two(both: Path, plan: dict[str, list[str]], ports: Sequence[int]) -> None:
    lines = {
        name: {"words": words, "port": port, "stopped": name in STOPPED}
        for (name, words), port in zip(plan.items(), ports, strict=True)
    }
    (both / "plan.json").write_text(json.dumps(lines))
    command = [sys.executable, str(SCRIPT), str(both / "plan.json")]
    told = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, **told, "RANK": rank})
        for rank in ("0", "1")
    ]
    try:
        said = [process.communicate(timeout=300)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], said


def assert_alike(found: Path, expected: Path, tolerance: float) -> None:
    """The same rows in the same order; floats within a tolerance."""
    mine, theirs = (pq.read_table(path).to_pydict() for path in (found, expected))
    assert mine.keys() == theirs.keys()
    for name, values in mine.items():
        if any(isinstance(value, float) for value in values):
            assert values == pytest.approx(theirs[name], rel=tolerance, abs=tolerance, nan_ok=True), name
        else:
            assert values == theirs[name], name


@pytest.mark.parametrize("name", [*ORDER, *FIRST])
def test_both_end_well_and_the_main_process_alone_speaks(name: str, places: Places) -> None:
    main, other = places.outcome(name), places.outcome(name, 1)
    assert (main["code"], other["code"]) == (0, 0), (main["said"], other["said"])
    assert (other["shown"], other["said"]) == ("", "")
    assert main["said"].count("rectool inspect") == (name != "prep")
    made = open_artifact(places.both / name, verify=True).manifest
    assert made.run["world_size"] == (1 if name in FIRST else 2)


@pytest.mark.parametrize("name", TRAINED)
def test_training_is_that_of_one_process_with_the_doubled_batch(name: str, places: Places) -> None:
    found, expected = places.both / name, places.alone / name
    mine, theirs = (pq.read_table(folder / "curve.parquet").to_pydict() for folder in (found, expected))
    assert len(mine["step"]) >= 2
    assert (mine["step"], mine["metric"], mine["split"]) == (theirs["step"], theirs["metric"], theirs["split"])
    assert mine["value"] == pytest.approx(theirs["value"], rel=1e-4, abs=1e-5)
    if name in ("align", "train-proj"):  # the weights of the others are compared in tests/training
        for path in expected.rglob("*.safetensors"):
            twin = found / path.relative_to(expected)
            torch.testing.assert_close(load_torch(twin), load_torch(path), rtol=1e-2, atol=2e-4)


@pytest.mark.parametrize("name", ["eval", "eval-ranks", "eval-pairs", "eval-lora"])
def test_an_evaluation_has_each_row_once_and_the_same_metrics(name: str, places: Places) -> None:
    found, expected = places.both / name, places.alone / name
    assert_alike(found / "predictions.parquet", expected / "predictions.parquet", 1e-5)
    if name in ("eval-ranks", "eval-pairs"):
        assert_alike(found / "topk.parquet", expected / "topk.parquet", 1e-5)
    mine, theirs = (json.loads((folder / "metrics.json").read_text()) for folder in (found, expected))
    assert len(mine["metrics"]) == len(theirs["metrics"]) > 10
    for line, other in zip(mine["metrics"], theirs["metrics"], strict=True):
        assert line == pytest.approx(other, abs=1e-5), "of the same rows, users and groups"


def test_items_are_distilled_once_each(places: Places) -> None:
    found, expected = (
        load_file(folder / "distill/embeddings.safetensors")["item"] for folder in (places.both, places.alone)
    )
    assert len(np.unique(expected, axis=0)) > 50, "rows that are in the wrong place would be seen"
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("name", ["recommend", "recommend-one", "rerank"])
def test_each_user_is_recommended_to_once(name: str, places: Places) -> None:
    found, expected = (folder / name / "recommendations.parquet" for folder in (places.both, places.alone))
    assert_alike(found, expected, 1e-5)


def test_the_work_is_shared(places: Places, data: Path) -> None:
    """Each process computes about half of the rows; a piece of one row is computed by both, to know its shape."""
    counts = open_artifact(data).manifest.counts
    rows = {"distill": counts["items"], "recommend": counts["users"], "eval-ranks": 0, "eval-lora": 0}
    for name, known in rows.items():
        shares = [places.outcome(name, rank)["rows"] for rank in (0, 1)]
        if known:
            assert sum(shares) == known
        assert min(shares) > 0.4 * sum(shares), (name, shares)
    assert [places.outcome("recommend-one", rank)["rows"] for rank in (0, 1)] == [1, 1]


def test_two_that_stopped_go_on_together(places: Places) -> None:
    main, other = places.outcome("stopped"), places.outcome("stopped", 1)
    assert (main["code"], other["code"]) == (75, 75)
    assert main["said"].count("error: stopped at row ") == 1
    assert other["said"] == ""
    assert "going on from row " in places.outcome("resumed")["said"]
    for name in ("predictions.parquet", "metrics.json"):
        assert (places.both / "stopped" / name).read_bytes() == (places.both / "eval-lora" / name).read_bytes()


def test_another_number_of_processes_cannot_go_on(places: Places, rectool: Command, words: Any) -> None:
    by_two, by_one = places.both / "stopped-training", places.both / "stopped-alone"
    done = rectool(*words(STOPPED["stopped-training"]), "--out", by_two, "--resume")
    assert done.code == 2
    assert done.error == "--resume: world_size was 2, is 1; set them as they were, or start anew with --overwrite"
    main, other = (places.outcome("resumed-by-two", rank) for rank in (0, 1))
    assert (main["code"], other["code"]) == (2, 2)
    assert main["said"].endswith(
        "error: --resume: world_size was 1, is 2; set them as they were, or start anew with --overwrite\n"
    )
    assert other["said"] == ""
    for out in (by_two, by_one):
        assert list((folder.partial_of(out) / folder.CHECKPOINTS).iterdir()), "what was kept stays"
