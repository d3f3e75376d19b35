"""A prompt as the tokenizer sees it: texts that are tokenised as wholes, and ids that never change between them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rectool.errors import RectoolError
from rectool.prompts.template import SOFT, Parts, Slot, Template
from rectool.prompts.tokenizer import Tokenizer
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


Layout = tuple["Text | Ids", ...]


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
) -> Layout:
    """The layout of a template's prompts.

    Args:
        frame: what a chat template writes before and after the prompt.
        examples: answered prompts that stand before it.
        ends: keep what the tokenizer puts after a text.
    """
    before, after = ([tokenizer.start], [tokenizer.end] if ends else []) if frame is None else map(tokenizer.cut, frame)
    body = [noun if part == Slot("noun") else part for part in template.parts]
    # Examples are a text of their own: the same tokens in front of every prompt, and tokenised once.
    groups = [[*before, examples], [*body, *after]] if examples else [[*before, *body, *after]]
    layout: list[Text | Ids] = []
    inside = False
    for run in itertools.chain.from_iterable(map(_runs, groups)):
        if isinstance(run, Ids):
            layout.append(run)
            inside = True if run.ids[0] < 0 else frame is not None and tokenizer.continues
        else:
            layout.append(Text(run, inside))
            inside = True
    return tuple(layout)


def answers(template: Template, tokenizer: Tokenizer, layout: Layout) -> Answers:
    """The answer words as tokens, found from the end of a prompt.

    Between the prompt and the answer stands a space, unless the prompt ends in white space or in a special token.

    Raises:
        RectoolError: a word is not exactly one token there: says what it becomes.
    """
    last = layout[-1]
    if isinstance(last, Text):
        tail = "".join("title" if isinstance(part, Slot) else part for part in last.parts)
        joiner, inside = "" if tail[-1].isspace() else " ", last.inside
    else:
        tail, inside = "", last.ids[-1] < 0 or tokenizer.continues
        joiner = " " if last.ids[-1] < 0 else ""
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


def _runs(parts: Iterable[str | Slot | tuple[int, ...]]) -> Iterable[Parts | Ids]:
    """Neighbouring texts together."""
    text: list[str | Slot] = []
    for part in parts:
        if not part:
            continue
        if isinstance(part, str) and text and isinstance(text[-1], str):
            text[-1] += part
        elif isinstance(part, tuple) or (isinstance(part, Slot) and part.name in SOFT):
            if text:
                yield tuple(text)
            text = []
            yield Ids(part if isinstance(part, tuple) else (SOFT_IDS[part.name],))
        else:
            text.append(part)
    if text:
        yield tuple(text)


def fixed(layout: Layout, tokenizer: Tokenizer) -> list[NDArray[np.int32] | Text]:
    """The layout with all ids that are the same in every prompt, texts without slots among them."""
    found: list[NDArray[np.int32] | Text] = []
    for piece in layout:
        if isinstance(piece, Ids):
            found.append(np.array(piece.ids, np.int32))
        elif any(isinstance(part, Slot) for part in piece.parts):
            found.append(piece)
        else:
            found.append(tokenizer.encode([str(piece.parts[0])], inside=piece.inside).ids)
    return found
