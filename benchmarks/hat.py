"""What masks by layer cost, and what dropping and isolating items' tokens save: ways in turn, in one process.

    python benchmarks/hat.py
    python benchmarks/hat.py --only train,read --repeats 3
    python benchmarks/hat.py --device cuda --dtype bfloat16 --batch 64

A random Llama (hidden 256, 8 layers, vocabulary 32,000) reads made-up next-item prompts: 40 tokens that all have, ten
titles of 4 to 16 tokens with quotation marks between them, 8 tokens at the end; titles are drawn from a catalogue with
popularity. "train" is a step of LoRA (rank 8, queries and values) with the cross-entropy over 20,000 items, "read" the
hidden states of rows. The smallest CPU time of all repeats counts, on a GPU the smallest wall time; ratios are printed,
beside them what the floating-point operations say, and how far results differ. "isolate" reads --isolated rows, the
whole way only as many as "read" does: it takes as long for each row, however many there are.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from peers.llama import HIDDEN, LAYERS, VOCABULARY, llama, lora
from torch import Tensor

from rectool.llm.body import last_hidden, on
from rectool.llm.compress import compressed, dropped_from
from rectool.llm.encode import hidden_states
from rectool.llm.mask_plan import CAUSAL, MaskPlan
from rectool.llm.masks import mask_inputs, masked, spans_of
from rectool.llm.reading import Budget, Reader, default_budget, in_batches
from rectool.prompts.tokens import TokenRows, bounds
from rectool.training.losses import catalogue_loss

BEGINNING, TITLES, END, ITEMS = 40, 10, 8, 20_000
INNER = 688
HAT = "in:2,or:*,cr:2"
SHALLOW_AND_DEEP = ("in:2,or:*,cr:2", "in:2,or:*,cr:4", "cr:*")
ISOLATED = ("in:7,or:1", "in:6,cr:2", "in:6,or:2", "in:2,or:*,cr:2")

Way = Callable[[], Tensor]


def prompts(rows: int, catalogue: int = 2000) -> TokenRows:
    """Prompts (rows,) of ten titles each, with spans."""
    random = np.random.default_rng(0)
    titles = [random.integers(3, VOCABULARY, length) for length in random.integers(4, 17, catalogue)]
    popularity = 1 / np.arange(10, catalogue + 10)
    beginning, end = random.integers(3, VOCABULARY, BEGINNING), random.integers(3, VOCABULARY, END)
    ids, spans = [], []
    for items in random.choice(catalogue, (rows, TITLES), p=popularity / popularity.sum()):
        row = [beginning]
        for item in items:
            row.append(np.array([5, 6]))  # a comma and quotation marks
            start = sum(map(len, row))
            row.append(titles[item])
            spans.append((start, start + len(titles[item]), item))
        ids.append(np.concatenate([*row, end]))
    lengths = np.array([len(row) for row in ids])
    places = np.array(spans, np.int32)
    return TokenRows(np.concatenate(ids).astype(np.int32), bounds(lengths), places, bounds(np.full(rows, TITLES)))


class Bench:
    """The model and the rows that all ways have."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.device, self.repeats = torch.device(arguments.device), arguments.repeats
        self.rows, self.isolated, self.batch = arguments.rows, arguments.isolated, arguments.batch
        self.tokens = prompts(max(self.rows, self.isolated))
        self.dtype = getattr(torch, arguments.dtype)
        self.model = lora(llama().to(self.device, self.dtype))
        masked(self.model)
        self.keys = torch.randn(ITEMS, HIDDEN, device=self.device).div_(HIDDEN**0.5).requires_grad_()
        self.random = np.random.default_rng(1)
        self.samples = self.random.permutation(self.rows)[: self.batch]
        self.targets = torch.from_numpy(self.random.integers(0, ITEMS, self.batch)).to(self.device)

    def step(self, plan: MaskPlan, whole: bool = False) -> Tensor:
        """A step's loss, its gradients computed; `whole`: all tokens in all layers."""
        model, device = self.model.train(), self.device
        torch.manual_seed(0)
        ids, lengths = on(device, *self.tokens.padded(self.samples))
        context: Any = nullcontext({})
        if not plan.is_causal:
            kinds, spans = plan.layers(LAYERS), spans_of(self.tokens, self.samples, ids.shape[1], device)
            context = nullcontext(mask_inputs(kinds, spans)) if whole else compressed(model, kinds, spans, lengths)
        with context as masks:
            hidden = last_hidden(model, ids, lengths, masks=masks)
        loss = catalogue_loss(hidden.float(), self.keys, self.targets)
        loss.backward()
        model.zero_grad(set_to_none=True)
        self.keys.grad = None
        return loss.detach()[None, None]

    def masks(self, plan: MaskPlan) -> Tensor:
        """What is done for masks in a step, and nothing else."""
        width = int(self.tokens.lengths[self.samples].max())
        masks = mask_inputs(plan.layers(LAYERS), spans_of(self.tokens, self.samples, width, self.device))
        return torch.zeros(1, 1) + len(masks)

    def read(self, plan: MaskPlan, whole: bool = False, rows: int | None = None) -> Tensor:
        """(N, H) the states of the first rows; `whole`: all tokens in all layers."""
        tokens = self.tokens.take(np.arange(rows or self.rows))
        model = self.model.eval()
        batches = hidden_states(model, tokens, device=self.device, mask=plan)
        if whole:
            reader = Reader(model, mask=plan)
            room = Budget(default_budget(reader.config, reader.dtype, self.device), self.device)

            def hidden(places: np.ndarray) -> Tensor:
                ids, lengths = on(self.device, *tokens.padded(places))
                masks = mask_inputs(reader.kinds, spans_of(tokens, places, ids.shape[1], self.device))
                with torch.no_grad():
                    return last_hidden(model, ids, lengths, masks=masks)

            batches = in_batches(np.arange(len(tokens)), tokens.lengths, hidden, room)
        found = torch.empty(len(tokens), HIDDEN, dtype=self.dtype, device=self.device)
        for places, states in batches:
            found[torch.from_numpy(places)] = states
        return found

    def compare(self, title: str, ways: dict[str, Way], flops: Sequence[float] = ()) -> dict[str, float]:
        """The best seconds of each way, by row of its result, and what that is against the first; ways take turns."""
        best, results = dict.fromkeys(ways, float("inf")), {}
        for _ in range(self.repeats):
            for name, way in ways.items():
                begun = self.now()
                results[name] = way().float()
                best[name] = min(best[name], (self.now() - begun) / len(results[name]))
        first, *others = ways
        print(f"\n{title}\n  {first:40} {1000 * best[first]:>8.2f} ms")
        for number, name in enumerate(others):
            ratio = f"{best[name] / best[first]:.3f} x ({best[first] / best[name]:.2f} x as fast)"
            said = f"   operations say {flops[number]:.3f}" if flops else ""
            shared = min(len(results[first]), len(results[name]))
            differs = (results[name][:shared] - results[first][:shared]).abs().max()
            print(f"  {name:40} {1000 * best[name]:>8.2f} ms   {ratio}{said}   differs {differs:.0e}", flush=True)
        return best

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time()


