"""RecBole's SASRec with cross-entropy, trained by its own trainer.

python with_recbole.py LOG.npz CE SECONDS THREADS
"""

from __future__ import annotations

import logging
import sys
import tempfile
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from clock import Clock, Over
from recbole.config import Config
from recbole.data import create_dataset
from recbole.data.dataloader import TrainDataLoader
from recbole.model.sequential_recommender import SASRec
from recbole.trainer import Trainer

SETTINGS = {
    "USER_ID_FIELD": "user_id",
    "ITEM_ID_FIELD": "item_id",
    "TIME_FIELD": "timestamp",
    "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
    "MAX_ITEM_LIST_LENGTH": 50,
    "n_layers": 2,
    "n_heads": 2,
    "hidden_size": 64,
    "inner_size": 64,
    "hidden_dropout_prob": 0.2,
    "attn_dropout_prob": 0.2,
    "train_neg_sample_args": None,
    "learning_rate": 1e-3,
    "eval_args": {"split": {"RS": [1, 0, 0]}, "order": "TO", "group_by": "user", "mode": "full"},
    "use_gpu": False,
    "show_progress": False,
    "state": "ERROR",
}


def main() -> None:
    path, loss, seconds, threads = sys.argv[1:5]
    torch.set_num_threads(int(threads))
    log = np.load(path)
    clock = Clock(float(seconds))

    class Timed(SASRec):
        def calculate_loss(self, interaction: object) -> torch.Tensor:
            clock.step(len(interaction))
            return super().calculate_loss(interaction)

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "log").mkdir()
        with (Path(folder) / "log/log.inter").open("w") as file:
            file.write("user_id:token\titem_id:token\ttimestamp:float\n")
            rows = zip(log["user"], log["item"], range(len(log["user"])), strict=True)
            file.writelines(f"{user}\t{item}\t{at}\n" for user, item, at in rows)
        settings = {**SETTINGS, "data_path": folder, "checkpoint_dir": folder, "loss_type": loss}
        config = Config(model="SASRec", dataset="log", config_dict=settings)
        torch.set_num_threads(int(threads))
        dataset = create_dataset(config)
        train = dataset.build()[0]
        batches = TrainDataLoader(config, train, None, shuffle=True)
        Trainer(config, Timed(config, train)).fit(batches, None, verbose=False, saved=False, show_progress=False)


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    logging.disable(logging.ERROR)
    with suppress(Over):
        main()
