"""The objective of soft tokens: the prefix run apart, rows that hide who they are, rows of text alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.training.objectives import gradients
from transformers import AutoModelForCausalLM

from rectool.data.dataset import Dataset
from rectool.llm import backbone
from rectool.llm.head import AnswerHead
from rectool.llm.references import ITEM, UNKNOWN, USER
from rectool.llm.soft import SoftTokens
from rectool.llm.soft_parts import Parts, build
from rectool.llm.soft_prefix import PrefixCache
from rectool.models.mf import MatrixFactorization
from rectool.models.model import Size
from rectool.models.saved import Trained
from rectool.prompts import template
from rectool.prompts.prompts import Prompts
from rectool.training.answers import AnswerCriterion
from rectool.training.asking import compute_twice
from rectool.training.prompted import Trainable
from rectool.training.soft_prompted import Asked, Drawing, SoftObjective
from rectool.training.soft_settings import Freezing
from rectool.training.token_parts import TokenParts

CPU = torch.device("cpu")
KINDS = {"user": 1, "item": 1, "warm": 1}
WHOLE = TokenParts(10_000)
NOTHING = Drawing((0.0, 0.0), lambda _: 0.0, 1, None)


def tokens_of(dataset: Dataset, kinds: dict[str, int], hidden_size: int = 32) -> SoftTokens:
    torch.manual_seed(0)
    model = MatrixFactorization(MatrixFactorization.Settings(embedding_size=6), Size(dataset.users, dataset.items))
    parts = Parts(Trained("mf", model, "ctr", None, "sigmoid"), torch.randn(dataset.items, 5))
    return build(dataset, kinds, hidden_size, parts, seed=1)


@pytest.fixture
def make(dataset: Dataset, tiny_llm: Callable[..., Path]) -> Callable[..., SoftObjective]:
    """An objective over 40 train rows of the data set."""

    def made(
        architecture: str = "llama",
        kinds: dict[str, int] = KINDS,
        drawing: Drawing = NOTHING,
        train: tuple[str, ...] = ("projector", "cf", "semantic"),
        parts: TokenParts = WHOLE,
        mixed: bool = False,
        **more: Any,
    ) -> SoftObjective:
        folder = tiny_llm(architecture)
        model = AutoModelForCausalLM.from_pretrained(folder).eval().requires_grad_(False)
        soft = tokens_of(dataset, kinds)
        soft.train_only(train)
        name = "llara-ctr" if "history" in kinds else "collm"
        prompts = Prompts(template.load(name), backbone.find(str(folder)).tokenizer(), 4, soft=kinds)
        rows = dataset.targets("train")[:40]
        text = Prompts(template.load(name), prompts.tokenizer, 4).rows(dataset, rows) if mixed else None
        asked = Asked(dataset, rows, prompts.rows(dataset, rows), text)
        criterion = AnswerCriterion(AnswerHead(model, prompts.answers, "softmax"), dataset.label[rows], CPU)
        objective = SoftObjective(Trainable(model, soft), criterion, asked, drawing, parts, dict, CPU, **more)
        objective.batches(8, (0, 0))
        objective.module.train()
        return objective

    return made


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "mistral", "gpt2"])
@pytest.mark.parametrize("kinds", [KINDS, {"history": 2, "item": 2}, {"warm": 3}], ids=["three", "history", "warm"])
def test_loss_and_gradients_are_the_same_with_the_prefix_apart(
    architecture: str, kinds: dict[str, int], make: Callable[..., SoftObjective]
) -> None:
    batch = np.array([3, 39, 17, 22, 5, 6, 11, 2, 9])
    train = ("projector", *(["cf"] if "item" in kinds else []), *(["semantic"] if "warm" in kinds else []))
    expected_loss, expected = gradients(make(architecture, kinds, train=train), batch)
    cache = PrefixCache(10**8, CPU)
    for more in ({}, {"cache": cache}, {"cache": cache}, {"parts": TokenParts(60)}):
        objective = make(architecture, kinds, train=train, prefixed=True, **more)
        loss, own = gradients(objective, batch)
        assert loss == pytest.approx(expected_loss, rel=1e-5)
        assert own.keys() == expected.keys()
        torch.testing.assert_close(own, expected, rtol=1e-3, atol=1e-5)
    assert cache.hits >= cache.misses > 0
    assert any(float(gradient.abs().max()) > 1e-4 for gradient in expected.values())


def test_a_frozen_model_that_computes_activations_twice_has_no_dropout(
    make: Callable[..., SoftObjective],
) -> None:
    batch = np.arange(8)
    expected_loss, expected = gradients(make("gpt2"), batch)
    twice = make("gpt2")
    compute_twice(twice.model)
    twice.module.train()
    layers = [layer for layer in twice.model.modules() if getattr(layer, "gradient_checkpointing", False)]
    assert all(layer.training for layer in layers)
    assert not any(layer.training for layer in twice.model.modules() if isinstance(layer, torch.nn.Dropout))
    loss, own = gradients(twice, batch)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    torch.testing.assert_close(own, expected, rtol=1e-3, atol=1e-5)
    twice.module.eval()
    assert not any(layer.training for layer in twice.model.modules())


@pytest.mark.parametrize("count", [2, 50])
def test_parts_of_a_batch_add_up_to_it(count: int, make: Callable[..., SoftObjective]) -> None:
    batch = np.arange(20)
    expected_loss, expected = gradients(make(), batch)
    for prefixed in (False, True):
        loss, own = gradients(make(parts=TokenParts(500), prefixed=prefixed), batch, count)
        assert loss == pytest.approx(expected_loss, rel=1e-5)
        torch.testing.assert_close(own, expected, rtol=1e-3, atol=1e-5)


def test_what_is_frozen_has_no_gradient_and_stays_in_evaluation_mode(
    make: Callable[..., SoftObjective],
) -> None:
    objective = make(train=("projector",))
    _, own = gradients(objective, np.arange(8))
    assert {name.split(".")[1] for name in own} == {"projector", "warm"}  # no row hides who it is
    soft = objective.soft
    assert (objective.module.training, objective.model.training) == (True, False)
    assert soft.projector is not None
    assert soft.cf is not None
    assert (soft.projector.training, soft.cf.training) == (True, False)


@pytest.mark.parametrize("part", ["projector", "cf"])
@pytest.mark.parametrize("prefixed", [False, True])
def test_rows_without_a_soft_token_have_nothing_to_learn(
    prefixed: bool, part: str, make: Callable[..., SoftObjective]
) -> None:
    """As those of an empty history, where there are tokens for nothing else."""
    objective = make(kinds={"history": 1}, train=(part,), prefixed=prefixed)
    bare = [n for n in range(40) if (objective.tokens.padded(np.array([n]))[0] >= 0).all()]
    assert 0 < len(bare) < 40
    loss, own = gradients(objective, np.array(bare))
    assert loss > 0
    assert not any(gradient.any() for gradient in own.values())


def test_rows_that_hide_who_they_are_train_the_vectors_of_the_unknown(
    make: Callable[..., SoftObjective],
) -> None:
    drawing = Drawing((0.5, 0.25), lambda _: 0.0, 1, None)
    objective = make(drawing=drawing)
    shares = []
    for epoch in range(40):
        objective.batches(8, (0, epoch))
        wanted = objective.wanted
        assert wanted is not None
        referred = -1 - objective.tokens.ids[objective.tokens.ids < 0].astype(np.int64)
        group = wanted.groups_of(referred)
        for of in (USER, ITEM):
            shares.append((wanted.which[group] == UNKNOWN)[wanted.of[group] == of].mean())
    assert np.mean(shares[::2]) == pytest.approx(0.5, abs=0.05)
    assert np.mean(shares[1::2]) == pytest.approx(0.25, abs=0.05)
    _, own = gradients(objective, np.arange(40))
    assert {"soft.unknown_vectors.user", "soft.unknown_vectors.item"} <= own.keys()


def test_an_epoch_is_the_same_whenever_it_is_drawn(make: Callable[..., SoftObjective]) -> None:
    """As after a resume: nothing depends on the epochs before."""
    drawing = Drawing((0.3, 0.3), Freezing(train="lora", mix="linear").text_share, 4, None)
    first, second = make(drawing=drawing, mixed=True), make(drawing=drawing, mixed=True)
    first.batches(8, (5, 1))
    one, other = first.batches(8, (5, 2)), second.batches(8, (5, 2))
    assert [batch.tolist() for batch in one] == [batch.tolist() for batch in other]
    assert first.tokens.ids.tolist() == second.tokens.ids.tolist()
    assert first.wanted is not None
    assert second.wanted is not None
    assert first.wanted.which.tolist() == second.wanted.which.tolist()


@pytest.mark.parametrize(("mix", "steps"), [("0.4", None), ("linear", None), ("linear", 30)])
def test_schedules_mix_rows_of_text_alone(mix: str, steps: int | None, make: Callable[..., SoftObjective]) -> None:
    epochs = 10
    drawing = Drawing((0.0, 0.0), Freezing(train="lora", mix=mix).text_share, epochs, steps)
    objective = make(drawing=drawing, mixed=True)
    share = []
    for epoch in range(epochs):
        batches = objective.batches(8, (0, epoch))
        assert sorted(np.concatenate(batches) % 40) == list(range(40))
        share += [(batch >= 40).mean() for batch in batches]
    steps_in_all = steps or len(share)
    expected = [Freezing(train="lora", mix=mix).text_share(step / steps_in_all) for step in range(len(share))]
    tens = [np.reshape(each, (-1, 10)).mean(1) for each in (share, expected)]
    np.testing.assert_allclose(*tens, atol=0.2)
    soft, text = objective.tokens.padded(np.array([3]))[0][0], objective.tokens.padded(np.array([43]))[0][0]
    assert (soft < 0).sum() == 3
    assert (text >= 0).all()
    loss = float(objective.loss(np.array([43])).detach())
    alone = objective.model(torch.from_numpy(text[None])).logits[0, -1]
    yes, no = objective.criterion.head.answers.ids
    label = float(objective.criterion.labels[3])
    expected_loss = torch.nn.functional.binary_cross_entropy_with_logits(alone[yes] - alone[no], torch.tensor(label))
    assert loss == pytest.approx(float(expected_loss), rel=1e-5)
