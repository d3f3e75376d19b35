"""The settings of soft tokens: what each flag means, and its checks. Nothing heavy is imported here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias, cast, get_args

from rectool.errors import RectoolError
from rectool.prompts.settings import Prompting
from rectool.settings import byte_count, flag_name, setting
from rectool.training.lora_settings import Asking, FitLanguage
from rectool.training.settings import at_least

Token: TypeAlias = Literal["user", "item", "warm", "history"]
Part: TypeAlias = Literal["projector", "cf", "semantic", "lora", "head"]
Activation: TypeAlias = Literal["relu", "gelu"]
Unknown: TypeAlias = Literal["trained", "mean"]

COLLABORATIVE: tuple[Token, ...] = ("user", "item", "history")
"""Tokens of a collaborative model's vectors; the others are of semantic ones."""
NEW = "new"
"""In place of an adapter: one that starts here."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """The language model that soft tokens are put into."""

    panel: ClassVar[str] = "Model"

    llm: str | None = setting(
        None,
        metavar="NAME|DIR",
        recorded=False,
        help="The language model: a name on the Hugging Face hub, a folder, or what prep backbone made; by default "
        "that of --adapter or --init-from.",
    )
    revision: str | None = setting(
        None, metavar="NAME", recorded=False, help="Branch, tag or commit of a model of the hub."
    )
    adapter: str | None = setting(
        None,
        metavar="DIR|new",
        recorded=False,
        help="What rectool tune-lora made of it; 'new' for adapters that start here, of --rank.",
    )
    init_from: Path | None = setting(
        None,
        metavar="DIR",
        recorded=False,
        help="What rectool train-proj made before: all of its parts and settings, unless others are named here.",
    )
    quantize: Literal["none", "4bit"] = setting(
        "none",
        help="4bit: keep its frozen weights in four bits; needs a GPU, and rectool's extra quant (bitsandbytes).",
    )

    def __post_init__(self) -> None:
        if self.llm is None and self.init_from is None and self.adapter in (None, NEW):
            raise RectoolError(
                "name a language model: --llm NAME|DIR, --adapter of rectool tune-lora, or --init-from of rectool "
                "train-proj"
            )
        if self.revision is not None and self.llm is None:
            raise RectoolError(f"--revision {self.revision} needs --llm, the model of the hub that it is of")


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Where the vectors come from that soft tokens are made of."""

    panel: ClassVar[str] = "Soft tokens"

    aligned: Path | None = setting(
        None,
        metavar="DIR",
        recorded=False,
        help="What rectool align made: cf, semantic and projector; beside --init-from those that it lacks.",
    )
    cf: Path | None = setting(
        None, metavar="DIR", recorded=False, help="A collaborative model, for user, item and history."
    )
    semantic: Path | None = setting(
        None, metavar="DIR", recorded=False, help="Embeddings of rectool distill or adopt, for warm or --item-head."
    )
    fresh_ids: int | None = setting(
        None, metavar="D", help="Embeddings of users and items of this width that start here (PersonPrompt)."
    )

    def __post_init__(self) -> None:
        at_least(self, "fresh_ids", 1)
        given = [name for name in ("aligned", "cf", "fresh_ids") if getattr(self, name) is not None]
        if len(given) > 1:
            first, second = (flag_name(name) for name in given[:2])
            raise RectoolError(f"{first} and {second} both say where vectors of users and items come from; give one")
        if self.aligned is not None and self.semantic is not None:
            raise RectoolError("--aligned has semantic embeddings of its own; leave --semantic out")


@dataclass(frozen=True, kw_only=True)
class SoftTokenSettings:
    """Which soft tokens there are, and how they are made; what is not given is that of `--init-from`, if any."""

    panel: ClassVar[str] = "Soft tokens"

    tokens: str | None = setting(
        None,
        metavar="NAMES",
        help="Which of user, item, warm and history, with commas; by default user,item, or history for the next item.",
    )
    tokens_per_id: int | None = setting(None, metavar="N", help="Tokens that a vector becomes; by default 1.")
    expansion: float | None = setting(
        None, metavar="X", help="Width of the projector's hidden layer, in widths of what comes in; by default 10."
    )
    activation: Activation | None = setting(
        None, help="Of the projector's hidden layer; by default relu (SASRecLLM, CoLLM), gelu is SeLLa-Rec's."
    )
    projector_start: Literal["aligned", "random"] | None = setting(
        None, help="What the projector starts from; by default that of --aligned where there is one."
    )
    biases: bool | None = setting(
        None,
        help="Tell the projector the collaborative model's biases, too, as one number more; by default its vectors "
        "alone, as the papers do.",
    )
    unknown: Unknown | None = setting(
        None, help="What stands for users and items of no train row: a trained vector (default), or the others' mean."
    )

    def __post_init__(self) -> None:
        at_least(self, "tokens_per_id", 1)
        if self.expansion is not None and not 0 < self.expansion < float("inf"):
            raise RectoolError(f"--expansion {self.expansion} must be above 0")
        names = self.names()
        if names is not None:
            object.__setattr__(self, "tokens", ",".join(names))  # one setting to --update, in whatever order

    def names(self) -> tuple[Token, ...] | None:
        """The tokens that were asked for, in the order of `Token`; None where it was left open."""
        if self.tokens is None:
            return None
        return cast(tuple[Token, ...], names_in("--tokens", self.tokens, get_args(Token)))


