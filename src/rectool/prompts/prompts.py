"""Prompts: a template and a tokenizer, and with them the tokens of any rows of the log, or of items."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rectool.data.dataset import Dataset
from rectool.errors import RectoolError
from rectool.prompts import layout as layouts
from rectool.prompts import template as templates
from rectool.prompts.catalogue import Catalogue, taken
from rectool.prompts.earlier import EarlierItems
from rectool.prompts.encoding import encoded, fitted, least
from rectool.prompts.filling import Filling, Items, Rows
from rectool.prompts.layout import Answers
from rectool.prompts.settings import LONGEST, Prompting
from rectool.prompts.template import Template
from rectool.prompts.tokenizer import Tokenizer
from rectool.prompts.tokens import TokenRows, bounds

__all__ = ["Answers", "Examples", "Prompts"]

CHUNK = 1024
"""Rows that are written and tokenised at once; fewer where they have long histories."""


@dataclass(frozen=True)
class Examples:
    """Answered prompts of train rows that stand in front of every prompt.

    Attributes:
        rows: of the log, in their order.
        data: the digest of the interactions that they are rows of.
        text: as it stands in the prompt, blank lines between and after them.
    """

    rows: tuple[int, ...]
    data: str
    text: str


class Prompts:
    """The prompts of a template, as a tokenizer reads them.

    Args:
        history: the most recent this many earlier items are told, oldest first.
        max_tokens: of the longest prompt. The oldest titles of a longer one are left out, one after the other,
            until it fits; of a longer description the last words.
        chat: write the prompt as the user's message in the tokenizer's chat template.
        noun: what {noun} says.
        ends: keep what the tokenizer puts at the end of a text, as encoder models want it.
        frame: what the chat template writes around the message, if that is known already.
        examples: answered prompts in front, see `with_shots`.
        soft: how many embeddings go into each place of a kind, such as {"user": 1, "item": 1}; other places are left
            out with the phrases around them. None: text alone.

    Attributes:
        template: as far as it is filled.

    Raises:
        RectoolError: the tokenizer has no chat template, the prompt is too long whatever fills it, or its places and
            `soft` do not agree.
    """

    def __init__(
        self,
        template: Template,
        tokenizer: Tokenizer,
        history: int = 10,
        max_tokens: int = LONGEST,
        chat: bool = False,
        noun: str = "items",
        *,
        ends: bool = False,
        frame: tuple[str, str] | None = None,
        examples: Examples | None = None,
        soft: Mapping[str, int] | None = None,
    ) -> None:
        self.soft = dict(soft or {})
        if any(count < 1 for count in self.soft.values()):
            raise ValueError(f"a place for embeddings takes at least one, not {self.soft}")
        self.template = template.filled(self.soft)
        self.tokenizer = tokenizer
        self.history = history
        self.max_tokens = max_tokens
        self.noun = noun
        self.ends = ends
        self.frame = frame or tokenizer.chat_frame() if chat else None
        self.examples = examples
        self.layout = layouts.arrange(
            self.template,
            tokenizer,
            noun=noun,
            frame=self.frame,
            examples=examples.text if examples else "",
            ends=ends,
            soft=self.soft,
        )
        self._fixed = layouts.fixed(self.layout, tokenizer)
        self._seen: tuple[Dataset, Catalogue, EarlierItems | None] | None = None
        least = sum(len(piece) for piece in self._fixed if isinstance(piece, np.ndarray))
        if history > max_tokens or least >= max_tokens:
            what = f"prompt {template.name}{' with its examples' if examples else ''} ({least} tokens)"
            what = f"--history {history}" if history > max_tokens else what
            raise RectoolError(f"{what} cannot fit into {max_tokens} tokens; raise --max-tokens, or shorten it")

    @classmethod
    def chosen(
        cls,
        prompting: Prompting,
        tokenizer: Tokenizer,
        *,
        default: str | Template,
        context: int | None = None,
        ends: bool = False,
        soft: Mapping[str, int] | None = None,
    ) -> Prompts:
        """The prompts that flags ask for.

        Args:
            default: the template, or its name, if none is asked for.
            context: the tokens that the model takes, if it has a limit.
            ends, soft: see above.

        Raises:
            RectoolError: the template is wrong, or longer prompts are asked for than the model takes.
        """
        longest = prompting.max_tokens or min(LONGEST, context or LONGEST)
        if context is not None and longest > context:
            raise RectoolError(f"--max-tokens {longest} is more than the {context} tokens that {tokenizer.name} takes")
        asked = prompting.prompt or default
        return cls(
            templates.load(asked) if isinstance(asked, str) else asked,
            tokenizer,
            prompting.history,
            longest,
            prompting.chat_template == "auto" and tokenizer.has_chat,
            prompting.noun,
            ends=ends,
            soft=soft,
        )

    @cached_property
    def answers(self) -> Answers:
        """The answer words of a yes/no prompt as tokens.

        Raises:
            RectoolError: it asks no yes/no question, or a word is not exactly one token there.
        """
        self._need("ctr")
        return layouts.answers(self.template, self.tokenizer, self.layout)

    def rows(self, dataset: Dataset, rows: NDArray[Any], *, spans: bool = False) -> TokenRows:
        """The prompts of rows of the log, of which only what came before them is told.

        Args:
            rows: (N,) integers, in any order, repeats allowed.
            spans: say which tokens are whose title, too: a token belongs to the title of which it covers a
                character, to the first of them if it covers two. A later title that has no token left then has
                an empty span. Titles in examples have none.

        Raises:
            RectoolError: a prompt is too long even without its history (names the row), the template is about
                items, or one of the rows is an example.
        """
        self._need("ctr", "next-item")
        self._refuse_examples(dataset, rows)
        return self._tokens(dataset, rows, spans=spans)

    def items(self, dataset: Dataset, items: NDArray[Any]) -> TokenRows:
        """The prompts of items, rows of items.parquet.

        Raises:
            RectoolError: a prompt is too long even without its description (names the item), or the template
                is not about items.
        """
        self._need("item")
        return self._tokens(dataset, items, spans=False)

    def outputs(self, dataset: Dataset, items: NDArray[Any]) -> TokenRows:
        """What a model is to write after these prompts where the next item is one of `items` (N,): its title.

        The template's setting `output` is a text of its own, tokenised apart from the prompt, and closed by the
        tokenizer's end token if it has one. Before it stands a space, unless the prompt ends in white space or in a
        special token. So a title is the same tokens after each prompt, in training and when titles are grounded.

        Raises:
            RectoolError: the template does not ask for the next item.
        """
        self._need("next-item")
        _, catalogue, _ = self._views(dataset)
        chunks = []
        for start in range(0, max(len(items), 1), CHUNK):
            titles = taken(catalogue.titles, items[start : start + CHUNK])
            found = layouts.outputs(self.template, self.tokenizer, self.layout, titles)
            chunks.append(TokenRows(found.ids, bounds(found.lengths)))
        return TokenRows.joined(chunks)

    def title_in(self, written: str) -> str:
        """The title in what a model has written, in the form of the setting `output` or in another one.

        Of several lines it is in the first; where more follows what stands after a title there, that is left out.
        """
        before, after = (part.strip() for part in self.template.output)
        first = written.strip().partition("\n")[0].strip().removeprefix(before)
        title = first.removesuffix(after) if first.endswith(after) else first.partition(after)[0]
        return title.strip()

    def filling(self, dataset: Dataset, rows: NDArray[Any]) -> Filling:
        """What fills the prompts of rows of the log, or of items."""
        _, catalogue, earlier = self._views(dataset)
        if earlier is None:
            return Items(self.template, catalogue, rows, np.zeros(len(rows), np.int64))
        return Rows(self.template, catalogue, rows, dataset.item[rows], earlier.of(rows))

    def fitting(self, dataset: Dataset, row: int) -> Filling:
        """What fills the prompt of one row or item, without what must be left out so that it fits.

        Raises:
            RectoolError: it is too long whatever is left out.
        """
        whole = self.filling(dataset, np.array([row]))
        place = np.zeros(1, np.intp)
        if encoded(self._fixed, self.tokenizer, whole, 1, spans=False).lengths[0] <= self.max_tokens:
            return whole
        return whole.shorter(place, least(self._fixed, self.tokenizer, whole, place, self.max_tokens))

    def with_shots(self, dataset: Dataset, count: int, seed: int) -> Prompts:
        """These prompts after answered ones of train rows, of which half were liked.

        Each example is followed by its answer and a blank line, and tells its own history. Which rows, and in
        what order, the seed decides.

        Raises:
            RectoolError: train has too few rows of a label, or the template has places for embeddings.
        """
        from rectool.prompts.examples import drawn

        self._need("ctr")
        return Prompts(
            self.template,
            self.tokenizer,
            self.history,
            self.max_tokens,
            self.frame is not None,
            self.noun,
            ends=self.ends,
            frame=self.frame,
            examples=drawn(self, dataset, count, seed) if count else None,
            soft=self.soft,
        )

    def record(self) -> dict[str, Any]:
        """All that `from_record` needs, as JSON."""
        examples = self.examples
        return {
            "template": {"name": self.template.name, "text": self.template.text},
            "history": self.history,
            "max_tokens": self.max_tokens,
            "noun": self.noun,
            "ends": self.ends,
            "frame": list(self.frame) if self.frame else None,
            "examples": {"rows": list(examples.rows), "data": examples.data, "text": examples.text}
            if examples
            else None,
            "soft": self.soft,
        }

    @classmethod
    def from_record(cls, record: dict[str, Any], tokenizer: Tokenizer) -> Prompts:
        """The prompts that were recorded.

        Raises:
            RectoolError: the record is damaged.
        """
        try:
            template = templates.parse(record["template"]["text"], record["template"]["name"])
            frame, examples = record["frame"], record["examples"]
            return cls(
                template,
                tokenizer,
                int(record["history"]),
                int(record["max_tokens"]),
                frame is not None,
                str(record["noun"]),
                ends=bool(record["ends"]),
                frame=None if frame is None else (str(frame[0]), str(frame[1])),
                examples=None
                if examples is None
                else Examples(tuple(examples["rows"]), str(examples["data"]), str(examples["text"])),
                soft={str(kind): int(count) for kind, count in dict(record.get("soft") or {}).items()},
            )
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as problem:
            raise RectoolError(f"the record of a prompt is damaged: {problem!r}") from problem

    def fits(self, vocabulary: int, model: str) -> None:
        """See that a model knows every token that these prompts can have.

        Args:
            vocabulary: rows of its embedding table.
            model: its name, for messages.

        Raises:
            RectoolError: the tokenizer is of another model.
        """
        own = [int(piece.max(initial=0)) for piece in self._fixed if isinstance(piece, np.ndarray)]
        highest = max([self.tokenizer.highest, *own])
        if highest >= vocabulary:
            raise RectoolError(
                f"the tokenizer of {self.tokenizer.name} has token {highest}, but {model} has only {vocabulary} "
                "tokens: they are not of the same model"
            )

    def _tokens(self, dataset: Dataset, rows: NDArray[Any], *, spans: bool) -> TokenRows:
        size = max(1, CHUNK * 16 // max(16, self.history))
        chunks = []
        for start in range(0, max(len(rows), 1), size):
            part = rows[start : start + size]
            filling = self.filling(dataset, part)
            chunks.append(fitted(self._fixed, self.tokenizer, filling, len(part), self.max_tokens, spans=spans))
        return TokenRows.joined(chunks)

    def _views(self, dataset: Dataset) -> tuple[Dataset, Catalogue, EarlierItems | None]:
        """The data set as prompts see it, made once."""
        if self._seen is None or self._seen[0] is not dataset:
            of_rows = self.template.task != "item"
            earlier = EarlierItems(dataset, self.template, self.history) if of_rows else None
            self._seen = dataset, Catalogue(dataset), earlier
        return self._seen

    def _need(self, *tasks: str) -> None:
        if self.template.task not in tasks:
            raise RectoolError(
                f"prompt {self.template.name} is of task {self.template.task}, but {' or '.join(tasks)} is needed"
            )

    def _refuse_examples(self, dataset: Dataset, rows: NDArray[Any]) -> None:
        if self.examples is None or self.examples.data != dataset.digest:
            return
        both = np.intersect1d(rows, self.examples.rows)
        if len(both):
            raise RectoolError(f"row {both[0]} is asked, but stands answered in the prompt as an example")
