"""Several processes that work together, started by `accelerate launch` or `torchrun`; or one, by itself.

The launcher says who is who in the environment (RANK, WORLD_SIZE). The main process decides and writes;
what it decides it tells through the store at which they met, so that no process waits for one that has
ended. Torch is imported only where there are several processes.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from rectool import console, launchers
from rectool.errors import RectoolError, Stopped

if TYPE_CHECKING:
    import torch
    from torch.distributed import Store  # type: ignore[attr-defined]

MEETING = timedelta(minutes=10)
"""How long a process waits for the others to come."""
PATIENCE = timedelta(minutes=30)
"""How long it waits for them in a common step before it takes them for dead."""
GRACE = timedelta(seconds=5)
"""How long a process that ends waits to hear from the others."""
BRIEFLY = timedelta(seconds=1)
"""How long the main process waits so before it takes the others to wait for it in a common step."""
PAUSE_SECONDS = 0.05
END, LEFT, FAILED = "end", "left", "failed"


class Ended(Exception):
    """The main process has ended, with this exit code."""

    def __init__(self, code: int) -> None:
        super().__init__(f"the main process has ended with code {code}")
        self.code = code


class _Shared:
    store: Store | None = None
    broadcasts: int = 0


_shared = _Shared()


def rank() -> int:
    """This process's number, 0 for the main one."""
    return launchers.number("RANK", 0) if world_size() > 1 else 0


def world_size() -> int:
    """How many processes there are."""
    return launchers.number("WORLD_SIZE", 1)


def is_main() -> bool:
    return rank() == 0


def start() -> None:
    """Meet the other processes; with one process, or a second time, do nothing.

    Raises:
        RectoolError: they do not come, or the launcher left something out.
    """
    if world_size() == 1 or _shared.store is not None:
        return
    if launchers.number("MASTER_PORT", 1) == 0:  # as older launchers hand on a port of 0, at which nobody ever meets
        raise RectoolError(
            "the launcher names port 0 for its processes to meet at: name a free one, such as --main_process_port "
            "29500, or for torchrun --standalone"
        )
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # the end of a process is told in one line, not in its stacks
    from concurrent.futures import ThreadPoolExecutor

    import torch
    from torch.distributed import PrefixStore  # type: ignore[attr-defined]

    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.set_device(launchers.number("LOCAL_RANK", rank()) % torch.cuda.device_count())
    else:
        _share_cores()
    try:
        # Torch heeds no signal while it waits for the others: it waits in a thread, and this one heeds them.
        store = ThreadPoolExecutor(1).submit(_meet, gpu).result()
    except (RuntimeError, ValueError) as problem:
        raise RectoolError(
            f"process {rank()} of {world_size()} did not meet the others: {problem}; "
            "start them with accelerate launch -m rectool, or torchrun"
        ) from problem
    _shared.store = PrefixStore("rectool", store)


def _meet(gpu: bool) -> Store:
    """Wait for the others, and form a group with them; the store at which they met."""
    from torch import distributed
    from torch.distributed import PrefixStore  # type: ignore[attr-defined]
    from torch.distributed.rendezvous import rendezvous

    met: tuple[Store, int, int] = next(rendezvous("env://", timeout=MEETING))
    store = met[0]
    store.set_timeout(PATIENCE)
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if gpu else "gloo",
        store=PrefixStore("group", store),
        rank=rank(),
        world_size=world_size(),
        timeout=PATIENCE,
    )
    return store


def _share_cores() -> None:
    """Compute with as many threads as the launcher says, or with this process's share of the cores."""
    import torch

    told, share = launchers.threads_told(), launchers.cores_each()
    if told is None:
        torch.set_num_threads(share)
    elif told < share and is_main():
        console.say(
            f"each process computes with OMP_NUM_THREADS={told} thread{'s' * (told > 1)}, where there are cores for "
            f"{share}: set OMP_NUM_THREADS={share} before the launcher to use them"
        )


def together(work: Callable[[], None], *, everywhere: bool) -> None:
    """Do work in the main process, and if `everywhere` in the others, too.

    The others end in here, with the exit code of the main one.
    """
    if world_size() == 1:
        if everywhere and launchers.left_alone():
            console.say(launchers.ALONE)
        work()
        return
    start()
    if is_main():
        _lead(work)
    else:
        _follow(work if everywhere else lambda: None)


def broadcast_json(value: Any = None) -> Any:
    """The main process's value, in all of them. It does not wait for the others, they wait for it.

    Raises:
        Ended: the main process has ended without it.
    """
    if _shared.store is None:
        return value
    _shared.broadcasts += 1
    key = f"broadcast {_shared.broadcasts}"
    if not is_main():
        return json.loads(_await(key))
    _shared.store.set(key, json.dumps(value))
    return value