@dataclass(frozen=True, kw_only=True)
class InheritedPrompting:
    """What a prompt says, and how long it may be. What is not given is that of the parent, else a default."""

    panel: ClassVar[str] = "Prompt"

    prompt: str | None = setting(
        None,
        metavar="NAME|FILE",
        help="A prompt that comes with rectool, or a file of your own (docs/prompts.md); by default that of the "
        "parent if it has places for the tokens, else one that has.",
    )
    history: int | None = setting(
        None, metavar="N", help="Most recent titles in the prompt, oldest first; by default 10, or as before."
    )
    noun: str | None = setting(
        None, metavar="WORD", help="What the prompt calls items; by default items, or as before."
    )
    max_tokens: int | None = setting(
        None, metavar="N", help="Longest prompt: the oldest titles of a longer one are left out."
    )
    chat_template: Literal["auto", "off"] | None = setting(
        None, help="Write prompts as a message to a chat model where the model has a template for it, or never."
    )

    def __post_init__(self) -> None:
        self.over({})

    def over(self, record: Mapping[str, Any]) -> Prompting:
        """The flags of a prompt: those that were given, else what the record of a parent's prompts says."""
        before = {name: record[name] for name in ("history", "noun", "max_tokens") if name in record}
        if record:
            before["chat_template"] = "off" if record["frame"] is None else "auto"
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        return Prompting(**before | {name: value for name, value in given.items() if value is not None})


@dataclass(frozen=True, kw_only=True)
class Freezing(Asking):
    """What is trained, and on what; what is not given is that of the parent, if any."""

    train: str = setting(
        "projector",
        metavar="PARTS",
        help="Which of projector, cf, semantic, lora and head, with commas; all else stays as it is.",
    )
    mix: str = setting(
        "0",
        metavar="SHARE|linear",
        help="Share of rows whose prompt is text alone; linear: all at first, none at the end (LLaRA's curriculum).",
    )
    unknown_share: float | None = setting(
        None,
        metavar="SHARE",
        help="Share of rows that hide their user, and share that hide their item, so that the vectors of the unknown "
        "learn; by default 0.05.",
    )
    answer_loss: Literal["softmax", "yes-logit"] | None = setting(
        None,
        help="BCE on the softmax over the two answers, or on the raw logit of the first; by default as before.",
    )
    samples: int | None = setting(
        None, metavar="K", help="Train on so many of the train rows, chosen at random (few-shot tuning)."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, "samples", 1)
        if self.unknown_share is not None and not 0 <= self.unknown_share < 1:
            raise RectoolError(f"--unknown-share {self.unknown_share} must be from 0 to below 1")
        parts = self.parts()
        object.__setattr__(self, "train", ",".join(parts))  # one setting to --update, in whatever order
        self.text_share(0.0)
        if self.mixes and not {"lora", "head"} & set(parts):
            raise RectoolError(
                f"--mix {self.mix}: rows of text alone train nothing but adapters and an item head; add lora to --train"
            )

    def parts(self) -> tuple[Part, ...]:
        """What is trained, in the order of `Part`."""
        return cast(tuple[Part, ...], names_in("--train", self.train, get_args(Part)))

    @property
    def mixes(self) -> bool:
        """Whether some rows are of text alone."""
        return self.mix == "linear" or float(self.mix) > 0

    def text_share(self, progress: float) -> float:
        """The share of rows of text alone when a share `progress` of the steps is done."""
        if self.mix == "linear":
            return 1 - min(1.0, progress)
        try:
            share = float(self.mix)
        except ValueError:
            share = -1.0
        if not 0 <= share < 1:
            raise RectoolError(f"--mix {self.mix} is neither a share from 0 to below 1 nor linear")
        return share


@dataclass(frozen=True, kw_only=True)
class FitSoft(FitLanguage):
    """How long and how fast soft tokens are trained, and in what way; 0 epochs only put them together."""

    fewest_epochs: ClassVar[int] = 0

    learning_rate: float = setting(1e-3, metavar="RATE", help="Its highest value.")
    cf_learning_rate: float | None = setting(
        None, metavar="RATE", help="That of the collaborative model; by default the same."
    )
    cache_prefix: str = setting(
        "auto",
        metavar="auto|SIZE|off",
        recorded=False,
        help="Memory for the states before the first soft token, such as 2GB: kept for the next epoch where no step "
        "changes them. auto: a part of what is free.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, "cf_learning_rate", 0)
        self.cache_bytes()

    def cache_bytes(self) -> int | None:
        """`--cache-prefix` in bytes, None for what suits the device. Raises RectoolError for what is no size."""
        if self.cache_prefix in ("auto", "off"):
            return None if self.cache_prefix == "auto" else 0
        return byte_count(self.cache_prefix, "--cache-prefix", beside="auto or off")


def names_in(flag: str, text: str, known: tuple[str, ...]) -> tuple[str, ...]:
    """Names that are separated by commas, in the order of `known`.

    Raises:
        RectoolError: there is none, one is not known, or one stands twice.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise RectoolError(f"{flag} names nothing; choose from {', '.join(known)}")
    for name in names:
        if name not in known:
            raise RectoolError(f"{flag} {name} is none of {', '.join(known)}")
        if names.count(name) > 1:
            raise RectoolError(f"{flag} names {name} twice")
    return tuple(name for name in known if name in names)
