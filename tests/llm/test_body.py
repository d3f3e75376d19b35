"""The body of a model: last tokens of padded and of packed rows, values and gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rectool.llm.body import (
    body_of,
    can_pack,
    causal_of,
    context_of,
    last_hidden,
    on,
    pack,
    packed_last_hidden,
    read_inputs,
    reading,
)
from rectool.training.asking import compute_twice

CPU = torch.device("cpu")
ARCHITECTURES = ("llama", "qwen2", "qwen3", "mistral", "gpt2")

Loaded = Callable[..., Any]
Rows = Callable[..., Any]


def gradients(model: Any, states: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    (states * torch.linspace(-1, 1, states.shape[1])).square().sum().backward()
    return {name: part.grad.clone() for name, part in model.named_parameters() if part.grad is not None}


def test_an_adapter_is_part_of_the_body(loaded: Loaded, adapted: Loaded) -> None:
    plain = loaded("llama")
    body = plain.model
    live = adapted(plain)
    assert causal_of(live) is plain
    assert body_of(live) is body_of(plain) is body
    assert body_of(body) is body


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_padding_does_not_matter(
    loaded: Loaded, adapted: Loaded, prompts_of_groups: Rows, one_by_one: Callable[..., Tensor], architecture: str
) -> None:
    tokens, _ = prompts_of_groups([6], [3], rest=20)
    model = adapted(loaded(architecture))
    ids, lengths = tokens.padded(np.arange(6))
    ids[np.arange(ids.shape[1]) >= lengths[:, None]] = 7  # whatever stands there
    found = last_hidden(model, *on(CPU, ids, lengths))
    torch.testing.assert_close(found, one_by_one(model, tokens), atol=1e-5, rtol=0)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_packed_rows_are_as_if_padded(
    loaded: Loaded, adapted: Loaded, prompts_of_groups: Rows, architecture: str, attention: str
) -> None:
    tokens, _ = prompts_of_groups([9], [3], rest=20)
    model = adapted(loaded(architecture))
    causal_of(model).set_attn_implementation(attention)
    places = np.array([4, 0, 7, 3, 1, 8, 2])
    assert can_pack(model)
    padded = last_hidden(model, *on(CPU, *tokens.padded(places)))
    expected = gradients(model, padded)
    packed = pack(tokens, places, 30, CPU)
    assert len(packed.ids) < len(places)
    states = packed_last_hidden(model, packed)
    torch.testing.assert_close(states, padded, atol=1e-5, rtol=0)
    found = gradients(model, states)
    assert found.keys() == expected.keys()
    assert any("lora_A" in name for name in found)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-4, rtol=1e-4)


def test_packing_with_checkpointing(loaded: Loaded, prompts_of_groups: Rows) -> None:
    tokens, _ = prompts_of_groups([7], [3], rest=20)
    model = loaded("llama")
    places = np.arange(7)
    expected = gradients(model, last_hidden(model, *on(CPU, *tokens.padded(places))))
    compute_twice(model)
    model.train()
    for name, gradient in gradients(model, packed_last_hidden(model, pack(tokens, places, 32, CPU))).items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_vectors_stand_where_references_are(
    loaded: Loaded,
    adapted: Loaded,
    prompts_of_groups: Rows,
    with_references: Rows,
    one_by_one: Callable[..., Tensor],
    vectors: Tensor,
    architecture: str,
    tied: bool,
    checkpointing: bool,
) -> None:
    tokens = with_references(prompts_of_groups([7], [3], rest=20)[0], 5)
    model = adapted(loaded(architecture, tied=tied))
    causal_of(model).get_input_embeddings().weight.requires_grad_()
    slow = one_by_one(model, tokens, soft=vectors)
    expected = gradients(model, slow) | {"vectors": grad_of(vectors)}
    if checkpointing:
        compute_twice(model.base_model.model)
        model.train()
        for part in model.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0
    places = np.array([4, 0, 3, 1, 6, 2, 5])
    padded = last_hidden(model, *on(CPU, *tokens.padded(places)), soft=vectors)
    packed = packed_last_hidden(model, pack(tokens, places, 30, CPU), vectors)
    for states in (padded, packed):
        torch.testing.assert_close(states, slow[places], atol=1e-5, rtol=1e-5)
        found = gradients(model, states) | {"vectors": grad_of(vectors)}
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, atol=1e-4, rtol=1e-4)


def grad_of(vectors: Tensor) -> Tensor:
    found, vectors.grad = vectors.grad, None
    assert found is not None
    return found


def test_vectors_take_the_type_of_the_embeddings(loaded: Loaded, vectors: Tensor) -> None:
    model = loaded("llama").to(torch.bfloat16)
    embedded = read_inputs(model, torch.tensor([[7, -3, -1]]), vectors)["inputs_embeds"]
    assert embedded.dtype == torch.bfloat16
    assert torch.equal(embedded[0, 1:], vectors[[2, 0]].bfloat16())
    assert torch.equal(embedded[0, 0], model.get_input_embeddings().weight[7])


def test_a_callable_makes_each_vector_once(loaded: Loaded, vectors: Tensor) -> None:
    asked: list[list[int]] = []

    def made(references: Any) -> Tensor:
        asked.append(references.tolist())
        return vectors[references]

    ids = torch.tensor([[7, -3, -1], [-3, 5, -5]])
    found = read_inputs(loaded("llama"), ids, made)["inputs_embeds"]
    assert asked == [[0, 2, 4]]
    assert torch.equal(found, read_inputs(loaded("llama"), ids, vectors)["inputs_embeds"])


def test_without_a_reference_vectors_still_have_a_gradient(loaded: Loaded, vectors: Tensor) -> None:
    model = loaded("llama").requires_grad_(False)
    for soft in (vectors, lambda references: vectors[references]):
        last_hidden(model, torch.tensor([[3, 4]]), torch.tensor([2]), soft).sum().backward()
        assert not grad_of(vectors).any()


def test_a_line_holds_what_fits(token_rows: Rows) -> None:
    tokens = token_rows([[1, 2], [3, 4, 5, 6], [7, 8, 9], [10]])
    packed = pack(tokens, np.array([0, 1, 2, 3]), 5, CPU)
    assert packed.ids.tolist() == [[3, 4, 5, 6, 10], [7, 8, 9, 1, 2]]
    assert packed.positions.tolist() == [[0, 1, 2, 3, 0], [0, 1, 2, 0, 1]]
    assert packed.lines.tolist() == [1, 0, 1, 0]
    assert packed.ends.tolist() == [4, 3, 2, 4]
    with pytest.raises(ValueError, match="a row of 4 tokens does not go into a line of 3"):
        pack(tokens, np.array([0, 1]), 3, CPU)


def test_each_part_is_in_the_mode_it_was_in(loaded: Loaded) -> None:
    model = loaded("llama").train()
    model.model.layers[0].eval()
    before = [part.training for part in model.modules()]
    with reading(model):
        assert not any(part.training for part in model.modules())
        assert not torch.is_grad_enabled()
    assert [part.training for part in model.modules()] == before
    assert 0 < sum(before) < len(before)


def test_a_recurrent_model_cannot_pack() -> None:
    from transformers import MambaConfig, MambaForCausalLM

    torch.manual_seed(0)
    config = MambaConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2, state_size=4, initializer_range=0.3)
    assert not can_pack(MambaForCausalLM(config))


def test_context(loaded: Loaded) -> None:
    assert context_of(loaded("llama").config) == 512
    assert context_of(loaded("gpt2", max_position_embeddings=64).config) == 64
