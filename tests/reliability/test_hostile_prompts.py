"""Prompt templates, settings files, tokenizers and titles of a stranger's.

By hand: `RECTOOL_FUZZ=20000 pytest tests/reliability/test_hostile_prompts.py`.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hostile
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rectool.errors import RectoolError
from rectool.prompts import template
from rectool.prompts.template import SHIPPED

often = settings(max_examples=hostile.examples(60), derandomize=not hostile.MORE, deadline=None)
SHIPPED_TEXTS = [template.load(name).text for name in SHIPPED]


def outcome(text: str) -> None:
    said = "odd.txt"
    try:
        template.parse(text, "odd.txt")
    except RectoolError as problem:
        said = str(problem)
    assert "odd.txt" in said
    assert "\n" not in said


@often
@given(settings=st.text(max_size=60), body=st.text(max_size=60))
def test_any_template(settings: str, body: str) -> None:
    outcome(f"+++\n{settings}\n+++\n{body}")


@often
@given(seed=st.integers(0, 2**32))
def test_templates_that_are_nearly_right(seed: int) -> None:
    chance = random.Random(seed)
    text = chance.choice(SHIPPED_TEXTS)
    changed = chance.choice(hostile.BYTES)(text.encode(), chance)
    outcome(changed.decode("utf-8", "replace"))
    pieces = ("{", "}", "{?", "?}", "{{", "{title}", "{history}", "{user}", "+++", "\n", '"', "\u202e", "[" * 300)
    place = chance.randrange(len(text))
    outcome(text[:place] + chance.choice(pieces) + text[place + chance.randrange(3) :])


@pytest.mark.parametrize(
    "settings", ["a = " + "[" * 5000, "a = " + "9" * 10_000, "a = " + "{b=" * 3000, "a" + ".b" * 9000]
)
def test_settings_that_go_too_deep(settings: str, tmp_path: Path, rectool: Callable[..., Any]) -> None:
    outcome(f"+++\n{settings}\n+++\n{{history}}")
    path = tmp_path / "run.toml"
    path.write_text(settings)
    done = rectool("prep", "synthetic", "--settings", path, "--out", tmp_path / "out")
    assert done.code == 2
    assert "run.toml" in done.error


@pytest.mark.parametrize("what", ["pipe", "folder", "large", "binary"])
def test_a_template_that_is_none(what: str, tmp_path: Path) -> None:
    path = tmp_path / "odd.txt"
    if what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    else:
        path.write_bytes(random.Random(0).randbytes(1000) if what == "binary" else b"a" * 1_000_000)
    with hostile.bounded(10), pytest.raises(RectoolError, match=r"odd\.txt"):
        template.load(str(path))


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json"])
def test_changed_tokenizers(file: str, tiny_llm: Callable[..., Path], tmp_path: Path) -> None:
    from rectool.llm import backbone

    for number in range(min(2000, hostile.examples(4))):
        said = f"{file} {hostile.SEED} {number}"
        chance = random.Random(said)
        folder = tmp_path / str(number)
        shutil.copytree(tiny_llm("llama"), folder)
        content = hostile.changed(file, (folder / file).read_bytes(), chance)
        (folder / file).write_bytes(content)
        try:
            with hostile.bounded(30):
                found = backbone.find(str(folder)).tokenizer()
                found.encode(["Alien\u202e", "\0", "a" * 3000])
        except RectoolError as problem:
            said = str(problem)
        assert said.startswith(file) or str(folder) in said
        shutil.rmtree(folder)


def test_code_that_a_tokenizer_names_is_not_run(tiny_llm: Callable[..., Path], tmp_path: Path) -> None:
    from rectool.llm import backbone

    folder = tmp_path / "llm"
    shutil.copytree(tiny_llm("llama"), folder)
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    path = folder / "tokenizer_config.json"
    said = json.loads(path.read_text()) | {"auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}}
    path.write_text(json.dumps(said | {"tokenizer_class": "Evil"}))
    (folder / "config.json").write_text(
        json.dumps(json.loads((folder / "config.json").read_text()) | {"auto_map": {"AutoConfig": "evil.Evil"}})
    )
    found = backbone.find(str(folder))
    found.tokenizer()
    assert found.config.model_type == "llama"
    (folder / "tokenizer.json").unlink()
    with pytest.raises(RectoolError, match="has no tokenizer"):
        found.tokenizer()
    assert not (tmp_path / "ran").exists()