def broadcast_tensors(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The main process's tensors on the CPU, in all of them; what the others give is ignored."""
    if _shared.store is None:
        return dict(tensors)
    import torch
    from torch import distributed

    shapes = {name: (list(tensor.shape), str(tensor.dtype)) for name, tensor in tensors.items()}
    received = {}
    for name, (shape, kind) in broadcast_json(shapes).items():
        dtype = getattr(torch, kind.removeprefix("torch."))
        tensor = tensors[name].contiguous() if is_main() else torch.empty(shape, dtype=dtype)
        with _others():
            distributed.broadcast(tensor.view(-1).view(torch.uint8), 0)
        received[name] = tensor
    return received


def all_reduce_sum(tensor: torch.Tensor) -> torch.Tensor:
    """The sum over all processes, in place; the same bits in each."""
    if _shared.store is not None:
        from torch import distributed

        with _others():
            distributed.all_reduce(tensor)
    return tensor


def all_gather_rows(tensor: torch.Tensor, counts: Sequence[int]) -> torch.Tensor:
    """The rows of all processes, in the order of their ranks.

    Args:
        tensor: this process's rows, (N, ...).
        counts: the number of rows of each process, by rank.

    Returns:
        (sum of counts, ...)
    """
    if len(counts) != world_size() or counts[rank()] != len(tensor):
        raise ValueError(f"{len(tensor)} rows in process {rank()}, but the counts are {list(counts)}")
    if _shared.store is None:
        return tensor
    import torch
    from torch import distributed

    with torch.inference_mode(False):  # older versions of torch do not write to what is made in it
        padded = tensor.new_zeros((max(counts), *tensor.shape[1:]))
        padded[: len(tensor)] = tensor
        parts = [torch.empty_like(padded) for _ in counts]
    with _others():
        distributed.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


def started() -> bool:
    """Whether the other processes have been met."""
    return _shared.store is not None


def end(code: int) -> NoReturn:
    """End this process; one of several at once, since libraries' threads may abort it at an ordinary end."""
    if world_size() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _lead(work: Callable[[], None]) -> None:
    code = 1
    try:
        work()
        code = 0
    except KeyboardInterrupt:
        code = 130
        raise
    except SystemExit as end:  # such as by a launcher, since another process has failed
        code = _told_by_another() or (end.code if isinstance(end.code, int) else 1)
        raise SystemExit(code) from end
    except RectoolError as problem:
        code = problem.exit_code
        raise
    finally:
        _tell_end(code)


def _tell_end(code: int) -> None:
    """Tell the others, and wait until they know: the store may live in this process.

    The end is certain, and a launcher that ends all because one has ended does not change it.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    store = _shared.store
    assert store is not None
    all_left = [f"{LEFT} {other}" for other in range(1, world_size())]
    with suppress(RuntimeError):  # those that wait for a store, or are waited for, may be dead
        store.set(END, str(code))
        try:
            store.wait(all_left, BRIEFLY)
        except RuntimeError:
            _break_off()
            store.wait(all_left, GRACE)


def _break_off() -> None:
    """Destroy the group, so that those who wait in it for this process hear of its end.

    Not where they have left: torch 2.4 may then wait for ever for a thread of gloo's that waits for Python in turn.
    """
    from torch import distributed

    distributed.destroy_process_group()


def _follow(work: Callable[[], None]) -> NoReturn:
    store = _shared.store
    assert store is not None
    try:
        with suppress(Stopped):  # all have stopped, and the main process sees to the rest
            work()
        code = int(_await(END))
    except Ended as ended:
        code = ended.code
    except BaseException as problem:
        code = _failed_within(GRACE)
        if code == 0:  # the trouble is this process's own
            if not isinstance(problem, SystemExit):  # it will be told here
                with suppress(RuntimeError):
                    store.set(FAILED, str(getattr(problem, "exit_code", 1)))
            raise
    finally:
        with suppress(RuntimeError):
            store.set(f"{LEFT} {rank()}", "")
    end(code)


def _await(key: str) -> str:
    """What the main process says under a key. Raises Ended if it ends without."""
    store = _shared.store
    assert store is not None
    try:
        while True:
            ended = store.check([END])
            if store.check([key]):
                return str(store.get(key).decode())
            if ended:
                raise Ended(int(store.get(END)))
            time.sleep(PAUSE_SECONDS)
    except RuntimeError as problem:
        raise RectoolError("the main process is gone") from problem


def _failed_within(patience: timedelta) -> int:
    """The exit code of the main process, 0 if it goes on or has gone without a word."""
    deadline = time.monotonic() + patience.total_seconds()
    store = _shared.store
    assert store is not None
    with suppress(RuntimeError):
        while time.monotonic() < deadline:
            if store.check([END]):
                return int(store.get(END))
            time.sleep(PAUSE_SECONDS)
    return 0


@contextmanager
def _others() -> Iterator[None]:
    """What others take part in.

    Raises:
        SystemExit: another process has failed and said why; with its exit code.
        RectoolError: it has gone without a word.
    """
    try:
        yield
    except RuntimeError as problem:
        if not re.search(r"\bpeer\b|remote process|timed out|timeout", str(problem), re.IGNORECASE):
            raise
        code = _told_by_another()
        if code is not None:
            raise SystemExit(code) from problem
        raise RectoolError(
            "another process of this run has ended without a word: it was killed, or its machine ran out of memory"
        ) from problem


def _told_by_another() -> int | None:
    """The exit code of a process that has failed by itself and said why."""
    store = _shared.store
    assert store is not None
    with suppress(RuntimeError):
        if store.check([FAILED]):
            return int(store.get(FAILED))
    return None
