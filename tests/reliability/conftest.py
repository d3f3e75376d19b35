"""What strangers' files are made of, and the one way in which they may end."""

from __future__ import annotations

import gc
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import hostile

LETTERS_THAT_TERMINALS_OBEY = {chr(code) for code in (*range(32), *range(0x7F, 0xA0), *range(0x202A, 0x202F))} - {
    "\n",
    "\t",
}


@pytest.fixture
def door(rectool: Callable[..., Any]) -> Callable[..., Any]:
    """Run a command on files of a stranger's, watched: it does what it should, or says in one line what is wrong.

    `door(*arguments)` gives the outcome, whose code is 0 or 2.
    """

    def run(*arguments: object, seconds: float = 60.0, memory: int = 2 << 30) -> Any:
        with warnings.catch_warnings(), hostile.bounded(seconds, memory):
            warnings.simplefilter("ignore")  # of libraries, about values that are odd indeed
            outcome = rectool(*arguments)
        gc.collect()
        assert outcome.code in (0, 2), outcome.stderr
        if outcome.code == 2:
            assert outcome.error
            assert len(outcome.error) < 3000
        obeyed = LETTERS_THAT_TERMINALS_OBEY & set(outcome.stdout + outcome.stderr)
        assert not obeyed, obeyed
        return outcome

    return run


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tests of a file keep what they make once."""
    return tmp_path_factory.mktemp("shelf")


@pytest.fixture
def artifacts(shelf: Path, rectool: Callable[..., Any], tiny_llm: Callable[..., Path]) -> Path:
    """A folder with a small artifact of most kinds, and a Hugging Face folder, made once for the tests of a file."""
    import numpy as np
    from safetensors.numpy import save_file

    data, llm = shelf / "data", shelf / "backbone"
    if data.exists():
        return shelf
    shutil.copytree(tiny_llm("llama"), llm)
    done = rectool("prep", "synthetic", "--users", 24, "--items", 40, "--quiet", "--out", data)
    assert done.code == 0, done.stderr
    items = rectool("inspect", data, "--json").json["counts"]["items"]
    (shelf / "semantic").mkdir()
    save_file(
        {"item": np.random.default_rng(0).normal(size=(items, 8)).astype(np.float32)},
        shelf / "semantic" / "embeddings.safetensors",
    )
    (shelf / "semantic" / "config.json").write_text('{"pooling": "last"}')
    short = ("--steps", 1, "--samples", 20, "--validate-rows", 10, "--batch-size", 8)
    hybrid = ("--adapter", shelf / "lora", "--cf", shelf / "mf", "--tokens", "user,item")
    lines: list[tuple[object, ...]] = [
        ("adopt", shelf / "semantic", "--kind", "semantic", "--data", data),
        ("train-cf", data, "--model", "mf", "--embedding-size", 4, "--steps", 1, "--out", shelf / "mf"),
        ("train-cf", data, "--model", "sasrec", "--embedding-size", 4, "--steps", 1, "--out", shelf / "sasrec"),
        ("tune-lora", data, "--llm", llm, "--history", 2, *short, "--out", shelf / "lora"),
        ("train-proj", data, *hybrid, *short, "--out", shelf / "soft"),
        ("eval", data, shelf / "mf", "--draws", 0, "--out", shelf / "result"),
        ("eval", data, shelf / "sasrec", "--draws", 0, "--out", shelf / "other-result"),
        ("recommend", data, shelf / "mf", "--out", shelf / "recommendations"),
    ]
    for words in lines:
        done = rectool(*words, *(() if words[0] == "adopt" else ("--quiet",)))
        assert done.code == 0, done.stderr
    return shelf
