"""What newer versions of libraries wrote is read, or refused with the version that is needed."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from rectool.artifacts import Making, open_artifact, write
from rectool.errors import RectoolError
from rectool.llm import adapter, backbone
from rectool.llm.versions import needed

CPU = torch.device("cpu")
NEWER = {"transformers": "99.1.0", "peft": "98.0"}


def changed(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **values}))


def upgrade(library: str) -> str:
    return (
        f"; {library} {NEWER[library]} wrote it, here is {metadata.version(library)}: "
        f"upgrade with: pip install -U '{library}>={NEWER[library]}'"
    )


@pytest.fixture
def llm(tiny_llm: Callable[..., Path], tmp_path: Path) -> Path:
    """A language model that the newest transformers wrote."""
    folder = tmp_path / "llm"
    shutil.copytree(tiny_llm("llama"), folder)
    changed(folder / "config.json", transformers_version=NEWER["transformers"])
    return folder


def read(folder: Path) -> Any:
    found = backbone.find(str(folder))
    found.tokenizer()
    return found.model(device=CPU, dtype=torch.float32)


def test_what_is_new_and_unused_is_read(llm: Path, tiny_llm: Callable[..., Path]) -> None:
    changed(llm / "config.json", new_setting={"of": [1, 2]})
    changed(llm / "tokenizer_config.json", new_setting=True)
    for one, other in zip(read(llm).parameters(), read(tiny_llm("llama")).parameters(), strict=True):
        assert one.equal(other)


@pytest.mark.parametrize(
    ("file", "values"),
    [
        ("config.json", {"model_type": "wholly_new"}),
        ("config.json", {"hidden_act": "wholly_new"}),
        ("config.json", {"rope_parameters": {"rope_type": "wholly_new", "rope_theta": 1e4}}),
        ("config.json", {"dtype": "wholly_new"}),
        ("tokenizer.json", {"version": "2.0"}),
        ("tokenizer.json", {"pre_tokenizer": {"type": "WhollyNew"}}),
        ("tokenizer.json", {"model": {"type": "WhollyNew"}}),
    ],
)
def test_a_model_of_a_newer_transformers_names_it(file: str, values: dict[str, Any], llm: Path) -> None:
    changed(llm / file, **values)
    with pytest.raises(RectoolError) as refused:
        read(llm)
    assert str(refused.value).endswith(upgrade("transformers"))
    changed(llm / "config.json", transformers_version="5.0.0")
    with pytest.raises(RectoolError) as refused:
        read(llm)
    assert "upgrade" not in str(refused.value)


@pytest.fixture
def tuned(tiny_llm: Callable[..., Path], tmp_path: Path) -> Path:
    """An adapter that the newest peft wrote."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    with adapter.peft_of_today():
        model = get_peft_model(read(tiny_llm("llama")), config)
    adapter.save(model, folder, "base")
    changed(folder / "adapter_config.json", peft_version=NEWER["peft"])
    return folder


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(torch.arange(3, 9)[None]).logits
    return found


def test_settings_of_a_newer_peft_that_say_nothing_are_read(tuned: Path, tiny_llm: Callable[..., Path]) -> None:
    found = []
    for values in ({}, {"new_config": None, "use_new": False}):
        changed(tuned / "adapter_config.json", **values)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found.append(logits(adapter.put_on(read(tiny_llm("llama")), tuned, merge=True, device=CPU)))
    assert found[0].equal(found[1])
    assert not found[0].allclose(logits(read(tiny_llm("llama"))))


@pytest.mark.parametrize(
    ("values", "said"), [({"use_new": True}, "has use_new, which peft"), ({"peft_type": "WHOLLY_NEW"}, "does not fit")]
)
def test_settings_of_a_newer_peft_that_matter_name_it(
    values: dict[str, Any], said: str, tuned: Path, tiny_llm: Callable[..., Path]
) -> None:
    changed(tuned / "adapter_config.json", **values)
    with pytest.raises(RectoolError) as refused:
        adapter.put_on(read(tiny_llm("llama")), tuned, merge=False, device=CPU)
    assert said in str(refused.value)
    assert str(refused.value).endswith(upgrade("peft"))


@pytest.mark.parametrize(
    ("written_by", "newer"),
    [
        *(("99.0.0", True), ("99", True), ("99.0.0.dev0", True), ("5.0.0", False), ("0.1rc1", False)),
        *((None, False), ("new'; rm -rf ~", False), ("", False), ([99], False), ("here", False)),
    ],
)
def test_the_version_that_is_needed(written_by: Any, newer: bool, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    version = metadata.version("transformers") if written_by == "here" else written_by
    path.write_text(json.dumps({"transformers_version": version}))
    assert bool(needed(path, "transformers")) == newer
    assert f"'transformers>={written_by}'" in needed(path, "transformers") or not newer


@pytest.mark.parametrize("content", [b"[1]", b"{", b"\xff", b"{}", None])
def test_a_file_that_says_nothing_needs_nothing(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    if content is not None:
        path.write_bytes(content)
    assert needed(path, "peft") == ""


def test_a_manifest_may_have_more_than_this_version_reads(tmp_path: Path) -> None:
    with write(tmp_path / "semantic", "projector", Making(["rectool", "align"], {}, 0, [])) as draft:
        from safetensors.torch import save_file

        save_file({"weight": torch.ones(2, 2)}, draft.path / "weights.safetensors")
        (draft.path / "config.json").write_text("{}")
    manifest = tmp_path / "semantic/rectool.json"
    changed(manifest, rectool="0.9.0", new_field={"of": 1}, run={"new": 2})
    assert open_artifact(tmp_path / "semantic", "projector", verify=True).manifest.rectool == "0.9.0"
