"""A prompt for people to look at: its words, its tokens, and which of them fill which slot."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np

from rectool.artifacts.schemas import SPLITS
from rectool.data.dataset import Dataset
from rectool.prompts.encoding import title_tokens
from rectool.prompts.entries import different
from rectool.prompts.filling import Columns, Rows, written
from rectool.prompts.layout import Entries, Ids, Text
from rectool.prompts.markup import Slot
from rectool.prompts.prompts import Prompts
from rectool.prompts.tokens import SOFT_IDS

WIDTH = 100


@dataclass(frozen=True)
class Token:
    """One token.

    Attributes:
        text: the characters that it covers; of a token that shares them with another its vocabulary's spelling.
        part: what it is part of: "text" (the template's own words), a slot, or "special".
        item: whose title it belongs to, or whose embedding stands in a history, if either.
        nth: which of the titles or entries in its slot that is, from 1.
    """

    id: int
    text: str
    part: str
    item: int | None = None
    nth: int | None = None


@dataclass(frozen=True)
class Shown:
    """The prompt of one row of the log, or of one item.

    Attributes:
        text: as the tokenizer reads it, special tokens spelled out, {user} where an embedding goes in.
        history: what is told of the user, oldest first.
        left_out: how many older titles did not fit.
    """

    row: int
    facts: dict[str, Any]
    text: str
    tokens: list[Token]
    history: list[dict[str, Any]]
    left_out: int

    def json(self, prompts: Prompts) -> dict[str, Any]:
        """All of it, as JSON."""
        answers = prompts.answers if prompts.template.task == "ctr" else None
        return {
            "prompt": prompts.template.name,
            "task": prompts.template.task,
            "tokenizer": prompts.tokenizer.name,
            "row": self.row,
            **self.facts,
            "history": self.history,
            "left_out": self.left_out,
            "text": self.text,
            "tokens": [asdict(token) for token in self.tokens],
            "max_tokens": prompts.max_tokens,
            "answers": answers and {"words": list(answers.words), "ids": list(answers.ids)},
        }

    def lines(self, prompts: Prompts) -> Iterator[str]:
        """All of it, for a terminal of 100 columns."""
        about = ", ".join(f"{name} {value}" for name, value in self.facts.items() if value is not None)
        yield f"prompt {prompts.template.name} of row {self.row}: {about}"
        if self.history or self.left_out:
            yield (
                f"history, oldest first ({self.left_out} older left out: too long)"
                if self.left_out
                else "history, oldest first"
            )
            for told in self.history:
                yield _short(f"  {'' if told['liked'] else 'not '}liked  item {told['item']}: {told['title']}")
        yield ""
        for line in self.text.split("\n"):
            yield from textwrap.wrap(line, WIDTH, drop_whitespace=False) or [""]
        yield ""
        yield f"{len(self.tokens):,} tokens of at most {prompts.max_tokens:,}, by {prompts.tokenizer.name}"
        yield from self._token_lines()
        if prompts.template.task == "ctr":
            words, ids = prompts.answers.words, prompts.answers.ids
            yield f"answers: {words[0]!r} is token {ids[0]} (label 1), {words[1]!r} is token {ids[1]} (label 0)"

    def _token_lines(self) -> Iterator[str]:
        place = 0
        for (part, item, nth), run in groupby(self.tokens, key=lambda token: (token.part, token.item, token.nth)):
            tokens = list(run)
            label = part if item is None else f"{part} {nth}" if part in ("history", "disliked") else part
            spelled = " ".join(f"{_visible(token.text)}:{token.id}" for token in tokens)
            head = f"{place:5}  {label:12}  "
            yield from textwrap.wrap(
                spelled, WIDTH, initial_indent=head, subsequent_indent=" " * len(head), break_on_hyphens=False
            )
            place += len(tokens)


def show(prompts: Prompts, dataset: Dataset, row: int) -> Shown:
    """The prompt of a row of the log, or of an item if the prompts are about items.

    Raises:
        RectoolError: it is too long whatever is left out.
    """
    full = prompts.filling(dataset, np.array([row]))
    filling = prompts.fitting(dataset, row)
    text: list[str] = []
    tokens: list[Token] = []
    for piece in prompts.layout:
        words, new = _tokens(prompts, piece, filling)
        text.append(words)
        tokens += new
    history: list[dict[str, Any]] = []
    left_out = 0
    if isinstance(filling, Rows) and isinstance(full, Rows):
        titles = filling.catalogue.titles
        earlier = filling.earlier
        history = [
            {"item": int(item), "title": titles[int(item)].as_py(), "liked": bool(liked)}
            for item, liked in zip(earlier.items, earlier.liked, strict=True)
        ]
        left_out = len(full.earlier.items) - len(earlier.items)
    return Shown(row, _facts(prompts, dataset, row), "".join(text), tokens, history, left_out)


def _facts(prompts: Prompts, dataset: Dataset, row: int) -> dict[str, Any]:
    if prompts.template.task == "item":
        return {"item": row}
    label = int(dataset.label[row])
    return {
        "split": SPLITS[dataset.split[row]],
        "user": int(dataset.user[row]),
        "item": int(dataset.item[row]),
        "label": None if label < 0 else label,
    }


def _tokens(prompts: Prompts, piece: Text | Ids | Entries, filling: Columns) -> tuple[str, list[Token]]:
    """A piece of the prompt as text, and its tokens."""
    if isinstance(piece, Text):
        return _words(prompts, piece, filling)
    if isinstance(piece, Ids):
        found = list(_special(prompts, piece))
        return "".join(token.text for token in found), found
    assert isinstance(filling, Rows)
    several, places, _ = different(filling)
    text: list[str] = []
    tokens: list[Token] = []
    for nth, place in enumerate(places.tolist(), start=1):
        is_none = place == len(several.items)
        for each in (piece.empty,) if is_none else piece.pieces:
            words, new = _tokens(prompts, each, several if is_none else several.only(place))
            text.append(words)
            for token in new:
                is_of = token.id < 0 or token.item is not None
                item = int(several.items[place]) if is_of else None
                tokens.append(replace(token, part="history", item=item, nth=nth if is_of else None))
    return "".join(text), tokens


def _special(prompts: Prompts, piece: Ids) -> Iterator[Token]:
    soft = {id: slot for slot, id in SOFT_IDS.items()}
    for id in piece.ids:
        if id < 0:
            yield Token(id, f"{{{soft[id]}}}", soft[id])
        else:
            yield Token(id, prompts.tokenizer.shown([id])[0], "special")


def _words(prompts: Prompts, piece: Text, filling: Columns) -> tuple[str, list[Token]]:
    """A text, and its tokens."""
    (words,), titles = written(piece.parts, filling, 1)
    encoding = prompts.tokenizer.encode([words], inside=piece.inside, offsets=True)
    assert encoding.first is not None
    assert encoding.last is not None
    ids = encoding.ids.tolist()
    parts = _parts(piece, filling)
    spelled = prompts.tokenizer.shown(ids)
    places = list(zip(encoding.first.tolist(), encoding.last.tolist(), strict=True))
    tokens = []
    for place, (first, last) in enumerate(places):
        is_shared = places.count((first, last)) > 1
        tokens.append(Token(ids[place], spelled[place] if is_shared else words[first:last], parts[max(last - 1, 0)]))
    if titles is not None:
        nth: dict[str, int] = {}
        spans = zip(*title_tokens(titles, encoding), titles.item, titles.first, strict=True)
        for start, stop, item, first in spans:
            part = parts[int(first)]
            nth[part] = nth.get(part, 0) + 1
            for place in range(int(start), int(stop)):
                tokens[place] = Token(tokens[place].id, tokens[place].text, part, int(item), nth[part])
    return words, tokens


def _parts(piece: Text, filling: Columns) -> list[str]:
    """What each character of a text is part of; what stands between the titles of a slot is the slot's."""
    parts = []
    for part in piece.parts:
        if isinstance(part, Slot):
            parts += [part.name] * len(filling.column(part.name).texts[0])
        else:
            parts += ["text"] * len(part)
    return parts


def _visible(text: str) -> str:
    return text.replace(" ", "▁").replace("\n", "\\n").replace("\t", "\\t") or "▁"


def _short(line: str) -> str:
    return line if len(line) <= WIDTH else line[: WIDTH - 3] + "..."
