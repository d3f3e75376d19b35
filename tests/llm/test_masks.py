"""Masks by layer: each kind, each architecture, against the formula token by token in float64."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache, MambaConfig, MambaForCausalLM

from rectool.errors import RectoolError
from rectool.llm.body import body_of, can_pack, causal_of, last_hidden, on, pack, packed_last_hidden, read_inputs
from rectool.llm.encode import hidden_states
from rectool.llm.mask_plan import KINDS, MaskKind, MaskPlan
from rectool.llm.masks import KEYWORD, Spans, allowed, mask_inputs, masked, packed_spans, spans_of
from rectool.prompts.tokens import TokenRows, bounds
from rectool.training.asking import compute_twice

CPU = torch.device("cpu")
ARCHITECTURES = ("llama", "qwen2", "qwen3", "mistral", "gpt2")

Loaded = Callable[..., Any]


def rows_with_spans(count: int = 5, seed: int = 0) -> TokenRows:
    """Rows of random tokens with 0 to 5 items of 1 to 4 tokens, some side by side, some the same item again."""
    chance = np.random.default_rng(seed)
    ids: list[list[int]] = []
    spans: list[list[list[int]]] = []
    for row in range(count):
        tokens, found = chance.integers(3, 800, 3).tolist(), []
        for item in chance.integers(0, 3, row % 6):
            title = [10 + 20 * int(item) + place for place in range(chance.integers(1, 5))]
            found.append([len(tokens), len(tokens) + len(title), int(item)])
            tokens += title + chance.integers(3, 800, chance.integers(0, 3)).tolist()
        ids.append(tokens + chance.integers(3, 800, 2).tolist())
        spans.append(found)
    return TokenRows(
        np.concatenate([np.array(row, np.int32) for row in ids]),
        bounds(np.array([len(row) for row in ids])),
        np.array([span for row in spans for span in row], np.int32).reshape(-1, 3),
        bounds(np.array([len(row) for row in spans])),
    )


def sees(kind: MaskKind, spans: Sequence[Sequence[int]], j: int, k: int, window: int | None = None) -> bool:
    """Whether token j of one row sees token k: the paper's equations, word by word."""
    of = {token: number for number, (first, last, _) in enumerate(spans) for token in range(first, last)}
    lasts = {last - 1 for _, last, _ in spans}
    same = j in of and k in of and of[j] == of[k]
    both = j in of and k in of
    forbidden = {
        "or": False,
        "in": both and not same,
        "cr": j != k and both and (j not in lasts or k not in lasts),
        "cr-pre": j != k and both and same,
        "cr-last": j != k and k in of and k not in lasts,
        "isolate": (j in of or k in of) and j != k and not same,
    }[kind]
    return k <= j and not forbidden and (window is None or j - k < window)


def spans_by_row(tokens: TokenRows) -> list[list[list[int]]]:
    assert tokens.spans is not None
    assert tokens.span_offsets is not None
    pairs = zip(tokens.span_offsets[:-1], tokens.span_offsets[1:], strict=True)
    return [tokens.spans[start:stop].tolist() for start, stop in pairs]


