"""The objective of yes/no prompts: cross-entropy of the answer, read off at the last token of each prompt."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rectool.llm.head import AnswerHead
from rectool.training import losses


class AnswerCriterion:
    """Each prompt has one answer, of which two rows of the output head make a score.

    Args:
        labels: (N,) 1 for the first answer, 0 for the second.
    """

    def __init__(self, head: AnswerHead, labels: NDArray[np.int8], device: torch.device) -> None:
        self.head, self.device = head, device
        self.labels = torch.from_numpy(labels.astype(np.float32))

    def __call__(self, hidden: Tensor, samples: NDArray[np.int64]) -> Tensor:
        labels = self.labels[torch.from_numpy(samples)].to(self.device)
        return losses.pointwise_bce(self.head.scores(hidden), labels)
