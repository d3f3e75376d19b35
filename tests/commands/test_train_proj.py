"""`rectool train-proj`, run for real on a model of two layers and the embedded data set made tiny."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from rectool.artifacts import Draft, open_artifact
from rectool.data.dataset import Dataset
from rectool.evaluation.auc import auc
from rectool.llm import adapter as adapters
from rectool.llm import recommender as recommenders
from rectool.llm.soft_saved import parts_of
from rectool.training import train_proj as training
from rectool.training import tuning
from rectool.training.llm_way import Way
from rectool.training.lora_settings import Adapters
from rectool.training.run import Run
from rectool.training.soft_settings import FitSoft, Freezing, InheritedPrompting, SoftTokenSettings, Sources, Standing
from rectool.training.soft_tuning import prepare
from rectool.training.train_proj import train

Command = Callable[..., Any]
CPU = torch.device("cpu")
SHORT = "--epochs 2 --batch-size 16 --samples 100 --learning-rate 0.01 --history 3 --validate-rows 40"


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def parents(data: Path, shelf: Path, shelved: Command, tiny_llm: Callable[..., Path]) -> dict[str, Path]:
    """What soft tokens are made of, and a tuned adapter; made once."""
    lines = {
        "mf": ("train-cf", data, "--model", "mf", "--embedding-size", 8, "--epochs", 2),
        "sasrec": ("train-cf", data, "--model", "sasrec", "--embedding-size", 8, "--epochs", 1, "--max-length", 6),
        "lora": ("tune-lora", data, "--llm", tiny_llm("llama"), "--samples", 60, "--epochs", 1, "--history", 3),
        "semantic": ("distill", data, "--llm", tiny_llm("llama")),
        "aligned": ("align", data, "--semantic", shelf / "semantic", "--embedding-size", 8, "--epochs", 1),
    }
    return shelved(lines)


@pytest.fixture
def project(
    data: Path, rectool: Command, parents: dict[str, Path], tiny_llm: Callable[..., Path], tmp_path: Path
) -> Command:
    """Run `rectool train-proj` on the data into `out`; @NAME stands for a parent, or for a language model."""
    named = {**parents, "llama": tiny_llm("llama"), "qwen2": tiny_llm("qwen2")}

    def run(*more: object, out: Path = tmp_path / "out", of: Path = data) -> Any:
        words = [named[word[1:]] if isinstance(word, str) and word.startswith("@") else word for word in more]
        return rectool("train-proj", of, *SHORT.split(), "--out", out, *words)

    return run


def scores(out: Path, dataset: Dataset) -> Any:
    loaded = recommenders.load(open_artifact(out), device=CPU, dtype=torch.float32)
    return loaded.score(dataset, dataset.targets("valid")[:30])


def losses(out: Path) -> list[float]:
    points = pq.read_table(out / "curve.parquet").to_pylist()
    return [point["value"] for point in points if point["split"] == "train"]


# What is trained, and what is not

EVERY = ("projector", "cf", "semantic", "lora")
SUBSETS = [subset for size in range(1, 5) for subset in itertools.combinations(EVERY, size)]


@pytest.mark.parametrize("trained", SUBSETS, ids="-".join)
def test_frozen_parts_stay_and_trained_ones_change(
    trained: tuple[str, ...], data: Path, parents: dict[str, Path], tmp_path: Path
) -> None:
    """What is not in --train is bit for bit as it was, and is not written again where a parent has it."""
    dataset = Dataset(open_artifact(data, "dataset"))
    tuning = prepare(
        dataset,
        Standing(adapter=str(parents["lora"])),
        Adapters(),
        Sources(aligned=parents["aligned"]),
        SoftTokenSettings(tokens="user,item,warm"),
        Freezing(train=",".join(trained), samples=32, unknown_share=0.3 if "projector" in trained else None),
        InheritedPrompting(),
        FitSoft(steps=2, learning_rate=0.01, device="cpu", validate_rows=5),
        0,
    )
    before = deepcopy(tuning.soft.state_dict())
    out = tmp_path / "out"
    out.mkdir()
    train(Draft(out, out), tuning, Run(0, CPU))

    own = {path.stem: load_file(path) for path in out.glob("*.safetensors")}
    changed = {
        "projector": [_differs(before, own.get("projector"), "projector."), _differs(before, own.get("warm"), "warm.")],
        "cf": [_differs(before, own.get("cf"), "cf.")],
        "semantic": [own.get("semantic") is not None and not own["semantic"]["item"].equal(before["semantic.weight"])],
        "lora": [_differs(load_file(parents["lora"] / adapters.WEIGHTS), own.get("adapter_model"), "")],
    }
    assert changed == {part: [part in trained] * len(found) for part, found in changed.items()}
    unknown = {name: not own["unknown"][name].equal(before[f"unknown_vectors.{name}"]) for name in ("user", "item")}
    assert not unknown["item"]  # alignment has given all items vectors
    roles = {"cf": "cf", "semantic": "semantic", "projector": "projector"}
    assert {part for part in roles if part in own} == set(trained) & set(roles)  # the rest is read from parents
    assert (out / adapters.WEIGHTS).exists() == ("lora" in trained)


def _differs(before: dict[str, Tensor], after: dict[str, Tensor] | None, prefix: str) -> bool:
    """Whether any tensor has changed; one that was not written has not."""
    return after is not None and any(not tensor.equal(before[prefix + name]) for name, tensor in after.items())


@pytest.mark.parametrize(
    ("flags", "adapted"),
    [
        ("--adapter @lora --cf @mf --train projector,cf", "adapter"),
        ("--adapter @lora --cf @sasrec --tokens user,item,history", "adapter"),
        ("--adapter @lora --aligned @aligned --tokens user,item,warm --train projector,cf,semantic", "adapter"),
        ("--llm @llama --semantic @semantic --tokens warm --tokens-per-id 2", False),
        ("--adapter @lora --cf @mf --train lora --mix linear", True),
        ("--llm @llama --adapter new --rank 2 --fresh-ids 4 --train projector,cf,lora --prompt personprompt", True),
        (
            "--llm @llama --adapter new --cf @sasrec --semantic @semantic --tokens user,item,warm,history "
            "--train projector,cf,semantic,lora --mix 0.3 --unknown mean --tokens-per-id 2",
            True,
        ),
    ],
    ids=["collm", "sasrecllm", "sella-rec", "warm", "lora", "personprompt", "from-scratch"],
)
def test_what_is_saved_is_what_was_measured(
    flags: str,
    adapted: bool | str,
    data: Path,
    project: Command,
    rectool: Command,
    tmp_path: Path,
) -> None:
    done = project(*flags.split(), "--validate-rows", 5000)
    assert done.code == 0, done.stderr
    made = open_artifact(tmp_path / "out", "llm", verify=True)
    found, said = made.manifest.metrics, json.loads(made.file("model.json").read_text())
    assert said["adapter"] == adapted
    assert {each["kind"]: each["count"] for each in said["soft_tokens"]} == found["soft_tokens"]
    assert found["prefixed"] == (adapted is not True)
    assert found["trained_parameters"] < found["parameters"]
    result = tmp_path / "result"
    measured = rectool("eval", data, tmp_path / "out", "--split", "valid", "--draws", 0, "--out", result)
    assert measured.code == 0, measured.stderr
    values = json.loads((result / "metrics.json").read_text())["metrics"]
    overall = {each["metric"]: each["value"] for each in values if each["group"] == "all"}
    assert overall["auc"] == pytest.approx(found["valid"]["auc"], abs=1e-5)
    dataset = Dataset(open_artifact(data))
    rows = dataset.targets("valid")
    loaded = recommenders.load(made, device=CPU, dtype=torch.float32)
    rows = rows[dataset.label[rows] >= 0]
    assert auc(dataset.label[rows], loaded.score(dataset, rows)) == pytest.approx(found["valid"]["auc"], abs=1e-6)


def test_training_lowers_the_loss(project: Command, tmp_path: Path) -> None:
    done = project("--adapter", "@lora", "--cf", "@mf", "--train", "projector,cf", "--epochs", 8, "--patience", 0)
    assert done.code == 0, done.stderr
    found = losses(tmp_path / "out")
    assert found[-1] < 0.97 * found[0]
    assert "projector (" in done.stderr


def test_the_collaborative_model_has_a_rate_of_its_own(
    project: Command, parents: dict[str, Path], tmp_path: Path
) -> None:
    words = ("--adapter", "@lora", "--cf", "@mf", "--train", "projector,cf", "--steps", 3)
    for name, rate in (("none", 0), ("same", 0.01)):
        assert project(*words, "--cf-learning-rate", rate, out=tmp_path / name).code == 0
    assert project(*words, out=tmp_path / "usual").code == 0
    tensors = {name: load_file(tmp_path / name / "last/cf.safetensors") for name in ("none", "same", "usual")}
    torch.testing.assert_close(tensors["same"], tensors["usual"], rtol=0, atol=0)
    before = load_file(parents["mf"] / "weights.safetensors")
    assert all(tensor.equal(before[name]) for name, tensor in tensors["none"].items())
    assert not tensors["usual"]["user.weight"].equal(before["user.weight"])


@pytest.mark.parametrize(
    "flags",
    [
        ("--cache-prefix", "off"),
        ("--cache-prefix", "30kB"),
        ("--checkpointing", "on"),
        ("--batch-tokens", 200),
        ("--accumulate", 4),
    ],
)
def test_however_it_is_computed_the_result_is_the_same(flags: Any, project: Command, tmp_path: Path) -> None:
    words = ("--adapter", "@lora", "--cf", "@mf", "--semantic", "@semantic", "--tokens", "user,item,warm")
    assert project(*words).code == 0
    done = project(*words, *flags, out=tmp_path / "other")
    assert done.code == 0, done.stderr
    one, other = tmp_path / "out", tmp_path / "other"
    assert losses(one) == pytest.approx(losses(other), rel=1e-4)
    tensors = [load_file(each / "last/projector.safetensors") for each in (one, other)]
    torch.testing.assert_close(*tensors, rtol=1e-2, atol=5e-4)
    assert open_artifact(other).manifest.metrics["prefixed"] == ("--checkpointing" not in flags)
    prefixes = open_artifact(one).manifest.run["prefixes"]
    assert prefixes["hits"] > prefixes["misses"] > 0


# Going on


def test_a_projector_that_stays_as_chance_made_it_is_told(project: Command, tmp_path: Path) -> None:
    said = "what makes soft tokens of vectors starts from chance and stays so: add projector to --train"
    done = project("--adapter", "@lora", "--cf", "@mf", "--train", "lora", "--steps", 1)
    assert done.code == 0, done.stderr
    assert said in done.stderr
    done = project("--init-from", tmp_path / "out", "--train", "lora", "--steps", 1, out=tmp_path / "second")
    assert said not in done.stderr


def test_any_hybrid_goes_on(data: Path, project: Command, tmp_path: Path) -> None:
    """Warm first, then user and item beside it; then the adapter; then another collaborative model in its place."""
    first, second, third, fourth = (tmp_path / name for name in ("first", "second", "third", "fourth"))
    assert (
        project(
            "--adapter",
            "@lora",
            "--semantic",
            "@semantic",
            "--tokens",
            "warm",
            "--noun",
            "films",
            "--unknown",
            "mean",
            out=first,
        ).code
        == 0
    )
    done = project(
        "--init-from", first, "--cf", "@mf", "--tokens", "user,item,warm", "--train", "projector,cf", out=second
    )
    assert done.code == 0, done.stderr
    dataset = Dataset(open_artifact(data))
    parts = parts_of(open_artifact(second), "x")
    assert parts.warm is not None
    assert parts.projector is not None
    said = json.loads((second / "model.json").read_text())
    assert (said["adapter"], said["soft"]["semantic"]["from"]) == ("init-from", "init-from")
    assert (said["prompt"]["noun"], said["soft"]["unknown"]) == ("films", "mean")
    assert said["prompt"]["history"] == 3

    done = project("--init-from", second, "--train", "lora", "--steps", 1, "--learning-rate", 0, out=third)
    assert done.code == 0, done.stderr
    np.testing.assert_allclose(scores(third, dataset), scores(second, dataset), rtol=1e-4, atol=1e-5)
    assert json.loads((third / "model.json").read_text())["soft_tokens"] == said["soft_tokens"]

    done = project("--init-from", third, "--cf", "@sasrec", "--train", "projector", out=fourth)
    assert done.code == 0, done.stderr
    assert open_artifact(fourth, verify=True).manifest.parents[-1].role == "cf"
    assert not np.allclose(scores(fourth, dataset), scores(third, dataset))


def test_the_alignment_gives_what_a_hybrid_lacks(
    data: Path, project: Command, parents: dict[str, Path], tmp_path: Path
) -> None:
    """Warm first, then users and items: what the first stage trained stays, the rest is the alignment's."""
    first, second = tmp_path / "first", tmp_path / "second"
    flags = ("--tokens", "warm", "--train", "projector,semantic")
    assert project("--adapter", "@lora", "--aligned", "@aligned", *flags, out=first).code == 0
    done = project(
        "--init-from", first, "--aligned", "@aligned", "--tokens", "user,item,warm", "--epochs", 0, out=second
    )
    assert done.code == 0, done.stderr
    trained, made = (parts_of(open_artifact(folder), "x") for folder in (first, second))
    aligned = parts_of(open_artifact(parents["aligned"]), "x")
    semantic = [parts.semantic.numpy() for parts in (trained, made, aligned) if parts.semantic is not None]
    np.testing.assert_array_equal(semantic[1], semantic[0])
    assert not np.array_equal(semantic[1], semantic[2])
    projectors = [parts.projector.up.weight for parts in (made, aligned) if parts.projector is not None]
    assert torch.equal(*projectors)
    done = project("--init-from", second, "--aligned", "@aligned", out=tmp_path / "third")
    assert done.code == 2
    assert "--aligned gives what --init-from lacks, but" in done.error


