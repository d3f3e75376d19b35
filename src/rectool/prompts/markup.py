"""The words of a template: text, slots in braces, and phrases that are there only if an embedding fills one of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rectool.errors import RectoolError

SOFT = ("user", "item", "warm")
"""Slots that embeddings fill, not text."""

_BRACES = re.compile(r"\{\{|\{\?|\?\}(?!\})|\}\}|\{([^{}\n]*)\}|[{}]")


@dataclass(frozen=True)
class Slot:
    """A place that is filled for each row."""

    name: str


Parts = tuple["str | Slot", ...]


@dataclass(frozen=True)
class Phrase:
    """Words that are there only if an embedding fills at least one of their slots: `{? with the feature {item}?}`."""

    parts: Parts


Body = tuple["str | Slot | Phrase", ...]


@dataclass(frozen=True)
class _Edge:
    """The beginning or the end of a phrase."""

    opens: bool
    where: str


def body(name: str, text: str, known: Sequence[str], line: int) -> Body:
    """The body of a template, in order.

    Args:
        name: of the template, for messages.
        known: the slots that it may have.
        line: the number of its first line.

    Raises:
        RectoolError: an unknown slot, a lone brace, or a phrase that is not one: names the line.
    """
    found: list[str | Slot | Phrase] = []
    phrase: list[str | Slot] = []
    opened: str | None = None
    for part in _pieces(name, text, known, line):
        if not isinstance(part, _Edge):
            (found if opened is None else phrase).append(part)
        elif part.opens:
            if opened is not None:
                raise RectoolError(f"{part.where}: a {{? stands inside another; end the first with ?}} before it")
            opened, phrase = part.where, []
        elif opened is None:
            raise RectoolError(f"{part.where}: a ?}} closes nothing; write ?}}}} for a question mark and a brace")
        else:
            if not any(isinstance(each, Slot) and each.name in SOFT for each in phrase):
                raise RectoolError(
                    f"{opened}: between {{? and ?}} stands no place for an embedding ({_listed(SOFT)}), without which "
                    "nothing decides whether the words are there"
                )
            found.append(Phrase(tuple(phrase)))
            opened = None
    if opened is not None:
        raise RectoolError(f"{opened}: a {{? is never closed; end it with ?}}")
    return tuple(found)


def words(where: str, text: str, known: Sequence[str]) -> Parts:
    """The text and the slots of a setting, in order.

    Args:
        where: it stands, for messages.

    Raises:
        RectoolError: an unknown slot, a lone brace or a phrase.
    """
    found: list[str | Slot] = []
    for part in _pieces(where, text, known):
        if isinstance(part, _Edge):
            raise RectoolError(f"{where}: {'{?' if part.opens else '?}'} is of the text below the settings, not here")
        found.append(part)
    return tuple(found)


def _pieces(name: str, text: str, known: Sequence[str], line: int | None = None) -> Iterator[str | Slot | _Edge]:
    """The text, the slots and the edges of phrases; `line` is of the first one, if `name` does not say it."""
    written: list[str] = []
    last = 0
    for found in _BRACES.finditer(text):
        written.append(text[last : found.start()])
        last = found.end()
        brace = found.group()
        where = name if line is None else f"{name}, line {line + text.count(chr(10), 0, found.start())}"
        if brace in ("{{", "}}"):
            written.append(brace[0])
            continue
        if brace in ("{", "}"):
            slip = "is never closed" if brace == "{" else "closes nothing"
            raise RectoolError(f"{where}: a {brace} {slip}; write {brace * 2} for a brace")
        is_edge = brace in ("{?", "?}")
        if not is_edge and found.group(1) not in known:
            raise RectoolError(
                f"{where}: there is no slot {brace} here; the slots are {_listed(known)}, and {{{{ is a brace"
            )
        if any(written):
            yield "".join(written)
        yield _Edge(brace == "{?", where) if is_edge else Slot(found.group(1))
        written = []
    written.append(text[last:])
    if any(written):
        yield "".join(written)


def _listed(slots: Sequence[str]) -> str:
    return ", ".join(f"{{{slot}}}" for slot in slots)
