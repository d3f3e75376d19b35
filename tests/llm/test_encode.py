"""Hidden states are those of each row alone through the whole model, however rows are put together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from rectool.errors import RectoolError
from rectool.llm import prefix, sharing
from rectool.llm.encode import hidden_states
from rectool.llm.reading import Reader
from rectool.prompts.tokens import TokenRows

CPU = torch.device("cpu")
ARCHITECTURES = ("llama", "qwen2", "qwen3", "mistral", "gpt2")

Loaded = Callable[..., Any]
Rows = Callable[..., Any]
Slow = Callable[..., Tensor]


def encode(model: Any, tokens: TokenRows, **options: Any) -> Tensor:
    found = torch.full((len(tokens), 32), torch.nan)
    for places, states in hidden_states(model, tokens, device=CPU, **options):
        assert torch.isnan(found[places]).all()
        found[torch.from_numpy(places)] = states
    return found


@pytest.mark.parametrize("how", ["bare", "live", "merged"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_row_is_as_if_alone(
    loaded: Loaded, adapted: Loaded, prompts_of_groups: Rows, one_by_one: Slow, architecture: str, how: str
) -> None:
    tokens, groups = prompts_of_groups([1, 2, 3, 7, 20], [30, 1, 25, 12, 24], rest=14)
    model = loaded(architecture, tied=architecture == "qwen3")
    bare = one_by_one(model, tokens)
    if how != "bare":
        model = adapted(model)
        assert (one_by_one(model, tokens) - bare).abs().max() > 0.1, "the adapter does something"
    expected = one_by_one(model, tokens)
    if how == "merged":
        model = model.merge_and_unload()
    for options in ({}, {"groups": groups}, {"groups": np.zeros_like(groups)}):
        for budget in (16, 200, None):
            found = encode(model, tokens, budget=budget, **options)
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_rows_share_references_as_they_share_ids(
    loaded: Loaded,
    adapted: Loaded,
    prompts_of_groups: Rows,
    with_references: Rows,
    one_by_one: Slow,
    vectors: Tensor,
    architecture: str,
) -> None:
    tokens, groups = prompts_of_groups([1, 2, 3, 7, 9], [30, 1, 25, 12, 24], rest=14)
    soft = with_references(tokens, 5)
    model = adapted(loaded(architecture))
    expected = one_by_one(model, soft, soft=vectors).detach()
    clusters = [sharing.find(rows, groups) for rows in (soft, tokens)]
    found, plain = (sorted(zip(np.diff(each.bounds), each.prefixes, strict=True)) for each in clusters)
    assert found == plain
    assert sum((rows - 1) * prefix for rows, prefix in plain) > 100
    for options in ({}, {"groups": groups}, {"groups": np.zeros_like(groups)}):
        for table in (vectors, lambda references: vectors[references]):
            found = encode(model, soft, soft=table, budget=200, **options)
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("layer", [0, 1])
def test_layers_of_rows_with_references(
    loaded: Loaded, prompts_of_groups: Rows, with_references: Rows, one_by_one: Slow, vectors: Tensor, layer: int
) -> None:
    tokens, groups = prompts_of_groups([3, 7], [20, 12])
    soft = with_references(tokens, 5)
    model = loaded("qwen2")
    expected = one_by_one(model, soft, layer, vectors).detach()
    for options in ({}, {"groups": groups}):
        found = encode(model, soft, soft=vectors, layer=layer, **options)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_many_references_exist_a_batch_at_a_time(loaded: Loaded, token_rows: Rows) -> None:
    tokens = token_rows([[3, -1 - row, 4, 5] for row in range(100)])
    asked: list[list[int]] = []

    def made(references: Any) -> Tensor:
        asked.append(references.tolist())
        return torch.zeros(len(references), 32)

    encode(loaded("llama"), tokens, soft=made, budget=40)
    assert [len(some) for some in asked] == [10] * 10
    assert sorted(reference for some in asked for reference in some) == list(range(100))


def test_references_without_vectors(loaded: Loaded, token_rows: Rows) -> None:
    with pytest.raises(ValueError, match="rows refer to vectors, but none are given"):
        encode(loaded("llama"), token_rows([[3, -1, 4]]))


def test_what_is_shared_is_encoded_once(
    loaded: Loaded, prompts_of_groups: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens, groups = prompts_of_groups([10, 10], [40, 30], rest=5)
    seen: list[int] = []
    model = loaded("llama")
    model.model.embed_tokens.register_forward_hook(lambda layer, inputs, output: seen.append(inputs[0].numel()))
    encode(model, tokens)
    plain = sum(seen)
    seen.clear()
    encode(model, tokens, groups=groups)
    assert plain >= len(tokens.ids) > 700
    assert sum(seen) < 300


def test_prefixes_of_one_length_need_no_mask(loaded: Loaded, prompts_of_groups: Rows, one_by_one: Slow) -> None:
    tokens, groups = prompts_of_groups([4, 5, 6], [20, 20, 20])
    masks: list[Tensor | None] = []
    model = loaded("llama")
    expected = one_by_one(model, tokens)
    forward = model.model.forward

    def watched(*arguments: Any, **named: Any) -> Any:
        masks.append(named.get("attention_mask"))
        return forward(*arguments, **named)

    model.model.forward = watched
    torch.testing.assert_close(encode(model, tokens, groups=groups, budget=4000), expected, atol=1e-5, rtol=0)
    assert masks[-1] is None


@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_layer_is_that_of_hugging_face(
    loaded: Loaded, prompts_of_groups: Rows, one_by_one: Slow, architecture: str, layer: int
) -> None:
    tokens, groups = prompts_of_groups([5, 9], [20, 30])
    model = loaded(architecture)
    expected = one_by_one(model, tokens, layer)
    for options in ({}, {"groups": groups}):
        torch.testing.assert_close(encode(model, tokens, layer=layer, **options), expected, atol=1e-5, rtol=0)


def test_no_such_layer(loaded: Loaded, token_rows: Rows) -> None:
    for layer in (-1, 3):
        with pytest.raises(RectoolError, match=f"--layer {layer}: the model has layers 0 .the embeddings. to 2"):
            encode(loaded("llama"), token_rows([[3, 4]]), layer=layer)


@pytest.mark.parametrize("length", [16, 34])
@pytest.mark.parametrize("architecture", ["mistral", "qwen2"])
def test_a_window_shorter_than_the_prompts(
    loaded: Loaded, prompts_of_groups: Rows, one_by_one: Slow, architecture: str, length: int
) -> None:
    window: dict[str, Any] = {"sliding_window": length}
    if architecture == "qwen2":
        window |= {"use_sliding_window": True, "max_window_layers": 1}
    tokens, groups = prompts_of_groups([5, 9], [20, 30])
    model = loaded(architecture, **window)
    assert not prefix.can_share(Reader(model), int(tokens.lengths.max()), CPU)
    assert prefix.can_share(Reader(model), 8, CPU)
    torch.testing.assert_close(encode(model, tokens, groups=groups), one_by_one(model, tokens), atol=1e-5, rtol=0)


def test_a_window_that_would_count_the_hole(loaded: Loaded, token_rows: Rows, one_by_one: Slow) -> None:
    """A short prefix before a long rest, beside a long prefix: places are further apart than positions."""
    chance = np.random.default_rng(0)
    rows = [[*range(100, 140), *chance.integers(3, 800, 5).tolist()] for _ in range(3)]
    rows += [[*range(200, 216), *chance.integers(3, 800, 28).tolist()] for _ in range(3)]
    tokens = token_rows(rows)
    model = loaded("mistral", sliding_window=46)
    found = encode(model, tokens, groups=np.zeros(6, np.int64), budget=4000)
    torch.testing.assert_close(found, one_by_one(model, tokens), atol=1e-5, rtol=0)


def test_a_window_longer_than_the_prompts(loaded: Loaded, prompts_of_groups: Rows, one_by_one: Slow) -> None:
    tokens, groups = prompts_of_groups([5, 9], [20, 30])
    model = loaded("mistral", sliding_window=2 * int(tokens.lengths.max()))
    assert prefix.can_share(Reader(model), int(tokens.lengths.max()), CPU)
    torch.testing.assert_close(encode(model, tokens, groups=groups), one_by_one(model, tokens), atol=1e-5, rtol=0)


def test_a_model_that_cannot_share_is_read_plainly(
    loaded: Loaded, prompts_of_groups: Rows, one_by_one: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens, groups = prompts_of_groups([5, 9], [20, 30])
    model = loaded("llama")
    expected = one_by_one(model, tokens)
    forward = model.model.forward

    def without_positions(*arguments: Any, **named: Any) -> Any:
        return forward(*arguments, **{**named, "position_ids": None})

    monkeypatch.setattr(model.model, "forward", without_positions)
    assert not prefix.can_share(Reader(model), 40, CPU)
    torch.testing.assert_close(encode(model, tokens, groups=groups), expected, atol=1e-5, rtol=0)


def test_alibi_counts_positions_its_own_way(prompts_of_groups: Rows, one_by_one: Slow) -> None:
    from transformers import BloomConfig, BloomForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = BloomConfig(vocab_size=824, hidden_size=32, n_layer=2, n_head=4, initializer_range=0.15)
        model: PreTrainedModel = BloomForCausalLM(config).eval()
    tokens, groups = prompts_of_groups([5, 9], [20, 30])
    torch.testing.assert_close(encode(model, tokens, groups=groups), one_by_one(model, tokens), atol=1e-5, rtol=0)


def test_gpt2_up_to_its_last_position(loaded: Loaded, prompts_of_groups: Rows, one_by_one: Slow) -> None:
    tokens, groups = prompts_of_groups([4, 6], [52, 40], rest=12)
    model = loaded("gpt2", max_position_embeddings=int(tokens.lengths.max()))
    torch.testing.assert_close(encode(model, tokens, groups=groups), one_by_one(model, tokens), atol=1e-5, rtol=0)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_prompt_longer_than_the_context(loaded: Loaded, token_rows: Rows, architecture: str) -> None:
    model = loaded(architecture, max_position_embeddings=16)
    with pytest.raises(RectoolError, match=r"has 17 tokens, but the model reads 16 at most; .*--max-tokens 16"):
        encode(model, token_rows([[3], [4] * 17]))


def test_a_prompt_without_tokens(loaded: Loaded, token_rows: Rows) -> None:
    with pytest.raises(RectoolError, match="prompt 1 has no token"):
        encode(loaded("llama"), token_rows([[3], []]))


def test_no_rows(loaded: Loaded, token_rows: Rows) -> None:
    assert encode(loaded("llama"), token_rows([])).shape == (0, 32)
    assert encode(loaded("llama"), token_rows([]), groups=np.empty(0, np.int64)).shape == (0, 32)


def test_progress_counts_rows(loaded: Loaded, prompts_of_groups: Rows) -> None:
    tokens, groups = prompts_of_groups([5, 9, 1], [20, 30, 2])
    told: list[int] = []
    encode(loaded("llama"), tokens, groups=groups, progress=told.append)
    assert sum(told) == 15


def test_the_model_stays_in_its_mode_and_keeps_no_gradient(loaded: Loaded, adapted: Loaded, token_rows: Rows) -> None:
    model = adapted(loaded("llama")).train()
    for _, states in hidden_states(model, token_rows([[3, 4, 5]] * 2), device=CPU):
        assert model.training
        assert not states.requires_grad
    assert model.training


class OutOfMemory:
    """A model's forward that fails on more than `most` tokens."""

    def __init__(self, forward: Callable[..., Any], most: int) -> None:
        self.forward, self.most, self.failed = forward, most, 0

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        if named["input_ids"].numel() > self.most:
            self.failed += 1
            raise torch.OutOfMemoryError
        return self.forward(*arguments, **named)


def test_running_out_of_memory_halves_the_budget(loaded: Loaded, prompts_of_groups: Rows, one_by_one: Slow) -> None:
    tokens, groups = prompts_of_groups([12, 9, 3], [20, 30, 25])
    model = loaded("llama")
    expected = one_by_one(model, tokens)
    model.model.forward = limited = OutOfMemory(model.model.forward, 60)
    for options in ({}, {"groups": groups}):
        torch.testing.assert_close(encode(model, tokens, budget=1000, **options), expected, atol=1e-5, rtol=0)
    assert 0 < limited.failed < 20
    limited.most = 10
    for options in ({}, {"groups": groups}):
        with pytest.raises(RectoolError, match="cpu has no memory for a single prompt; lower --max-tokens"):
            encode(model, tokens, budget=1000, **options)
