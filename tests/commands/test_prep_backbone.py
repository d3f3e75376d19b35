"""`rectool prep backbone`, run for real, and its model in the commands that take one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

SMALL = ("--vocabulary", 600, "--exercises", 40, "--epochs", 1, "--device", "cpu")


@pytest.fixture
def data(rectool: Callable[..., Any], tmp_path: Path) -> Path:
    out = tmp_path / "data"
    assert rectool("prep", "synthetic", "--users", 40, "--items", 50, "--quiet", "--out", out).code == 0
    return out


def test_it_makes_an_ordinary_folder_that_other_commands_take(
    data: Path, rectool: Callable[..., Any], tmp_path: Path
) -> None:
    out = tmp_path / "nano"
    made = rectool("prep", "backbone", data, *SMALL, "--out", out, "--json")
    assert made.code == 0, made.stderr
    assert made.json["kind"] == "backbone"
    assert made.json["metrics"]["perplexity"] > 1
    assert "knows nothing but this data set" in made.stderr

    model = AutoModelForCausalLM.from_pretrained(out)
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert model.dtype == torch.float32
    assert len(tokenizer) == model.config.vocab_size == made.json["metrics"]["vocabulary"]
    assert tokenizer("Yes").input_ids[0] == model.config.bos_token_id

    result = tmp_path / "result"
    assert rectool("eval", data, out, "--draws", 0, "--out", result).code == 0
    tuned = rectool("tune-lora", data, "--llm", out, "--epochs", 1, "--samples", 32, "--out", tmp_path / "lora")
    assert tuned.code == 0, tuned.stderr
    assert json.loads((tmp_path / "lora/rectool.json").read_text())["parents"][1]["kind"] == "backbone"
    asked = json.loads((tmp_path / "lora/model.json").read_text())["prompt"]["template"]["name"]
    assert asked == json.loads((result / "metrics.json").read_text())["language_model"]["prompt"] == "plain"


def test_exercises_can_be_worded_like_a_prompt(data: Path, rectool: Callable[..., Any], tmp_path: Path) -> None:
    own = tmp_path / "own.txt"
    own.write_text('+++\ntask = "next-item"\n+++\n{history}, then')
    made = rectool("prep", "backbone", data, *SMALL, "--prompt", own, "--out", tmp_path / "nano", "--json")
    assert made.code == 0, made.stderr
    assert [parent["role"] for parent in json.loads((tmp_path / "nano/rectool.json").read_text())["parents"]] == [
        "dataset",
        "prompt",
    ]
    refused = rectool("prep", "backbone", data, *SMALL, "--prompt", "plain", "--out", tmp_path / "other")
    assert refused.code == 2
    assert "is of task ctr" in refused.error


def test_the_same_seed_makes_the_same_bytes_and_update_keeps_them(
    data: Path, rectool: Callable[..., Any], tmp_path: Path
) -> None:
    digests = [
        rectool("prep", "backbone", data, *SMALL, "--out", tmp_path / name, "--seed", seed, "--json").json["digest"]
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert digests[0] == digests[1] != digests[2]
    assert rectool("prep", "backbone", data, *SMALL, "--out", tmp_path / "a", "--update", "--json").json["skipped"]


def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(
    data: Path, rectool: Callable[..., Any], tmp_path: Path
) -> None:
    longer = (*SMALL[:-4], "--epochs", 4, "--validate-epochs", 4, "--device", "cpu")
    whole = rectool("prep", "backbone", data, *longer, "--out", tmp_path / "whole", "--json")
    stopped = rectool("prep", "backbone", data, *longer, "--out", tmp_path / "out", "--max-time", "1s")
    if stopped.code == 0:
        pytest.skip("this machine was done within a second")
    assert stopped.code == 75
    resumed = rectool("prep", "backbone", data, *longer, "--out", tmp_path / "out", "--resume", "--json")
    assert resumed.json["digest"] == whole.json["digest"]


def test_a_dry_run_estimates_and_does_nothing(data: Path, rectool: Callable[..., Any], tmp_path: Path) -> None:
    told = rectool("prep", "backbone", data, "--size", "mini", "--dry-run", "--json", "--out", tmp_path / "out")
    assert told.json["disk_bytes"] > 4 * 14e6
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--size", "giga"], "giga"),
        (["--vocabulary", 10], "--vocabulary 10 must be at least 512"),
        (["--layers", 0], "--layers 0 must be at least 1"),
        (["--exercises", -1], "--exercises -1 must be at least 0"),
        (["--metric", "auc"], "--metric auc is not measured of a backbone"),
    ],
)
def test_bad_flags_are_named(
    flags: list[Any], said: str, data: Path, rectool: Callable[..., Any], tmp_path: Path
) -> None:
    outcome = rectool("prep", "backbone", data, *flags, "--out", tmp_path / "out")
    assert (outcome.code, said in outcome.error) == (2, True), outcome.stderr
    assert not (tmp_path / "out").exists()
