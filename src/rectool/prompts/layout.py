"""A prompt as the tokenizer sees it: texts that are tokenised as wholes, ids that never change, and histories."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rectool.errors import RectoolError
from rectool.prompts.markup import SOFT, Parts, Slot
from rectool.prompts.template import Template
from rectool.prompts.tokenizer import Encoded, Tokenizer
from rectool.prompts.tokens import SOFT_IDS


@dataclass(frozen=True)
class Text:
    """A text that is tokenised as a whole: all between two special or soft tokens.

    Attributes:
        parts: its words, and the slots that titles fill.
        inside: it goes on from something, see `Tokenizer.encode`.
    """

    parts: Parts
    inside: bool


@dataclass(frozen=True)
class Ids:
    """Special tokens, or the place of an embedding (below 0), see `SOFT_IDS`."""

    ids: tuple[int, ...]


@dataclass(frozen=True)
class Entries:
    """A history whose entries have places of embeddings: each entry is tokenised by itself.

    Attributes:
        pieces: of one entry. Its slots are {separator}, which is empty in the first, and {title}.
        empty: what stands for a history without entries.
    """

    pieces: Layout
    empty: Text


Layout = tuple["Text | Ids | Entries", ...]


@dataclass(frozen=True)
class Answers:
    """The words for label 1 and label 0, and the token that each is where the answer stands."""

    words: tuple[str, str]
    ids: tuple[int, int]


def arrange(
    template: Template,
    tokenizer: Tokenizer,
    *,
    noun: str,
    frame: tuple[str, str] | None,
    examples: str,
    ends: bool,
    soft: Mapping[str, int],
) -> Layout:
    """The layout of the prompts of a template that has been filled.

    Args:
        frame: what a chat template writes before and after the prompt.
        examples: answered prompts that stand before it.
        ends: keep what the tokenizer puts after a text.
        soft: how many embeddings go into each place.
    """
    before, after = ([tokenizer.start], [tokenizer.end] if ends else []) if frame is None else map(tokenizer.cut, frame)
    body = [noun if part == Slot("noun") else part for part in template.parts]
    # Examples are a text of their own: the same tokens in front of every prompt, and tokenised once.
    groups = [[*before, examples], [*body, *after]] if examples else [[*before, *body, *after]]
    entries = _entries(template, soft) if template.soft_entry else None
    layout: list[Text | Ids | Entries] = []
    inside = False
    for run in itertools.chain.from_iterable(_runs(group, soft, entries) for group in groups):
        if isinstance(run, Entries):
            layout.append(run)
            inside = True
        elif isinstance(run, Ids):
            layout.append(run)
            inside = True if run.ids[0] < 0 else frame is not None and tokenizer.continues
        else:
            layout.append(Text(run, inside))
            inside = True
    return tuple(layout)


def answers(template: Template, tokenizer: Tokenizer, layout: Layout) -> Answers:
    """The answer words as tokens, found from the end of a prompt, see `_ending`.

    Raises:
        RectoolError: a word is not exactly one token there: says what it becomes.
    """
    tail, inside, joiner = _ending(layout, tokenizer)
    before = tokenizer.encode([tail], inside=inside).ids.tolist() if tail else []
    ids = []
    for word in template.answers:
        found = tokenizer.encode([tail + joiner + word], inside=inside).ids.tolist()
        if len(found) != len(before) + 1 or found[:-1] != before:
            raise RectoolError(_not_one_token(template, tokenizer, word, before, found))
        ids.append(found[-1])
    if ids[0] == ids[1]:
        raise RectoolError(
            f"prompt {template.name}: the answers {' and '.join(map(repr, template.answers))} are the same token "
            f"with the tokenizer of {tokenizer.name}; choose other words"
        )
    return Answers(template.answers, (ids[0], ids[1]))


def outputs(template: Template, tokenizer: Tokenizer, layout: Layout, titles: Sequence[str]) -> Encoded:
    """What a model is to write after a prompt, for each of N titles: the setting `output`, then the end token.

    It is a text of its own, tokenised apart from the prompt, so that its tokens are the same after each prompt.
    Before it stands a space, unless the prompt ends in white space or in a special token. A tokenizer without an end
    token closes nothing.
    """
    tail, inside, joiner = _ending(layout, tokenizer)
    before, after = template.output
    written = [f"{joiner}{before}{title}{after}" for title in titles]
    found = tokenizer.encode(written, inside=inside or bool(tail))
    if tokenizer.stop is None:
        return found
    return Encoded(np.insert(found.ids, np.cumsum(found.lengths), tokenizer.stop), found.lengths + 1)


def _ending(layout: Layout, tokenizer: Tokenizer) -> tuple[str, bool, str]:
    """The text that a prompt ends in, whether that goes on from something, and what stands after it before an answer.

    Between the prompt and the answer stands a space, unless the prompt ends in white space or in a special token.
    """
    last = layout[-1]
    if isinstance(last, Entries):
        return "", True, " "
    if isinstance(last, Text):
        tail = "".join("title" if isinstance(part, Slot) else part for part in last.parts)
        return tail, last.inside, "" if tail[-1].isspace() else " "
    return "", last.ids[-1] < 0 or tokenizer.continues, " " if last.ids[-1] < 0 else ""


def _not_one_token(
    template: Template, tokenizer: Tokenizer, word: str, before: Sequence[int], found: Sequence[int]
) -> str:
    where = f"prompt {template.name}: with the tokenizer of {tokenizer.name} the answer {word!r}"
    if list(found[: len(before)]) == list(before):
        pieces = " ".join(map(repr, tokenizer.shown(found[len(before) :])))
        return f"{where} is {len(found) - len(before)} tokens ({pieces}), not one; choose another word"
    pairs = zip([*before, -1], [*found, -2], strict=False)
    same = next(place for place, (one, other) in enumerate(pairs) if one != other)
    pieces = " ".join(map(repr, tokenizer.shown(found[same:])))
    instead = " ".join(map(repr, tokenizer.shown(before[same:])))
    return (
        f"{where} melts into the end of the prompt, which becomes {pieces} instead of {instead}; "
        "end the prompt otherwise, such as without a space"
    )


def _entries(template: Template, soft: Mapping[str, int]) -> Entries:
    assert template.soft_entry is not None
    place = (SOFT_IDS["history"],) * soft["history"]
    parts = [place if part == Slot("item") else part for part in (Slot("separator"), *template.soft_entry)]
    pieces = (Text(run, inside=True) if isinstance(run, tuple) else run for run in _runs(parts, soft))
    return Entries(tuple(pieces), Text((template.empty,), inside=True))


def _runs(
    parts: Iterable[str | Slot | tuple[int, ...]], soft: Mapping[str, int], entries: Entries | None = None
) -> Iterable[Parts | Ids | Entries]:
    """Neighbouring texts together."""
    text: list[str | Slot] = []
    for part in parts:
        apart: Ids | Entries | None = None
        if isinstance(part, tuple):
            apart = Ids(part) if part else None
        elif isinstance(part, Slot):
            if part.name in SOFT:
                apart = Ids((SOFT_IDS[part.name],) * soft[part.name])
            elif part.name == "history" and entries is not None:
                apart = entries
            else:
                text.append(part)
        elif text and isinstance(text[-1], str):
            text[-1] += part
        elif part:
            text.append(part)
        if apart is not None:
            if text:
                yield tuple(text)
            text = []
            yield apart
    if text:
        yield tuple(text)


Fixed = Sequence["NDArray[np.int32] | Text | Entries"]
"""The pieces of a prompt, of which those are ids already that are the same in every prompt."""


def fixed(layout: Layout, tokenizer: Tokenizer) -> Fixed:
    """The layout with all ids that are the same in every prompt, texts without slots among them."""
    found: list[NDArray[np.int32] | Text | Entries] = []
    for piece in layout:
        if isinstance(piece, Ids):
            found.append(np.array(piece.ids, np.int32))
        elif isinstance(piece, Text) and not any(isinstance(part, Slot) for part in piece.parts):
            found.append(tokenizer.encode([str(piece.parts[0])], inside=piece.inside).ids)
        else:
            found.append(piece)
    return found
