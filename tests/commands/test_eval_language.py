"""`rectool eval` of language models: equal to Hugging Face's own models one row at a time, tuned and as they are."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from rectool.artifacts import Input, Making, folder, open_artifact, unfinished, write
from rectool.data.dataset import Dataset
from rectool.llm import adapter, backbone, recommender
from rectool.llm.recommender import Recommender
from rectool.prompts.prompts import Prompts
from rectool.prompts.settings import Prompting

Command = Callable[..., Any]
CPU = torch.device("cpu")


@pytest.fixture
def tuned(data: Path, shelf: Path, tiny_llm: Callable[..., Path], untuned: Callable[..., Any]) -> Callable[..., Path]:
    """An `llm` artifact with an adapter that does something, or whose weights have all changed."""

    def make(name: str = "lora", *, full: bool = False, **prompting: Any) -> Path:
        out = shelf / name
        if out.exists():
            return out
        found = backbone.find(str(tiny_llm("llama")))
        settings = Prompting(**{"prompt": "tallrec", "noun": "films", "history": 4, **prompting})
        plain = untuned(found, settings, answer_loss="yes-logit")
        model: Any = plain.model
        torch.manual_seed(3)
        if not full:
            config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
            with adapter.peft_of_today():
                model = get_peft_model(model, config)
        with torch.no_grad():
            for weight_name, parameter in model.named_parameters():
                if full or "lora_B" in weight_name:
                    parameter.add_(0.2 * torch.randn_like(parameter))
        made = recommender.assemble(found, model, plain.prompts, device=CPU, answer_loss="yes-logit")
        sources = [Input("dataset", data, artifact=open_artifact(data)), *found.inputs("backbone")]
        making = Making(["rectool", "tune-lora"], {}, 0, [source.parent(out, "llm") for source in sources])
        with write(out, "llm", making) as draft:
            recommender.save(made, draft.path, out)
        return out

    return make


def one_by_one(model: Any, prompts: Prompts, dataset: Dataset, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """The logits of both answers (N, 2): each row's whole prompt through the whole model."""
    found = []
    for row in rows:
        ids = torch.from_numpy(prompts.rows(dataset, np.array([row])).ids.astype(np.int64))[None]
        with torch.no_grad():
            found.append(model(input_ids=ids).logits[0, -1, list(prompts.answers.ids)].numpy())
    return np.stack(found)


def predictions(out: Path) -> dict[str, NDArray[Any]]:
    table = pq.read_table(out / "predictions.parquet")
    return {name: table.column(name).to_numpy() for name in table.column_names}


def report(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "metrics.json").read_text())
    return found


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gpt2"])
def test_a_model_as_it_is_equals_the_slow_way(
    rectool: Command, data: Path, tiny_llm: Callable[..., Path], tmp_path: Path, architecture: str
) -> None:
    model, out = tiny_llm(architecture), tmp_path / "out"
    done = rectool("eval", data, model, "--noun", "movies", "--history", 3, "--out", out)
    assert done.code == 0, done.stderr
    assert f"{model}, not tuned: prompt collm-text, 3 titles of history, noun movies, at most 512 tokens" in done.stderr
    dataset = Dataset(open_artifact(data))
    plain = AutoModelForCausalLM.from_pretrained(model).eval()
    prompts = Prompts.chosen(
        Prompting(noun="movies", history=3), backbone.find(str(model)).tokenizer(), default="collm-text", context=512
    )
    found = predictions(out)
    logits = one_by_one(plain, prompts, dataset, found["row"])
    np.testing.assert_allclose(found["score"], logits[:, 0] - logits[:, 1], atol=1e-5)
    np.testing.assert_allclose(found["probability"], torch.from_numpy(logits).softmax(1)[:, 0].numpy(), atol=1e-5)
    assert found["row"].tolist() == dataset.targets("test").tolist()
    assert report(out)["model"] == f"{architecture} zero-shot"
    assert f"{architecture} zero-shot, ctr, test rows" in done.stdout
    assert report(out)["language_model"] == {
        "backbone": architecture,
        "prompt": "collm-text",
        "history": 3,
        "max_tokens": 512,
        "noun": "movies",
        "chat": False,
        "head": "answer",
        "mask": "causal",
        "answers": ["Yes", "No"],
        "answer_loss": "softmax",
        "precision": "float32",
        "tuned": False,
        "shots": 0,
        "trained_on": None,
        "shortened": 0,
    }
    assert [prior["model"] for prior in report(out)["priors"]] == ["item mean", "user + item mean"]
    made = open_artifact(out, "result", verify=True).manifest
    assert (made.settings["noun"], made.settings["precision"]) == ("movies", "auto")


