"""Finding and reading language models of folders and artifacts, and one line for each that cannot be used."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from rectool.artifacts import Making, open_artifact, write
from rectool.errors import RectoolError
from rectool.llm import files
from rectool.llm.backbone import find

CPU = torch.device("cpu")
ARCHITECTURES = ("llama", "qwen2", "qwen3", "mistral", "gpt2")

Tiny = Callable[..., Path]


@pytest.fixture
def copied(tiny_llm: Tiny, tmp_path: Path) -> Callable[..., Path]:
    """A folder of a tiny model that may be damaged."""

    def copy(architecture: str = "llama", **options: Any) -> Path:
        return Path(shutil.copytree(tiny_llm(architecture, **options), tmp_path / "model"))

    return copy


def read(folder: Path, dtype: torch.dtype = torch.float32, **options: Any) -> Any:
    return find(str(folder)).model(device=CPU, dtype=dtype, **options)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_folder(tiny_llm: Tiny, architecture: str, tied: bool) -> None:
    folder = tiny_llm(architecture, tied=tied)
    found = find(str(folder))
    assert (found.name, found.folder, found.commit, found.artifact) == (str(folder), folder, None, None)
    assert found.context == 512
    assert found.config.model_type == architecture
    model = found.model(device=CPU, dtype=torch.float32)
    expected = AutoModelForCausalLM.from_pretrained(folder)
    assert not model.training
    for name, tensor in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)
    tied_now = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert tied_now == tied
    body = found.model(device=CPU, dtype=torch.float32, causal=False)
    assert type(body).__name__.endswith("Model")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_files_are_read_in_float32(tiny_llm: Tiny, dtype: str) -> None:
    model = read(tiny_llm("llama", dtype=dtype))
    assert {part.dtype for part in model.parameters()} == {torch.float32}
    assert {part.dtype for part in read(tiny_llm("llama"), torch.bfloat16).parameters()} == {torch.bfloat16}


def test_weights_in_several_files(tiny_llm: Tiny, tmp_path: Path) -> None:
    whole = AutoModelForCausalLM.from_pretrained(tiny_llm())
    whole.save_pretrained(tmp_path, max_shard_size="60KB")
    found = find(str(tmp_path))
    assert len(found.weights) > 2
    assert torch.equal(found.model(device=CPU, dtype=torch.float32).lm_head.weight, whole.lm_head.weight)
    (tmp_path / found.weights[1]).unlink()
    with pytest.raises(RectoolError, match=f"has no {found.weights[1]}, which its model.safetensors.index.json names"):
        find(str(tmp_path))
    (tmp_path / files.INDEX).write_text('{"weight_map": 3}')
    with pytest.raises(RectoolError, match=r"model.safetensors.index.json is damaged"):
        find(str(tmp_path))


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_tokenizer_is_that_of_its_file(tiny_llm: Tiny, architecture: str, bos: bool) -> None:
    """AutoTokenizer takes Qwen2's own class, which cuts numbers into digits whatever tokenizer.json says."""
    tokenizer = find(str(tiny_llm(architecture, bos=bos))).tokenizer()
    assert tokenizer.start == ((0,) if bos else ())
    assert tokenizer.shown(tokenizer.encode(["Haunted 1995"]).ids.tolist()) == ["Haunted", "Ġ1995"]


def test_a_tokenizer_without_tokenizer_json(tiny_llm: Tiny, copied: Callable[..., Path]) -> None:
    folder = copied("gpt2")
    state = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps(state["vocab"]))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in state["merges"]))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer", "unk_token": "<s>"}')
    known = find(str(tiny_llm("gpt2", bos=False))).tokenizer()
    text = ["The Haunted Lighthouse (1995)"]
    assert find(str(folder)).tokenizer().encode(text).ids.tolist() == known.encode(text).ids.tolist()


def test_an_encoder(tiny_encoder: Path) -> None:
    found = find(str(tiny_encoder), encoder=True)
    assert found.context == 512
    model = found.model(device=CPU, dtype=torch.float32, causal=False)
    assert model.config.model_type == "bert"
    with pytest.raises(RectoolError, match=r"is a bert model, which is not causal: .*--pooling mean or cls"):
        find(str(tiny_encoder))


