"""What a model is to write after a prompt, as tokens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rectool.data.dataset import Dataset
from rectool.errors import RectoolError
from rectool.llm.backbone import tokenizer_of
from rectool.prompts import template as templates
from rectool.prompts.prompts import Prompts
from rectool.prompts.tokenizer import Tokenizer

BODY = "The user likes {history}"


def made(tokenizer: Tokenizer, body: str = BODY, output: str = '"{title}"', chat: bool = False) -> Prompts:
    text = f"+++\ntask = \"next-item\"\noutput = '{output}'\n+++\n{body}"
    return Prompts(templates.parse(text, "mine"), tokenizer, chat=chat)


def rows(prompts: Prompts, data: Dataset, items: list[int]) -> list[list[int]]:
    found = prompts.outputs(data, np.array(items, np.int64))
    return [found.ids[first:last].tolist() for first, last in zip(found.offsets[:-1], found.offsets[1:], strict=True)]


def test_a_title_is_a_text_of_its_own_and_ends(data: Dataset, tokenizer: Tokenizer) -> None:
    prompts = made(tokenizer)
    titles = data.titles().to_pylist()
    for item, found in enumerate(rows(prompts, data, list(range(data.items)))):
        assert found == [*tokenizer.encode([f' "{titles[item]}"'], inside=True).ids.tolist(), tokenizer.stop]
        assert tokenizer.text(found).strip() == f'"{titles[item]}"'
        assert prompts.title_in(tokenizer.text(found)) == titles[item]


def test_items_in_any_order_and_again(data: Dataset, tokenizer: Tokenizer) -> None:
    prompts = made(tokenizer)
    each = rows(prompts, data, list(range(data.items)))
    assert rows(prompts, data, [3, 0, 3]) == [each[3], each[0], each[3]]
    assert rows(prompts, data, []) == []


def test_many_items_are_tokenised_in_chunks(
    data: Dataset, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = rows(made(tokenizer), data, list(range(data.items)))
    monkeypatch.setattr("rectool.prompts.prompts.CHUNK", 2)
    assert rows(made(tokenizer), data, list(range(data.items))) == whole


@pytest.mark.parametrize(
    ("body", "before"), [(BODY, " "), (f"{BODY} ", ""), (f"{BODY}\n\n", ""), (f"{BODY}\n### Response:", " ")]
)
def test_what_stands_between_prompt_and_title(
    data: Dataset, tokenizer: Tokenizer, metaspace: Callable[..., Tokenizer], body: str, before: str
) -> None:
    for each in (tokenizer, metaspace("first"), metaspace("always")):
        prompts = made(each, body, "{title}")
        title = data.titles().to_pylist()[0]
        expected = each.encode([f"{before}{title}"], inside=True).ids.tolist()
        assert rows(prompts, data, [0])[0] == expected + ([] if each.stop is None else [each.stop])


def test_after_a_chat_frame_nothing_stands_between(data: Dataset, chat_tokenizer: Tokenizer) -> None:
    prompts = made(chat_tokenizer, output="{title}", chat=True)
    title = data.titles().to_pylist()[0]
    expected = chat_tokenizer.encode([title], inside=True).ids.tolist()
    assert rows(prompts, data, [0])[0] == [*expected, chat_tokenizer.stop]


def test_prompts_that_ask_something_else_have_none(data: Dataset, tiny_llm: Callable[..., Path]) -> None:
    prompts = Prompts(templates.load("collm-text"), tokenizer_of(tiny_llm()))
    with pytest.raises(RectoolError, match="is of task ctr, but next-item is needed"):
        prompts.outputs(data, np.arange(2))


@pytest.mark.parametrize(
    ("written", "title"),
    [
        (' "Up"', "Up"),
        (' "Up', "Up"),
        ('"Up", or not', "Up"),
        ('"Up" is what\n"Heat"', "Up"),
        ("Up", "Up"),
        ('"Say "Up" again"', 'Say "Up" again'),
        ("", ""),
        ('"', ""),
    ],
)
def test_the_title_in_what_was_written(tokenizer: Tokenizer, written: str, title: str) -> None:
    assert made(tokenizer).title_in(written) == title


def test_a_title_alone_is_the_whole_line(tokenizer: Tokenizer) -> None:
    assert made(tokenizer, output="{title}").title_in(' Say "Up"\nor not') == 'Say "Up"'


def test_rows_one_after_the_other(tokenizer: Tokenizer, data: Dataset) -> None:
    prompts = made(tokenizer)
    asked = prompts.rows(data, np.array([3, 4, 5]), spans=True)
    outputs = prompts.outputs(data, np.array([2, 0, 1]))
    both = asked.followed_by(outputs)
    for row in range(3):
        expected = [*asked.take(np.array([row])).ids, *outputs.take(np.array([row])).ids]
        assert both.take(np.array([row])).ids.tolist() == expected
    assert both.spans is asked.spans
    assert both.span_offsets is asked.span_offsets