def test_examples_stand_in_front(rectool: Command, data: Path, tiny_llm: Callable[..., Path], tmp_path: Path) -> None:
    model, out = tiny_llm("llama", max_position_embeddings=2048), tmp_path / "out"
    words = ("eval", data, "--llm", model, "--shots", 2, "--seed", 5, "--max-tokens", 2000)
    assert rectool(*words, "--answer-loss", "yes-logit", "--out", out).code == 0
    dataset = Dataset(open_artifact(data))
    tokenizer = backbone.find(str(model)).tokenizer()
    prompts = Prompts.chosen(Prompting(max_tokens=2000), tokenizer, default="collm-text").with_shots(dataset, 2, 5)
    found = predictions(out)
    logits = one_by_one(AutoModelForCausalLM.from_pretrained(model).eval(), prompts, dataset, found["row"])
    np.testing.assert_allclose(found["score"], logits[:, 0], atol=1e-5)
    np.testing.assert_allclose(found["probability"], 1 / (1 + np.exp(-logits[:, 0])), atol=1e-5)
    assert report(out)["model"] == "llama 2-shot"


@pytest.mark.parametrize("full", [False, True])
def test_a_tuned_model_is_asked_as_it_was_tuned(
    rectool: Command, data: Path, tuned: Any, tiny_llm: Callable[..., Path], tmp_path: Path, full: bool
) -> None:
    model, out = tuned("full" if full else "lora", full=full), tmp_path / "out"
    done = rectool("eval", data, model, "--out", out)
    assert done.code == 0, done.stderr
    assert f"{model}, as it was tuned: prompt tallrec, 4 titles of history, noun films" in done.stderr
    plain: Any
    if full:
        plain = AutoModelForCausalLM.from_pretrained(model).eval()
    else:
        with adapter.peft_of_today():
            plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_llm("llama")), model).eval()
    tokenizer = backbone.find(str(tiny_llm("llama"))).tokenizer()
    prompts = Prompts.from_record(json.loads((model / "model.json").read_text())["prompt"], tokenizer)
    found = predictions(out)
    logits = one_by_one(plain, prompts, Dataset(open_artifact(data)), found["row"])
    np.testing.assert_allclose(found["score"], logits[:, 0], atol=1e-5)
    about = report(out)["language_model"]
    assert (about["tuned"], about["trained_on"]) == (True, {"data": "data", "same": True})
    assert report(out)["model"] == model.name
    assert "tuned on" not in done.stdout
    made = open_artifact(out, "result", verify=True).manifest
    assert "noun" not in made.settings
    assert ("model", "llm") in [(parent.role, parent.kind) for parent in made.parents]