def test_no_epochs_only_put_the_parts_together(data: Path, rectool: Command, project: Command, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = project("--adapter", "@lora", "--aligned", "@aligned", "--epochs", 0)
    assert done.code == 0, done.stderr
    manifest = open_artifact(out, verify=True).manifest
    assert manifest.metrics["steps"] == 0
    assert manifest.metrics["valid"]["auc"] > 0
    assert "curve.parquet" not in manifest.files
    assert np.isfinite(scores(out, Dataset(open_artifact(data)))).all()
    assert rectool("eval", data, out, "--out", tmp_path / "result").code == 0
    mixed = ("--train", "projector,lora", "--mix", "linear", "--epochs", 0)
    assert project("--adapter", "new", "--llm", "@llama", "--cf", "@mf", *mixed, out=tmp_path / "mixed").code == 0


def test_a_model_that_reads_no_prefix_is_computed_in_the_way_that_its_whole_prompts_need(
    project: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which is found out when its weights are there, and does not count them twice."""
    ways, computed = [], []

    def choose(setup: Any, wanted: Any, room: int) -> Way:
        ways.append((wanted.longest, room))
        return Way(256, len(ways) > 2, 0)

    monkeypatch.setattr(tuning, "choose_way", choose)
    monkeypatch.setattr(training, "can_prefix", lambda *_: False)
    monkeypatch.setattr(tuning, "free_memory", lambda _: 10**9 - len(ways))
    monkeypatch.setattr(training, "compute_twice", computed.append)
    done = project("--adapter", "@lora", "--cf", "@mf", "--steps", 1)
    assert done.code == 0, done.stderr
    _, (without, room), (whole, again) = ways  # the first is that of the plan
    assert without < whole
    assert room == again == 10**9 - 1
    assert len(computed) == 1
    metrics = open_artifact(tmp_path / "out").manifest.metrics
    assert (metrics["checkpointing"], metrics["prefixed"]) == (True, False)


def test_a_new_projector_in_a_hybrid_that_goes_on(project: Command, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert project("--adapter", "@lora", "--aligned", "@aligned", out=first).code == 0
    done = project("--init-from", first, "--expansion", 3, out=second)
    assert done.code == 2
    assert f"--expansion: the projector is that of {first}; leave it out, or set --projector-start random" in done.error
    flags = ("--expansion", 3, "--activation", "gelu", "--projector-start", "random")
    assert project("--init-from", first, *flags, out=second).code == 0
    said = json.loads((second / "model.json").read_text())["soft"]["projector"]
    assert (said["inputs"], said["hidden"], said["activation"], said["from"]) == (8, 24, "gelu", None)
    third = tmp_path / "third"
    assert project("--init-from", second, "--projector-start", "random", "--steps", 1, out=third).code == 0
    said = json.loads((third / "model.json").read_text())["soft"]["projector"]
    assert (said["hidden"], said["activation"], said["from"]) == (24, "gelu", None)
    narrow = ("--expansion", 0.001, "--projector-start", "random", "--steps", 1)
    assert project("--init-from", first, *narrow, out=tmp_path / "narrow").code == 0
    assert json.loads((tmp_path / "narrow/model.json").read_text())["soft"]["projector"]["hidden"] == 1


def test_biases_are_told_and_inherited(data: Path, project: Command, tmp_path: Path) -> None:
    first, second, third = tmp_path / "first", tmp_path / "second", tmp_path / "third"
    flags = ("--tokens", "user,item", "--train", "projector,cf")
    assert project("--adapter", "@lora", "--cf", "@mf", "--biases", *flags, out=first).code == 0
    done = project("--init-from", first, "--train", "projector", "--epochs", 0, out=second)
    assert done.code == 0, done.stderr
    said = [json.loads((folder / "model.json").read_text())["soft"] for folder in (first, second)]
    assert [(each["biases"], each["projector"]["inputs"]) for each in said] == [(True, 9), (True, 9)]
    dataset = Dataset(open_artifact(data))
    np.testing.assert_allclose(scores(second, dataset), scores(first, dataset), atol=1e-6)
    done = project("--init-from", first, "--no-biases", "--projector-start", "random", out=third)
    assert done.code == 0, done.stderr
    assert json.loads((third / "model.json").read_text())["soft"]["projector"]["inputs"] == 8


def test_the_answer_loss_is_inherited(
    project: Command, rectool: Command, data: Path, tiny_llm: Any, tmp_path: Path
) -> None:
    logit = tmp_path / "logit"
    words = ("tune-lora", data, "--llm", tiny_llm("llama"), "--steps", 1, "--answer-loss", "yes-logit", "--out", logit)
    assert rectool(*words).code == 0
    for flags, expected in (((), "yes-logit"), (("--answer-loss", "softmax"), "softmax")):
        assert project("--adapter", logit, "--cf", "@mf", *flags, "--overwrite").code == 0
        assert json.loads((tmp_path / "out/model.json").read_text())["answer_loss"] == expected


def test_the_same_seed_gives_the_same_bytes(project: Command, tmp_path: Path) -> None:
    words = ("--adapter", "@lora", "--cf", "@mf", "--train", "projector,cf,lora", "--mix", "linear", "--steps", 6)
    for out in ("out", "other"):
        assert project(*words, "--seed", 5, out=tmp_path / out).code == 0
    one, other = (open_artifact(tmp_path / name).manifest for name in ("out", "other"))
    assert one.files == other.files
    assert project(*words, "--seed", 5, "--update", "--json").json["skipped"] is True
    assert project(*words, "--seed", 6, "--overwrite").code == 0
    assert open_artifact(tmp_path / "out").manifest.files != one.files


def test_a_dry_run_writes_nothing(data: Path, project: Command, parents: dict[str, Path], tmp_path: Path) -> None:
    done = project("--adapter", "@lora", "--cf", "@mf", "--dry-run", "--json")
    assert done.code == 0, done.stderr
    assert (done.json["dry_run"], done.json["kind"]) == (True, "llm")
    assert {str(data), str(parents["lora"]), str(parents["mf"])} <= set(done.json["reads"])
    assert not list(tmp_path.glob("*out*"))


# Refused


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--adapter @lora", "--tokens user,item are made of a collaborative model: name one with --cf or --aligned"),
        ("--adapter @lora --tokens warm", "--tokens warm are made of semantic embeddings: name them with"),
        ("--adapter @lora --cf @mf --tokens user,warm", "--tokens warm are made of semantic embeddings"),
        ("--adapter @lora --cf @mf --semantic @semantic", "--semantic is for the token warm or an"),
        ("--adapter @lora --cf @mf --semantic @semantic --tokens warm", "--cf is for the tokens user"),
        ("--adapter @lora --cf @mf --train semantic", "--train semantic: the tokens user,item are made of"),
        ("--adapter @lora --semantic @semantic --tokens warm --train cf", "--train cf: the tokens"),
        ("--llm @llama --cf @mf --train lora", "--train lora: there is no adapter; name one with --adapter, or"),
        ("--llm @llama --cf @mf --adapter new", "--adapter new makes adapters that nothing has trained"),
        ("--adapter @lora --cf @mf --rank 4", "--rank means nothing without --adapter new"),
        ("--adapter @lora --fresh-ids 8", "--fresh-ids makes embeddings that nothing has trained: add cf to"),
        ("--adapter @lora --cf @mf --prompt collm-text", "prompt collm-text has no place for item embeddings"),
        ("--adapter @lora --cf @mf --tokens history --prompt collm", "has no place for history"),
        ("--adapter @lora --cf @mf --projector-start aligned", "--projector-start aligned needs --aligned"),
        ("--adapter @lora --aligned @aligned --activation relu", "--activation: the projector is that of"),
        ("--adapter @lora --semantic @semantic --tokens warm --biases", "--biases is for the tokens user, item and"),
        ("--adapter @lora --aligned @aligned --biases", "--biases: the projector is that of"),
        ("--adapter @lora --aligned @aligned --tokens-per-id 2", "outputs, but"),
        ("--adapter @lora --cf @mf --mix linear", "--mix linear: rows of text alone train nothing but"),
        (
            "--adapter @lora --cf @mf --unknown mean --unknown-share 0.1",
            "--unknown-share 0.1 means nothing with --unknown mean",
        ),
        (
            "--adapter @lora --cf @mf --train cf --unknown-share 0.1",
            "--unknown-share 0.1 means nothing without projector in --train",
        ),
        (
            "--adapter @lora --cf @mf --cf-learning-rate 1",
            "--cf-learning-rate means nothing where --train is",
        ),
        ("--adapter @lora --cf @mf --task next-item", "an item head starts here that nothing has trained: add head"),
        ("--adapter @lora --cf @mf --train head", "--train head: yes/no prompts are answered by the language model"),
        ("--adapter @lora --cf @mf --cache-prefix 1GB --mask in:1,or:1", "with --mask in:1,or:1 prompts are computed"),
        ("--adapter @lora --cf @semantic", "is a semantic artifact, but a cf is needed"),
        ("--adapter @mf --cf @mf", "is a cf artifact, but an llm is needed"),
        ("--init-from @lora --cf @mf", "has no soft tokens; name it with --adapter"),
        ("--adapter @lora --cf @mf --train lora --cache-prefix 1GB", "--cache-prefix 1GB: with --train lora"),
        ("--adapter @lora --cf @mf --samples 100000", "--samples 100000: "),
        ("--adapter @lora --cf @mf --quantize 4bit", "--quantize 4bit needs a GPU, but --device is cpu"),
        ("--adapter @lora --cf @mf --revision main", "--revision main needs --llm"),
        ("--llm @qwen2 --adapter new --cf @mf --revision main", "revision main is of a model of the hub, but"),
        ("--cf @mf", "name a language model: --llm NAME|DIR"),
        ("--adapter @lora --cf @mf --llm @qwen2", "was tuned on a model of architecture llama"),
        ("--adapter @lora --cf @mf --parent moon=x", "--parent moon: rectool train-proj reads no artifact"),
    ],
)
def test_what_does_not_go_together_is_refused_before_weights_are_read(
    flags: str, said: str, project: Command, tmp_path: Path, weights_unread: None
) -> None:
    done = project(*flags.split())
    assert done.code == 2
    assert said in done.error
    assert not list(tmp_path.glob("*out*"))


def test_parents_of_another_data_set(project: Command, rectool: Command, tmp_path: Path) -> None:
    other = tmp_path / "other"
    assert rectool("prep", "synthetic", "--users", 40, "--items", 60, "--seed", 3, "--quiet", "--out", other).code == 0
    words = (("--cf", "@mf"), ("--aligned", "@aligned"), ("--semantic", "@semantic", "--tokens", "warm"))
    for flags in words:
        done = project("--adapter", "@lora", *flags, of=other)
        assert done.code == 2
        assert "was made from a dataset whose" in done.error
    assert project("--adapter", "@lora", "--cf", "@mf", "--steps", 1, out=tmp_path / "hybrid").code == 0
    done = project("--init-from", tmp_path / "hybrid", of=other)
    assert done.code == 2
    assert "the soft tokens are of the users of another data set" in done.error
