"""Text to token ids, many texts at once, such that text stays text: `</s>` in a title is four letters, not an end.

A tokenizer of a hub model marks its special tokens in whatever text it is given. Here titles and templates never
become special tokens: they are encoded by a copy of the tokenizer that does not know them. Only what the tokenizer
itself puts around a text, and the frame of its chat template, has them.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import models

from rectool.errors import RectoolError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CONTENT = "\ue000content\ue000"  # of the message whose frame is wanted: no template has a private-use character
_MARKUP = re.compile(r"<.*>|\[.*\]", re.DOTALL)


@dataclass(frozen=True)
class Encoded:
    """N texts as tokens, one after the other, T in all.

    Attributes:
        ids: (T,) int32.
        lengths: (N,) int64, tokens of each text.
        first, last: (T,) int32, the characters of its text that a token covers, `last` excluded; None if they
            were not asked for. Tokens that share a character (the bytes of one) cover it both.
    """

    ids: NDArray[np.int32]
    lengths: NDArray[np.int64]
    first: NDArray[np.int32] | None = None
    last: NDArray[np.int32] | None = None


class Tokenizer:
    """A fast Hugging Face tokenizer.

    Attributes:
        name: where it came from.
        start: ids that the tokenizer itself puts before a text, such as a BOS token.
        end: ids that it puts after a text.
        marks: the ids that no text can become: special tokens, and added ones of the form `<...>` or `[...]`.

    Raises:
        RectoolError: it is not a fast one, or has no vocabulary.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.name = str(tokenizer.name_or_path or type(tokenizer).__name__)
        if not tokenizer.is_fast:
            raise RectoolError(f"{self.name} has no fast tokenizer (tokenizer.json), which rectool needs")
        self.wrapped = tokenizer
        # This also switches off the truncation and padding that some folders bring along.
        around = tokenizer("a", return_special_tokens_mask=True)
        ids, special = around["input_ids"], around["special_tokens_mask"]
        if all(special):
            raise RectoolError(f"{self.name} has a tokenizer with an empty vocabulary: are all its files there?")
        before = special.index(0)
        self.start, self.end = tuple(ids[:before]), tuple(ids[before + special.count(0) :])
        self._whole: tokenizers.Tokenizer = tokenizer.backend_tokenizer
        added = self._whole.get_added_tokens_decoder()
        self.marks = frozenset(id for id, token in added.items() if token.special or _MARKUP.fullmatch(token.content))
        self._text = _without(self._whole, self.marks)
        self._inside = _without(self._whole, self.marks, prefix=False)

    @cached_property
    def digest(self) -> str:
        """`sha256:...` of all that decides what a text becomes."""
        content = json.dumps([self._whole.to_str(), self.start, self.end, sorted(self.marks)])
        return "sha256:" + hashlib.sha256(content.encode()).hexdigest()

    @property
    def highest(self) -> int:
        """The highest id that a text, or what is put around it, can become."""
        added = self._whole.get_added_tokens_decoder().keys() - self.marks
        size: int = self._whole.get_vocab_size(with_added_tokens=False)
        return int(max([size - 1, *added, *self.start, *self.end]))

    @property
    def stop(self) -> int | None:
        """The id that ends what a model writes; None of a tokenizer without one."""
        found: int | None = self.wrapped.eos_token_id
        return found

    @property
    def has_chat(self) -> bool:
        """Whether it comes with a chat template."""
        return bool(getattr(self.wrapped, "chat_template", None))

    def encode(self, texts: Sequence[str], *, inside: bool = False, offsets: bool = False) -> Encoded:
        """Tokenise each text as a whole, in parallel; nothing is put around it, and nothing in it is special.

        Args:
            inside: the texts go on from something: no space is put before them, as some tokenizers do at the
                beginning of a text.
            offsets: which characters each token covers, too.
        """
        backend = self._inside if inside else self._text
        encode = backend.encode_batch if offsets else backend.encode_batch_fast
        encodings = encode(list(texts), add_special_tokens=False)
        lengths = np.fromiter(map(len, encodings), np.int64, len(encodings))
        total = int(lengths.sum())
        ids = np.fromiter(itertools.chain.from_iterable(each.ids for each in encodings), np.int32, total)
        if not offsets:
            return Encoded(ids, lengths)
        pairs = itertools.chain.from_iterable(each.offsets for each in encodings)
        places = np.fromiter(itertools.chain.from_iterable(pairs), np.int32, 2 * total).reshape(total, 2)
        return Encoded(ids, lengths, places[:, 0], places[:, 1])

    def cut(self, frame: str) -> list[str | tuple[int, ...]]:
        """A text that may have special tokens in it, cut into these and the texts between them."""
        found = self._whole.encode(frame, add_special_tokens=False)
        parts: list[str | tuple[int, ...]] = []
        last = 0
        for id, (start, stop) in zip(found.ids, found.offsets, strict=True):
            if id in self.marks:
                parts += [frame[last:start], (id,)]
                last = stop
        return [part for part in (*parts, frame[last:]) if part]

    @cached_property
    def continues(self) -> bool:
        """Whether a text after a special token goes on from it: no space is put before it."""
        if not self.marks:
            return False
        mark = min(self.marks)
        content = self._whole.get_added_tokens_decoder()[mark].content
        found = self._whole.encode(content + "a", add_special_tokens=False).ids
        return found == [mark, *self.encode(["a"], inside=True).ids.tolist()]

    def chat_frame(self) -> tuple[str, str]:
        """What its chat template writes before and after what a user says, up to where the answer begins.

        Raises:
            RectoolError: it has none, or one that does not take a single message as it is.
        """
        if not self.has_chat:
            raise RectoolError(f"{self.name} has no chat template; pass --chat-template off")
        try:
            rendered = self.wrapped.apply_chat_template(
                [{"role": "user", "content": _CONTENT}],
                tokenize=False,
                add_generation_prompt=True,
                enable_thinking=False,  # of those templates that know it: the answer comes first
            )
        except Exception as problem:  # whatever the template's author raises
            reason = " ".join(str(problem).split())[:200]
            raise RectoolError(
                f"the chat template of {self.name} fails on a single message: {reason}; pass --chat-template off"
            ) from problem
        before, *after = str(rendered).split(_CONTENT)
        if len(after) != 1:
            raise RectoolError(
                f"the chat template of {self.name} does not write a message once as it is; pass --chat-template off"
            )
        return before, after[0]

    def text(self, ids: Sequence[int]) -> str:
        """The text that tokens stand for, special ones left out."""
        written: str = self._whole.decode(list(ids), skip_special_tokens=True)
        return written

    def shown(self, ids: Sequence[int]) -> list[str]:
        """Each token as its vocabulary spells it."""
        return [str(token) for token in self.wrapped.convert_ids_to_tokens(list(ids))]


