"""Titles and descriptions made safe for prompts: one line of text each, not empty, not endless."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from rectool.data.dataset import Dataset

LONGEST_TITLE = 512
"""Characters of a title in a prompt; the rest is left out."""
LONGEST_TEXT = 10_000
"""Characters of a description in a prompt; the rest is left out."""

_BREAKS = r"[\p{Cc}\p{Zl}\p{Zp}]+"  # control characters and line ends
_DIRECTIONS = r"[\x{061c}\x{200e}\x{200f}\x{202a}-\x{202e}\x{2066}-\x{2069}]"  # marks that turn text around


class Catalogue:
    """What prompts call the I items of a data set.

    Runs of control characters and line ends become a space; marks of writing direction and white space at
    both ends go. An item whose title is empty then is called by its id. All else is kept as it is: braces, slot
    names and special tokens in a title are text.

    Attributes:
        titles: (I,) strings.
        cut_titles: (I,) bool: longer than `LONGEST_TITLE` characters.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        titles = _clean(dataset.titles())
        titles = pc.if_else(pc.equal(titles, ""), _clean(dataset.item_ids()), titles)
        self.titles, self.cut_titles = _cut(titles, LONGEST_TITLE)

    @cached_property
    def texts(self) -> pa.Array:
        """(I,) descriptions; "" where there is none."""
        return self._texts[0]

    @cached_property
    def cut_texts(self) -> NDArray[np.bool_]:
        """(I,) longer than `LONGEST_TEXT` characters."""
        return self._texts[1]

    @cached_property
    def _texts(self) -> tuple[pa.Array, NDArray[np.bool_]]:
        return _cut(pc.fill_null(_clean(self._dataset.texts()), ""), LONGEST_TEXT)


def taken(texts: pa.Array, items: NDArray[Any]) -> list[str]:
    """The texts of some items."""
    found: list[str] = texts.take(pa.array(items)).to_pylist()
    return found


def _clean(texts: pa.Array) -> pa.Array:
    one_line = pc.replace_substring_regex(texts.cast(pa.large_string()), _BREAKS, " ")
    return pc.utf8_trim_whitespace(pc.replace_substring_regex(one_line, _DIRECTIONS, ""))


def _cut(texts: pa.Array, longest: int) -> tuple[pa.Array, NDArray[np.bool_]]:
    too_long = np.asarray(pc.greater(pc.utf8_length(texts), longest))
    if not too_long.any():
        return texts, too_long
    return pc.utf8_rtrim_whitespace(pc.utf8_slice_codeunits(texts, 0, longest)), too_long
