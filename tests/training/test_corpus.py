"""What a small language model reads: only what training knows, and exercises whose answers are true."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import numpy as np
import pytest

from rectool.data.dataset import Dataset
from rectool.errors import RectoolError
from rectool.prompts.catalogue import Catalogue
from rectool.prompts.template import parse
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


def asked(exercise: corpus.Exercise, after: str) -> tuple[list[str], list[tuple[str, str]], list[tuple[str, str]]]:
    """The titles that an exercise lists, and what it asks of words and of titles, with the answers."""
    listed, questions = exercise.given.removesuffix('".'), exercise.learned
    assert questions.startswith(" ")
    words = re.findall(rf'([^\s"]+){re.escape(after)} (Yes|No)\.', re.sub(r'"[^"]*"\? (Yes|No)\.', "", questions))
    return listed[1:].split('", "'), words, re.findall(r'"([^"]*)"\? (Yes|No)\.', questions)


@pytest.mark.parametrize(("made", "after"), [(corpus.word_exercises, ""), (corpus.title_exercises, "?")])
def test_answers_about_words_are_true_and_of_both_kinds(dataset: Dataset, made: Any, after: str) -> None:
    histories = corpus.known_histories(dataset)
    found = list(made(dataset, histories, 50, seed=3))
    assert found == list(made(dataset, histories, 50, seed=3))
    assert found != list(made(dataset, histories, 50, seed=4))
    answers = []
    for text in found:
        titles, words, _ = asked(text, after)
        assert len(words) == (corpus.TITLE_WORDS_ASKED if after else corpus.WORDS_ASKED)
        there = {word for title in titles for word in title.split()}
        for word, answer in words:
            assert answer == ("Yes" if word in there else "No"), text
            answers.append(answer)
    assert 0.4 < answers.count("Yes") / len(answers) < 0.8


def test_titles_that_are_like_a_list_share_words_with_more_of_it(dataset: Dataset) -> None:
    titles, known = Catalogue(dataset).titles.to_pylist(), corpus.known_items(dataset)
    titles_with = Counter(word for item in known for word in set(titles[item].split()))
    common = {word for word, count in titles_with.items() if count > corpus.COMMON * len(known)}
    shared: dict[str, list[int]] = {"Yes": [], "No": []}
    for text in corpus.title_exercises(dataset, corpus.known_histories(dataset), 60, seed=1):
        listed, _, questions = asked(text, "?")
        assert len(questions) == corpus.TITLES_ASKED
        for title, answer in questions:
            telling = set(title.split()) - common
            shared[answer].append(sum(not telling.isdisjoint(other.split()) for other in listed))
    assert 0.4 < len(shared["Yes"]) / sum(map(len, shared.values())) < 0.6
    assert np.mean(shared["Yes"]) > np.mean(shared["No"]) + 0.5


def test_exercises_are_worded_like_a_prompt_and_end_in_a_title_that_is_like_the_list(dataset: Dataset) -> None:
    template = parse(
        '+++\ntask = "next-item"\nentry = "<{title}>"\nseparator = " & "\noutput = "[{title}]"\n+++\n'
        "Of {noun}:{? {user}?} {history}\nNext:",
        "mine",
    ).filled(())
    histories = corpus.known_histories(dataset)
    found = list(corpus.prompt_exercises(dataset, histories, 60, seed=5, template=template, noun="games"))
    assert len(found) == 60
    assert found == list(corpus.prompt_exercises(dataset, histories, 60, seed=5, template=template, noun="games"))
    titles, known = Catalogue(dataset).titles.to_pylist(), corpus.known_items(dataset)
    told = {titles[item] for item in known}
    titles_with = Counter(word for item in known for word in set(titles[item].split()))
    common = {word for word, count in titles_with.items() if count > corpus.COMMON * len(known)}
    shared = {"answer": 0.0, "any": 0.0}
    for given, learned in found:
        asking, answering = re.fullmatch(r"Of games: (<.+>)\nNext:", given), re.fullmatch(r" \[(.+)\]", learned)
        assert asking is not None, given
        assert answering is not None, learned
        listed, answer = asking[1][1:-1].split("> & <"), answering[1]
        assert corpus.EXERCISE_TITLES[0] <= len(listed) <= corpus.EXERCISE_TITLES[1]
        assert {*listed, answer} <= told
        for which, candidates in (("answer", [answer]), ("any", sorted(told))):
            alike = [
                sum(not (set(title.split()) - common).isdisjoint(other.split()) for other in listed)
                for title in candidates
            ]
            shared[which] += float(np.mean(alike))
    assert shared["answer"] > shared["any"] + 0.5 * len(found)


def test_nobody_s_history_makes_no_exercises(dataset: Dataset) -> None:
    assert not list(corpus.word_exercises(dataset, [], 5, seed=0))


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
