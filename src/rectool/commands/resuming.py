"""Work on rows as the shared flags of a command that can be resumed say."""

from __future__ import annotations

from rectool.artifacts import Draft
from rectool.artifacts.shards import Work
from rectool.commands.options import Resumable


def work_of(make: Resumable, draft: Draft) -> Work:
    """Work whose shards lie in the draft."""
    return Work(
        draft.checkpoints,
        resumed=draft.resumed,
        save_seconds=60 * make.checkpoint_minutes,
        max_seconds=make.max_seconds(),
    )
