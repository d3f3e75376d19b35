"""Attention over a prompt: its parts, and what is summed over them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from rectool import plots
from rectool.figures.attended import Attended
from rectool.figures.attention import SOFT_COLOR, Part, by_part, draw, maps, parts_of
from rectool.llm.backbone import find
from rectool.llm.recommender import Recommender
from rectool.prompts.settings import Prompting
from rectool.prompts.show import Token

TOKENS = [
    Token(0, "<s>", "special"),
    Token(1, "A user likes ", "text"),
    Token(2, '"', "history"),
    Token(3, "Ali", "history", 5, 1),
    Token(4, "en", "history", 5, 1),
    Token(5, '"', "history"),
    Token(-4, "{history}", "history", 5, 1),
    Token(6, ', "', "history"),
    Token(7, "Heat", "history", 6, 2),
    Token(-4, "{history}", "history", 6, 2),
    Token(8, " and ", "text"),
    Token(-1, "{user}", "user"),
    Token(-1, "{user}", "user"),
    Token(9, "? Answer", "text"),
    Token(10, ":", "text"),
]


def test_parts_are_words_titles_and_soft_tokens() -> None:
    parts = [(part.name, part.stop - part.first, part.soft) for part in parts_of(TOKENS)]
    assert parts == [
        ("<s>", 1, False),
        ("A user likes", 1, False),
        ("1 Alien", 4, False),
        ("1 {history}", 1, True),
        ("2 Heat", 2, False),
        ("2 {history}", 1, True),
        ("and", 1, False),
        ("{user}", 2, True),
        ("? Answer", 1, False),
        (": → answer", 1, False),
    ]
    single = parts_of(TOKENS, one_by_one=True)
    assert [part.first for part in single] == list(range(len(TOKENS)))
    assert single[3].name == "Ali"


def test_weights_are_summed_over_what_is_looked_at() -> None:
    weights = np.random.default_rng(0).random((2, 5, 5), np.float32)
    parts = [Part("a", 0, 2, False), Part("b", 2, 3, True), Part("c", 3, 5, False)]
    found = by_part(weights, parts)
    for layer in range(2):
        for row, looks in enumerate(parts):
            for column, seen in enumerate(parts):
                block = weights[layer, looks.first : looks.stop, seen.first : seen.stop]
                assert np.isclose(found[layer, row, column], block.sum(axis=1).mean())


def test_maps_are_those_of_the_model_and_leave_it_as_it_was(
    dataset: object, tiny_llm: Callable[..., Path], untuned: Callable[..., Recommender]
) -> None:
    folder = tiny_llm()
    recommender = untuned(find(str(folder)), Prompting(history=3))
    before = recommender.model.config._attn_implementation
    found = maps(Attended.of(recommender, "tiny"), dataset, 20)
    assert recommender.model.config._attn_implementation == before != "eager"
    rows = recommender.prompts.rows(dataset, np.array([20]))
    plain = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    with torch.no_grad():
        naive = plain(torch.from_numpy(rows.ids.astype(np.int64))[None], output_attentions=True).attentions
    for layer, heads in zip(found, naive, strict=True):
        np.testing.assert_allclose(layer, heads[0].mean(0), atol=1e-5)


def test_soft_tokens_are_marked() -> None:
    parts = parts_of(TOKENS)
    weights = np.tril(np.ones((1, len(parts), len(parts)), np.float32))
    with plots.style():
        figure = draw("", weights, [3], parts)
    axes = figure.axes[0]
    assert axes.get_title() == "layer 4"
    marked = {name.get_text() for name in axes.get_xticklabels() if name.get_color() == SOFT_COLOR}
    assert marked == {"1 {history}", "2 {history}", "{user}"}
    frames = {(patch.get_x() + 0.5, patch.get_width()) for patch in axes.patches}
    assert {(3, 1), (5, 1), (7, 1), (0, 4), (0, 6), (0, 8)} == frames
