"""Yes/no tuning as Alpaca-style scripts do it: Hugging Face Trainer, the answer as the label of the last token.

python with_trainer.py PROMPTS.npz longest|WIDTH SECONDS THREADS

The loss is the language model's, over the whole vocabulary; batches are drawn at random and padded to the
longest, or to a fixed width.
"""

from __future__ import annotations

import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from clock import Clock, Over
from llama import NO, YES, llama, lora, read
from transformers import Trainer, TrainingArguments

BATCH, IGNORED = 16, -100


class Samples(torch.utils.data.Dataset):
    def __init__(self, path: Path) -> None:
        self.prompts, self.labels = read(path)

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, place: int) -> tuple[torch.Tensor, int]:
        return torch.from_numpy(self.prompts[place]).long(), YES if self.labels[place] else NO


def collate(width: int | None) -> Any:
    def together(samples: list[tuple[torch.Tensor, int]]) -> dict[str, torch.Tensor]:
        longest = width or max(len(ids) for ids, _ in samples) + 1
        ids = torch.zeros(len(samples), longest, dtype=torch.int64)
        labels = torch.full_like(ids, IGNORED)
        mask = torch.zeros_like(ids)
        for row, (prompt, answer) in enumerate(samples):
            prompt = prompt[: longest - 1]
            ids[row, : len(prompt)] = prompt
            ids[row, len(prompt)] = labels[row, len(prompt)] = answer
            mask[row, : len(prompt) + 1] = 1
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}

    return together


def main() -> None:
    path, width, seconds, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    clock = Clock(float(seconds))

    class Timed(Trainer):
        def training_step(self, model: Any, inputs: Any, *rest: Any, **more: Any) -> torch.Tensor:
            clock.step(len(inputs["input_ids"]))
            return super().training_step(model, inputs, *rest, **more)

    with tempfile.TemporaryDirectory() as folder, suppress(Over):
        settings = TrainingArguments(
            folder,
            per_device_train_batch_size=BATCH,
            max_steps=10**6,
            learning_rate=1e-4,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
        )
        Timed(
            model=lora(llama()),
            args=settings,
            train_dataset=Samples(Path(path)),
            data_collator=collate(None if width == "longest" else int(width)),
        ).train()


if __name__ == "__main__":
    main()
