"""Templates: text files with named slots, whose settings stand in front between two `+++` lines.

Everything is checked when a template is read: an unknown slot or setting is an error with its line.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from rectool.artifacts import Input
from rectool.errors import RectoolError, disk_errors
from rectool.prompts import markup
from rectool.prompts.markup import SOFT, Body, Parts, Phrase, Slot

Task = Literal["ctr", "next-item", "item"]

LARGEST = 1 << 16
"""Bytes of the largest template."""
SLOTS: Mapping[Task, tuple[str, ...]] = {
    "ctr": ("history", "disliked", "target", "noun", *SOFT),
    "next-item": ("history", "noun", "user"),
    "item": ("title", "text", "noun"),
}
"""The slots that a template may have, by its task."""

_MARK = "+++"
_NEEDED: Mapping[Task, tuple[str, ...]] = {"ctr": ("target",), "next-item": ("history",), "item": ("title", "text")}
_SHIPPED = Path(__file__).parent / "shipped"
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but line ends and tabs

SHIPPED = tuple(sorted(path.stem for path in _SHIPPED.glob("*.txt")))
"""The names of the templates that come with rectool."""


@dataclass(frozen=True)
class Template:
    """A template that has been checked.

    Attributes:
        name: as it was asked for.
        text: the whole file, from which `parse` makes the same template again.
        task: what its prompts ask: whether a user likes an item, which item comes next, what an item is.
        body: the text, the slots and the phrases of its body, in order.
        answers: the words for label 1 and label 0; of task "ctr" only.
        entry: what stands before and after a title in a history of text alone.
        soft_entry: the words and the slots {title} and {item} of an entry with an embedding; None if it has none.
        separator: what stands between the titles of a history.
        empty: what stands for a history without titles, or a description that is not there.
        output: what stands before and after a title in an answer; of task "next-item" only.
        source: where its wording comes from.
        path: the file of a user's own template.
    """

    name: str
    text: str
    task: Task
    body: Body
    answers: tuple[str, str]
    entry: tuple[str, str]
    soft_entry: Parts | None
    separator: str
    empty: str
    output: tuple[str, str]
    source: str
    path: Path | None = field(default=None, compare=False)

    @property
    def parts(self) -> Parts:
        """The text and the slots of its body, those of its phrases among them."""
        return tuple(part for each in self.body for part in (each.parts if isinstance(each, Phrase) else (each,)))

    @property
    def has_titles(self) -> bool:
        """Whether the entries of its histories say titles."""
        return self.soft_entry is None or Slot("title") in self.soft_entry

    @property
    def slots(self) -> frozenset[str]:
        return frozenset(part.name for part in self.parts if isinstance(part, Slot))

    @property
    def soft(self) -> tuple[str, ...]:
        """What it has places of embeddings for: slots of its body, and "history" for {item} in its entries."""
        has_entries = self.soft_entry is not None and "history" in self.slots
        return (*(slot for slot in SOFT if slot in self.slots), *(("history",) if has_entries else ()))

    def filled(self, soft: Collection[str]) -> Template:
        """The template with places for these embeddings and no others; phrases without any of them go.

        Raises:
            RectoolError: it has no place for one of them, or a place for another that stands outside of a phrase.
        """
        if missing := sorted(set(soft) - set(self.soft)):
            lacks = "{item} in the setting entry" if missing[0] == "history" else f"the slot {{{missing[0]}}}"
            raise RectoolError(
                f"prompt {self.name} has no place for {missing[0]} embeddings, which is {lacks}; it has places for "
                f"{', '.join(self.soft) or 'none'}"
            )
        empty = {Slot(slot) for slot in SOFT if slot not in soft}
        kept: list[str | Slot] = []
        for each in self.body:
            if not isinstance(each, Phrase):
                if each in empty:
                    raise self._unfilled(each.name, f"{{{each.name}}}", "put the words around it between {? and ?}")
                kept.append(each)
            elif any(isinstance(part, Slot) and part.name in soft for part in each.parts):
                kept += [part for part in each.parts if part not in empty]
        found = replace(self, body=tuple(kept), soft_entry=self.soft_entry if "history" in soft else None)
        if "history" in found.slots and found.soft_entry is None and not self.has_titles:
            raise self._unfilled("history", "{item} in its entries", "write {title} beside it")
        return found

    def _unfilled(self, kind: str, place: str, remedy: str) -> RectoolError:
        return RectoolError(
            f"prompt {self.name} has a place for {place} that nothing fills: fill it (--tokens {kind} of train-proj), "
            f"{remedy}, or choose another prompt"
        )


def load(name: str) -> Template:
    """A shipped template by its name, or a user's own by the path of its file.

    Raises:
        RectoolError: there is none, it cannot be read, or something in it is wrong: names file and line.
    """
    path = None if name in SHIPPED else Path(name)
    if path is not None and not path.is_file():
        what = "is a folder" if path.is_dir() else "is neither a file nor a prompt of rectool's"
        raise RectoolError(f"--prompt {name} {what}; the prompts that come with it are {', '.join(SHIPPED)}")
    file = path or _SHIPPED / f"{name}.txt"
    with disk_errors(file), file.open("rb") as stream:
        content = stream.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise RectoolError(f"{file} has more than {LARGEST:,} bytes, which no prompt needs")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        line = content.count(b"\n", 0, problem.start) + 1
        raise RectoolError(f"{file}, line {line}: it is not UTF-8; save it as UTF-8 text") from None
    return parse(text, name, path)


def inputs(name: str | None) -> list[Input]:
    """What a template is read from: the file of a user's own, nothing outside of rectool for one that comes with it."""
    return [] if name is None or name in SHIPPED else [Input("prompt", Path(name))]


