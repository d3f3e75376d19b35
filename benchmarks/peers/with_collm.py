"""A step of tuning collaborative tokens as CoLLM's code makes it: full graph, all logits, padded to the longest.

python with_collm.py PROMPTS.npz SECONDS THREADS

The language model is frozen, yet the whole prompt goes through it with gradients on; its head makes logits of the
vocabulary at every position, as it does for labels, and the answer's is read off. Batches are drawn at random.
"""

from __future__ import annotations

import itertools
import sys
from contextlib import suppress
from pathlib import Path

import torch
from clock import Clock, Over
from llama import YES, llama, projection, read
from torch.nn.functional import binary_cross_entropy_with_logits
from transformers import LlamaForCausalLM

BATCH, IGNORED = 16, -100


def collate(samples: list[tuple[torch.Tensor, float]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Token ids with soft ones below 0, mask, place of the last token, and label."""
    longest = max(len(ids) for ids, _ in samples)
    ids, mask = torch.zeros(2, len(samples), longest, dtype=torch.int64)
    for row, (prompt, _) in enumerate(samples):
        ids[row, : len(prompt)] = prompt
        mask[row, : len(prompt)] = 1
    return ids, mask, mask.sum(1) - 1, torch.tensor([label for _, label in samples])


def summed_loss(
    model: LlamaForCausalLM, table: torch.Tensor, projector: torch.nn.Module, samples: list[tuple[torch.Tensor, float]]
) -> torch.Tensor:
    ids, mask, last, labels = collate(samples)
    inputs = model.get_input_embeddings()(ids.clamp(min=0))
    soft = ids < 0
    inputs[soft] = projector(table[-1 - ids[soft]])
    logits = model(inputs_embeds=inputs, attention_mask=mask).logits  # (B, L, V)
    answers = logits[torch.arange(len(ids)), last, YES]
    return binary_cross_entropy_with_logits(answers, labels, reduction="sum")


def main() -> None:
    path, seconds, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    prompts, labels = read(Path(path))
    samples = [(torch.from_numpy(prompt).long(), float(label)) for prompt, label in zip(prompts, labels, strict=True)]
    model = llama().requires_grad_(False).eval()
    table, projector = projection()
    optimizer = torch.optim.AdamW(projector.parameters(), lr=1e-4)
    loader = torch.utils.data.DataLoader(samples, BATCH, shuffle=True, drop_last=True, collate_fn=list)
    clock = Clock(float(seconds))
    with suppress(Over):
        for _ in itertools.count():
            for batch in loader:
                clock.step(len(batch))
                optimizer.zero_grad()
                (summed_loss(model, table, projector, batch) / len(batch)).backward()
                optimizer.step()


if __name__ == "__main__":
    main()
