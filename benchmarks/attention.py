"""Attention under HatLLM's masks: SDPA with a mask, as rectool has it, against FlexAttention, compiled.

    python benchmarks/attention.py
    python benchmarks/attention.py --device cuda --dtype float16 --batch 128 --heads 24 --width 128

Prompts are those of benchmarks/hat.py. Queries, keys and values are random; what is timed is one layer's attention:
forward and, where FlexAttention has it, backward, then what a batch's masks of both kinds cost before its layers run.
The smallest wall time of all repeats counts; compiling is told apart from it. Results must agree, or it ends.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from hat import prompts
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention

from rectool.llm.mask_plan import MaskKind
from rectool.llm.masks import Spans, allowed, spans_of

KINDS: tuple[MaskKind, ...] = ("in", "cr")
WORST = {"float32": 1e-5, "bfloat16": 2e-2, "float16": 3e-3}


def block_mask(kind: MaskKind, spans: Spans) -> Any:
    """The mask of `allowed` as FlexAttention takes it: a rule, and which blocks of 128 tokens it leaves empty."""
    item, last = spans.item, spans.last

    def sees(row: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        free = (item[row, query] < 0) | (item[row, key] < 0)
        if kind == "in":
            related = free | (item[row, query] == item[row, key])
        else:
            related = free | (last[row, query] & last[row, key]) | (query == key)
        return (key <= query) & related

    rows, length = item.shape
    return create_block_mask(sees, rows, None, length, length, device=str(item.device))


class Bench:
    def __init__(self, arguments: argparse.Namespace) -> None:
        self.device, self.repeats = torch.device(arguments.device), arguments.repeats
        tokens, rows = prompts(arguments.batch), np.arange(arguments.batch)
        self.length = int(tokens.lengths.max())
        self.spans = spans_of(tokens, rows, self.length, self.device)
        torch.manual_seed(0)
        shape = (arguments.batch, arguments.heads, self.length, arguments.width)
        dtype = getattr(torch, arguments.dtype)
        self.parts = [torch.randn(shape, device=self.device, dtype=dtype) for _ in range(3)]
        for part in self.parts:
            part.requires_grad_(self.has_backward)
        self.flex = torch.compile(flex_attention, dynamic=False)
        self.worst = WORST[arguments.dtype]

    @property
    def has_backward(self) -> bool:
        """Whether FlexAttention has a backward here: not on a CPU."""
        return self.device.type == "cuda"

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def compare(self, title: str, ways: dict[str, Callable[[], Tensor | None]]) -> None:
        """Ways in turn, the first of which is what the others are measured against."""
        first = next(iter(ways))
        results, warmed = {}, {}
        for name, way in ways.items():
            begun = self.now()
            results[name] = way()
            warmed[name] = self.now() - begun
        best = dict.fromkeys(ways, float("inf"))
        for _ in range(self.repeats):
            for name, way in ways.items():
                begun = self.now()
                way()
                best[name] = min(best[name], self.now() - begun)
        print(f"\n{title}")
        for name in ways:
            said = f"  {name:34} {1000 * best[name]:>9.2f} ms   {best[name] / best[first]:.2f} x"
            if "flex" in name:
                said += f"   the first time {warmed[name]:.1f} s"
            print(said, flush=True)
        exact = results["sdpa, mask"]
        for name, result in results.items():
            if exact is not None and result is not None and "causal" not in name:
                differs = float((result - exact).abs().max())
                if not differs <= self.worst:
                    raise SystemExit(f"{title}: {name} differs by {differs}")

    def forward(self, backward: bool) -> None:
        def attended(way: Callable[[], Tensor]) -> Tensor:
            if not backward:
                with torch.no_grad():
                    return way()
            gradients = torch.autograd.grad(way().square().sum(), self.parts)
            return torch.cat([gradient.flatten() for gradient in gradients]) / 10  # of the size of what is attended

        for kind in KINDS:
            mask, blocks = allowed(kind, self.spans), block_mask(kind, self.spans)
            self.compare(
                f"{kind}, {'forward and backward' if backward else 'forward'}; "
                f"{100 * float(mask.float().mean()):.0f}% of pairs seen",
                {
                    "sdpa, causal": lambda: attended(lambda: scaled_dot_product_attention(*self.parts, is_causal=True)),
                    "sdpa, mask": lambda mask=mask: attended(
                        lambda: scaled_dot_product_attention(*self.parts, attn_mask=mask)
                    ),
                    "flex, compiled": lambda blocks=blocks: attended(lambda: self.flex(*self.parts, block_mask=blocks)),
                },
            )

    def masks(self) -> None:
        def built(make: Callable[[MaskKind, Spans], Any]) -> None:
            for kind in KINDS:
                make(kind, self.spans)

        ways = {"sdpa, mask": lambda: built(allowed), "flex": lambda: built(block_mask)}
        self.compare(f"the masks {' and '.join(KINDS)} of a batch", ways)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16, help="prompts")
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--width", type=int, default=32, help="of a head")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=WORST)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    bench = Bench(arguments)
    print(f"torch {torch.__version__}, {arguments.threads} thread(s), {arguments.batch} prompts, {bench.length} tokens")
    bench.forward(backward=False)
    if bench.has_backward:
        bench.forward(backward=True)
    bench.masks()


if __name__ == "__main__":
    main()
