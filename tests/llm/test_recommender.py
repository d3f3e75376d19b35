"""The composite: scores are the whole model's, and what was saved is loaded, by us and by anyone else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from rectool.artifacts import Making, Parent, open_artifact, write
from rectool.data.dataset import Dataset
from rectool.errors import RectoolError
from rectool.llm import backbone as backbones
from rectool.llm.adapter import peft_of_today
from rectool.llm.backbone import Backbone, find
from rectool.llm.recommender import Recommender, assemble, load, save
from rectool.prompts.settings import Prompting

CPU = torch.device("cpu")
FP32: dict[str, Any] = {"device": CPU, "dtype": torch.float32}

Tiny = Callable[..., Path]
Adapted = Callable[..., Any]
Untuned = Callable[..., Recommender]
Keep = Callable[..., Path]


def one_by_one(recommender: Recommender, dataset: Dataset, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Margins of the two answers in the whole model's logits, prompt by prompt."""
    tokens = recommender.prompts.rows(dataset, rows)
    scores = []
    with torch.no_grad():
        for start, stop in zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True):
            ids = torch.from_numpy(tokens.ids[start:stop].astype(np.int64))[None]
            yes, no = recommender.model(input_ids=ids).logits[0, -1, list(recommender.prompts.answers.ids)]
            scores.append(float(yes - no))
    return np.array(scores, np.float32)


@pytest.fixture
def rows(dataset: Dataset) -> NDArray[np.int64]:
    """Some rows, in no order, one of them twice."""
    chosen = np.random.default_rng(0).permutation(dataset.targets("test"))[:30]
    return np.append(chosen, chosen[3])


@pytest.fixture
def backbone(tiny_llm: Tiny) -> Backbone:
    return find(str(tiny_llm()))


@pytest.fixture
def tuned(backbone: Backbone, adapted: Adapted, untuned: Untuned) -> Recommender:
    """A recommender with a live adapter."""
    bare = untuned(backbone, Prompting(history=3))
    return assemble(backbone, adapted(bare.model), bare.prompts, device=CPU)


@pytest.fixture
def keep(tmp_path: Path) -> Keep:
    """The `llm` artifact of a recommender."""

    def make(recommender: Recommender, out: Path = tmp_path / "runs" / "tuned", parents: Any = None) -> Path:
        out.parent.mkdir(exist_ok=True)
        if parents is None:
            parents = [each.parent(out, "llm") for each in recommender.backbone.inputs()]
        with write(out, "llm", Making(["rectool"], settings={}, seed=0, parents=parents)) as draft:
            save(recommender, draft.path, out)
        return out

    return make


@pytest.mark.parametrize("options", [{}, {"bos": False, "tied": True}, {"chat": True}])
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "mistral", "gpt2"])
def test_scores_are_those_of_the_whole_model(
    tiny_llm: Tiny,
    dataset: Dataset,
    rows: NDArray[np.int64],
    architecture: str,
    options: dict[str, bool],
    untuned: Untuned,
) -> None:
    found = find(str(tiny_llm(architecture, **options)))
    recommender = untuned(found, Prompting(history=4, noun="movies"))
    expected = one_by_one(recommender, dataset, rows)
    assert expected.std() > 0.01
    told: list[int] = []
    for budget in (None, 150):
        scores = recommender.score(dataset, rows, budget=budget, progress=told.append)
        np.testing.assert_allclose(scores, expected, atol=1e-5)
        assert scores.dtype == np.float32
    assert sum(told) == 2 * len(rows)
    assert (recommender.name, recommender.task, recommender.answering.loss) == (found.name, "ctr", "softmax")


def test_the_yes_logit_alone(backbone: Backbone, dataset: Dataset, rows: NDArray[np.int64], untuned: Untuned) -> None:
    single = untuned(backbone, Prompting(), answer_loss="yes-logit")
    tokens = single.prompts.rows(dataset, rows[:1])
    logits = single.model(input_ids=torch.from_numpy(tokens.ids.astype(np.int64))[None]).logits[0, -1]
    np.testing.assert_allclose(
        single.score(dataset, rows[:1]), [logits[single.prompts.answers.ids[0]].item()], atol=1e-5
    )


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_an_adapter_is_an_ordinary_peft_folder(
    tiny_llm: Tiny,
    adapted: Adapted,
    keep: Keep,
    dataset: Dataset,
    rows: NDArray[np.int64],
    architecture: str,
    untuned: Untuned,
) -> None:
    found = find(str(tiny_llm(architecture)))
    bare = untuned(found, Prompting(history=3))
    before = bare.score(dataset, rows)
    live = assemble(found, adapted(bare.model), bare.prompts, device=CPU)
    expected = live.score(dataset, rows)
    assert np.abs(expected - before).max() > 0.01
    out = keep(live)
    assert sorted(path.name for path in out.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "model.json",
        "rectool.json",
    ]
    config = json.loads((out / "adapter_config.json").read_text())
    assert (out / config["base_model_name_or_path"]).resolve() == tiny_llm(architecture).resolve()
    assert config["inference_mode"]
    with peft_of_today():
        anyone = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(found.home), out)
    assert {type(part).__name__ for part in anyone.modules()} >= {"PeftModelForCausalLM"}
    again = assemble(found, anyone.eval(), bare.prompts, device=CPU)
    np.testing.assert_array_equal(again.score(dataset, rows), expected)

    artifact = open_artifact(out, "llm")
    for merge in (True, False):
        loaded = load(artifact, merge=merge, **FP32)
        assert isinstance(loaded.model, PeftModel) != merge
        assert not loaded.model.training
        np.testing.assert_allclose(loaded.score(dataset, rows), expected, atol=1e-5)
        assert loaded.prompts.record() == live.prompts.record()
        assert loaded.name == str(out)
        assert loaded.backbone.folder is not None
        assert loaded.backbone.folder.resolve() == found.home


