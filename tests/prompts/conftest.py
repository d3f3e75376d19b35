"""Small data sets whose titles are what they must be, and tokenizers that read them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rectool.artifacts import open_artifact
from rectool.data.dataset import Dataset
from rectool.llm.backbone import tokenizer_of
from rectool.prompts.tokenizer import Tokenizer

Event = tuple[str, str, int | None, str]
"""(user, item, label, split); its place in the list is its time."""

EVENTS: list[Event] = [
    ("u", "alien", 1, "train"),
    ("u", "heat", 0, "train"),
    ("v", "heat", 1, "train"),
    ("u", "up", 1, "train"),
    ("u", "matrix", 0, "train"),
    ("v", "alien", 0, "train"),
    ("u", "toy", 1, "train"),
    ("u", "haunted", 1, "valid"),
    ("v", "up", 1, "valid"),
    ("w", "toy", 0, "test"),
    ("u", "dragons", 0, "test"),
    ("v", "dragons", 1, "test"),
]
TITLES = {
    "alien": "Alien (1979)",
    "heat": "Heat (1995)",
    "up": "Up",
    "matrix": "Matrix, The (1999)",
    "toy": "Toy Story (1995)",
    "haunted": "The Haunted Castle",
    "dragons": "Enchanted Dragons, For Two",
}


@pytest.fixture
def make_data(tmp_path: Path, rectool: Callable[..., Any]) -> Callable[..., Dataset]:
    """A data set of events and titles, prepared by the command line."""
    numbers = itertools.count()

    def make(
        events: Sequence[Event] = EVENTS,
        titles: Mapping[str, str] = TITLES,
        texts: Mapping[str, str] | None = None,
    ) -> Dataset:
        folder = tmp_path / f"data-{next(numbers)}"
        folder.mkdir()
        users, items, labels, splits = zip(*events, strict=True)
        log = {"user_id": users, "item_id": items, "timestamp": range(len(events)), "label": labels, "split": splits}
        pq.write_table(pa.table({name: pa.array(values) for name, values in log.items()}), folder / "log.parquet")
        catalogue = {"item_id": list(titles), "title": list(titles.values())}
        if texts is not None:
            catalogue["text"] = [texts.get(item) for item in titles]  # type: ignore[misc]
        pq.write_table(pa.table(catalogue), folder / "items.parquet")
        arguments = ["--items", folder / "items.parquet", "--out", folder / "data", "--untitled", "id"]
        done = rectool("prep", "table", folder / "log.parquet", *arguments)
        assert done.code == 0, done.stderr
        return Dataset(open_artifact(folder / "data", "dataset"))

    return make


@pytest.fixture
def data(make_data: Callable[..., Dataset]) -> Dataset:
    return make_data()


@pytest.fixture
def tokenizer(tiny_llm: Callable[..., Path]) -> Tokenizer:
    """Byte-level BPE that puts <s> before a text."""
    return tokenizer_of(tiny_llm())


@pytest.fixture
def chat_tokenizer(tiny_llm: Callable[..., Path]) -> Tokenizer:
    return tokenizer_of(tiny_llm(chat=True))


@pytest.fixture
def metaspace() -> Callable[..., Tokenizer]:
    """A tokenizer as SentencePiece makes them: a space is part of the word after it, and one stands before a text."""

    def make(scheme: str = "first", words: Sequence[str] = ()) -> Tokenizer:
        from tokenizers import Tokenizer as Backend
        from tokenizers import models, pre_tokenizers, trainers
        from transformers import PreTrainedTokenizerFast

        backend = Backend(models.BPE(unk_token="<unk>"))
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=True)
        corpus = ["the user likes Yes or No : Answer", *words, "".join(map(chr, range(33, 127)))]
        trainer = trainers.BpeTrainer(special_tokens=["<unk>", "<s>", "</s>"], show_progress=False)
        backend.train_from_iterator(corpus, trainer)
        return Tokenizer(PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", bos_token="<s>"))

    return make