def test_an_encoder_without_its_pooler(tiny_encoder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_encoder, tmp_path / "bert"))
    state = {name: part for name, part in load_file(folder / files.WEIGHTS).items() if "pooler" not in name}
    save_file(state, folder / files.WEIGHTS, metadata={"format": "pt"})
    find(str(folder), encoder=True).model(device=CPU, dtype=torch.float32, causal=False)


def test_roberta_counts_positions_from_its_padding(tmp_path: Path) -> None:
    AutoConfig.for_model("roberta", max_position_embeddings=514, pad_token_id=1).save_pretrained(tmp_path)
    (tmp_path / files.WEIGHTS).touch()
    assert find(str(tmp_path), encoder=True).context == 512


def test_inputs_of_a_folder(tiny_llm: Tiny) -> None:
    folder = tiny_llm()
    inputs = find(str(folder)).inputs()
    names = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    assert [(each.role, each.path) for each in inputs] == [(f"backbone:{name}", folder / name) for name in names]


@pytest.fixture
def artifact(tiny_llm: Tiny, tmp_path: Path) -> Path:
    """A backbone artifact."""
    out = tmp_path / "backbone"
    making = Making(command=["rectool"], settings={}, seed=0, parents=[])
    with write(out, "backbone", making) as draft:
        shutil.copytree(tiny_llm(), draft.path, dirs_exist_ok=True)
    return out


def test_an_artifact(artifact: Path) -> None:
    found = find(str(artifact))
    assert found.artifact is not None
    assert found.artifact.manifest.kind == "backbone"
    assert [(each.role, each.path) for each in found.inputs("model")] == [("model", artifact)]
    assert found.inputs()[0].artifact is found.artifact
    assert found.model(device=CPU, dtype=torch.float32).config.model_type == "llama"


def test_an_artifact_of_another_kind(tmp_path: Path) -> None:
    out = tmp_path / "table"
    with write(out, "comparison", Making(command=["rectool"], settings={}, seed=0, parents=[])) as draft:
        (draft.path / "comparison.json").write_text("{}")
    with pytest.raises(RectoolError, match="is a comparison artifact, but a language model is needed"):
        find(str(out))


def test_a_folder_has_no_revisions(tiny_llm: Tiny, artifact: Path) -> None:
    for folder in (tiny_llm(), artifact):
        with pytest.raises(RectoolError, match=f"revision main is of a model of the hub, but {folder} is a folder"):
            find(str(folder), revision="main")


def test_an_adapter_artifact(artifact: Path, tmp_path: Path) -> None:
    out = tmp_path / "llm"
    with write(out, "llm", Making(command=["rectool"], settings={}, seed=0, parents=[])) as draft:
        for name in ("model.json", "adapter_config.json"):
            (draft.path / name).write_text("{}")
        save_file({"weight": torch.zeros(1)}, draft.path / "adapter_model.safetensors")
    assert open_artifact(out, "llm")
    with pytest.raises(RectoolError, match="is an llm artifact with an adapter, not a whole language model"):
        find(str(out))


def test_no_such_folder(tmp_path: Path) -> None:
    for name in (str(tmp_path / "none"), "./none", "../none", "~/none-such", "runs/a/b"):
        with pytest.raises(RectoolError, match=r"there is no folder .*none|there is no folder runs/a/b"):
            find(name)
    (tmp_path / "file").touch()
    with pytest.raises(RectoolError, match="is a file; give the folder of a Hugging Face model"):
        find(str(tmp_path / "file"))


