"""Work and training as the shared flags of a command that can be resumed say."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rectool.artifacts import Draft
from rectool.artifacts.shards import Work
from rectool.commands.options import Resumable, Train

if TYPE_CHECKING:
    import torch

    from rectool.training.run import Run


def work_of(make: Resumable, draft: Draft) -> Work:
    """Work whose shards lie in the draft."""
    return Work(
        draft.checkpoints,
        resumed=draft.resumed,
        save_seconds=60 * make.checkpoint_minutes,
        max_seconds=make.max_seconds(),
    )


def run_of(make: Train, draft: Draft, device: torch.device) -> Run:
    """A run of the training loop whose checkpoints lie in the draft."""
    from rectool.training.checkpoint import Checkpoints
    from rectool.training.run import Run

    return Run(
        seed=make.seed,
        device=device,
        checkpoints=Checkpoints(draft.checkpoints, make.keep),
        resumed=draft.resumed,
        max_seconds=make.max_seconds(),
        checkpoint_seconds=60 * make.checkpoint_minutes,
    )
