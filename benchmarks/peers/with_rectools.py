"""RecTools' SASRec, trained by its own Lightning trainer.

python with_rectools.py LOG.npz BCE|softmax SECONDS THREADS
"""

from __future__ import annotations

import logging
import sys
import warnings
from contextlib import suppress

import numpy as np
import pandas as pd
import torch
from clock import Clock, Over
from pytorch_lightning import Trainer
from rectools.dataset import Dataset
from rectools.models import SASRecModel
from rectools.models.nn.transformers.lightning import TransformerLightningModule


def main() -> None:
    path, loss, seconds, threads = sys.argv[1:5]
    torch.set_num_threads(int(threads))
    log = np.load(path)
    frame = pd.DataFrame({"user_id": log["user"], "item_id": log["item"]})
    frame["datetime"] = pd.Timestamp("2020-01-01") + pd.to_timedelta(np.arange(len(frame)), "s")
    frame["weight"] = 1.0
    clock = Clock(float(seconds))

    class Timed(TransformerLightningModule):
        def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
            clock.step(int((batch["y"] != 0).sum()))
            return super().training_step(batch, batch_idx)

    def trainer() -> Trainer:
        return Trainer(
            max_epochs=1000,
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )

    model = SASRecModel(
        n_factors=64,
        n_blocks=2,
        n_heads=2,
        session_max_len=50,
        dropout_rate=0.2,
        loss=loss,
        n_negatives=1,
        lr=1e-3,
        batch_size=128,
        lightning_module_type=Timed,
        get_trainer_func=trainer,
    )
    model.fit(Dataset.construct(frame))


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    with suppress(Over):
        main()