def damage(folder: Path, how: str) -> None:
    weights = folder / files.WEIGHTS
    config = json.loads((folder / files.CONFIG).read_text())
    match how:
        case "no config":
            (folder / files.CONFIG).unlink()
        case "config cut":
            (folder / files.CONFIG).write_text('{"model_type": ')
        case "unknown architecture":
            (folder / files.CONFIG).write_text(json.dumps({**config, "model_type": "llama9"}))
        case "remote code":
            own = {"model_type": "own", "auto_map": {"AutoConfig": "configuration_own.Config"}}
            (folder / files.CONFIG).write_text(json.dumps({**config, **own}))
            (folder / "configuration_own.py").write_text("raise SystemExit('run')\n")
        case "seq2seq":
            AutoConfig.for_model("t5").save_pretrained(folder)
        case "bidirectional":
            AutoConfig.for_model("gemma3_text", use_bidirectional_attention=True).save_pretrained(folder)
        case "no weights":
            weights.unlink()
        case "pickled":
            weights.unlink()
            torch.save({}, folder / "pytorch_model.bin")
        case "cut":
            weights.write_bytes(weights.read_bytes()[:5000])
        case "empty":
            weights.write_bytes(b"")
        case "noise":
            weights.write_bytes(np.random.default_rng(0).bytes(5000))
        case "a part":
            save_file({"lm_head.weight": load_file(weights)["lm_head.weight"]}, weights, metadata={"format": "pt"})
        case "other shape":
            (folder / files.CONFIG).write_text(json.dumps({**config, "intermediate_size": 48}))
        case "adapter":
            (folder / files.CONFIG).unlink()
            (folder / "adapter_config.json").write_text("{}")
        case "both":
            (folder / "adapter_config.json").write_text("{}")


@pytest.mark.parametrize(
    ("how", "line"),
    [
        ("no config", "has no config.json: it is no Hugging Face model"),
        ("config cut", "config.json of .* cannot be read"),
        ("unknown architecture", "config.json of .* cannot be read: .*llama9"),
        ("remote code", r"needs code of its own \(trust_remote_code\), which rectool does not run"),
        ("seq2seq", "is a t5 model; a language model of one stack is needed"),
        ("bidirectional", "is a gemma3_text model, which is not causal"),
        ("no weights", "has no model.safetensors"),
        ("pickled", r"has only pickled weights \(pytorch_model.bin\), which rectool does not read"),
        ("cut", r"model.safetensors is damaged \(.*; copy .* again"),
        ("empty", "model.safetensors is damaged"),
        ("noise", "model.safetensors is damaged"),
        ("a part", "the weights of .* are not all there: model.* is missing .20 in all."),
        ("other shape", r"do not fit its config.json: model.layers.0.*is \(.*\), but should be"),
        ("adapter", "is an adapter, not a whole language model"),
        ("both", "has both a model and an adapter"),
    ],
)
def test_what_cannot_be_used(copied: Callable[..., Path], how: str, line: str, capfd: Any) -> None:
    folder = copied()
    damage(folder, how)
    capfd.readouterr()
    with pytest.raises(RectoolError, match=line) as raised:
        read(folder)
    assert str(folder) in str(raised.value)
    assert capfd.readouterr() == ("", "")


def test_a_tokenizer_of_another_model(copied: Callable[..., Path], tiny_llm: Tiny) -> None:
    folder = copied()
    config = json.loads((folder / files.CONFIG).read_text())
    (folder / files.CONFIG).write_text(json.dumps({**config, "vocab_size": 700}))
    line = "the tokenizer of .* has token 823, but the model knows only 700: they are not of the same model"
    with pytest.raises(RectoolError, match=line):
        find(str(folder)).tokenizer()


@pytest.mark.parametrize("content", [None, "{", '{"version": "1.0"}'])
def test_a_tokenizer_that_cannot_be_read(copied: Callable[..., Path], content: str | None) -> None:
    folder = copied()
    if content is None:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (folder / name).unlink()
    else:
        (folder / "tokenizer.json").write_text(content)
    with pytest.raises(RectoolError, match="has no tokenizer that can be read"):
        find(str(folder)).tokenizer()


def test_four_bits_need_a_gpu(tiny_llm: Tiny) -> None:
    with pytest.raises(RectoolError, match="--quantize 4bit needs a GPU, but --device is cpu"):
        read(tiny_llm(), quantize="4bit")


def test_four_bits_need_bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RectoolError, match=r"--quantize 4bit needs bitsandbytes: pip install 'rectool\[quant\]'"):
        files.refuse_four_bits(torch.device("cuda"))


def test_four_bits_as_qlora_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(files, "BitsAndBytesConfig", dict)
    assert files._in_four_bits(torch.device("cuda"), torch.bfloat16) == {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": torch.bfloat16,
    }


def test_a_device_without_room(tiny_llm: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", full)
    with pytest.raises(RectoolError, match=r"cpu has no memory for .* in float32; choose a smaller model"):
        read(tiny_llm())


def test_reading_leaves_transformers_as_talkative_as_it_was(tiny_llm: Tiny) -> None:
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    read(tiny_llm())
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
