"""The settings of `rectool distill`: what each flag means, and its checks. Nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, TypeAlias

from rectool.errors import RectoolError
from rectool.settings import setting

Pooling: TypeAlias = Literal["last", "mean", "cls"]


@dataclass(frozen=True, kw_only=True)
class Pooled:
    """What an item's embedding is."""

    panel: ClassVar[str] = "Embeddings"

    pooling: Pooling = setting(
        "last",
        help="last: the hidden state that predicts what comes after the prompt (causal models); mean: of all its "
        "tokens; cls: that of the first token (encoders such as BERT, E5, BGE).",
    )
    layer: int | None = setting(
        None, metavar="N", help="Read after this many layers, 0 for the embeddings; by default the model's output."
    )
    dtype: Literal["fp32", "fp16"] = setting("fp32", help="Of the file.")
    normalise: bool = setting(False, help="Scale every embedding to length 1.")

    def __post_init__(self) -> None:
        if self.layer is not None and self.layer < 0:
            raise RectoolError(f"--layer {self.layer} must not be negative; 0 is the embeddings")


@dataclass(frozen=True, kw_only=True)
class Source:
    """The model that reads the items."""

    panel: ClassVar[str] = "Model"

    llm: str | None = setting(
        None,
        metavar="NAME|DIR",
        recorded=False,
        help="A language model or an encoder: a name on the Hugging Face hub, a folder, or what prep backbone made. "
        "With --adapter: where the one lies that it was tuned from.",
    )
    revision: str | None = setting(
        None, metavar="NAME", recorded=False, help="Branch, tag or commit of a model of the hub."
    )
    adapter: Path | None = setting(
        None, metavar="DIR", recorded=False, help="Read with this tuned model, made by rectool tune-lora."
    )

    def __post_init__(self) -> None:
        if self.llm is None and self.adapter is None:
            raise RectoolError("name a model: --llm NAME, or --adapter DIR for one that has been tuned")
        if self.revision is not None and (self.llm is None or self.adapter is not None):
            raise RectoolError("--revision is of a model of the hub that is read as it is; name it with --llm alone")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Where embeddings are computed."""

    panel: ClassVar[str] = "Resources"

    device: str = setting("auto", metavar="NAME", recorded=False, help="auto, cpu, cuda or cuda:1.")
    precision: Literal["auto", "fp32", "fp16", "bf16"] = setting(
        "auto", help="auto: bf16 on a GPU that has it, fp16 on others, fp32 on a CPU."
    )
    quantize: Literal["none", "4bit"] = setting(
        "none", help="4bit: keep weights in four bits; needs a GPU, and rectool's extra quant (bitsandbytes)."
    )
    batch_tokens: int | None = setting(
        None, metavar="N", recorded=False, help="Tokens that are encoded together, padding included."
    )

    def __post_init__(self) -> None:
        if self.batch_tokens is not None and self.batch_tokens < 1:
            raise RectoolError(f"--batch-tokens {self.batch_tokens} must be at least 1")