def parse(text: str, name: str, path: Path | None = None) -> Template:
    """Read a template.

    Args:
        text: settings in TOML between two `+++` lines, then the body.
        name: for messages.
        path: its file, if it is a user's own.

    Raises:
        RectoolError: names the template, and the line where there is one.
    """
    text = text.replace("\r\n", "\n")
    if odd := _CONTROL.search(text):
        line = text.count("\n", 0, odd.start()) + 1
        raise RectoolError(f"{name}, line {line}: it has the control character {odd.group()!r}")
    lines = text.split("\n")
    if lines[0].strip() != _MARK or _MARK not in (line.strip() for line in lines[1:]):
        raise RectoolError(f"{name}, line 1: a prompt begins with a line {_MARK}, its settings, and another {_MARK}")
    end = next(number for number, line in enumerate(lines) if number and line.strip() == _MARK)
    settings = _Settings(name, lines[:end])
    body = "\n".join(lines[end + 1 :]).removesuffix("\n")
    task: Task = settings.choice("task", get_args(Task))
    entry = settings.entry()
    template = Template(
        name=name,
        text=text,
        task=task,
        body=markup.body(name, body, SLOTS[task], line=end + 2),
        answers=settings.answers(task),
        entry=_around(_without_item(entry)),
        soft_entry=entry if Slot("item") in entry else None,
        separator=settings.text("separator", ", "),
        empty=settings.text("empty", ""),
        output=settings.around("output", '"{title}"', of=(task, "next-item")),
        source=settings.text("source", ""),
        path=path,
    )
    settings.refuse_others()
    if not any(Slot(slot) in template.body for slot in _NEEDED[task]):
        needed = " or ".join(f"{{{slot}}}" for slot in _NEEDED[task])
        raise RectoolError(f"{name}: a prompt of task {task} needs the slot {needed}, and its body has none")
    if "disliked" in template.slots and not template.has_titles:
        raise RectoolError(
            f"{settings.where('entry')}: entry has no {{title}}, which {{disliked}} needs: no embeddings stand there"
        )
    return template


