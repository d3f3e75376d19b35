"""The settings of tuning a language model: what each flag means, and its checks. Nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias

from rectool.errors import RectoolError
from rectool.llm.mask_plan import MaskPlan
from rectool.models.table import Task
from rectool.settings import flag_name, setting
from rectool.training.settings import Fit, at_least

Checkpointing = Literal["auto", "on", "off"]
Packing = Literal["auto", "on", "off"]
Head: TypeAlias = Literal["item", "title"]
ItemHeadStart: TypeAlias = Literal["random", "semantic", "tied"]

TITLE_METRIC = "loss"
"""Of the tokens of titles, for models that write them: what ranking by them says costs so many tokens of writing."""


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
class Asking:
    """What the language model is asked, by which head it answers, and which tokens see which."""

    panel: ClassVar[str] = "Objective"

    task: Task | None = setting(None, help="Rate labelled rows or predict the next item; ctr where rows have labels.")
    item_head: ItemHeadStart | None = setting(
        None,
        help="Next item: what the keys of items start from, chance (default) or --semantic; tied: a trained projection "
        "of it, which ranks items of no train row too.",
    )
    head_learning_rate: float | None = setting(None, metavar="RATE", help="That of the item head; by default the same.")
    mask: str | None = setting(
        None,
        metavar="PLAN",
        help="Which tokens see which, from the bottom layer up: causal, or kinds of layers such as "
        "in:8,or:*,cr:2 (HatLLM), of in, or, cr, cr-pre, cr-last and isolate; * takes the rest. By default as before, "
        "else causal.",
    )
    compress_deep: bool = setting(
        False,
        help="Make layers cr cr-last, where nobody sees an item's tokens but the last: the others are left out there.",
    )

    def __post_init__(self) -> None:
        at_least(self, "head_learning_rate", 0)
        MaskPlan.parse(self.mask or "causal")
        if self.task == "ctr":
            self.refuse_item_flags()

    def plan(self, usual: str = "causal") -> MaskPlan:
        """Which tokens see which; `usual` where nothing was said.

        Raises:
            RectoolError: it is no plan, or has no deep layers that tokens can be left out of.
        """
        plan = MaskPlan.parse(self.mask or usual)
        return plan.compressed() if self.compress_deep else plan

    def refuse_item_flags(self) -> None:
        """Raises RectoolError that names the first flag of the other task's head that was given."""
        for name in ("head", "item_head", "head_learning_rate"):
            value: Any = getattr(self, name, None)
            if value is not None:
                raise RectoolError(
                    f"{flag_name(name)} {value} is for --task next-item; rows that have a label are rated by two words"
                )


@dataclass(frozen=True, kw_only=True)
class Predicting(Asking):
    """What a language model is tuned to do."""

    head: Head | None = setting(
        None,
        help="Next item: item (default) scores the whole catalogue from the last hidden state, title writes the title.",
    )
    semantic: Path | None = setting(
        None, metavar="DIR", recorded=False, help="Embeddings of rectool distill or adopt, for --item-head."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.head == "title":
            for name in ("item_head", "head_learning_rate"):
                if getattr(self, name) is not None:
                    raise RectoolError(f"{flag_name(name)} means nothing to --head title, which writes with the model")
        refuse_unmatched(self.item_head, self.semantic)


def refuse_unmatched(start: ItemHeadStart | None, semantic: Path | None) -> None:
    """Raises RectoolError where an item head needs semantic embeddings that are not there, or has no use for some."""
    if start in ("semantic", "tied") and semantic is None:
        raise RectoolError(f"--item-head {start} needs --semantic, the embeddings of rectool distill or adopt")
    if start not in ("semantic", "tied") and semantic is not None:
        raise RectoolError("--semantic is what an item head starts from: add --item-head semantic or tied")


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

    def metric_of(self, task: Task, *, writes: bool) -> str:
        """The metric that early stopping follows.

        Args:
            writes: of a model that writes titles `TITLE_METRIC` can be followed, and is by default.

        Raises:
            RectoolError: validation does not measure the one that was asked for.
        """
        return TITLE_METRIC if writes and self.metric in (None, TITLE_METRIC) else self.metric_for(task)
