"""The settings of tuning a language model: what each flag means, and its checks. Nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar, Literal

from rectool.errors import RectoolError
from rectool.settings import flag_name, setting
from rectool.training.settings import Fit, at_least

Checkpointing = Literal["auto", "on", "off"]
Packing = Literal["auto", "on", "off"]


@dataclass(frozen=True, kw_only=True)
class Language:
    """The language model that is tuned."""

    panel: ClassVar[str] = "Model"

    llm: str = setting(
        metavar="NAME|DIR",
        recorded=False,
        help="A causal language model: a name on the Hugging Face hub, a folder, or what prep backbone made.",
    )
    revision: str | None = setting(
        None, metavar="NAME", recorded=False, help="Branch, tag or commit of a model of the hub."
    )
    quantize: Literal["none", "4bit"] = setting(
        "none",
        help="4bit: keep its frozen weights in four bits; needs a GPU, and rectool's extra quant (bitsandbytes).",
    )


@dataclass(frozen=True, kw_only=True)
class Adapters:
    """What low-rank adapters are like."""

    panel: ClassVar[str] = "Model"

    rank: int = setting(8, metavar="R", help="LoRA's r: width of the low-rank matrices.")
    alpha: float = setting(16.0, metavar="A", help="LoRA's alpha: what they add counts alpha / rank.")
    dropout: float = setting(0.05, metavar="P", help="Share of their inputs dropped in training.")
    target_modules: str | None = setting(
        None,
        metavar="NAMES",
        help="The linear layers that get them, such as q_proj,k_proj,v_proj; 'all' for all but the head. By default "
        "queries and values.",
    )

    def __post_init__(self) -> None:
        at_least(self, "rank", 1)
        if not 0 < self.alpha < float("inf"):
            raise RectoolError(f"--alpha {self.alpha} must be above 0")
        if not 0 <= self.dropout < 1:
            raise RectoolError(f"--dropout {self.dropout} must be from 0 to below 1")
        if self.target_modules is not None and not self.targets():
            raise RectoolError("--target-modules names nothing; give names such as q_proj,v_proj")

    def targets(self) -> tuple[str, ...]:
        """The names in `--target-modules`."""
        return tuple(name.strip() for name in (self.target_modules or "").split(",") if name.strip())

    def refuse_given(self, why: str) -> None:
        """Raises RectoolError that names the first of these flags that was given, as meaning nothing."""
        for field in fields(Adapters):
            if getattr(self, field.name) != field.default:
                raise RectoolError(f"{flag_name(field.name)} means nothing {why}")


@dataclass(frozen=True, kw_only=True)
class Lora(Adapters):
    """What of it is trained."""

    full: bool = setting(False, help="Train all weights of the model instead: for small models.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.full:
            self.refuse_given("with --full, which trains all weights")


@dataclass(frozen=True, kw_only=True)
class Answering:
    """What is minimised, and on which rows."""

    panel: ClassVar[str] = "Objective"

    answer_loss: Literal["softmax", "yes-logit"] = setting(
        "softmax", help="BCE on the softmax over the two answers, or on the raw logit of the first."
    )
    samples: int | None = setting(
        None, metavar="K", help="Train on so many of the train rows, chosen at random (few-shot tuning)."
    )

    def __post_init__(self) -> None:
        at_least(self, "samples", 1)


@dataclass(frozen=True, kw_only=True)
class FitLanguage(Fit):
    """How long and how fast a language model is trained, and in what way it is computed."""

    epochs: int = setting(3, metavar="N", help="Passes over the train rows, at most.")
    batch_size: int = setting(16, metavar="N", help="Rows per step and process.")
    optimizer: Literal["adam", "adamw"] = setting("adamw", help="adam couples weight decay to the gradient.")
    learning_rate: float = setting(2e-4, metavar="RATE", help="Its highest value.")
    warmup: float = setting(0.05, metavar="SHARE", help="Share of the steps in which the rate rises from 0.")
    schedule: Literal["constant", "cosine", "linear"] = setting("cosine", help="How the rate falls after that.")
    clip: float = setting(1.0, metavar="NORM", help="Largest norm of the gradient; 0 does not clip.")
    patience: int = setting(3, metavar="N", help="Validations without a better value before stopping; 0 never stops.")
    validate_rows: int | None = setting(5000, metavar="N", help="Validation rows, at most, chosen at random.")
    batch_tokens: int | None = setting(
        None,
        metavar="N",
        recorded=False,
        help="Tokens that are computed at a time; a step of more accumulates. By default what the device has room for.",
    )
    checkpointing: Checkpointing = setting(
        "auto",
        recorded=False,
        help="Compute activations twice instead of keeping them; auto: if memory asks for it.",
    )
    packing: Packing = setting(
        "auto", recorded=False, help="Several prompts in one line without padding; auto: where it pays."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, "batch_tokens", 1)
