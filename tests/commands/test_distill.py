"""`rectool distill`: embeddings equal to Hugging Face's own models one item at a time, whatever the batches."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.numpy import load_file
from transformers import AutoModel, AutoModelForCausalLM

from rectool.artifacts import Making, digests, folder, open_artifact, unfinished, write
from rectool.data.dataset import Dataset
from rectool.llm import adapter, backbone, distill, embeddings, recommender
from rectool.prompts.prompts import Prompts
from rectool.prompts.settings import Prompting

Command = Callable[..., Any]
CPU = torch.device("cpu")


@pytest.fixture
def data(rectool: Command, shelf: Path) -> Path:
    """60 items, every third without a description, one with a title that would move a terminal's cursor."""
    out = shelf / "data"
    if not out.exists():
        assert rectool("prep", "synthetic", "--users", 60, "--items", 60, "--quiet", "--out", shelf / "made").code == 0
        made = open_artifact(shelf / "made")
        items = pq.read_table(made.file("items.parquet"))
        titles, texts = items.column("title").to_pylist(), items.column("text").to_pylist()
        seen = Dataset(made).item
        titles[int(np.bincount(seen).argmax())] = "Odd \x1b[2J title"
        texts = [None if item % 3 == 0 else text for item, text in enumerate(texts)]
        items = items.set_column(items.schema.get_field_index("title"), "title", pa.array(titles))
        items = items.set_column(items.schema.get_field_index("text"), "text", pa.array(texts, pa.string()))
        with write(out, "dataset", Making(["rectool", "prep"], {}, 0, [])) as draft:
            for name in ("interactions.parquet", "users.parquet"):
                (draft.path / name).write_bytes(made.file(name).read_bytes())
            pq.write_table(items, draft.path / "items.parquet")
            draft.digests.update(digests.of_dataset(draft.path))
    return out


@pytest.fixture
def tuned(data: Path, shelf: Path, tiny_llm: Callable[..., Path], untuned: Callable[..., Any]) -> Path:
    """An `llm` artifact with an adapter that does something."""
    out = shelf / "lora"
    if out.exists():
        return out
    found = backbone.find(str(tiny_llm("llama")))
    plain = untuned(found, Prompting())
    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    torch.manual_seed(3)
    with adapter.peft_of_today():
        model: Any = get_peft_model(plain.model, config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    made = recommender.assemble(found, model, plain.prompts, device=CPU)
    making = Making(["rectool", "tune-lora"], {}, 0, [source.parent(out, "llm") for source in found.inputs()])
    with write(out, "llm", making) as draft:
        recommender.save(made, draft.path, out)
    return out


def prompts_of(model: Path, prompt: str = "item-description", *, ends: bool = False, **more: Any) -> Prompts:
    tokenizer = backbone.find(str(model), encoder=True).tokenizer()
    return Prompts.chosen(Prompting(**more), tokenizer, default=prompt, context=512, ends=ends)


def one_by_one(model: Any, prompts: Prompts, data: Path, pooling: str, layer: int = -1) -> NDArray[np.float32]:
    dataset = Dataset(open_artifact(data))
    found = []
    for item in range(dataset.items):
        ids = torch.from_numpy(prompts.items(dataset, np.array([item])).ids.astype(np.int64))[None]
        with torch.no_grad():
            states = model(input_ids=ids, output_hidden_states=True).hidden_states[layer][0]
        found.append({"last": states[-1], "cls": states[0], "mean": states.mean(0)}[pooling].numpy())
    return np.stack(found)


def table(out: Path) -> NDArray[Any]:
    found: NDArray[Any] = load_file(out / "embeddings.safetensors")["item"]
    return found


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gpt2"])
def test_a_causal_model_equals_the_slow_way(
    rectool: Command, data: Path, tiny_llm: Callable[..., Path], tmp_path: Path, architecture: str
) -> None:
    model, out = tiny_llm(architecture), tmp_path / "out"
    done = rectool("distill", data, "--llm", model, "--noun", "movies", "--out", out)
    assert done.code == 0, done.stderr
    assert "reading items: 60 items" in done.stderr
    prompts = prompts_of(model, noun="movies")
    expected = one_by_one(AutoModel.from_pretrained(model).eval(), prompts, data, "last")
    assert table(out).dtype == np.float32
    np.testing.assert_allclose(table(out), expected, atol=1e-5)
    made = open_artifact(out, "semantic", verify=True)
    assert made.manifest.counts == {"items": 60, "embedding_size": 32}
    assert made.manifest.parents[0].digests.keys() == {"items"}
    assert json.loads((out / "config.json").read_text()) == {
        "version": 1,
        "model": architecture,
        "commit": None,
        "architecture": architecture,
        "tuned": None,
        "pooling": "last",
        "layer": 2,
        "layers": 2,
        "normalised": False,
        "precision": "float32",
        "prompt": prompts.record(),
    }
    assert made.manifest.run["device"] == "cpu"
    assert (made.manifest.metrics["shortened"], made.manifest.metrics["same_as_another"]) == (0, 0)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_an_encoder_equals_the_slow_way(
    rectool: Command, data: Path, tiny_encoder: Path, tmp_path: Path, pooling: str
) -> None:
    out = tmp_path / "out"
    words = ("distill", data, "--llm", tiny_encoder, "--pooling", pooling, "--prompt", "item-title")
    done = rectool(*words, "--normalise", "--batch-tokens", 200, "--out", out)
    assert done.code == 0, done.stderr
    prompts = prompts_of(tiny_encoder, "item-title", ends=True)
    expected = one_by_one(AutoModel.from_pretrained(tiny_encoder).eval(), prompts, data, pooling)
    np.testing.assert_allclose(table(out), expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-5)


def test_a_tuned_model_a_layer_and_half_precision(
    rectool: Command, data: Path, tuned: Path, tiny_llm: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = rectool("distill", data, "--adapter", tuned, "--layer", 1, "--dtype", "fp16", "--out", out)
    assert done.code == 0, done.stderr
    with adapter.peft_of_today():
        plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_llm("llama")), tuned).eval()
    expected = one_by_one(plain, prompts_of(tiny_llm("llama")), data, "last", layer=1)
    assert table(out).dtype == np.float16
    np.testing.assert_allclose(table(out), expected.astype(np.float16), rtol=2e-3, atol=1e-4)
    made = open_artifact(out, "semantic", verify=True).manifest
    assert [(parent.role, parent.kind) for parent in made.parents] == [("dataset", "dataset"), ("adapter", "llm")]
    assert (made.metrics["tuned"], made.metrics["layer"]) == ("lora", 1)


