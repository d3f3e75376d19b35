"""The tokens of rows against the same prompts written one by one, with plain strings and loops."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from rectool.data.dataset import Dataset
from rectool.errors import RectoolError
from rectool.prompts import markup
from rectool.prompts import prompts as module
from rectool.prompts.markup import Slot
from rectool.prompts.prompts import Prompts
from rectool.prompts.template import SHIPPED, Template, load, parse
from rectool.prompts.tokenizer import Tokenizer
from rectool.prompts.tokens import TokenRows

Piece = tuple[str, str, int | None]
"""Some text, what it is part of, and whose title it is."""
SOFT = {"user": -1, "item": -2, "warm": -3, "history": -4}
ABOUT_ROWS = [name for name in SHIPPED if load(name).task != "item"]
ALWAYS = dict.fromkeys(("e4srec", "e4srec-ctr"), ("history",))
"""Places that are never empty."""
NASTY = {
    "alien": "{target} {{history}} {user}",
    "heat": "</s><s> <pad> <|im_end|>",
    "up": 'Quotes "inside", and \\ n',
    "matrix": "日本語 é (🎬)",
    "toy": "two\nlines\tand\x00more\x85",
    "haunted": "\u202eturned\u200f around ",
    "dragons": "x",
}
CLEAN = NASTY | {"toy": "two lines and more", "haunted": "turned around"}


def told(dataset: Dataset, template: Template, row: int, history: int) -> list[int]:
    """The rows that a prompt tells of, oldest first."""
    found = [other for other in range(row) if dataset.user[other] == dataset.user[row]]
    if template.task == "ctr":
        labels = [label for slot, label in (("history", 1), ("disliked", 0)) if slot in template.slots]
        found = [other for other in found if int(dataset.label[other]) in labels]
    return found[max(0, len(found) - history) :]


EDGE = ("", "edge", None)
"""Where one text ends and another begins."""


def entries(dataset: Dataset, template: Template, chosen: Sequence[int], titles: Sequence[str]) -> list[Piece]:
    """A history with places of embeddings."""
    assert template.soft_entry is not None
    found: list[Piece] = [EDGE] if chosen else [EDGE, (template.empty, "text", None), EDGE]
    for place, other in enumerate(chosen):
        item = int(dataset.item[other])
        found.append((template.separator if place else "", "text", None))
        for part in template.soft_entry:
            if part == Slot("title"):
                found.append((titles[item], "title", item))
            else:
                found.append(("", "history", None) if part == Slot("item") else (str(part), "text", None))
        found.append(EDGE)
    return found


def pieces(dataset: Dataset, template: Template, row: int, others: Sequence[int], titles: Sequence[str]) -> list[Piece]:
    """A prompt in pieces, of which the titles are some."""
    found: list[Piece] = []
    for part in template.parts:
        if isinstance(part, str):
            found.append((part, "text", None))
        elif part.name in markup.SOFT:
            found.append(("", part.name, None))
        elif part == Slot("noun"):
            found.append(("items", "text", None))
        elif part == Slot("target"):
            found.append((titles[dataset.item[row]], "target", int(dataset.item[row])))
        else:
            wanted = {"history": 1, "disliked": 0}[part.name]
            chosen = [other for other in others if template.task != "ctr" or dataset.label[other] == wanted]
            if template.soft_entry is not None and part.name == "history":
                found += entries(dataset, template, chosen, titles)
                continue
            for place, other in enumerate(chosen):
                found.append((template.separator * bool(place) + template.entry[0], "text", None))
                found.append((titles[dataset.item[other]], "title", int(dataset.item[other])))
                found.append((template.entry[1], "text", None))
            if not chosen:
                found.append((template.empty, "text", None))
    return found


def text_of(written: Sequence[Piece]) -> str:
    return "".join(words for words, _, _ in written)


def tokens(
    tokenizer: Tokenizer, written: Sequence[Piece], count: int = 1
) -> tuple[list[int], list[tuple[int, int, int]]]:
    """The tokens of a prompt and the spans of its titles, by looking at each token."""
    ids = list(tokenizer.start)
    spans = []
    runs: list[list[Piece]] = [[]]
    for piece in written:
        runs[-1].append(piece)
        if piece[1] in SOFT or piece == EDGE:
            runs.append([])
    for number, run in enumerate(runs):
        encoded = tokenizer.encode([text_of(run)], inside=number > 0, offsets=True)
        assert encoded.first is not None
        assert encoded.last is not None
        place = taken = 0
        for words, _, item in run:
            covers = [
                token
                for token in range(taken, len(encoded.ids))
                if encoded.first[token] < place + len(words) and encoded.last[token] > place
            ]
            if item is not None:
                first = covers[0] if covers else taken
                taken = covers[-1] + 1 if covers else taken
                spans.append((len(ids) + first, len(ids) + taken, item))
            place += len(words)
        ids += encoded.ids.tolist()
        if run and run[-1][1] in SOFT:
            ids += [SOFT[run[-1][1]]] * count
    return ids, spans


def as_lists(found: TokenRows) -> list[tuple[list[int], list[tuple[int, ...]]]]:
    assert found.spans is not None
    assert found.span_offsets is not None
    lists = []
    for row in range(len(found)):
        spans = found.spans[found.span_offsets[row] : found.span_offsets[row + 1]]
        ids = found.ids[found.offsets[row] : found.offsets[row + 1]]
        lists.append((ids.tolist(), list(map(tuple, spans.tolist()))))
    return lists


def names(dataset: Dataset, titles: dict[str, str]) -> list[str]:
    return [titles[id] for id in dataset.item_ids().to_pylist()]


@pytest.mark.parametrize("nasty", [False, True])
@pytest.mark.parametrize("name", ABOUT_ROWS)
def test_all_shipped_prompts(
    name: str, nasty: bool, make_data: Callable[..., Dataset], tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK", 5)  # rows: several chunks
    data = make_data(titles=NASTY) if nasty else make_data()
    titles = names(data, CLEAN) if nasty else data.titles().to_pylist()
    rows = np.array([11, 0, 5, 5, 3, 2, 1, 10, 9, 8, 7, 6, 4])
    for history, count in ((0, 1), (1, 2), (3, 0), (10, 0), (10, 1)):
        soft = dict.fromkeys(load(name).soft if count else ALWAYS.get(name, ()), max(count, 1))
        prompts = Prompts(load(name), tokenizer, history, soft=soft)
        template = load(name).filled(soft)
        found = prompts.rows(data, rows, spans=True)
        written = [pieces(data, template, row, told(data, template, row, history), titles) for row in rows]
        assert as_lists(found) == [tokens(tokenizer, each, max(count, 1)) for each in written]
        assert found.shortened == 0
        plain = prompts.rows(data, rows)
        assert (plain.ids.tolist(), plain.offsets.tolist()) == (found.ids.tolist(), found.offsets.tolist())
        assert plain.spans is None


@pytest.mark.parametrize("name", ["collm-text", "tallrec", "hatllm"])
def test_a_prompt_is_tokenised_as_the_tokenizer_does_it(name: str, data: Dataset, tokenizer: Tokenizer) -> None:
    template = load(name).filled([])
    rows = np.arange(12)
    found = Prompts(load(name), tokenizer).rows(data, rows)
    titles = data.titles().to_pylist()
    for row in rows:
        text = text_of(pieces(data, template, row, told(data, template, row, 10), titles))
        assert found.ids[found.offsets[row] : found.offsets[row + 1]].tolist() == tokenizer.wrapped(text)["input_ids"]


def test_titles_are_data(make_data: Callable[..., Dataset], tokenizer: Tokenizer) -> None:
    """What a prompt says can be read back from its tokens, whatever the titles are."""
    data = make_data(titles=NASTY)
    titles = names(data, CLEAN)
    template = load("collm-text")
    found = Prompts(template, tokenizer).rows(data, np.arange(12))
    assert not tokenizer.marks.intersection(found.take(np.arange(12)).ids[found.ids != 0].tolist())
    for row in range(12):
        ids = found.ids[found.offsets[row] + 1 : found.offsets[row + 1]]
        assert tokenizer.wrapped.decode(ids) == text_of(
            pieces(data, template, row, told(data, template, row, 10), titles)
        )


def test_one_word_of_two_titles_is_the_first_ones(make_data: Callable[..., Dataset]) -> None:
    from tokenizers import Tokenizer as Backend
    from tokenizers import models
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: id for id, word in enumerate(("a", "b", "c", "|", "ab", "abc", "bc"))}
    merges = [("a", "b"), ("ab", "c"), ("b", "c")]
    backend = Backend(models.BPE(vocabulary, merges))
    tokenizer = Tokenizer(PreTrainedTokenizerFast(tokenizer_object=backend))
    text = '+++\ntask = "next-item"\nentry = "{title}"\nseparator = ""\n+++\n|{history}|'
    events = [("u", item, 1, "train") for item in ("x", "y", "z", "x", "z", "y")]
    data = make_data(events, {"x": "a", "y": "b", "z": "c"})
    found = Prompts(parse(text, "mine"), tokenizer).rows(data, np.arange(6), spans=True)
    ids, spans = as_lists(found)[3]  # |abc|, in which abc is one token
    assert ids == [3, 5, 3]
    assert spans == [(1, 2, 0), (2, 2, 1), (2, 2, 2)]
    ids, spans = as_lists(found)[5]  # |abcac|
    assert ids == [3, 5, 0, 2, 3]
    assert spans == [(1, 2, 0), (2, 2, 1), (2, 2, 2), (2, 3, 0), (3, 4, 2)]


def least_dropped(tokenizer: Tokenizer, data: Dataset, template: Template, row: int, longest: int) -> list[int] | None:
    """The rows that are told once the oldest are dropped, one by one, until the prompt fits."""
    others = told(data, template, row, 10)
    titles = data.titles().to_pylist()
    while len(tokens(tokenizer, pieces(data, template, row, others, titles))[0]) > longest:
        if not others:
            return None
        others = others[1:]
    return others


@pytest.mark.parametrize(
    ("name", "soft"),
    [("collm", {"user": 1, "item": 1}), ("tallrec", {}), ("hatllm", {}), ("llara-ctr", {"history": 1})],
)
def test_the_oldest_titles_of_a_long_prompt_are_dropped(
    name: str, soft: dict[str, int], data: Dataset, tokenizer: Tokenizer
) -> None:
    template = load(name).filled(soft)
    rows = np.array([9, 10, 11, 8, 7, 6, 5, 4])
    titles = data.titles().to_pylist()
    whole = Prompts(template, tokenizer, soft=soft).rows(data, rows).lengths
    bare = Prompts(template, tokenizer, history=0, soft=soft).rows(data, rows).lengths
    shortened = 0
    for longest in range(int(bare.max()), int(whole.max()) + 1):
        found = Prompts(template, tokenizer, max_tokens=longest, soft=soft).rows(data, rows, spans=True)
        kept = [least_dropped(tokenizer, data, template, row, longest) for row in rows]
        expected = [
            tokens(tokenizer, pieces(data, template, row, others or [], titles))
            for row, others in zip(rows, kept, strict=True)
        ]
        assert as_lists(found) == expected
        assert found.lengths.max() <= longest
        assert found.shortened == int((whole > longest).sum())
        shortened += found.shortened
    assert shortened > 0


def test_what_does_not_fit_without_titles_names_its_row(data: Dataset, tokenizer: Tokenizer) -> None:
    template = load("collm-text")
    bare = Prompts(template, tokenizer, history=0).rows(data, np.arange(12)).lengths
    longest = int(bare.max()) - 1
    first = int(np.argmax(bare > longest))
    with pytest.raises(RectoolError) as problem:
        Prompts(template, tokenizer, max_tokens=longest).rows(data, np.arange(12))
    assert f"the prompt of row {first} has {bare[first]} tokens even with nothing told" in str(problem.value)
    assert f"at most {longest} are allowed (--max-tokens)" in str(problem.value)


def test_endless_and_empty_titles(make_data: Callable[..., Dataset], tokenizer: Tokenizer) -> None:
    titles = {"alien": "Alien " * 500_000, "heat": "\n\t", "up": "x" * 512, "matrix": "y" * 513}
    events = [("u", item, 1, "train") for item in titles] + [("u", "up", 0, "test")]
    data = make_data(events, titles)
    prompts = Prompts(load("collm-text"), tokenizer, max_tokens=100_000)
    found = prompts.rows(data, np.array([4]), spans=True)
    said = tokenizer.wrapped.decode(found.ids)
    assert said.count("Alien") == 85  # of 512 characters
    assert '"heat"' in said  # by its id
    assert '"' + "x" * 512 + '"' in said
    assert '"' + "y" * 512 + '"' in said
    assert found.shortened == 1
    assert prompts.rows(data, np.array([1, 2])).shortened == 2  # Alien is told
    assert prompts.rows(data, np.array([0])).shortened == 1  # Alien is asked
    recent = Prompts(load("collm-text"), tokenizer, history=1, max_tokens=100_000)
    assert recent.rows(data, np.array([2])).shortened == 0


def test_no_rows(data: Dataset, tokenizer: Tokenizer) -> None:
    found = Prompts(load("collm"), tokenizer).rows(data, np.array([], np.int64), spans=True)
    assert (len(found), len(found.ids), as_lists(found)) == (0, 0, [])
