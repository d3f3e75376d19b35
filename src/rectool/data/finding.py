"""What people call users and items -> rows of users.parquet and items.parquet."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from rectool.data.dataset import Dataset
from rectool.errors import RectoolError

ID = "id:"
"""Stands before what can only be the id of an item."""
NEAR = 4
"""Names that a message offers for one that is not there."""
COMPARED = 20_000
"""Names that are compared letter by letter: a second's work."""
LONGEST = 60
"""Characters of a name that a message repeats."""


def users_named(dataset: Dataset, ids: Sequence[str], where: Sequence[str]) -> NDArray[np.int32]:
    """The users of raw ids, each once, in the order of the data set.

    Args:
        where: what stands before the message about each.

    Raises:
        RectoolError: there is no such user; names those with the ids most like it.
    """
    known = dataset.user_ids()
    found = pc.index_in(pa.array(ids, pa.string()), value_set=known.cast(pa.string()))
    for place, user in enumerate(found.to_pylist()):
        if user is None:
            near = _offered(_near(ids[place], known))
            raise RectoolError(f"{where[place]}: {dataset.artifact.path} has no user {_said(ids[place])}{near}")
    return np.unique(np.asarray(found, np.int32))


def items_named(dataset: Dataset, names: str, where: str) -> NDArray[np.int32]:
    """The items of a list such as "Alien; Heat; id:42", in its order: by title, or by id.

    Case counts only where two titles differ by nothing else. A list that is a title as a whole, semicolons and
    all, is that title.

    Raises:
        RectoolError: there is no such item, or there are several; names those that may be meant.
    """
    titles, ids = dataset.titles(), dataset.item_ids()
    whole = pc.index(titles, names.strip()).as_py()
    parts = [names] if whole >= 0 else names.split(";")
    words = [word for part in parts if (word := part.strip())]
    if not words:
        raise RectoolError(f"{where}: name titles or item ids, such as --likes 'Alien; Heat'")
    return np.array([_item(dataset, titles, ids, word, where) for word in words], np.int32)


def _item(dataset: Dataset, titles: pa.Array, ids: pa.Array, name: str, where: str) -> int:
    if name.startswith(ID):
        name = name.removeprefix(ID)
        found = np.flatnonzero(pc.equal(ids, name))
        if not len(found):
            near = _offered(_near(name, ids))
            raise RectoolError(f"{where}: {dataset.artifact.path} has no item with the id {_said(name)}{near}")
        return int(found[0])
    found = np.flatnonzero(pc.or_(pc.equal(ids, name), pc.equal(titles, name)))
    if not len(found):
        found = np.flatnonzero(pc.equal(pc.utf8_lower(titles), name.lower()))
    if len(found) == 1:
        return int(found[0])
    if len(found):
        choice = ", ".join(f"{ID}{ids[item]} ({_said(titles[item].as_py())})" for item in found[:NEAR].tolist())
        more = f" and {len(found) - NEAR} more" if len(found) > NEAR else ""
        raise RectoolError(f"{where}: {_said(name)} may be {choice}{more}; name one by its id")
    near = _offered(_near(name, titles))
    raise RectoolError(f"{where}: {dataset.artifact.path} has no item {_said(name)}{near}")


def _near(name: str, known: pa.Array) -> list[str]:
    """Names of which this is a part, then names that are spelt much like it, of very many those that begin alike."""
    distinct = pc.unique(known)
    holding = distinct.filter(pc.match_substring(distinct, name, ignore_case=True)).to_pylist()
    holding = sorted(holding, key=len)[:NEAR]
    if len(distinct) > COMPARED:
        distinct = distinct.filter(pc.starts_with(distinct, name[:2], ignore_case=True))[:COMPARED]
    spelt = {text.lower(): text for text in reversed(distinct.to_pylist())}
    alike = [spelt[text] for text in difflib.get_close_matches(name.lower(), spelt, NEAR)]
    return list(dict.fromkeys([*holding, *alike]))[:NEAR]


def _offered(names: Sequence[str]) -> str:
    return f"; it has {', '.join(map(_said, names))}" if names else ""


def _said(name: str) -> str:
    return repr(name if len(name) <= LONGEST else f"{name[:LONGEST]}...")
