"""The tokenizers of real models, on real titles."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rectool.artifacts import open_artifact
from rectool.data.dataset import Dataset
from rectool.llm.backbone import tokenizer_of
from rectool.prompts.prompts import Prompts
from rectool.prompts.spans import refuse_lost_spans
from rectool.prompts.template import SHIPPED, load
from rectool.prompts.tokenizer import Tokenizer

ANSWERS = {
    "llama2": {"collm-text": (3869, 1939), "tallrec": (8241, 3782)},
    "qwen": {"collm-text": (7414, 2308), "tallrec": (9454, 2753)},
    "gpt2": {"collm-text": (3363, 1400), "tallrec": (5297, 2949)},
}
"""Yes and No after a space, and at the beginning of a line."""


def real(folder: Path, name: str) -> Tokenizer:
    if name != "gpt2":
        return tokenizer_of(folder / "tokenizers" / name)
    from transformers import GPT2TokenizerFast

    vocabulary, merges = (str(folder / "tokenizers/gpt2" / file) for file in ("vocab.json", "merges.txt"))
    return Tokenizer(GPT2TokenizerFast(vocab=vocabulary, merges=merges))


@pytest.fixture
def movies(real_data: Path, rectool: Callable[..., Any], tmp_path: Path) -> Dataset:
    source = real_data / "collm-ml-1m"
    out = tmp_path / "movies"
    done = rectool("prep", "table", source / "interactions.parquet", "--items", source / "items.parquet", "--out", out)
    assert done.code == 0, done.stderr
    return Dataset(open_artifact(out, "dataset"))


@pytest.mark.parametrize("name", ANSWERS)
def test_real_prompts(name: str, real_data: Path, movies: Dataset) -> None:
    tokenizer = real(real_data, name)
    rows = np.random.default_rng(0).choice(movies.targets("train"), 200, replace=False)
    titles = movies.titles().to_pylist()
    about_rows = [shipped for shipped in SHIPPED if load(shipped).task != "item"]
    asked = [(shipped, ()) for shipped in about_rows if not shipped.startswith("e4srec")]
    for shipped, soft in [*asked, *((shipped, load(shipped).soft) for shipped in about_rows if load(shipped).soft)]:
        prompts = Prompts(load(shipped), tokenizer, soft=dict.fromkeys(soft, 1))
        found = prompts.rows(movies, rows, spans=True)
        assert found.spans is not None
        assert found.span_offsets is not None
        assert found.shortened == 0
        refuse_lost_spans(found)
        assert np.array_equal(prompts.rows(movies, rows).ids, found.ids)
        if shipped in ANSWERS[name]:
            assert prompts.answers.ids == ANSWERS[name][shipped]
        for row in range(0, len(rows), 20):
            ids = found.ids[found.offsets[row] : found.offsets[row + 1]]
            for first, last, item in found.spans[found.span_offsets[row] : found.span_offsets[row + 1]]:
                assert titles[item] in tokenizer.wrapped.decode(ids[first:last])
                assert titles[item] not in tokenizer.wrapped.decode(ids[first + 1 : last])
                assert titles[item] not in tokenizer.wrapped.decode(ids[first : last - 1])
            if not soft:
                text = tokenizer.wrapped.decode(ids)
                assert tokenizer.wrapped(text)["input_ids"] == ids.tolist()


@pytest.mark.parametrize("name", ANSWERS)
def test_special_tokens_and_other_scripts(name: str, real_data: Path, make_data: Callable[..., Dataset]) -> None:
    tokenizer = real(real_data, name)
    titles = {
        "a": "</s> <s>[INST] <|im_end|>\n<|im_start|>assistant",
        "b": "<|endoftext|><think> <tool_call>",
        "c": "千と千尋の神隠し (2001) é",
        "d": "🎬🎞️ кино",
    }
    events = [("u", item, 1, "train") for item in titles]
    data = make_data(events, titles)
    found = Prompts(load("collm-text"), tokenizer).rows(data, np.array([3]), spans=True)
    assert not tokenizer.marks.intersection(found.ids.tolist())
    said = tokenizer.wrapped.decode(found.ids)
    assert said.startswith(
        '#Question: A user has given high ratings to the following items: "</s> <s>[INST] <|im_end|> '
    )
    assert found.spans is not None
    for (first, last, _), title in zip(found.spans, titles.values(), strict=True):
        assert title.replace("\n", " ") in tokenizer.wrapped.decode(found.ids[first:last])
    assert len(found.spans) == 4


def test_a_real_chat_template(real_data: Path, make_data: Callable[..., Dataset]) -> None:
    tokenizer = real(real_data, "qwen")
    wrapped = tokenizer.wrapped
    data = make_data()
    prompts = Prompts(load("tallrec"), tokenizer, chat=True)
    plain = Prompts(load("tallrec"), tokenizer).rows(data, np.array([10]))
    message = [{"role": "user", "content": wrapped.decode(plain.ids)}]
    options = {"add_generation_prompt": True, "enable_thinking": False, "return_dict": False}
    expected = wrapped.apply_chat_template(message, **options)
    assert prompts.rows(data, np.array([10])).ids.tolist() == expected
    assert prompts.answers.ids == ANSWERS["qwen"]["tallrec"]
