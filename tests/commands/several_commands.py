"""Run by test_several_processes.py in each of two processes: command lines, one after the other, for real.

`several_commands.py PLAN`; PLAN is a JSON file of names, and for each the words of a command line, a port where the
processes meet for it, and perhaps `stopped`: its time is up at once. What a process did is written beside it, to
NAME-RANK.json: exit code, what it said, and how many rows of shared work it computed.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import distributed

from rectool import cli, console, processes
from rectool.artifacts import shards
from rectool.commands.options import Resumable
from rectool.llm import pieces


def run(words: list[str], port: int) -> dict[str, Any]:
    """One command line."""
    os.environ["MASTER_PORT"] = str(port)
    sys.argv = ["rectool", *words]
    computed: list[int] = []
    real = shards._shared

    def counted(start: int, stop: int, compute: Callable[[int, int], shards.Arrays]) -> shards.Arrays:
        def own(first: int, last: int) -> shards.Arrays:
            computed.append(last - first)
            return compute(first, last)

        return real(start, stop, own)

    shards._shared = counted
    shown, said, code = io.StringIO(), io.StringIO(), None
    try:
        with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(said):
            console.configure(quiet=False, json=False)
            cli.main()
    except SystemExit as end:
        code = end.code
    finally:
        shards._shared = real
        part()
    return {"code": code, "shown": shown.getvalue(), "said": said.getvalue(), "rows": sum(computed)}


def part() -> None:
    """Forget the others, as the end of a process does."""
    if distributed.is_initialized():
        distributed.destroy_process_group()
    processes._shared = processes._Shared()


def main(plan: Path) -> None:
    processes.end = sys.exit  # type: ignore[assignment]
    pieces.OPERATIONS["cpu"], pieces.LEAST_TOKENS = 0, 400
    max_seconds = Resumable.max_seconds
    for name, line in json.loads(plan.read_text()).items():
        Resumable.max_seconds = (lambda make: 0.0) if line.get("stopped") else max_seconds
        outcome = run(line["words"], line["port"])
        plan.with_name(f"{name}-{os.environ['RANK']}.json").write_text(json.dumps(outcome))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    sys.stdout.flush()
    os._exit(0)
