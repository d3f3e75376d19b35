"""The flags of prompts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from rectool.errors import RectoolError
from rectool.settings import setting

LONGEST = 1024
"""Tokens of the longest prompt, unless --max-tokens says otherwise."""


@dataclass(frozen=True, kw_only=True)
class Prompting:
    """What a prompt says, and how long it may be."""

    panel: ClassVar[str] = "Prompt"

    prompt: str | None = setting(
        None, metavar="NAME|FILE", help="A prompt that comes with rectool, or a file of your own (docs/prompts.md)."
    )
    history: int = setting(10, metavar="N", help="Most recent titles in the prompt, oldest first.")
    noun: str = setting("items", metavar="WORD", help="What the prompt calls items, such as movies.")
    max_tokens: int | None = setting(
        None,
        metavar="N",
        help="Longest prompt: the oldest titles of a longer one are left out. By default what the model takes, "
        f"but {LONGEST} at most.",
    )
    chat_template: Literal["auto", "off"] = setting(
        "auto", help="Write prompts as a message to a chat model where the model has a template for it, or never."
    )

    def __post_init__(self) -> None:
        if self.history < 0:
            raise RectoolError(f"--history {self.history} must be at least 0")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise RectoolError(f"--max-tokens {self.max_tokens} must be at least 1")
        if not self.noun.strip() or not self.noun.isprintable():
            raise RectoolError(f"--noun {self.noun!r} is no word")