def test_batches_and_pieces_change_nothing(
    rectool: Command, data: Path, tuned: Any, tmp_path: Path, small_pieces: Callable[[int], None]
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert rectool("eval", data, tuned(), "--out", whole).code == 0
    small_pieces(700)
    assert rectool("eval", data, tuned(), "--batch-tokens", 300, "--out", cut).code == 0
    np.testing.assert_allclose(predictions(cut)["score"], predictions(whole)["score"], atol=1e-5)
    assert rectool("eval", data, tuned(), "--batch-tokens", 300, "--out", cut, "--update", "--json").json["skipped"]


def test_what_is_compared(
    rectool: Command, data: Path, tuned: Any, tiny_llm: Callable[..., Path], tmp_path: Path
) -> None:
    assert rectool("eval", data, tuned(), "--out", tmp_path / "lora").code == 0
    assert rectool("eval", data, tiny_llm("llama"), "--out", tmp_path / "plain").code == 0
    done = rectool("compare", tmp_path / "lora", tmp_path / "plain", "--out", tmp_path / "both")
    assert done.code == 0, done.stderr


def test_a_stopped_evaluation_goes_on(
    rectool: Command,
    data: Path,
    tuned: Any,
    small_pieces: Callable[[int], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small_pieces(2000)
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert rectool("eval", data, tuned(), "--out", whole).code == 0
    real, asked = Recommender.score_tokens, []

    def stopping(self: Recommender, *arguments: Any, **named: Any) -> Any:
        asked.append(1)
        if len(asked) == 2:
            signal.raise_signal(signal.SIGINT)
        return real(self, *arguments, **named)

    monkeypatch.setattr(Recommender, "score_tokens", stopping)
    stopped = rectool("eval", data, tuned(), "--out", out)
    assert stopped.code == 130
    assert "(interrupted); the same command with --resume goes on" in stopped.error
    (step, _), *more = unfinished.checkpoints(folder.partial_of(out) / folder.CHECKPOINTS)
    assert not more
    done = rectool("eval", data, tuned(), "--out", out, "--resume")
    assert f"going on from row {step} of" in done.stderr
    for name in ("predictions.parquet", "metrics.json"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()


def test_another_data_set_is_told(rectool: Command, tuned: Any, tmp_path: Path) -> None:
    other, model, out = tmp_path / "other", tuned(), tmp_path / "out"
    words = ("prep", "synthetic", "--users", 40, "--items", 50, "--seed", 9, "--quiet", "--out", other)
    assert rectool(*words).code == 0
    done = rectool("eval", other, model, "--out", out)
    assert done.code == 0, done.stderr
    assert report(out)["language_model"]["trained_on"] == {"data": "data", "same": False}
    assert "tuned on data, another data set" in done.stdout
    moved = tmp_path / "far" / "lora"
    shutil.copytree(model, moved)
    base = json.loads((model / "model.json").read_text())["backbone"]["name"]
    done = rectool("eval", other, moved, "--llm", (model / base).resolve(), "--out", out, "--overwrite")
    assert done.code == 0, done.stderr
    assert "tuned on data, which is not there to be compared with this one" in done.stdout
    away = rectool("eval", other, moved, "--out", out, "--overwrite")
    assert "say where that model is with --parent backbone=PATH" in away.error
    found = rectool(
        "eval", other, moved, "--parent", f"backbone={(model / base).resolve()}", "--out", out, "--overwrite"
    )
    assert found.code == 0, found.stderr


def test_shortened_prompts_are_counted(
    rectool: Command, data: Path, tiny_llm: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = rectool("eval", data, tiny_llm("llama"), "--history", 40, "--max-tokens", 160, "--out", out)
    assert done.code == 0, done.stderr
    shortened = report(out)["language_model"]["shortened"]
    assert shortened > 0
    assert f"{shortened} prompts were longer than 160 tokens: they lack their oldest titles" in done.stdout


@pytest.mark.parametrize(
    "flags",
    [("--history", 3), ("--prompt", "collm-text"), ("--shots", 2), ("--answer-loss", "yes-logit"), ("--noun", "x")],
)
def test_a_tuned_model_leaves_no_choice(
    rectool: Command, data: Path, tuned: Any, tmp_path: Path, flags: tuple[Any, Any]
) -> None:
    said = rectool("eval", data, tuned(), "--out", tmp_path / "out", *flags).error
    assert f"{flags[0]}: {tuned()} is asked as it was tuned, which leaves no choice of this; leave it out" in said


def test_mistakes_are_one_line(
    rectool: Command, data: Path, tiny_llm: Callable[..., Path], tiny_encoder: Path, tuned: Any, tmp_path: Path
) -> None:
    def refused(*words: object) -> str:
        done, dry = (rectool("eval", data, *words, "--out", tmp_path / "out", *more) for more in ((), ["--dry-run"]))
        assert (done.code, dry.code) == (2, 2)
        assert done.error == dry.error
        assert not (tmp_path / "out").exists()
        return str(done.error)

    llama = tiny_llm("llama")
    assert f"--task next-item: {tuned()} answers yes/no questions" in refused(tuned(), "--task", "next-item")
    assert "is a bert model, which is not causal" in refused(tiny_encoder)
    assert "--llm gpt2 would be another one" in refused(llama, "--llm", "gpt2")
    assert "--shots -1 must not be negative" in refused(llama, "--shots", -1)
    assert "prompt item-title is of task item, but ctr is needed" in refused(llama, "--prompt", "item-title")
    assert "--prompt nowhere is neither a file nor" in refused(llama, "--prompt", "nowhere")
    assert "--k is for --task next-item" in refused(llama, "--k", 3)
    assert "--revision is of a model of the hub" in refused(llama, "--revision", "main")
    assert f"but {llama} is a folder; leave --revision out" in refused("--llm", llama, "--revision", "main")
    assert "--precision fp16 needs a GPU" in refused(llama, "--precision", "fp16")
    assert "--quantize 4bit needs a GPU" in refused(llama, "--quantize", "4bit")
    full = tuned("full", full=True)
    assert f"--llm: {full} says itself which weights it needs" in refused(full, "--llm", llama)
    assert "--revision: " in refused(tuned(), "--llm", llama, "--revision", "main")
    assert "there is no folder" in refused("--llm", tmp_path / "nowhere")
    assert "--precision fp16 needs a GPU" in refused(tuned(), "--precision", "fp16")
    assert "--quantize 4bit needs a GPU" in refused(tuned(), "--quantize", "4bit")
    assert "there is no folder" in refused(tuned(), "--parent", f"backbone={tmp_path / 'nowhere'}")


def test_dry_run_reads_no_weights(
    rectool: Command, data: Path, tiny_llm: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backbone.Backbone, "model", None)
    out = tmp_path / "out"
    planned = rectool("eval", data, tiny_llm("llama"), "--dry-run", "--json", "--out", out).json
    assert planned["reads"][0] == str(data)
    assert planned["memory_bytes"] > 100_000
    assert not out.exists()


def test_a_prompt_of_ones_own_is_a_parent(
    rectool: Command, data: Path, tiny_llm: Callable[..., Path], tmp_path: Path
) -> None:
    prompt, out = tmp_path / "mine.txt", tmp_path / "out"
    prompt.write_text('+++\ntask = "ctr"\n+++\n{history}. Also {target}?')
    words = ("eval", data, tiny_llm("llama"), "--prompt", prompt, "--update", "--out", out)
    assert rectool(*words).code == 0
    prompt.write_text('+++\ntask = "ctr"\n+++\n{history}. And {target}?')
    assert "prompt is another one" in rectool(*words).stderr
