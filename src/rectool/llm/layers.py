"""The layers of a model's body, and other tokens in some of them than in those before.

Shapes: B rows   L tokens before a change   K tokens after it   H hidden size   W width of a head
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from rectool.llm.body import body_of, causal_of
from rectool.llm.masks import KEYWORD

Rotary = tuple[Tensor, Tensor]
"""Cosines and sines of positions, both (B or 1, L, W)."""
Inputs = tuple[tuple[Any, ...], dict[str, Any]]


def layers_of(model: nn.Module) -> nn.ModuleList:
    """The layers that a model's body runs one after the other, live adapters included."""
    depth = causal_of(model).config.get_text_config(decoder=True).num_hidden_layers
    lists = (part for part in body_of(model).modules() if isinstance(part, nn.ModuleList))
    return next(part for part in lists if len(part) == depth)


@dataclass(frozen=True)
class Chosen:
    """Some tokens of each row, in their order.

    Attributes:
        places: (B, K) where they stand; a row that has fewer than others is filled up with tokens not chosen.
        stands: (B, L) where each token is among those chosen; of another token anything.
    """

    places: Tensor
    stands: Tensor

    @staticmethod
    def of(keep: Tensor) -> Chosen:
        """The tokens that a mask (B, L) bool keeps."""
        places = torch.argsort(keep.logical_not().byte(), dim=1, stable=True)[:, : int(keep.sum(1).max())]
        return Chosen(places, (keep.cumsum(1) - 1).clamp(min=0))

    def of_states(self, states: Tensor) -> Tensor:
        """(B, K, H) of states (B, L, H) of all tokens."""
        return _gathered(states, self.places)

    def of_rotary(self, rotary: Rotary) -> Rotary:
        cosines, sines = (_gathered(part.expand(len(self.places), -1, -1), self.places) for part in rotary)
        return cosines, sines

    def of_mask(self, mask: Tensor) -> Tensor:
        """(B, 1, K, K) of a mask (B or 1, 1, L, L) between all tokens; what a row is filled up with is not seen."""
        row = torch.arange(len(self.places), device=mask.device).clamp(max=len(mask) - 1)[:, None, None]
        return mask[row, 0, self.places[:, :, None], self.places[:, None, :]].tril()[:, None]

    def back(self, states: Tensor) -> Tensor:
        """(B, L, H) of states (B, K, H)."""
        return _gathered(states, self.stands)


def _gathered(states: Tensor, places: Tensor) -> Tensor:
    return states.gather(1, places[..., None].expand(-1, -1, states.shape[2]))


@dataclass(frozen=True)
class Change:
    """Other tokens stand in a batch from some layer on.

    Attributes:
        layer: the first layer that has them.
        states: (B, L, H) of the tokens before -> (B, K, H).
        rotary: the same for what rotates them; asked only where the model has rotary positions.
        mask: of a layer and what the body gives it as `attention_mask`: None for causal, or (B or 1, 1, L, L) bool ->
            the same for these tokens. The layer has no other mask.
    """

    layer: int
    states: Callable[[Tensor], Tensor]
    rotary: Callable[[Rotary], Rotary]
    mask: Callable[[int, Tensor | None], Tensor | None]


@contextmanager
def changing(
    model: nn.Module, changes: Sequence[Change], back: Callable[[Tensor], Tensor] | None = None
) -> Iterator[None]:
    """Within, the body's layers have the tokens that `changes`, in the order of their layers, give them.

    A layer that is run again for its gradient has them too: hooks stand outside of checkpointing.

    Args:
        back: changes what the last layer gives: for a body that wants as many tokens as it was given.
    """
    layers, hooks = layers_of(model), _Hooks(changes)
    with ExitStack() as added:
        for number in range(changes[0].layer, len(layers)):
            hook = hooks.of(number, layers[number])
            added.callback(layers[number].register_forward_pre_hook(hook, with_kwargs=True).remove)
        if back is not None:
            added.callback(layers[-1].register_forward_hook(lambda layer, inputs, states: back(states)).remove)
        yield


def runs_hooks_again(model: nn.Module) -> bool:
    """Whether checkpointing is on and runs a layer's hooks once more when they are gone: transformers before 5.23."""
    inside = "__call__" in vars(GradientCheckpointingLayer)
    return inside and any(getattr(part, "gradient_checkpointing", False) for part in model.modules())


class _Hooks:
    """What stands before each layer; remembers, from the first change on, what rotates the tokens."""

    def __init__(self, changes: Sequence[Change]) -> None:
        self._changes = changes
        self._rotary: Rotary | None = None

    def of(self, number: int, layer: nn.Module) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], Inputs]:
        index, change = [pair for pair in enumerate(self._changes) if pair[1].layer <= number][-1]
        parameters = list(inspect.signature(layer.forward).parameters)

        def before(layer: nn.Module, positional: tuple[Any, ...], named: dict[str, Any]) -> Inputs:
            names = parameters[: len(positional)]
            inputs = dict(zip(names, positional, strict=True)) | named
            if number == change.layer:
                inputs["hidden_states"] = change.states(inputs["hidden_states"])
                given = inputs.get("position_embeddings") if index == 0 else self._rotary
                self._rotary = None if given is None else change.rotary(given)
            if self._rotary is not None:
                inputs["position_embeddings"] = self._rotary
            inputs |= {name: None for name in ("position_ids", KEYWORD) if name in inputs}
            inputs["attention_mask"] = change.mask(number, inputs.get("attention_mask"))
            return tuple(inputs.pop(name) for name in names), inputs

        return before
