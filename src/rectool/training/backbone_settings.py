"""The settings of `prep backbone`: what each flag means, and its checks. Nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from rectool.errors import RectoolError
from rectool.settings import setting
from rectool.training.settings import Fit, at_least


@dataclass(frozen=True)
class Shape:
    """How large a model is.

    Attributes:
        vocabulary: tokens at most.
    """

    hidden: int
    layers: int
    heads: int
    vocabulary: int


SIZES = {"nano": Shape(128, 3, 4, 2048), "micro": Shape(256, 4, 4, 4096), "mini": Shape(384, 8, 6, 8192)}
CONTEXT = 1024
"""Tokens that such a model reads."""
SMALLEST_VOCABULARY = 512
"""256 bytes, three special tokens, and room for the words that must be one token."""


@dataclass(frozen=True, kw_only=True)
class Small:
    """How large the model is, and what it reads."""

    panel: ClassVar[str] = "Model"

    size: Literal["nano", "micro", "mini"] = setting(
        "nano", help="About 0.9, 5 or 20 million parameters: minutes, an hour, a night on two cores."
    )
    layers: int | None = setting(None, metavar="N", help="Layers; by default what the size has, which is 3, 4 or 8.")
    vocabulary: int | None = setting(None, metavar="N", help="Tokens at most; by default what the size is made for.")
    exercises: int = setting(
        30_000,
        metavar="N",
        help="Reading exercises beside the texts: which words stand in a list of titles, which titles are like it.",
    )
    prompt: str | None = setting(
        None,
        metavar="NAME|FILE",
        help="Word a part of the exercises like this prompt of task next-item, such as hatllm.",
    )
    noun: str = setting("items", metavar="WORD", help="What that prompt calls items, such as movies.")

    def __post_init__(self) -> None:
        at_least(self, "layers", 1)
        at_least(self, "vocabulary", SMALLEST_VOCABULARY)
        at_least(self, "exercises", 0)
        if self.prompt is None and self.noun != type(self).noun:
            raise RectoolError(f"--noun {self.noun} means nothing without --prompt")

    @property
    def shape(self) -> Shape:
        shape = SIZES[self.size]
        return shape if self.layers is None else replace(shape, layers=self.layers)


@dataclass(frozen=True, kw_only=True)
class Pretraining(Fit):
    """How long and how fast it is pretrained."""

    epochs: int = setting(1, metavar="N", help="Passes over the texts, at most.")
    batch_size: int = setting(1024, metavar="N", help="Tokens per step and process.")
    optimizer: Literal["adam", "adamw"] = setting("adamw", help="adam couples weight decay to the gradient.")
    beta2: float = setting(0.98, metavar="DECAY", help="How slowly Adam's mean of squared gradients forgets.")
    learning_rate: float = setting(2e-3, metavar="RATE", help="Its highest value.")
    warmup: float = setting(0.05, metavar="SHARE", help="Share of the steps in which the rate rises from 0.")
    schedule: Literal["constant", "cosine", "linear"] = setting("cosine", help="How the rate falls after that.")
    clip: float = setting(1.0, metavar="NORM", help="Largest norm of the gradient; 0 does not clip.")
    metric: str | None = setting(
        None, metavar="NAME", help="The loss of held-out texts, which is all that is measured."
    )
    patience: int = setting(3, metavar="N", help="Validations without a better value before stopping; 0 never stops.")
    validate_epochs: float = setting(0.25, metavar="N", help="Epochs between validations.")
    validate_rows: int | None = setting(500, metavar="N", help="Texts that are held out for validation, at most.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.metric not in (None, "loss"):
            raise RectoolError(f"--metric {self.metric} is not measured of a backbone, whose loss is; leave it out")
