"""What a stranger may write into files, and a watch over those who read them."""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import signal
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MORE = int(os.environ.get("RECTOOL_FUZZ", "0"))
"""Examples of each test in the long form, by hand: `RECTOOL_FUZZ=5000 pytest tests/reliability/test_hostile_*.py`."""
SEED = int(os.environ.get("RECTOOL_FUZZ_SEED", "0"))


def examples(short: int) -> int:
    """How many examples a test tries."""
    return MORE or short


class Hung(BaseException):
    """What was watched did not come to an end; no `except Exception` takes it for something else."""


@contextmanager
def bounded(seconds: float = 20.0, memory: int = 2 << 30) -> Iterator[None]:
    """End what hangs, and refuse it more memory than this beyond what the process has now."""

    def ring(_signal: int, _frame: object) -> None:
        raise Hung(f"it took longer than {seconds:g} s")

    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGALRM, ring)
    resource.setrlimit(resource.RLIMIT_AS, (now + memory, hard))
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGALRM, before)


def seal(folder: Path) -> None:
    """Let a manifest say of the files what they are now, as whoever wrote them would: nothing is refused as changed."""
    path = folder / "rectool.json"
    said = json.loads(path.read_bytes())
    for name, record in said["files"].items():
        if (folder / name).is_file():
            content = (folder / name).read_bytes()
            record |= {"bytes": len(content), "sha256": "sha256:" + hashlib.sha256(content).hexdigest()}
    counted = {name: record for name, record in said["files"].items() if not name.endswith("/rectool.json")}
    digests = {name: record["sha256"] for name, record in counted.items()} | {"": said["kind"]}
    lines = "".join(f"{name}\0{digest}\n" for name, digest in sorted(digests.items()))
    said["digests"]["artifact"] = "sha256:" + hashlib.sha256(lines.encode()).hexdigest()
    path.write_text(json.dumps(said))


# Changes to bytes

Chance = random.Random


def flipped(content: bytes, chance: Chance) -> bytes:
    """A few bits are others."""
    changed = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 8))):
        if changed:
            changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def cut(content: bytes, chance: Chance) -> bytes:
    """The end is missing, or the beginning."""
    place = chance.randrange(len(content) + 1)
    return content[:place] if chance.random() < 0.7 else content[place:]


def smeared(content: bytes, chance: Chance) -> bytes:
    """A run of bytes is zeros, ones, or a copy of another place."""
    size = chance.choice((1, 2, 4, 8, 64, 4096))
    place, other = (chance.randrange(len(content) + 1) for _ in range(2))
    run = chance.choice((b"\0" * size, b"\xff" * size, content[other : other + size], b"\x7f" + b"\xff" * 7))
    return content[:place] + run + content[place + (len(run) if chance.random() < 0.7 else 0) :]


BYTES: tuple[Callable[[bytes, Chance], bytes], ...] = (flipped, flipped, cut, smeared)


# Changes to JSON

ODD: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        2,
        7,
        2**31,
        -(2**31) - 1,
        2**53 + 1,
        2**63,
        2**64,
        -(2**63),
        10**19,
        10**30,
        10**400,
    ),
    *(0.5, -0.5, 1e308, -1e308, 1e-320, float("nan"), float("inf"), float("-inf"), -0.0),
    *(
        "",
        " ",
        "x",
        "0",
        "-1",
        "1e9",
        "nan",
        "\0",
        "\ud800",
        "\x1b[31mred\x1b[0m",
        "\u202egnp.exe",
        "a\nb\r\nc",
        "\x9b2J",
    ),
    *("../..", "../../../../etc/passwd", "/etc/passwd", "/dev/zero", ".", "..", "~", "C:\\x", "a" * 300, "é" * 5000),
    *("causal", "in:99999999999", "in:1,or:*", "relu", "llama", "item", "ctr", "sigmoid", "__class__", "{0.__class__}"),
    *([], {}, [[]], [None], [0], [1, 2, 3], ["a"], {"a": 1}, {"": None}, {"from": "dataset"}, [{}], {"a": {"b": []}}),
)


def nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of each value in a document."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def rewritten(content: bytes, chance: Chance) -> bytes:
    """A value of a JSON document is another, is not there, or stands there twice."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return flipped(content, chance)
    for _ in range(chance.choice((1, 1, 1, 2))):
        found = list(places(document))
        *way, last = chance.choice(found[1:]) if len(found) > 1 else (None,)
        owner = document
        for key in way:
            owner = owner[key]
        deed = chance.random()
        if last is None:
            document = chance.choice(ODD)
        elif deed < 0.2:
            del owner[last]
        elif deed < 0.75:
            owner[last] = chance.choice(ODD)
        elif deed < 0.85:
            owner[last] = nested(chance.choice((5, 200, 900)))
        elif deed < 0.95:
            there = document
            for key in chance.choice(found):
                there = there[key] if _has(there, key) else there
            owner[last] = json.loads(json.dumps(there))
        elif isinstance(owner, dict):
            owner[chance.choice(("from", "extra", "", "\0", "auto_map", "__proto__"))] = owner[last]
        elif isinstance(owner, list):
            owner.append(owner[last])
    text = json.dumps(document)
    if chance.random() < 0.05:
        text = text.replace("{", '{"version": 1, "version": 2, ', 1)
    return text.encode()


def _has(owner: Any, key: Any) -> bool:
    return (
        key in owner
        if isinstance(owner, dict)
        else isinstance(owner, list) and isinstance(key, int) and key < len(owner)
    )


# Changes to safetensors


def tensors(header: dict[str, Any] | bytes, data: bytes = b"", size: int | None = None) -> bytes:
    """A safetensors file of a header as it is."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + data


def relabelled(content: bytes, chance: Chance) -> bytes:
    """The header of a safetensors file says something else."""
    if len(content) < 8:
        return flipped(content, chance)
    size = struct.unpack("<Q", content[:8])[0]
    text, data = content[8 : 8 + size], content[8 + size :]
    deed = chance.random()
    if deed < 0.15:
        lengths = (0, 1, size - 1, size + 1, 2**31, 2**60, 2**63, 2**64 - 1, 100_000_000)
        return tensors(text, data, chance.choice(lengths))
    if deed < 0.3:
        return tensors(text, data[: chance.randrange(len(data) + 1)])
    if deed < 0.7:
        return tensors(rewritten(text, chance), data)
    try:
        header = json.loads(text)
        names = [name for name in header if name != "__metadata__"]
        name = chance.choice(names)
        about = header[name]
        start, stop = about["data_offsets"]
        match chance.randrange(6):
            case 0:
                about["dtype"] = chance.choice(
                    ("F64", "F32", "F16", "BF16", "I64", "U8", "BOOL", "F8_E4M3", "C64", "X")
                )
            case 1:
                about["shape"] = about["shape"][::-1]
            case 2:
                about["shape"] = [stop - start, *about["shape"]]
                header[name] = {"dtype": "U8", "shape": [stop - start], "data_offsets": [start, stop]}
            case 3:
                header[f"{name}.more"] = header.pop(name)
            case 4:
                about["shape"] = [*about["shape"], chance.choice((0, 1, 2**32))]
            case _:
                poison = struct.pack("<f", chance.choice((float("nan"), float("inf"), 3e38, -3e38)))
                data = data[:start] + (poison * ((stop - start) // 4 + 1))[: stop - start] + data[stop:]
        return tensors(header, data)
    except (ValueError, KeyError, TypeError, IndexError):
        return flipped(content, chance)


def changed(name: str, content: bytes, chance: Chance) -> bytes:
    """A file of a name with something in it changed, by what it is."""
    if chance.random() < 0.6:
        if name.endswith(".json"):
            return rewritten(content, chance)
        if name.endswith(".safetensors"):
            return relabelled(content, chance)
    return chance.choice(BYTES)(content, chance)
