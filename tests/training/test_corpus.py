"""What a small language model reads: only what training knows, and exercises whose answers are true."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from rectool.data.dataset import Dataset
from rectool.errors import RectoolError
from rectool.prompts.catalogue import Catalogue
from rectool.training import corpus


def test_histories_hold_what_training_knows_and_nothing_of_other_splits(dataset: Dataset) -> None:
    rows = dataset.targets("train")
    expected = []
    for user in range(dataset.users):
        own = [int(dataset.item[row]) for row in rows if dataset.user[row] == user and dataset.label[row] != 0]
        if len(own) > 1:
            expected.append(own)
    assert [items.tolist() for items in corpus.known_histories(dataset)] == expected


def test_context_counts_up_to_the_last_train_row(log: Any) -> None:
    split = ["context", "train", "context", "context", "context", "test"]
    made = log(user=[0, 0, 0, 1, 1, 1], item=[0, 1, 2, 0, 1, 2], split=split)
    assert [items.tolist() for items in corpus.known_histories(made)] == [[0, 1]]


def test_lists_are_written_as_prompts_write_them(dataset: Dataset) -> None:
    histories = corpus.known_histories(dataset)
    titles = Catalogue(dataset).titles.to_pylist()
    found = corpus.lists(dataset, histories)
    first = histories[0][: corpus.LIST_TITLES]
    assert found[0] == ", ".join(f'"{titles[item]}"' for item in first)
    assert len(found) == sum(-(-len(items) // corpus.LIST_TITLES) for items in histories)


def test_answers_of_exercises_are_true_and_of_both_kinds(dataset: Dataset) -> None:
    histories = corpus.known_histories(dataset)
    found = list(corpus.exercises(dataset, histories, 50, seed=3))
    assert found == list(corpus.exercises(dataset, histories, 50, seed=3))
    assert found != list(corpus.exercises(dataset, histories, 50, seed=4))
    answers = []
    for text in found:
        listed, _, questions = text.rpartition('".')
        words = set(re.sub(r'[",]+ "|"', " ", listed).split())
        asked = re.findall(r" (\S+)\? (Yes|No)\.", questions)
        assert len(asked) == corpus.ASKED
        for word, answer in asked:
            assert answer == ("Yes" if word in words else "No"), text
            answers.append(answer)
    assert 0.4 < answers.count("Yes") / len(answers) < 0.8


def test_item_texts_are_titles_and_descriptions_of_items_that_training_knows(dataset: Dataset) -> None:
    known = np.unique(dataset.item[dataset.targets("train")])
    assert 0 < len(known) < dataset.items
    titles, texts = Catalogue(dataset).titles.to_pylist(), dataset.texts().to_pylist()
    found = corpus.item_texts(dataset)
    assert found[: len(known)] == [titles[item] for item in known]
    assert found[len(known) :] == [texts[item] for item in known if texts[item]]


def test_ids_are_no_titles(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Dataset, "titles", Dataset.item_ids)
    with pytest.raises(RectoolError, match="items are called by their ids; prepare it with titles"):
        corpus.item_texts(dataset)
