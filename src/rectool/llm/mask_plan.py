"""Which tokens see which, layer by layer: the plan as it is written, such as `in:8,or:*,cr:2`.

HatLLM's masks in the order of its layers, and two of our own. See docs/language-models.md, "Masks".
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

from rectool.errors import RectoolError

MaskKind = Literal["in", "or", "cr", "cr-pre", "cr-last", "isolate"]
"""What a token does not see, beside what comes after it (`masks.allowed` has the formulas).

`in`: one of an item no other item. `or`: nothing. `cr`: one of an item no other of an item, unless both are the last
of theirs. `cr-pre`: one of an item no other of the same item. `cr-last`: none of an item but its last. `isolate`: one
of an item nothing but its own item, one of no item no item. The last two are ours, the others HatLLM's.
"""
KINDS: tuple[MaskKind, ...] = get_args(MaskKind)
EXAMPLE = "in:8,or:*,cr:2"


@dataclass(frozen=True)
class MaskPlan:
    """A mask for each layer of a model, the bottom one first.

    Attributes:
        text: "causal", or kinds with how many layers each takes, `*` for all that are left: `in:8,or:*,cr:2`.

    Raises:
        RectoolError: the text is no plan.
    """

    text: str

    def __post_init__(self) -> None:
        _ = self._parts

    @classmethod
    def parse(cls, text: str) -> MaskPlan:
        """The plan that a text says, white space and case aside.

        Raises:
            RectoolError: it is none; says how plans are written.
        """
        return cls("".join(text.split()).lower())

    @property
    def is_causal(self) -> bool:
        """Whether each token sees all before it in each layer, as without a plan."""
        return all(kind == "or" for kind, _ in self._parts)

    def layers(self, depth: int) -> tuple[MaskKind, ...]:
        """The kind of each of `depth` layers; a `*` may take none.

        Raises:
            RectoolError: the model has more layers than the plan, or fewer.
        """
        fixed = sum(count for _, count in self._parts if count is not None)
        has_rest = any(count is None for _, count in self._parts)
        if fixed > depth or (fixed < depth and not has_rest):
            advice = "take some away" if fixed > depth else "let one kind take the rest with a *"
            raise RectoolError(
                f"--mask {self.text} is for {fixed} layers{' or more' if has_rest else ''}, but the model has {depth}; "
                f"{advice}, as in {EXAMPLE}"
            )
        found: list[MaskKind] = []
        for kind, count in self._parts:
            found += [kind] * (depth - fixed if count is None else count)
        return tuple(found)

    def idle_on_top(self, depth: int) -> MaskKind | None:
        """The kind that has the top layer alone, where it changes nothing that is read; None where there is none.

        `in`, `cr` and `cr-pre` say what the tokens of items see. What these become in the top layer is read by nobody:
        answers come from a prompt's last token, which is of no item unless the prompt ends in one, and sees everything.
        """
        layers = self.layers(depth)
        alone = layers[-1] not in layers[-2:-1]
        return layers[-1] if alone and layers[-1] in ("in", "cr", "cr-pre") else None

    def compressed(self) -> MaskPlan:
        """This plan with `cr-last` for each `cr`, so that items' tokens but the last can be dropped above.

        Raises:
            RectoolError: its top layers are neither.
        """
        if self._parts[-1][0] not in ("cr", "cr-last"):
            raise RectoolError(
                f"--compress-deep drops items' tokens in cr layers at the top, but --mask {self.text} has none there; "
                f"take one such as {EXAMPLE}"
            )
        return self._with("cr", "cr-last")

    def isolated(self) -> MaskPlan:
        """This plan with `isolate` for each `in`, so that items' states in the layers below depend on nothing else.

        Raises:
            RectoolError: its bottom layers are neither.
        """
        if self._parts[0][0] not in ("in", "isolate"):
            raise RectoolError(
                f"--isolate-items isolates items in the layers at the bottom that are in layers, but --mask "
                f"{self.text} has none there; take one such as {EXAMPLE}"
            )
        return self._with("in", "isolate")

    def _with(self, old: MaskKind, new: MaskKind) -> MaskPlan:
        kinds = [(new if kind == old else kind, count) for kind, count in self._parts]
        return MaskPlan(",".join(f"{kind}:{'*' if count is None else count}" for kind, count in kinds))

    @cached_property
    def _parts(self) -> tuple[tuple[MaskKind, int | None], ...]:
        """Kinds and how many layers each has, None for the rest."""
        if self.text == "causal":
            return (("or", None),)
        parts = tuple(self._part(part) for part in self.text.split(","))
        if sum(count is None for _, count in parts) > 1:
            raise RectoolError(f"--mask {self.text} has more than one *, and only one kind can take the rest")
        return parts

    def _part(self, part: str) -> tuple[MaskKind, int | None]:
        name, _, count = part.partition(":")
        kind = next((kind for kind in KINDS if kind == name), None)
        is_number = count.isascii() and count.isdigit() and int(count) > 0
        if kind is None or not (count == "*" or is_number):
            wrong = (
                f"{name or part!r} is no kind of mask"
                if kind is None
                else f"{part} does not say how many layers (1, 2, ... or *)"
            )
            raise RectoolError(
                f"--mask {self.text}: {wrong}; write causal, or kinds with numbers of layers from the bottom up, such "
                f"as {EXAMPLE}; the kinds are {', '.join(KINDS)}"
            )
        return kind, None if count == "*" else int(count)


CAUSAL = MaskPlan("causal")
