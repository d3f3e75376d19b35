"""SASRec as one writes it in plain PyTorch: sequences of a fixed length, padded on the left.

python with_pytorch.py LOG.npz bce|softmax|products SECONDS THREADS
"""

from __future__ import annotations

import sys
from contextlib import suppress

import numpy as np
import torch
from clock import Clock, Over
from torch import Tensor, nn
from torch.nn import functional

WIDTH, LAYERS, HEADS, LENGTH, DROPOUT, BATCH = 64, 2, 2, 50, 0.2, 128


class SASRec(nn.Module):
    def __init__(self, items: int) -> None:
        super().__init__()
        self.item = nn.Embedding(items + 1, WIDTH, padding_idx=0)
        self.position = nn.Embedding(LENGTH, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, WIDTH, DROPOUT, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, LAYERS, nn.LayerNorm(WIDTH), enable_nested_tensor=False)
        self.dropout = nn.Dropout(DROPOUT)
        self.register_buffer("causal", nn.Transformer.generate_square_subsequent_mask(LENGTH))
        nn.init.normal_(self.item.weight, std=0.02)

    def forward(self, sequences: Tensor) -> Tensor:  # (B, L) -> (B, L, D)
        x = self.dropout(self.item(sequences) * WIDTH**0.5 + self.position.weight)
        return self.layers(x, mask=self.causal, is_causal=True)


def padded(log: dict[str, np.ndarray]) -> Tensor:
    """(U, L + 1) items from 1, the last of each user at the right end, 0 before them."""
    users, starts = np.unique(log["user"], return_index=True)
    place = np.arange(len(log["user"])) - np.repeat(starts, np.diff(np.append(starts, len(log["user"]))))
    counts = np.bincount(log["user"])
    table = np.zeros((len(users), LENGTH + 1), np.int64)
    table[log["user"], LENGTH + 1 - counts[log["user"]] + place] = log["item"] + 1
    return torch.from_numpy(table)


def loss_of(model: SASRec, items: int, loss: str, inputs: Tensor, targets: Tensor) -> Tensor:
    hidden = model(inputs)
    real = targets != 0
    if loss == "softmax":  # of real targets only: scores of padding would be seven parts in eight
        return functional.cross_entropy(hidden[real] @ model.item.weight.T, targets[real])
    negatives = torch.randint(1, items + 1, targets.shape)
    positive = (hidden * model.item(targets)).sum(-1)[real]
    negative = (hidden * model.item(negatives)).sum(-1)[real]
    return -(functional.logsigmoid(positive) + functional.logsigmoid(-negative)).mean()


def products(items: int, clock: Clock) -> None:
    """Nothing but the matrix products of a full softmax, forward and backward, over 1,024 targets."""
    queries, keys, scores = torch.randn(256, WIDTH), torch.randn(items, WIDTH), torch.empty(256, items)
    queries_gradient, keys_gradient = torch.empty_like(queries), torch.zeros_like(keys)
    while True:
        clock.step(1024)
        for _ in range(4):
            torch.mm(queries, keys.T, out=scores)
            torch.mm(scores, keys, out=queries_gradient)
            keys_gradient.addmm_(scores.T, queries)


def main() -> None:
    path, loss, seconds, threads = sys.argv[1:5]
    torch.set_num_threads(int(threads))
    torch.manual_seed(0)
    log = np.load(path)
    items = int(log["items"])
    clock = Clock(float(seconds))
    if loss == "products":
        products(items, clock)
    table = padded(log)
    model = SASRec(items)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    while True:
        for users in torch.randperm(len(table)).split(BATCH):
            batch = table[users]
            inputs, targets = batch[:, :-1], batch[:, 1:]
            targets = targets.where(inputs != 0, 0)  # a user's first item is no target
            clock.step(int((targets != 0).sum()))
            optimizer.zero_grad()
            loss_of(model, items, loss, inputs, targets).backward()
            optimizer.step()


if __name__ == "__main__":
    with suppress(Over):
        main()