def operations(tokens: TokenRows, rows: Sequence[int] | np.ndarray, plan: MaskPlan) -> float:
    """Multiplications and additions of the layers for some rows, each without padding, tokens dropped as planned."""
    assert tokens.spans is not None
    lengths = tokens.lengths[rows].astype(float)
    titles = (tokens.spans[:, 1] - tokens.spans[:, 0]).reshape(-1, TITLES).sum(1)[rows]
    kept = lengths - titles + TITLES
    deep = LAYERS - dropped_from(plan.layers(LAYERS))
    weights = 4 * HIDDEN**2 + 3 * HIDDEN * INNER
    return sum(
        float((count * (2 * weights * size + 4 * HIDDEN * size**2)).sum())
        for count, size in ((LAYERS - deep, lengths), (deep, kept))
    )


def train(bench: Bench) -> None:
    hat = MaskPlan(HAT)
    ways = {"causal": partial(bench.step, CAUSAL), HAT: partial(bench.step, hat), "masks": partial(bench.masks, hat)}
    best = bench.compare(f"a training step of {bench.batch} prompts", ways)
    print(f"  its masks are {100 * best['masks'] / best[HAT]:.2f}% of the step")


def read(bench: Bench) -> None:
    bench.compare("reading, of a prompt", {name: partial(bench.read, MaskPlan(name)) for name in ("causal", HAT)})


def compress(bench: Bench) -> None:
    for text in SHALLOW_AND_DEEP:
        plan = MaskPlan(text).compressed()
        for name, work, rows in (
            ("training", bench.step, bench.samples),
            ("reading", bench.read, np.arange(bench.rows)),
        ):
            ways = {"whole": partial(work, plan, True), "dropped": partial(work, plan)}
            says = operations(bench.tokens, rows, plan) / operations(bench.tokens, rows, CAUSAL)
            bench.compare(f"--compress-deep, {plan.text}, {name}", ways, [says])


def isolate(bench: Bench) -> None:
    spans = bench.tokens.spans
    assert spans is not None
    print(f"\n{bench.isolated} prompts to isolate, {len(np.unique(spans[: bench.isolated * TITLES, 2]))} titles")
    for text in ISOLATED:
        plan = MaskPlan(text).isolated()
        deep = [plan.compressed()] if "cr" in text else []
        ways = {"whole": partial(bench.read, plan, True)}
        ways |= {f"isolated, {each.text}": partial(bench.read, each, rows=bench.isolated) for each in (plan, *deep)}
        bench.compare(f"--isolate-items, {plan.text}, of a prompt", ways)


PARTS = {"train": train, "read": read, "compress": compress, "isolate": isolate}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--rows", type=int, default=128, help="prompts to read")
    parser.add_argument("--isolated", type=int, default=2048, help="prompts to read with --isolate-items")
    parser.add_argument("--batch", type=int, default=16, help="prompts of a training step")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    bench = Bench(arguments)
    lengths = bench.tokens.lengths
    print(f"torch {torch.__version__}, {arguments.threads} thread(s), best of {arguments.repeats}")
    print(f"{len(lengths)} prompts of {lengths.min()} to {lengths.max()} tokens, mean {lengths.mean():.0f}")
    for name in arguments.only.split(","):
        if name not in PARTS:
            parser.error(f"--only {name} is none of {', '.join(PARTS)}")
        PARTS[name](bench)


if __name__ == "__main__":
    main()