def test_a_model_tuned_as_a_whole_is_an_ordinary_folder(
    tiny_llm: Tiny, keep: Keep, dataset: Dataset, rows: NDArray[np.int64], untuned: Untuned
) -> None:
    found = find(str(tiny_llm(tied=True, chat=True)))
    full = untuned(found, Prompting(history=3))
    with torch.no_grad():
        for part in full.model.parameters():
            part += 0.02 * torch.randn_like(part)
    expected = full.score(dataset, rows)
    out = keep(full)
    document = json.loads((out / "model.json").read_text())
    assert document["backbone"]["name"] == "."
    assert document["adapter"] is False
    shutil.move(tiny_llm(tied=True, chat=True), out.parent / "gone")
    try:
        loaded = load(open_artifact(out, "llm"), **FP32)
        np.testing.assert_allclose(loaded.score(dataset, rows), expected, atol=1e-5)
        anyone = AutoModelForCausalLM.from_pretrained(out)
        tokenizer = AutoTokenizer.from_pretrained(out)
        assert tokenizer.chat_template
        whole = full.prompts.tokenizer.wrapped
        assert tokenizer("Haunted Lighthouse")["input_ids"] == whole("Haunted Lighthouse")["input_ids"]
        for name, part in full.model.state_dict().items():
            assert torch.equal(anyone.state_dict()[name], part)
        assert find(str(out)).artifact is not None  # and it can be tuned again
    finally:
        shutil.move(out.parent / "gone", tiny_llm(tied=True, chat=True))


def test_what_model_json_says(tuned: Recommender, keep: Keep) -> None:
    out = keep(tuned)
    said = json.loads((out / "model.json").read_text())
    base = said["backbone"].pop("name")
    assert (out / base).resolve() == tuned.backbone.home
    answers = tuned.prompts.answers
    assert said == {
        "version": 1,
        "task": "ctr",
        "head": "answer",
        "backbone": {"commit": None, "architecture": "llama", "vocabulary": 824, "hidden_size": 32},
        "adapter": True,
        "prompt": tuned.prompts.record(),
        "answers": {"words": list(answers.words), "ids": list(answers.ids)},
        "answer_loss": "softmax",
        "mask": "causal",
        "soft_tokens": [],
    }


