"""Which tokens of a prompt are which item's: what must be so before a mask can go by it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from rectool.errors import RectoolError
from rectool.prompts.tokens import TokenRows


def refuse_lost_spans(tokens: TokenRows, names: Callable[[int], str] | None = None) -> None:
    """See that each title has tokens of its own.

    Args:
        tokens: with spans.
        names: what an item is called in messages, such as its title; None: by its number.

    Raises:
        RectoolError: a title has no token of its own, or one that another title has too; names it.
        ValueError: the rows were made without spans.
    """
    if tokens.spans is None or tokens.span_offsets is None:
        raise ValueError("these rows were made without item spans")
    row = np.repeat(np.arange(len(tokens)), np.diff(tokens.span_offsets))
    first, last, item = tokens.spans.astype(np.int64).T
    lost = _first_place(first >= last)
    if lost is not None:
        raise RectoolError(
            f"the title of {_named(item[lost], names)} has no token of its own in prompt {row[lost]}, so that no mask "
            "can go by it; give the item a title, or put quotation marks around titles in the prompt's entry"
        )
    shared = _first_place((first[1:] < last[:-1]) & (row[1:] == row[:-1]))
    if shared is not None:
        one, other = _named(item[shared], names), _named(item[shared + 1], names)
        raise RectoolError(
            f"the titles of {one} and of {other} share a token in prompt {row[shared]}, so that no mask can go by "
            "them; put another separator between titles in the prompt"
        )
    beyond = _first_place((first < 0) | (last > tokens.lengths[row]))
    if beyond is not None:
        raise RectoolError(f"the title of {_named(item[beyond], names)} is not in prompt {row[beyond]}")


def _first_place(is_so: NDArray[np.bool_]) -> int | None:
    return int(is_so.argmax()) if is_so.any() else None


def _named(item: int, names: Callable[[int], str] | None) -> str:
    return f"item {item}" if names is None else f"{names(int(item))!r} (item {item})"