class Naive:
    """One row at a time through a float64 model whose attention is a loop over what each token sees."""

    def __init__(self, layers: Sequence[MaskKind], window: int | None = None) -> None:
        self.layers, self.window = layers, window
        self.spans: list[list[int]] = []
        AttentionInterface.register("naive", self.attend)
        AttentionMaskInterface.register("naive", lambda **_: None)

    def attend(self, module: Any, query: Tensor, key: Tensor, value: Tensor, _: Any, **options: Any) -> Any:
        assert len(query) == 1
        groups = query.shape[1] // key.shape[1]
        kind = self.layers[module.layer_idx]
        output = []
        for j in range(query.shape[2]):
            seen = [k for k in range(j + 1) if sees(kind, self.spans, j, k, self.window)]
            heads = []
            for head in range(query.shape[1]):
                keys, values = (states[0, head // groups, seen] for states in (key, value))
                weights = (keys @ query[0, head, j] * query.shape[-1] ** -0.5).softmax(0)
                heads.append(weights @ values)
            output.append(torch.stack(heads))
        return torch.stack(output)[None], None

    def states(self, model: Any, tokens: TokenRows, soft: Tensor | None = None) -> list[list[Tensor]]:
        """Of each row, of each layer (L, H), the embeddings first."""
        model = model.double()
        causal_of(model).set_attn_implementation("naive")
        found = []
        for row, spans in enumerate(spans_by_row(tokens)):
            self.spans = spans
            (ids,) = on(CPU, tokens.padded(np.array([row]))[0])
            inputs = read_inputs(model, ids, soft)
            states = body_of(model)(**inputs, use_cache=False, output_hidden_states=True).hidden_states
            found.append([layer[0] for layer in states])
        return found


def gradients(model: Any, states: Tensor, vectors: Tensor | None = None) -> dict[str, Tensor]:
    model.zero_grad()
    if vectors is not None:
        vectors.grad = None
    (states * torch.linspace(-1, 1, states.shape[1])).square().sum().backward()
    found = {name: part.grad.float().clone() for name, part in model.named_parameters() if part.grad is not None}
    return found | ({} if vectors is None or vectors.grad is None else {"vectors": vectors.grad})


def of_depth(loaded: Loaded, architecture: str, depth: int, **options: Any) -> Any:
    return loaded(architecture, **{"n_layer" if architecture == "gpt2" else "num_hidden_layers": depth}, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_its_formula(kind: MaskKind) -> None:
    tokens = rows_with_spans(8)
    width = int(tokens.lengths.max()) + 2
    mask = allowed(kind, spans_of(tokens, np.arange(8), width, CPU))
    assert mask.shape == (8, 1, width, width)
    for row, spans in enumerate(spans_by_row(tokens)):
        expected = [[sees(kind, spans, j, k) for k in range(width)] for j in range(width)]
        assert mask[row, 0].tolist() == expected
    last = allowed(kind, spans_of(tokens, np.arange(8), width, CPU), queries=3)
    assert torch.equal(last, mask[:, :, -3:])


@pytest.mark.parametrize("kind", KINDS)
def test_packed_rows_see_themselves_alone(kind: MaskKind) -> None:
    tokens = rows_with_spans(6)
    places = np.array([4, 0, 5, 2])
    packed = pack(tokens, places, 2 * int(tokens.lengths.max()), CPU)
    assert len(packed.ids) < len(places)
    mask = allowed(kind, packed_spans(tokens, places, packed))[:, 0]
    assert mask.diagonal(dim1=1, dim2=2).all()
    expected = torch.zeros_like(mask)
    for row, line, end in zip(places, packed.lines, packed.ends, strict=True):
        length = int(tokens.lengths[row])
        mine = slice(int(end) - length + 1, int(end) + 1)
        spans = spans_by_row(tokens)[row]
        expected[line, mine, mine] = torch.tensor(
            [[sees(kind, spans, j, k) for k in range(length)] for j in range(length)]
        )
    real = torch.zeros(mask.shape[:2], dtype=torch.bool)
    for row, line, end in zip(places, packed.lines, packed.ends, strict=True):
        real[line, int(end) - int(tokens.lengths[row]) + 1 : int(end) + 1] = True
    assert torch.equal(mask[real], expected[real])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_layer_is_as_the_formula_says(loaded: Loaded, adapted: Loaded, architecture: str) -> None:
    tokens = rows_with_spans()
    expected = Naive(KINDS).states(adapted(of_depth(loaded, architecture, len(KINDS))), tokens)
    model = adapted(of_depth(loaded, architecture, len(KINDS)))
    masked(model)
    ids, lengths = on(CPU, *tokens.padded(np.arange(len(tokens))))
    inputs = mask_inputs(KINDS, spans_of(tokens, np.arange(len(tokens)), ids.shape[1], CPU))
    found = body_of(model)(input_ids=ids, use_cache=False, output_hidden_states=True, **inputs).hidden_states
    assert len(found) == len(KINDS) + 1
    causal = body_of(model)(input_ids=ids, use_cache=False).last_hidden_state
    for row, layers in enumerate(expected):
        length = int(lengths[row])
        for mine, slow in zip(found, layers, strict=True):
            torch.testing.assert_close(mine[row, :length].double(), slow, atol=1e-5, rtol=1e-5)
        if row:
            assert (causal[row, :length] - found[-1][row, :length]).abs().max() > 0.1


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gradients_padded_packed_and_checkpointed(
    loaded: Loaded, adapted: Loaded, with_references: Loaded, vectors: Tensor, architecture: str
) -> None:
    plain = rows_with_spans(6)
    tokens = TokenRows(with_references(plain, 5).ids, plain.offsets, plain.spans, plain.span_offsets)
    places = np.array([4, 0, 3, 5, 1, 2])
    slow = adapted(of_depth(loaded, architecture, len(KINDS)))
    states = Naive(KINDS).states(slow, tokens, vectors)
    last = torch.stack([states[row][-1][-1] for row in places])
    expected = gradients(slow, last, vectors)
    model = adapted(of_depth(loaded, architecture, len(KINDS)))
    masked(model)
    assert can_pack(model)

    def check(found: Tensor) -> None:
        torch.testing.assert_close(found.double(), last, atol=1e-5, rtol=1e-5)
        mine = gradients(model, found, vectors)
        assert mine.keys() == expected.keys()
        assert "vectors" in mine
        assert any("lora_A" in name for name in mine)
        for name, gradient in expected.items():
            torch.testing.assert_close(mine[name], gradient, atol=2e-4, rtol=2e-4)

    def padded() -> Tensor:
        ids, lengths = on(CPU, *tokens.padded(places))
        masks = mask_inputs(KINDS, spans_of(tokens, places, ids.shape[1], CPU))
        return last_hidden(model, ids, lengths, vectors, masks)

    def in_lines() -> Tensor:
        packed = pack(tokens, places, 40, CPU)
        assert len(packed.ids) < len(places)
        return packed_last_hidden(model, packed, vectors, mask_inputs(KINDS, packed_spans(tokens, places, packed)))

    check(padded())
    check(in_lines())
    compute_twice(model.base_model.model)
    model.train()
    for part in model.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    check(padded())
    check(in_lines())


@pytest.mark.parametrize("architecture", ["mistral", "qwen2"])
def test_a_sliding_window_stays(loaded: Loaded, architecture: str) -> None:
    window = 5
    options = {"sliding_window": window}
    if architecture == "qwen2":
        options |= {"use_sliding_window": True, "max_window_layers": 0}
    tokens = rows_with_spans(6)
    layers: tuple[MaskKind, ...] = ("in", "or", "cr")
    expected = Naive(layers, window).states(of_depth(loaded, architecture, 3, **options), tokens)
    last = torch.stack([layers[-1][-1] for layers in expected])
    model = of_depth(loaded, architecture, 3, **options)
    masked(model)
    places = np.arange(6)
    ids, lengths = on(CPU, *tokens.padded(places))
    masks = mask_inputs(layers, spans_of(tokens, places, ids.shape[1], CPU))
    torch.testing.assert_close(last_hidden(model, ids, lengths, masks=masks).double(), last, atol=1e-5, rtol=1e-5)
    packed = pack(tokens, places, 40, CPU)
    found = packed_last_hidden(model, packed, masks=mask_inputs(layers, packed_spans(tokens, places, packed)))
    torch.testing.assert_close(found.double(), last, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_half_precision(loaded: Loaded, architecture: str, dtype: torch.dtype) -> None:
    tokens = rows_with_spans(6)
    ids, lengths = on(CPU, *tokens.padded(np.arange(6)))
    masks = mask_inputs(KINDS, spans_of(tokens, np.arange(6), ids.shape[1], CPU))
    model = of_depth(loaded, architecture, len(KINDS))
    masked(model)
    whole = last_hidden(model, ids, lengths, masks=masks)
    causal = last_hidden(model, ids, lengths)
    found = last_hidden(model.to(dtype), ids, lengths, masks=masks)
    found.sum().backward()
    assert found.dtype == dtype
    assert all(part.grad.isfinite().all() for part in model.parameters() if part.grad is not None)
    error = (found.float() - whole)[1:].abs().mean()
    assert error < 0.2 * (causal - whole)[1:].abs().mean()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_going_on_from_a_cache(loaded: Loaded, architecture: str) -> None:
    tokens = rows_with_spans(6).take(np.array([5]))
    model = of_depth(loaded, architecture, len(KINDS))
    masked(model)
    (ids,) = on(CPU, tokens.padded(np.array([0]))[0])
    length, written = ids.shape[1], 3
    whole = torch.cat([ids, torch.tensor([[7, 30, 500]])], 1)
    body = body_of(model)
    spans = [spans_of(tokens, np.array([0]), length + more, CPU) for more in range(written + 1)]
    with torch.no_grad():
        expected = body(input_ids=whole, use_cache=False, **mask_inputs(KINDS, spans[written])).last_hidden_state
        cache = DynamicCache()
        body(input_ids=ids, past_key_values=cache, use_cache=True, **mask_inputs(KINDS, spans[0]))
        for step in range(written):
            found = body(
                input_ids=whole[:, length + step : length + step + 1],
                past_key_values=cache,
                use_cache=True,
                **mask_inputs(KINDS, spans[step + 1], queries=1),
            ).last_hidden_state
            torch.testing.assert_close(found[:, 0], expected[:, length + step], atol=1e-5, rtol=1e-5)


def test_padding_on_the_left(loaded: Loaded) -> None:
    tokens = rows_with_spans(6)
    model = of_depth(loaded, "llama", len(KINDS))
    masked(model)
    ids, lengths = on(CPU, *tokens.padded(np.arange(6)))
    width = ids.shape[1]
    right = spans_of(tokens, np.arange(6), width, CPU)
    expected = last_hidden(model, ids, lengths, masks=mask_inputs(KINDS, right))
    by = (width - lengths).tolist()
    item, last, ids = (
        torch.stack([row.roll(places) for row, places in zip(rows, by, strict=True)])
        for rows in (right.item, right.last, ids)
    )
    real = torch.arange(width) >= (width - lengths)[:, None]
    found = body_of(model)(
        input_ids=ids,
        attention_mask=real,
        position_ids=(real.cumsum(1) - 1).clamp(min=0),
        use_cache=False,
        **mask_inputs(KINDS, Spans(item, last)),
    ).last_hidden_state
    torch.testing.assert_close(found[:, -1], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("text", ["in:2,or:*,cr:2", "in:2,or:*,cr-last:2", "isolate:3,cr:*"])
@pytest.mark.parametrize("layer", [None, 5, 0])
def test_many_prompts(loaded: Loaded, text: str, layer: int | None) -> None:
    tokens = rows_with_spans(12)
    plan = MaskPlan(text)
    kinds = plan.layers(6)
    expected = Naive(kinds).states(of_depth(loaded, "llama", 6), tokens)
    found = torch.zeros(12, 32)
    states = hidden_states(
        of_depth(loaded, "llama", 6),
        tokens,
        device=CPU,
        budget=60,
        groups=np.zeros(12, np.int64),
        layer=layer,
        mask=plan,
    )
    for places, some in states:
        found[places] = some
    last = torch.stack([layers[-1 if layer is None else layer][-1] for layers in expected])
    torch.testing.assert_close(found.double(), last, atol=1e-5, rtol=1e-5)


def test_a_plan_of_another_depth_is_refused(loaded: Loaded) -> None:
    with pytest.raises(RectoolError, match="--mask in:1,cr:2 is for 3 layers, but the model has 2"):
        list(hidden_states(loaded("llama"), rows_with_spans(), device=CPU, mask=MaskPlan("in:1,cr:2")))


def test_rows_without_spans_cannot_be_masked(loaded: Loaded, token_rows: Loaded) -> None:
    with pytest.raises(ValueError, match="made without item spans"):
        list(hidden_states(loaded("llama"), token_rows([[3, 4]]), device=CPU, mask=MaskPlan("in:*")))


def test_without_masks_nothing_changes(loaded: Loaded, prompts_of_groups: Loaded) -> None:
    tokens, _ = prompts_of_groups([6], [3], rest=20)
    ids, lengths = on(CPU, *tokens.padded(np.arange(6)))
    for architecture in ("llama", "mistral"):
        model = loaded(architecture)
        before = last_hidden(model, ids, lengths)
        masked(model)
        assert torch.equal(last_hidden(model, ids, lengths), before)
    assert mask_inputs(("or", "or"), Spans(ids, ids > 0)) == {}


def test_a_kind_is_built_once() -> None:
    tokens = rows_with_spans()
    masks = mask_inputs(("in", "in", "or", "cr"), spans_of(tokens, np.arange(5), 40, CPU))[KEYWORD]
    assert masks[0] is masks[1]
    assert masks[2] is None
    assert masks[3] is not masks[0]


def test_a_model_that_was_not_prepared_is_not_asked(loaded: Loaded) -> None:
    tokens = rows_with_spans()
    ids, lengths = on(CPU, *tokens.padded(np.arange(5)))
    masks = mask_inputs(("in", "cr"), spans_of(tokens, np.arange(5), ids.shape[1], CPU))
    with pytest.raises(ValueError, match="has not been prepared for masks"):
        last_hidden(loaded("llama"), ids, lengths, masks=masks)


def test_the_preparation_is_not_saved(loaded: Loaded, tmp_path: Path) -> None:
    model = loaded("llama")
    masked(model)
    model.save_pretrained(tmp_path)
    assert "rectool" not in json.dumps(json.loads((tmp_path / "config.json").read_text()))


def test_a_recurrent_model_is_refused() -> None:
    torch.manual_seed(0)
    config = MambaConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2, state_size=4, initializer_range=0.3)
    model = MambaForCausalLM(config)
    before = model.config._attn_implementation
    with pytest.raises(RectoolError, match="mamba models do not go by masks; leave --mask causal"):
        masked(model)
    assert model.config._attn_implementation == before


def test_a_title_without_tokens_is_named() -> None:
    tokens = TokenRows(
        np.arange(10, dtype=np.int32),
        np.array([0, 4, 10]),
        np.array([[1, 3, 7], [1, 3, 5], [3, 3, 6], [3, 5, 8]], np.int32),
        np.array([0, 1, 4]),
    )
    spans_of(tokens, np.array([0]), 4, CPU)
    with pytest.raises(RectoolError, match=r"the title of 'Up' \(item 6\) has no token of its own in prompt 1"):
        spans_of(tokens, np.array([0, 1]), 6, CPU, names={6: "Up"}.__getitem__)