def _without(whole: tokenizers.Tokenizer, marks: frozenset[int], *, prefix: bool = True) -> tokenizers.Tokenizer:
    """A tokenizer of the same vocabulary that does not know some of its added tokens.

    Args:
        prefix: whether it may put a space before a text.
    """
    added = whole.get_added_tokens_decoder()
    names = {added[id].content: id for id in marks}
    text = tokenizers.Tokenizer(_unmatchable(whole, names))
    text.normalizer, text.pre_tokenizer = whole.normalizer, whole.pre_tokenizer
    if not prefix:
        steps = tokenizers.Tokenizer(models.BPE())  # which writes down the steps, but no vocabulary
        steps.normalizer, steps.pre_tokenizer = whole.normalizer, whole.pre_tokenizer
        changed = tokenizers.Tokenizer.from_str(json.dumps(_without_prefix(json.loads(steps.to_str()))))
        text.normalizer, text.pre_tokenizer = changed.normalizer, changed.pre_tokenizer
    size = whole.get_vocab_size(with_added_tokens=False)
    for id in sorted(added):
        if id not in marks:
            text.add_tokens([added[id]])
        elif id >= size:
            text.add_tokens([f"\0{id}"])  # keeps the ids of those after it
    return text


def _unmatchable(whole: tokenizers.Tokenizer, names: Mapping[str, int]) -> models.Model:
    """The model of a tokenizer. A unigram model knows special tokens as pieces of text, and is made not to."""
    model: models.Model = whole.model
    if not isinstance(model, models.Unigram):
        return model
    state = json.loads(whole.to_str())["model"]
    pieces = [(f"\0{names[piece]}" if piece in names else piece, score) for piece, score in state["vocab"]]
    return models.Unigram(pieces, state["unk_id"], state["byte_fallback"])


def _without_prefix(step: Any) -> Any:
    """The steps of a tokenizer without those that put a space before a text."""
    if isinstance(step, list):
        return [each for each in map(_without_prefix, step) if each is not None]
    if not isinstance(step, dict):
        return step
    if step.get("type") == "Prepend":
        return None
    changed = {name: _without_prefix(value) for name, value in step.items()}
    if changed.get("type") == "ByteLevel":
        changed["add_prefix_space"] = False
    if changed.get("type") == "Metaspace":
        changed["prepend_scheme"] = "never"
    return changed
