"""Prompts about items: titles, descriptions, and what is left out of long ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rectool.data.dataset import Dataset
from rectool.errors import RectoolError
from rectool.llm.backbone import tokenizer_of
from rectool.prompts.prompts import Prompts
from rectool.prompts.template import load, parse
from rectool.prompts.tokenizer import Tokenizer

TEXTS = {"alien": "In space\nno one  hears {title}", "heat": "A" + " game" * 40, "up": "", "toy": "w" * 9_999 + " end"}
MINE = '+++\ntask = "item"\nempty = "nothing"\n+++\n{title}: {text}!'


@pytest.fixture
def data(make_data: Callable[..., Dataset]) -> Dataset:
    return make_data(texts=TEXTS)


def said(tokenizer: Tokenizer, prompts: Prompts, data: Dataset) -> dict[str, str]:
    found = prompts.items(data, np.arange(data.items))
    ids = [found.ids[start:stop] for start, stop in zip(found.offsets, found.offsets[1:], strict=False)]
    return dict(zip(data.item_ids().to_pylist(), map(tokenizer.wrapped.decode, ids), strict=True))


def test_descriptions(data: Dataset, tiny_llm: Callable[..., Path]) -> None:
    tokenizer = tokenizer_of(tiny_llm(bos=False))
    prompts = Prompts(parse(MINE, "mine"), tokenizer, max_tokens=100_000)
    found = said(tokenizer, prompts, data)
    assert found["alien"] == "Alien (1979): In space no one  hears {title}!"
    assert found["up"] == "Up: nothing!"  # an empty one
    assert found["matrix"] == "Matrix, The (1999): nothing!"  # none
    assert found["toy"] == "Toy Story (1995): " + "w" * 9_999 + "!"  # cut after 10,000 characters
    assert prompts.items(data, np.arange(data.items)).shortened == 1
    assert prompts.items(data, np.array([0, 0])).lengths.tolist() == [len(tokenizer.encode([found["alien"]]).ids)] * 2


def test_shipped_prompts(data: Dataset, tokenizer: Tokenizer) -> None:
    for name in ("item-description", "item-title"):
        found = said(tokenizer, Prompts(load(name), tokenizer, max_tokens=100_000, noun="movies"), data)
        assert all(text.startswith("<s>Here is one of the movies") for text in found.values())
        assert "Heat (1995)" in found["heat"]
        assert ("game game" in found["heat"]) == (name == "item-description")


def test_a_long_description_loses_its_last_words(data: Dataset, tokenizer: Tokenizer) -> None:
    template = parse(MINE, "mine")
    heat = data.item_ids().to_pylist().index("heat")
    whole = Prompts(template, tokenizer, max_tokens=1000)
    length = int(whole.items(data, np.array([heat])).lengths[0])
    for longest in range(length - 20, length + 1):
        found = Prompts(template, tokenizer, max_tokens=longest).items(data, np.array([heat, 0]))
        text = tokenizer.wrapped.decode(found.ids[: found.offsets[1]])
        games = text.count(" game")
        assert text == f"<s>Heat (1995): A{' game' * games}!"
        assert games == 40 - (length - longest)  # each is a token
        assert found.shortened == (longest < length)


def test_what_does_not_fit_without_description_names_its_item(data: Dataset, tokenizer: Tokenizer) -> None:
    for text in (MINE, '+++\ntask = "item"\n+++\n{title}'):
        with pytest.raises(RectoolError, match=r"the prompt of item \d has \d+ tokens .* at most 5 are allowed"):
            Prompts(parse(text, "mine"), tokenizer, history=1, max_tokens=5).items(data, np.arange(data.items))


def test_encoders_keep_what_stands_at_the_end(data: Dataset, tiny_encoder: Path) -> None:
    tokenizer = tokenizer_of(tiny_encoder)
    for ends in (False, True):
        found = Prompts(load("item-title"), tokenizer, ends=ends).items(data, np.array([0]))
        assert found.ids[0] == 0
        assert (found.ids[-1] == 1) == ends


def test_the_task_is_checked(data: Dataset, tokenizer: Tokenizer) -> None:
    with pytest.raises(RectoolError, match="prompt item-title is of task item, but ctr or next-item is needed"):
        Prompts(load("item-title"), tokenizer).rows(data, np.array([0]))
    with pytest.raises(RectoolError, match="prompt collm is of task ctr, but item is needed"):
        Prompts(load("collm"), tokenizer).items(data, np.array([0]))
