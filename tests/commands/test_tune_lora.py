"""`rectool tune-lora`, run for real on a model of two layers and the embedded data set made tiny."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from rectool.artifacts import Artifact, open_artifact
from rectool.artifacts.schemas import CURVE
from rectool.data.dataset import Dataset
from rectool.evaluation.auc import auc
from rectool.llm import recommender as recommenders
from rectool.prompts.cached import cached_rows
from rectool.training import asking, tuning
from rectool.training.prompted import PromptObjective

Command = Callable[..., Any]
CPU = torch.device("cpu")
SHORT = ("--epochs", 2, "--batch-size", 32, "--learning-rate", 0.01)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def data(synthetic: Callable[[int, int], Path]) -> Path:
    """A dataset of 25 users, with labels."""
    return synthetic(25, 40)


@pytest.fixture
def tune(data: Path, tiny_llm: Callable[..., Path], rectool: Command, tmp_path: Path) -> Command:
    """Run `rectool tune-lora` on the data into `out`, with a Llama if no other model is named."""

    def run(*more: object, out: Path = tmp_path / "out", of: Path = data, llm: Path | str | None = None) -> Any:
        return rectool("tune-lora", of, "--llm", llm or tiny_llm("llama"), "--out", out, *SHORT, *more)

    return run


def scores(artifact: Artifact, dataset: Dataset, *, merge: bool = True) -> Any:
    loaded = recommenders.load(artifact, device=CPU, dtype=torch.float32, merge=merge)
    return loaded.score(dataset, dataset.targets("valid"))


def losses(artifact: Artifact) -> list[float]:
    points = pq.read_table(artifact.file("curve.parquet")).to_pylist()
    return [point["value"] for point in points if point["split"] == "train"]


# What is made


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "mistral", "gpt2"])
def test_what_is_saved_is_what_was_measured(
    architecture: str, data: Path, tune: Command, tiny_llm: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tiny_llm(architecture, tied=architecture == "gpt2", bos=architecture == "llama")
    done = tune(llm=folder)
    assert done.code == 0, done.stderr
    made, dataset = open_artifact(tmp_path / "out", "llm", verify=True), Dataset(open_artifact(data))
    names = {"adapter_config.json", "adapter_model.safetensors", "model.json", "curve.parquet"}
    assert made.manifest.files.keys() == names | {f"last/{name}" for name in names - {"curve.parquet"}}
    assert pq.read_table(made.file("curve.parquet")).schema.equals(CURVE)
    found = made.manifest.metrics
    labels = dataset.label[dataset.targets("valid")]
    for merge in (True, False):
        assert auc(labels, scores(made, dataset, merge=merge)) == pytest.approx(found["valid"]["auc"], abs=1e-6)
    assert found["valid"].keys() == {"auc", "uauc", "log_loss"}
    assert [prior["model"] for prior in found["priors"]] == ["item mean", "user + item mean"]
    assert all(prior.keys() == {"model", *found["valid"]} for prior in found["priors"])
    assert all(name in done.stdout for name in (architecture, "item mean", "user + item mean", "uauc"))
    whole = sum(tensor.numel() for tensor in load_file(made.file("adapter_model.safetensors")).values())
    assert found["trained_parameters"] == whole
    assert (found["skipped_steps"], found["epochs"]) == (0, 2)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks for it
def test_peft_loads_the_folder(data: Path, tune: Command, tiny_llm: Callable[..., Path], tmp_path: Path) -> None:
    """As any program would, and what it computes at the last token is the score."""
    assert tune().code == 0
    made, dataset = open_artifact(tmp_path / "out"), Dataset(open_artifact(data))
    base = AutoModelForCausalLM.from_pretrained(tiny_llm("llama"))
    untouched = base(torch.arange(3, 9)[None]).logits
    model = PeftModel.from_pretrained(base, tmp_path / "out").eval()
    assert not model(torch.arange(3, 9)[None]).logits.equal(untouched)
    loaded = recommenders.load(made, device=CPU, dtype=torch.float32)
    tokens = cached_rows(loaded.prompts, dataset, dataset.targets("valid")[:5])
    said = json.loads(made.file("model.json").read_text())
    yes, no = said["answers"]["ids"]
    expected = []
    for row in range(5):
        with torch.no_grad():
            logits = model(torch.from_numpy(tokens.padded(np.array([row]))[0])).logits[0, -1]
        expected.append(float(logits[yes] - logits[no]))
    np.testing.assert_allclose(scores(made, dataset)[:5], expected, rtol=1e-4, atol=1e-5)
    last = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_llm("llama")), tmp_path / "out/last")
    assert last.peft_config["default"].r == 8


@pytest.mark.parametrize("tied", [False, True])
def test_the_whole_model(tied: bool, data: Path, tune: Command, tiny_llm: Callable[..., Path], tmp_path: Path) -> None:
    done = tune("--full", "--learning-rate", 0.001, llm=tiny_llm("llama", tied=tied))
    assert done.code == 0, done.stderr
    made, dataset = open_artifact(tmp_path / "out", "llm", verify=True), Dataset(open_artifact(data))
    found = made.manifest.metrics
    assert found["trained_parameters"] == found["parameters"]
    assert "all of its weights" in done.stderr
    assert not made.file("adapter_config.json").exists()
    labels = dataset.label[dataset.targets("valid")]
    assert auc(labels, scores(made, dataset)) == pytest.approx(found["valid"]["auc"], abs=1e-6)
    before = AutoModelForCausalLM.from_pretrained(tiny_llm("llama", tied=tied))
    after = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert after.config.tie_word_embeddings == tied
    assert not before.get_output_embeddings().weight.equal(after.get_output_embeddings().weight)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out/last").num_parameters() == before.num_parameters()
    again = tune("--epochs", 1, llm=tmp_path / "out", out=tmp_path / "again")  # and on with an adapter on top
    assert again.code == 0, again.stderr
    assert [parent.role for parent in open_artifact(tmp_path / "again").manifest.parents] == ["dataset", "backbone"]


@pytest.mark.parametrize("flags", [("in:1,cr:1",), ("in:1,cr:1", "--compress-deep", "--precision", "bf16")])
def test_masks(flags: Any, data: Path, tune: Command, tmp_path: Path) -> None:
    done = tune("--mask", *flags)
    assert done.code == 0, done.stderr
    made, dataset = open_artifact(tmp_path / "out", "llm", verify=True), Dataset(open_artifact(data))
    assert json.loads(made.file("model.json").read_text())["mask"] == ("in:1,cr-last:1" if flags[1:] else "in:1,cr:1")
    labels = dataset.label[dataset.targets("valid")]
    tolerance = 0.1 if flags[1:] else 1e-6  # it is loaded in float32
    assert auc(labels, scores(made, dataset)) == pytest.approx(made.manifest.metrics["valid"]["auc"], abs=tolerance)
    assert tune(out=tmp_path / "causal").code == 0
    assert losses(made) != losses(open_artifact(tmp_path / "causal"))


def test_training_lowers_the_loss(tune: Command, tmp_path: Path) -> None:
    assert tune("--full", "--learning-rate", 0.003, "--epochs", 6, "--patience", 0).code == 0
    made = open_artifact(tmp_path / "out")
    assert losses(made)[-1] < 0.97 * losses(made)[0]
    curve = pq.read_table(made.file("curve.parquet")).to_pylist()
    best = max((point["value"], -point["step"]) for point in curve if point["metric"] == "auc")
    assert made.manifest.metrics["valid"]["auc"] == pytest.approx(best[0], abs=1e-6)
    assert made.manifest.metrics["best_step"] == -best[1]


def test_the_logit_of_yes_alone(data: Path, tune: Command, tmp_path: Path) -> None:
    assert tune("--answer-loss", "yes-logit", "--prompt", "tallrec", "--history", 4, "--noun", "films").code == 0
    made = open_artifact(tmp_path / "out")
    loaded = recommenders.load(made, device=CPU, dtype=torch.float32)
    assert loaded.answering.loss == "yes-logit"
    assert (loaded.prompts.template.name, loaded.prompts.history, loaded.prompts.noun) == ("tallrec", 4, "films")
    dataset = Dataset(open_artifact(data))
    found = made.manifest.metrics["valid"]
    assert auc(dataset.label[dataset.targets("valid")], scores(made, dataset)) == pytest.approx(found["auc"], abs=1e-6)


def test_a_few_rows(data: Path, tune: Command, tmp_path: Path) -> None:
    found = []
    for seed in (0, 0, 1):
        done = tune("--samples", 16, "--seed", seed, "--overwrite")
        assert done.code == 0, done.stderr
        metrics = open_artifact(tmp_path / "out").manifest.metrics
        assert metrics["rows"] == 16
        assert f"16 train rows, {metrics['liked'] / 16:.1%} of them liked" in done.stderr
        found.append((tmp_path / "out/adapter_model.safetensors").read_bytes())
    assert found[0] == found[1] != found[2]


def test_chat_models_are_asked_in_their_template(
    data: Path, tune: Command, tiny_llm: Callable[..., Path], tmp_path: Path
) -> None:
    for flags, framed in (((), True), (("--chat-template", "off"), False)):
        assert tune(*flags, "--overwrite", llm=tiny_llm("qwen2", chat=True)).code == 0
        said = json.loads((tmp_path / "out/model.json").read_text())
        assert (said["prompt"]["frame"] is not None) == framed
        assert said["answers"]["words"] == ["Yes", "No"]


def test_a_prompt_of_ones_own(data: Path, tune: Command, tmp_path: Path) -> None:
    prompt = tmp_path / "mine.txt"
    prompt.write_text('+++\ntask = "ctr"\nanswers = ["yes", "no"]\n+++\nA user likes {history}. {target}? Answer:')
    done = tune("--prompt", prompt)
    assert done.code == 0, done.stderr
    roles = [parent.role for parent in open_artifact(tmp_path / "out").manifest.parents]
    assert "prompt" in roles
    assert tune("--prompt", prompt, "--update", "--json").json["skipped"] is True
    prompt.write_text(prompt.read_text().replace("A user", "The user"))
    assert tune("--prompt", prompt, "--update", "--json").json["skipped"] is False


# How it is computed


@pytest.mark.parametrize(
    "flags",
    [
        ("--batch-tokens", 300),
        ("--accumulate", 5),
        ("--checkpointing", "on"),
        ("--packing", "on"),
        ("--packing", "on", "--batch-tokens", 700),
        ("--batch-tokens", 100_000, "--checkpointing", "off", "--packing", "off"),
    ],
)
def test_however_it_is_computed_the_result_is_the_same(flags: Any, tune: Command, tmp_path: Path) -> None:
    plain = ("--dropout", 0)
    assert tune(*plain).code == 0
    done = tune(*plain, *flags, out=tmp_path / "other")
    assert done.code == 0, done.stderr
    one, other = (open_artifact(tmp_path / name) for name in ("out", "other"))
    assert losses(one) == pytest.approx(losses(other), rel=1e-4)
    tensors = [load_file(each.file("last/adapter_model.safetensors")) for each in (one, other)]
    torch.testing.assert_close(*tensors, rtol=1e-2, atol=2e-4)
    found = other.manifest.metrics
    assert found["packed"] == ("--packing" in flags and "on" in flags)
    assert found["checkpointing"] == ("--checkpointing" in flags and "on" in flags)


def test_much_padding_is_a_reason_to_pack(tune: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for least, packed in ((0.25, False), (0.0, True)):
        monkeypatch.setattr(asking, "PACKED_FROM", least)
        done = tune("--steps", 1, "--overwrite")
        assert open_artifact(tmp_path / "out").manifest.metrics["packed"] is packed
        assert ("prompts are packed into lines of 512 tokens" in done.stderr) == packed


def test_too_little_memory_halves_the_tokens(tune: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tune("--dropout", 0).code == 0
    real = PromptObjective.loss

    def loss(self: PromptObjective, samples: Any) -> torch.Tensor:
        if len(samples) * self.lengths[samples].max() > 300:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return real(self, samples)

    monkeypatch.setattr(PromptObjective, "loss", loss)
    done = tune("--dropout", 0, out=tmp_path / "other")
    assert done.code == 0, done.stderr
    assert "too little memory on the GPU: a step is computed in parts of 1/4 from here on" in done.stderr
    one, other = (open_artifact(tmp_path / name) for name in ("out", "other"))
    assert (one.manifest.metrics["batch_tokens"], other.manifest.metrics["batch_tokens"]) == (1024, 256)
    assert losses(one) == pytest.approx(losses(other), rel=1e-4)

    monkeypatch.setattr(PromptObjective, "loss", lambda *_: (_ for _ in ()).throw(torch.cuda.OutOfMemoryError()))
    done = tune(out=tmp_path / "none")
    assert done.code == 2
    assert "cpu has too little memory for a single sample; choose --checkpointing on, --quantize 4bit" in done.error


def test_brain_floats(data: Path, tune: Command, tmp_path: Path) -> None:
    """A base of half precision, adapters of full precision; and with --full weights of full precision."""
    for flags in ((), ("--full", "--learning-rate", 0.001)):
        found = []
        for precision in ("fp32", "bf16"):
            done = tune(*flags, "--precision", precision, "--steps", 4, "--overwrite")
            assert done.code == 0, done.stderr
            made = open_artifact(tmp_path / "out")
            weights = load_file(made.file("model.safetensors" if flags else "adapter_model.safetensors"))
            assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
            found.append(losses(made))
        assert found[0] != found[1]
        assert found[0] == pytest.approx(found[1], rel=0.05)


def test_a_model_saved_in_half_precision_is_trained_in_full_on_a_cpu(
    tune: Command, tiny_llm: Callable[..., Path], tmp_path: Path
) -> None:
    done = tune("--full", llm=tiny_llm("llama", dtype="float16"))
    assert done.code == 0, done.stderr
    assert {tensor.dtype for tensor in load_file(tmp_path / "out/model.safetensors").values()} == {torch.float32}


# What is said


def test_what_is_said_before_the_start(tune: Command, tmp_path: Path) -> None:
    done = tune()
    found = open_artifact(tmp_path / "out").manifest.metrics
    lines = done.stderr.splitlines()
    assert any(
        line.startswith(f"{found['trained_parameters']:,} of {found['parameters']:,} parameters are trained (")
        and line.endswith("%): adapters of rank 8 in q_proj, v_proj")
        for line in lines
    )
    answers = found["answers"]["ids"]
    assert (
        f"{found['rows']:,} train rows, {found['liked'] / found['rows']:.1%} of them liked; answers "
        f"'Yes' ({answers[0]}) and 'No' ({answers[1]})"
    ) in lines
    assert (
        f"prompt collm-text: {found['tokens']:,} tokens, {found['longest']:,} in the longest; 0 rows are shortened; "
        "mask causal"
    ) in lines
    assert any(
        line.startswith(f"1,024 tokens at a time, {found['padding']:.1%} of them padding; about ")
        and "GB of memory, of the " in line
        and line.endswith(" GB that are free on cpu")
        for line in lines
    )
    rows = found["tokens_per_second"] * found["rows"] / found["tokens"]
    assert found["targets_per_second"] == pytest.approx(rows, rel=0.01)


def test_shortened_rows_are_counted(tune: Command, tmp_path: Path) -> None:
    done = tune("--max-tokens", 90)
    assert done.code == 0, done.stderr
    found = open_artifact(tmp_path / "out").manifest.metrics
    assert found["longest"] <= 90
    assert 0 < found["shortened"] < found["rows"]
    assert f"; {found['shortened']:,} rows are shortened" in done.stderr


def test_a_dry_run_writes_nothing(data: Path, tune: Command, tiny_llm: Callable[..., Path], tmp_path: Path) -> None:
    done = tune("--dry-run", "--json")
    assert done.code == 0, done.stderr
    assert (done.json["dry_run"], done.json["kind"]) == (True, "llm")
    assert done.json["reads"][0] == str(data)
    assert str(tiny_llm("llama") / "model.safetensors") in done.json["reads"]
    assert done.json["memory_bytes"] > 100 << 20
    assert not list(tmp_path.glob("*out*"))


def test_json_for_machines(tune: Command, tmp_path: Path) -> None:
    done = tune("--json")
    assert done.json["artifact"] == str(tmp_path / "out")
    assert done.json["metrics"]["valid"].keys() == {"auc", "uauc", "log_loss"}
    quiet = tune("--quiet", "--overwrite")
    assert (quiet.code, quiet.stdout, quiet.stderr) == (0, "", "")


def test_without_validation_rows(rectool: Command, tune: Command, tmp_path: Path) -> None:
    data = tmp_path / "data"
    assert rectool("prep", "synthetic", "--users", 20, "--items", 40, "--split", "ratio:9,0,1", "--out", data).code == 0
    done = tune(of=data)
    assert done.code == 0, done.stderr
    assert "there are no validation rows to measure the model on" in done.stderr
    assert open_artifact(tmp_path / "out").manifest.metrics["valid"] == {}


def test_the_same_seed_gives_the_same_bytes(tune: Command, tmp_path: Path) -> None:
    for out in ("out", "other"):
        assert tune("--seed", 5, out=tmp_path / out).code == 0
    one, other = (open_artifact(tmp_path / name).manifest for name in ("out", "other"))
    assert one.files == other.files
    assert tune("--seed", 6, "--overwrite").code == 0
    assert open_artifact(tmp_path / "out").manifest.files != one.files


# Refused


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--target-modules", "query"], "--target-modules query: LlamaForCausalLM has the linear layers down_proj, "),
        (["--target-modules", "lm_head"], "--target-modules lm_head: LlamaForCausalLM has the linear layers "),
        (["--samples", 100_000], "--samples 100000: "),
        (["--prompt", "hatllm"], "prompt hatllm is of task next-item, but --task is ctr"),
        (["--prompt", "e4srec-ctr"], "prompt e4srec-ctr has a place for {item} in its entries that nothing fills"),
        (["--prompt", "nothing"], "nothing"),
        (["--max-tokens", 100_000], "--max-tokens 100000 is more than the 512 tokens"),
        (["--max-tokens", 20], "the prompt of row 0 has "),
        (["--full", "--quantize", "4bit"], "--quantize 4bit keeps weights as they are, --full trains them; give one"),
        (["--quantize", "4bit"], "--quantize 4bit needs a GPU, but --device is cpu"),
        (["--precision", "fp16"], "--precision fp16 needs a GPU"),
        (["--head", "item"], "--head item is for --task next-item"),
        (["--item-head", "random"], "--item-head random is for --task next-item"),
        (["--mask", "in:3,or:*"], "--mask in:3,or:* is for 3 layers or more, but the model has 2"),
        (["--mask", "in:1,deep:*"], "--mask in:1,deep:*: 'deep' is no kind of mask"),
        (
            ["--compress-deep"],
            "--compress-deep drops items' tokens in cr layers at the top, but --mask causal has none",
        ),
        (["--mask", "in:*", "--compress-deep"], "--compress-deep drops items' tokens in cr layers at the top"),
        (["--revision", "main"], "revision main is of a model of the hub, but "),
        (["--full", "--rank", 4], "--rank means nothing with --full"),
        (["--rank", 0], "--rank 0 must be at least 1"),
        (["--metric", "ndcg@10"], "--metric ndcg@10 is not measured for ctr"),
        (["--seed", -1], "--seed must not be negative, but is -1"),
        (["--batch-tokens", 0], "--batch-tokens 0 must be at least 1"),
        (["--resume"], "has no checkpoint to continue from; start it without --resume"),
        (["--depth", 2], "rectool tune-lora has no flag --depth"),
    ],
)
@pytest.mark.usefixtures("weights_unread")
@pytest.mark.parametrize("dry", [False, True])
def test_what_does_not_go_together_is_refused_before_weights_are_read(
    flags: list[Any], said: str, dry: bool, tune: Command, tmp_path: Path
) -> None:
    done = tune(*flags, *(["--dry-run"] if dry else []))
    assert done.code == 2
    assert said in done.error
    assert not list(tmp_path.glob("*out*"))


def test_a_model_that_is_not_there(tune: Command, rectool: Command, data: Path, tmp_path: Path) -> None:
    for name in (tmp_path / "none", data):
        done = tune(llm=name)
        assert done.code == 2
        assert str(name) in done.error
    assert not list(tmp_path.glob("*out*"))


def test_the_model_is_called_by_the_name_of_its_folder(
    tune: Command, tiny_llm: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_llm("llama"))
    done = tune("--samples", 16, "--epochs", 1, llm=".")
    assert done.code == 0, done.stderr
    assert open_artifact(tmp_path / "out").manifest.metrics["model"] == "llama"


def test_without_labels(rectool: Command, tune: Command, tmp_path: Path) -> None:
    (tmp_path / "events.csv").write_text(
        "user_id,item_id,timestamp\n" + "".join(f"u{n % 5},i{n},{n}\n" for n in range(60))
    )
    (tmp_path / "items.csv").write_text("item_id,title\n" + "".join(f"i{n},Title {n}\n" for n in range(60)))
    table = ("prep", "table", tmp_path / "events.csv", "--items", tmp_path / "items.csv")
    assert rectool(*table, "--quiet", "--out", tmp_path / "events").code == 0
    done = tune("--task", "ctr", of=tmp_path / "events")
    assert done.code == 2
    assert done.error == f"{tmp_path / 'events'} has no labelled train rows; --task next-item needs none"
    done = tune(of=tmp_path / "events")  # which is what it then is
    assert done.code == 0, done.stderr
    assert open_artifact(tmp_path / "out").manifest.metrics["task"] == "next-item"


@pytest.mark.parametrize("dry", [False, True])
def test_what_does_not_fit_the_device_is_refused(
    dry: bool, tune: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "free_memory", lambda _: 735_000_000)
    done = tune("--checkpointing", "off", "--batch-tokens", 4096, *(["--dry-run"] if dry else []))
    assert done.code == 2
    assert done.error.startswith("training takes about ")
    assert "; it fits with --batch-tokens " in done.error
    assert not list(tmp_path.glob("*out*"))


def test_memory_decides_on_checkpointing(tune: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "free_memory", lambda _: 739_000_000)
    done = tune("--batch-tokens", 1024)
    assert done.code == 0, done.stderr
    assert open_artifact(tmp_path / "out").manifest.metrics["checkpointing"] is True
    assert "1,024 tokens at a time, activations computed twice, " in done.stderr