def test_files_are_the_same_bytes_each_time(tuned: Recommender, keep: Keep, tmp_path: Path) -> None:
    first, second = keep(tuned), keep(tuned, tmp_path / "runs" / "again")
    for name in ("model.json", "adapter_config.json", "adapter_model.safetensors"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def moved(tuned: Recommender, tmp_path: Path) -> tuple[Recommender, Path]:
    """The recommender on a copy of its backbone that can be moved."""
    home = Path(shutil.copytree(tuned.backbone.home, tmp_path / "base"))
    return assemble(find(str(home)), tuned.model, tuned.prompts, device=CPU), home


def test_a_backbone_that_has_moved(
    tuned: Recommender, keep: Keep, tmp_path: Path, dataset: Dataset, rows: NDArray[np.int64]
) -> None:
    on_copy, home = moved(tuned, tmp_path)
    out = keep(on_copy)
    expected = on_copy.score(dataset, rows)
    elsewhere = home.rename(tmp_path / "elsewhere")
    with pytest.raises(RectoolError, match=r"model of .*base, of which config.json is not there; .*--parent backbone="):
        load(open_artifact(out, "llm"), **FP32)
    named = load(open_artifact(out, "llm", elsewhere={"backbone": elsewhere}), **FP32)
    flagged = load(open_artifact(out, "llm"), backbone=str(elsewhere), **FP32)
    for again in (named, flagged):
        np.testing.assert_allclose(again.score(dataset, rows), expected, atol=1e-5)
        assert again.backbone.folder == elsewhere


def test_a_backbone_that_has_changed(tuned: Recommender, keep: Keep, tmp_path: Path) -> None:
    on_copy, home = moved(tuned, tmp_path)
    out = keep(on_copy)
    state = load_file(home / "model.safetensors")
    state["lm_head.weight"] += 1
    save_file(state, home / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RectoolError, match=r"model of .*base, of which model.safetensors is not what it was"):
        load(open_artifact(out, "llm"), **FP32)


def test_a_backbone_artifact(
    tuned: Recommender, keep: Keep, tmp_path: Path, dataset: Dataset, rows: NDArray[np.int64]
) -> None:
    base = tmp_path / "base"
    with write(base, "backbone", Making(["rectool"], settings={}, seed=0, parents=[])) as draft:
        shutil.copytree(tuned.backbone.home, draft.path, dirs_exist_ok=True)
    out = keep(assemble(find(str(base)), tuned.model, tuned.prompts, device=CPU))
    artifact = open_artifact(out, "llm")
    assert [(parent.role, parent.kind) for parent in artifact.manifest.parents] == [("backbone", "backbone")]
    expected = tuned.score(dataset, rows)
    np.testing.assert_allclose(load(artifact, **FP32).score(dataset, rows), expected, atol=1e-5)
    elsewhere = base.rename(tmp_path / "elsewhere")
    with pytest.raises(RectoolError, match="--parent backbone=PATH"):
        load(open_artifact(out, "llm"), **FP32)
    artifact = open_artifact(out, "llm", elsewhere={"backbone": elsewhere})
    np.testing.assert_allclose(load(artifact, **FP32).score(dataset, rows), expected, atol=1e-5)


def test_a_backbone_of_the_hub(tuned: Recommender, keep: Keep, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = "0123456789abcdef"
    out = keep(tuned, parents=[Parent("backbone", "hub", "ann/tiny", {"commit": commit})])
    asked: list[tuple[str, str | None]] = []

    def look(name: str, *, revision: str | None = None, elsewhere: Any = None) -> Backbone:
        asked.append((name, revision))
        return tuned.backbone

    monkeypatch.setattr(backbones, "find", look)
    load(open_artifact(out, "llm"), **FP32)
    load(open_artifact(out, "llm", elsewhere={"backbone": Path("/there")}), **FP32)
    load(open_artifact(out, "llm"), backbone="ann/other", **FP32)
    assert asked == [("ann/tiny", commit), ("/there", None), ("ann/other", None)]


def test_another_backbone(tuned: Recommender, keep: Keep, tiny_llm: Tiny) -> None:
    out = keep(tuned)
    for options in ({"architecture": "qwen2"}, {"hidden_size": 16}, {"vocab_size": 900}):
        with pytest.raises(RectoolError, match="tuned on a model of architecture llama, vocabulary 824, hidden"):
            load(open_artifact(out, "llm"), backbone=str(tiny_llm(**options)), **FP32)


def test_a_backbone_whose_tokenizer_answers_otherwise(tuned: Recommender, keep: Keep, tmp_path: Path) -> None:
    on_copy, home = moved(tuned, tmp_path)
    state = json.loads((home / "tokenizer.json").read_text())
    vocabulary = state["model"]["vocab"]
    vocabulary["ĠYes"], vocabulary["ĠHeat"] = vocabulary["ĠHeat"], vocabulary["ĠYes"]
    (home / "tokenizer.json").write_text(json.dumps(state))
    out = keep(tuned)
    with pytest.raises(RectoolError, match=r"was tuned to answer with tokens .*, but the tokenizer of .*base has"):
        load(open_artifact(out, "llm"), backbone=str(home), **FP32)
    assert on_copy.backbone.home == home


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"version": 2}, "has version 2, which this rectool does not know: upgrade with"),
        ({"mask": "up:8,or:*"}, "has mask 'up:8,or:.', which this rectool does not know"),
        ({"head": "poem"}, "has head 'poem' for task 'ctr', which this rectool does not know"),
        ({"task": "next-item"}, "has head 'answer' for task 'next-item', which this rectool does not know"),
        ({"answers": {}}, r"model.json is damaged \(KeyError"),
        ({"soft_tokens": [{"kind": "smell", "count": 1}]}, "has soft tokens of kind 'smell'"),
        ({"soft_tokens": ["user"]}, "model.json is not of rectool tune-lora"),
        ({"backbone": {}}, r"model.json is not of rectool tune-lora \(KeyError"),
        ({"prompt": {}}, "model.json is not of rectool tune-lora"),
    ],
)
def test_a_document_that_cannot_be_used(
    tuned: Recommender, keep: Keep, tmp_path: Path, change: dict[str, Any], line: str
) -> None:
    good = keep(tuned)
    out = tmp_path / "runs" / "changed"
    parents = [each.parent(out, "llm") for each in tuned.backbone.inputs()]
    with write(out, "llm", Making(["rectool"], settings={}, seed=0, parents=parents)) as draft:
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            shutil.copy(good / name, draft.path)
        said = json.loads((good / "model.json").read_text())
        (draft.path / "model.json").write_text(json.dumps({**said, **change}))
    with pytest.raises(RectoolError, match=line):
        load(open_artifact(out, "llm"), **FP32)


def test_a_prompt_that_needs_embeddings(backbone: Backbone, tmp_path: Path, untuned: Untuned) -> None:
    prompt = tmp_path / "soft.txt"
    prompt.write_text('+++\ntask = "ctr"\nanswers = ["Yes", "No"]\n+++\nUser {user} and {target}.\nAnswer:')
    with pytest.raises(RectoolError, match=r"prompt .*soft.* has a place for \{user\} that nothing fills"):
        untuned(backbone, Prompting(prompt=str(prompt)))