def test_batches_pieces_and_stops_change_nothing(
    rectool: Command,
    data: Path,
    tiny_llm: Callable[..., Path],
    small_pieces: Callable[[int], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, out, pieces = tmp_path / "whole", tmp_path / "out", tmp_path / "pieces"
    words = ("distill", data, "--llm", tiny_llm("llama"))
    assert rectool(*words, "--out", whole).code == 0
    small_pieces(1000)
    assert rectool(*words, "--out", pieces, "--batch-tokens", 100).code == 0
    np.testing.assert_allclose(table(pieces), table(whole), atol=1e-5)

    real, asked = distill.ItemReader.read, []

    def stopping(self: distill.ItemReader, *arguments: Any) -> Any:
        asked.append(1)
        if len(asked) == 3:
            signal.raise_signal(signal.SIGTERM)
        return real(self, *arguments)

    monkeypatch.setattr(distill.ItemReader, "read", stopping)
    stopped = rectool(*words, "--out", out, "--batch-tokens", 100)
    assert stopped.code == 75
    ((step, _),) = unfinished.checkpoints(folder.partial_of(out) / folder.CHECKPOINTS)
    assert f"{out} stopped at step {step}; --resume continues it" in rectool(*words, "--out", out).error
    done = rectool(*words, "--out", out, "--batch-tokens", 100, "--resume")
    assert f"going on from row {step} of 60" in done.stderr
    assert table(out).tobytes() == table(pieces).tobytes()
    assert rectool(*words, "--out", out, "--update", "--json").json["skipped"] is True


def test_collaborative_models_start_from_it(
    rectool: Command, data: Path, tiny_llm: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "items"
    assert rectool("distill", data, "--llm", tiny_llm("llama"), "--dtype", "fp16", "--out", out).code == 0
    words = ("train-cf", data, "--model", "mf", "--init-items", out, "--epochs", 1, "--out", tmp_path / "mf")
    done = rectool(*words)
    assert done.code == 0, done.stderr


def test_a_terminal_is_shown_what_lies_near(
    rectool: Command, data: Path, tiny_llm: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("distill", data, "--llm", tiny_llm("llama"), "--out", tmp_path / "out", "--overwrite")
    assert "nearest" not in rectool(*words).stdout
    monkeypatch.setattr("rectool.commands.distill.on_terminal", lambda: True)
    shown = rectool(*words).stdout
    assert "nearest items, by cosine" in shown
    assert "Odd ?[2J title" in shown
    assert "\x1b" not in shown


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--device", "cuda:99"], "--device cuda:99 is not there"),
        (["--device", "cpu", "--precision", "fp16"], "--precision fp16 needs a GPU"),
        (["--device", "cpu", "--quantize", "4bit"], "--quantize 4bit needs a GPU"),
        (["--prompt", "hatllm"], "--prompt hatllm is of task next-item, but item is needed"),
        (["--layer", 99], "--layer 99: the model has layers 0 (the embeddings) to 2"),
    ],
)
@pytest.mark.parametrize("dry", [False, True])
def test_what_does_not_go_together_is_refused_before_weights_are_read(
    rectool: Command,
    data: Path,
    tuned: Path,
    tiny_llm: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    flags: list[Any],
    said: str,
    dry: bool,
) -> None:
    monkeypatch.setattr(backbone.Backbone, "model", None)
    for model in (("--llm", tiny_llm("llama")), ("--adapter", tuned)):
        words = (*model, *flags, *(["--dry-run"] if dry else []))
        done = rectool("distill", data, *words, "--out", tmp_path / "out")
        assert done.code == 2
        assert said in done.error


def test_mistakes_are_one_line(
    rectool: Command, data: Path, tuned: Path, tiny_llm: Callable[..., Path], tiny_encoder: Path, tmp_path: Path
) -> None:
    def refused(*words: object) -> str:
        done = rectool("distill", data, *words, "--out", tmp_path / "out")
        assert done.code == 2
        assert not (tmp_path / "out").exists()
        return str(done.error)

    llama = tiny_llm("llama")
    assert "name a model: --llm NAME, or --adapter DIR" in refused()
    assert "is a bert model, which is not causal" in refused("--llm", tiny_encoder)
    assert f"--pooling cls is for encoders: the first token of {llama}" in refused("--llm", llama, "--pooling", "cls")
    assert f"the first token of {tuned}, which is causal" in refused("--adapter", tuned, "--pooling", "cls")
    assert "--layer 3: the model has layers 0 (the embeddings) to 2" in refused("--llm", llama, "--layer", 3)
    assert "all items have the same embedding" in refused("--llm", llama, "--layer", 0)  # that of the last token
    assert "--layer -1 must not be negative" in refused("--llm", llama, "--layer", -1)
    assert "prompt collm-text is of task ctr, but item is needed" in refused("--llm", llama, "--prompt", "collm-text")
    assert "--history 3: the prompt of an item tells no history" in refused("--llm", llama, "--history", 3)
    assert "is a dataset artifact, but an llm is needed" in refused("--adapter", data)
    assert f"but {llama} is a folder; leave" in refused("--llm", llama, "--revision", "main")
    assert "name it with --llm alone" in refused("--adapter", tuned, "--revision", "main")
    assert "--batch-tokens 0 must be at least 1" in refused("--llm", llama, "--batch-tokens", 0)


def test_dry_run_reads_no_weights(
    rectool: Command, data: Path, tuned: Path, tiny_llm: Callable[..., Path], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(backbone.Backbone, "model", None)
    for words in (("--llm", tiny_llm("llama")), ("--adapter", tuned)):
        planned = rectool("distill", data, *words, "--dry-run", "--json", "--out", tmp_path / "out").json
        assert planned["disk_bytes"] == 60 * 32 * 4


def test_embeddings_of_no_use_are_refused() -> None:
    found = np.ones((3, 2), np.float32)
    with pytest.raises(recommender.RectoolError, match="all items have the same embedding"):
        embeddings.refuse_useless(found, str)
    found[1] = [np.inf, 0]
    with pytest.raises(recommender.RectoolError, match=r"item 1 \(title 1\) is not finite; choose --dtype fp32"):
        embeddings.refuse_useless(found, lambda item: f"title {item}")
    embeddings.refuse_useless(np.ones((1, 2), np.float32), str)


def test_neighbours_and_twins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embeddings, "CHUNK", 2)
    chance = np.random.default_rng(0)
    found = chance.normal(size=(7, 4)).astype(np.float16)
    found[5] = 2 * found[1]
    items = np.array([1, 6])
    exact = found.astype(np.float64)
    cosines = exact @ exact.T / np.outer(np.linalg.norm(exact, axis=1), np.linalg.norm(exact, axis=1))
    for item, near in zip(items, embeddings.neighbours(found, items), strict=True):
        order = [other for other in np.argsort(-cosines[item]) if other != item][:3]
        assert [other for other, _ in near] == order
        assert [cosine for _, cosine in near] == pytest.approx(cosines[item, order], abs=1e-3)
    assert embeddings.neighbours(found, items)[0][0][0] == 5
    assert embeddings.twins(found) == 0
    found[2] = found[3] = found[0]
    assert embeddings.twins(found) == 2