class _Settings:
    """What stands between the `+++` lines."""

    def __init__(self, name: str, lines: list[str]) -> None:
        self._name = name
        self._lines = lines
        try:
            # An empty line for the first `+++`: the parser then counts lines as the file has them.
            self._values: dict[str, Any] = tomllib.loads("\n".join(["", *lines[1:]]))
        except (ValueError, RecursionError) as problem:
            raise RectoolError(f"{name}: its settings are not TOML: {problem}") from None
        self._asked: set[str] = set()

    def text(self, key: str, default: str) -> str:
        value = self._value(key, default)
        if not isinstance(value, str):
            raise self._wrong(key, f"{key} must be text in quotes")
        if odd := _CONTROL.search(value):
            raise self._wrong(key, f"{key} has the control character {odd.group()!r}")
        return value

    def choice(self, key: str, known: tuple[Any, ...]) -> Any:
        value = self._value(key, None)
        if value not in known:
            said = "is missing" if value is None else f"is {value!r}"
            raise self._wrong(key, f"{key} {said}; it is one of {', '.join(map(repr, known))}")
        return value

    def around(self, key: str, default: str, of: tuple[str, str]) -> tuple[str, str]:
        """The text before and after {title}."""
        self._refuse_elsewhere(key, *of)
        parts = markup.words(self.where(key), self.text(key, default), ("title",))
        if parts.count(Slot("title")) != 1:
            raise self._wrong(key, f"{key} must have the slot {{title}} once")
        return _around(parts)

    def entry(self) -> Parts:
        """How a title stands in a history: {title}, {item} or both."""
        parts = markup.words(self.where("entry"), self.text("entry", '"{title}"'), ("title", "item"))
        slots = [part for part in parts if isinstance(part, Slot)]
        if not slots or len(set(slots)) < len(slots):
            raise self._wrong("entry", "entry must have the slot {title} once, or {item} beside or instead of it")
        return parts

    def answers(self, task: str) -> tuple[str, str]:
        self._refuse_elsewhere("answers", task, "ctr")
        words = self._value("answers", ["Yes", "No"])
        if not (
            isinstance(words, list)
            and len(words) == 2
            and all(isinstance(word, str) and word and word == word.strip() and word.isprintable() for word in words)
            and words[0] != words[1]
        ):
            raise self._wrong(
                "answers", 'answers must be two different words, the one for label 1 first, such as ["Yes", "No"]'
            )
        return words[0], words[1]

    def refuse_others(self) -> None:
        for key in self._values.keys() - self._asked:
            raise self._wrong(key, f"there is no setting {key}; the settings are {', '.join(sorted(self._asked))}")

    def _refuse_elsewhere(self, key: str, task: str, only: str) -> None:
        if key in self._values and task != only:
            raise self._wrong(key, f"{key} is of task {only!r}, but the task is {task!r}")

    def _value(self, key: str, default: Any) -> Any:
        self._asked.add(key)
        return self._values.get(key, default)

    def _wrong(self, key: str, what: str) -> RectoolError:
        return RectoolError(f"{self.where(key)}: {what}")

    def where(self, key: str) -> str:
        """The template, and the line of a setting if it has one."""
        pattern = re.compile(rf"\s*[\"']?{re.escape(key)}[\"']?\s*[=.\]]|\s*\[\s*{re.escape(key)}\s*\]")
        found = [number for number, line in enumerate(self._lines, start=1) if pattern.match(line)]
        return f"{self._name}, line {found[0]}" if found else self._name


def _around(parts: Parts) -> tuple[str, str]:
    """The text before and after {title}."""
    place = parts.index(Slot("title")) if Slot("title") in parts else len(parts)
    return "".join(map(str, parts[:place])), "".join(map(str, parts[place + 1 :]))


def _without_item(entry: Parts) -> Parts:
    """An entry without its {item} and the space before it, or behind it if it stands first."""
    if Slot("item") not in entry:
        return entry
    place = entry.index(Slot("item"))
    before, after = list(entry[:place]), list(entry[place + 1 :])
    if before and isinstance(before[-1], str):
        before[-1] = before[-1].removesuffix(" ")
    elif after and isinstance(after[0], str) and not before:
        after[0] = after[0].removeprefix(" ")
    return (*before, *after)
