"""Making a small language model: its texts as tokens, its first weights, and the folder that comes out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rectool.data.dataset import Dataset
from rectool.errors import RectoolError
from rectool.training import backbone, corpus
from rectool.training.backbone_settings import CONTEXT, SIZES, Pretraining, Small
from rectool.training.byte_pairs import byte_pairs


def test_texts_become_tokens_between_a_beginning_and_an_end() -> None:
    made = byte_pairs(["one two three"] * 3, 512, words=corpus.WORDS, context=CONTEXT)
    read = [("one", " two"), ("", "one two"), ("", ""), ("x" * 100, "x" * 3000), ("x" * 3000, " two")]
    texts = backbone.tokenised(made, [corpus.Exercise(*each) for each in read])
    rows = texts.tokens
    for row, (given, learned) in enumerate(read[:3]):
        own = rows.ids[rows.offsets[row] : rows.offsets[row + 1]].tolist()
        assert own == [*made.encode(given + learned), made.eos_token_id]
        assert texts.first[row] == len(made.encode(given))
        assert made.decode(own[texts.first[row] : -1]) == learned
    assert rows.lengths.tolist()[3:] == [CONTEXT, CONTEXT]
    assert texts.first.tolist()[3:] == [101, CONTEXT - 1]
    assert texts.targets.min() == 1
    assert rows.ids[rows.offsets[1:] - 1].tolist() == [made.eos_token_id] * 5


@pytest.mark.parametrize(("size", "least", "most"), [("nano", 0.4e6, 1.2e6), ("micro", 3e6, 8e6), ("mini", 14e6, 30e6)])
def test_sizes_are_what_they_say(size: str, least: float, most: float) -> None:
    with torch.device("meta"):
        model = backbone.LlamaForCausalLM(backbone.configured(Small(size=size), SIZES[size].vocabulary))  # type: ignore[arg-type]
    assert least < sum(parameter.numel() for parameter in model.parameters()) < most


def test_a_size_may_have_other_layers() -> None:
    for layers in (None, 1, 6):
        shape = Small(layers=layers).shape
        assert (shape.layers, shape.hidden) == (layers or SIZES["nano"].layers, SIZES["nano"].hidden)
        assert backbone.configured(Small(layers=layers), 600).num_hidden_layers == shape.layers


def test_weights_are_drawn_for_their_width() -> None:
    made = byte_pairs(["one two three"] * 3, 512, words=corpus.WORDS, context=CONTEXT)
    model = backbone.initialised(Small(), made, seed=0)
    assert model.config.vocab_size == len(made)
    layer = model.model.layers[0]
    assert model.model.embed_tokens.weight.std().item() == pytest.approx(1, rel=0.05)
    assert layer.self_attn.q_proj.weight.std().item() == pytest.approx(128**-0.5, rel=0.05)
    assert layer.self_attn.o_proj.weight.std().item() == pytest.approx((128 * 6) ** -0.5, rel=0.05)
    assert torch.equal(layer.self_attn.k_proj.weight, layer.self_attn.q_proj.weight)
    again = backbone.initialised(Small(), made, seed=0)
    assert torch.equal(again.lm_head.weight, model.lm_head.weight)


def test_a_data_set_without_histories_is_refused(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "known_histories", lambda dataset: [np.array([], np.int32)][:0])
    with pytest.raises(RectoolError, match="has no user with two liked train rows"):
        backbone.written(dataset, Small(), seed=0)


def test_a_prompt_words_half_of_the_later_exercises_and_is_in_the_vocabulary(dataset: Dataset, tmp_path: Path) -> None:
    own = tmp_path / "own.txt"
    own.write_text('+++\ntask = "next-item"\n+++\nWherefore {noun} {history}:\n')
    plain = backbone.written(dataset, Small(exercises=100), seed=0)
    worded = backbone.written(dataset, Small(exercises=100, prompt=str(own), noun="games"), seed=0)
    assert worded.chapters[0] == plain.chapters[0]
    assert [text.given.startswith("Wherefore games ") for text in worded.chapters[1]] == [True] * 30 + [False] * 30
    assert any("Wherefore" in text for text in worded.vocabulary)


def test_only_prompts_that_ask_for_the_next_item_word_exercises() -> None:
    with pytest.raises(RectoolError, match="--prompt plain is of task ctr; exercises take one of task next-item"):
        backbone.asked("plain")
    with pytest.raises(RectoolError, match="--noun games means nothing without --prompt"):
        Small(noun="games")


def test_what_is_not_measured_is_refused() -> None:
    with pytest.raises(RectoolError, match="--metric auc is not measured of a backbone"):
        Pretraining(metric="auc")
    with pytest.raises(RectoolError, match="--vocabulary 100 must be at least 512"):
        Small(vocabulary=100)
