"""Tokens that are kept: made once, found again, and made again when damaged."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rectool.caches import cache_folder
from rectool.data.dataset import Dataset
from rectool.errors import RectoolError
from rectool.llm.backbone import tokenizer_of
from rectool.prompts.cached import cached_rows
from rectool.prompts.prompts import Prompts
from rectool.prompts.template import load, parse
from rectool.prompts.tokenizer import Tokenizer
from rectool.prompts.tokens import TokenRows

ROWS = np.arange(12)
SOFT: list[dict[str, int]] = [{}, {"user": 1}, {"user": 2}, {"item": 1}, {"history": 1}, {"user": 1, "history": 1}]


@pytest.fixture
def tokenised(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many texts were tokenised, call by call."""
    calls: list[int] = []
    encode = Tokenizer.encode

    def count(self: Tokenizer, texts: list[str], **options: bool) -> object:
        calls.append(len(texts))
        return encode(self, texts, **options)

    monkeypatch.setattr(Tokenizer, "encode", count)
    return calls


def same(one: TokenRows, other: TokenRows) -> bool:
    return (
        one.ids.tolist() == other.ids.tolist()
        and one.offsets.tolist() == other.offsets.tolist()
        and one.shortened == other.shortened
    )


def files() -> list[Path]:
    return sorted((cache_folder() / "tokens").glob("*.arrow"))


def test_the_second_time_nothing_is_tokenised(data: Dataset, tokenizer: Tokenizer, tokenised: list[int]) -> None:
    longest = int(Prompts(load("tallrec"), tokenizer).rows(data, ROWS).lengths.max()) - 1
    prompts = Prompts(load("tallrec"), tokenizer, max_tokens=longest)
    expected = prompts.rows(data, ROWS)
    assert expected.shortened > 0
    assert same(cached_rows(prompts, data, ROWS), expected)
    tokenised.clear()
    found = cached_rows(prompts, data, ROWS)
    assert same(found, expected)
    assert tokenised == []
    assert not found.ids.flags.owndata  # mapped
    assert not found.ids.flags.writeable
    ids, lengths = found.padded(np.array([3, 1]))
    assert np.array_equal(ids, expected.padded(np.array([3, 1]))[0])
    assert lengths.tolist() == expected.lengths[[3, 1]].tolist()


def test_whatever_changes_the_tokens_is_another_file(
    make_data: Callable[..., Dataset],
    data: Dataset,
    tokenizer: Tokenizer,
    chat_tokenizer: Tokenizer,
    tiny_llm: Callable[..., Path],
) -> None:
    template = load("collm-text")
    calls = [
        (Prompts(template, tokenizer), data, ROWS),
        (Prompts(load("sasrecllm-text"), tokenizer), data, ROWS),
        (Prompts(template, tokenizer, history=2), data, ROWS),
        (Prompts(template, tokenizer, max_tokens=500), data, ROWS),
        (Prompts(template, tokenizer, noun="movies"), data, ROWS),
        (Prompts(template, tokenizer, ends=True), data, ROWS),
        (Prompts(template, tokenizer).with_shots(data, 2, 0), data, data.targets("test")),
        *((Prompts(load("llara-ctr"), tokenizer, soft=soft), data, ROWS) for soft in SOFT),
        (Prompts(template, tokenizer_of(tiny_llm(bos=False))), data, ROWS),
        (Prompts(template, chat_tokenizer, chat=True), data, ROWS),
        (Prompts(template, tokenizer), data, ROWS[:-1]),
        (Prompts(template, tokenizer), data, ROWS[::-1]),
        (Prompts(template, tokenizer), make_data(titles={item: item for item in data.item_ids().to_pylist()}), ROWS),
        (Prompts(load("item-title"), tokenizer), data, np.arange(7)),
    ]
    for number, (prompts, dataset, rows) in enumerate(calls, start=1):
        found = cached_rows(prompts, dataset, rows)
        is_item = prompts.template.task == "item"
        assert same(found, prompts.items(dataset, rows) if is_item else prompts.rows(dataset, rows))
        assert len(files()) == number
    again = make_data()  # the same data elsewhere
    assert same(cached_rows(Prompts(template, tokenizer), again, ROWS), Prompts(template, tokenizer).rows(data, ROWS))
    assert len(files()) == len(calls)


@pytest.mark.parametrize("rows", [0, 1, 12])
def test_damage_is_noticed(rows: int, data: Dataset, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]) -> None:
    prompts = Prompts(load("collm"), tokenizer)
    expected = prompts.rows(data, ROWS[:rows])
    assert same(cached_rows(prompts, data, ROWS[:rows]), expected)
    (path,) = files()
    sound = path.read_bytes()
    flipped = bytearray(sound)
    if rows:
        place = sound.index(expected.ids[:8].tobytes())
        flipped[place] ^= 1
    else:
        flipped[-3] ^= 1
    for damaged in (sound[:-1], sound[: len(sound) // 2], b"", b"hello", bytes(flipped)):
        path.unlink()  # what maps the old file keeps it
        path.write_bytes(damaged)
        capsys.readouterr()
        assert same(cached_rows(prompts, data, ROWS[:rows]), expected)
        assert "is damaged: making it again" in capsys.readouterr().err
        assert path.read_bytes() == sound


@pytest.mark.parametrize("rows", [0, 1, 12])
def test_spans_are_kept_too(rows: int, data: Dataset, tokenizer: Tokenizer, tokenised: list[int]) -> None:
    for prompts in (Prompts(load("hatllm"), tokenizer), Prompts(load("llara-ctr"), tokenizer, soft={"history": 1})):
        plain = cached_rows(prompts, data, ROWS[:rows])
        assert plain.spans is None
        before = len(files())
        expected = prompts.rows(data, ROWS[:rows], spans=True)
        made = cached_rows(prompts, data, ROWS[:rows], spans=True)
        assert len(files()) == before + 1
        tokenised.clear()
        for found in (made, cached_rows(prompts, data, ROWS[:rows], spans=True)):
            assert tokenised == []
            assert same(found, plain)
            assert found.spans is not None
            assert expected.spans is not None
            assert found.spans.dtype == np.int32
            assert found.spans.tolist() == expected.spans.tolist()
            assert found.span_offsets.tolist() == expected.span_offsets.tolist()
            assert not rows or not found.spans.flags.owndata  # mapped
        assert rows < 12 or len(made.spans) > 3
        assert same(cached_rows(prompts, data, ROWS[:rows]), plain)


def test_damaged_spans_are_noticed(data: Dataset, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]) -> None:
    prompts = Prompts(load("hatllm"), tokenizer)
    expected = prompts.rows(data, ROWS, spans=True)
    cached_rows(prompts, data, ROWS, spans=True)
    (path,) = files()
    sound = path.read_bytes()
    for array in (expected.spans[2:4], expected.span_offsets[4:9]):
        flipped = bytearray(sound)
        flipped[sound.index(array.tobytes())] ^= 1
        path.unlink()  # what maps the old file keeps it
        path.write_bytes(flipped)
        found = cached_rows(prompts, data, ROWS, spans=True)
        assert "is damaged: making it again" in capsys.readouterr().err
        assert found.spans.tolist() == expected.spans.tolist()


def test_a_title_that_vanishes_is_named(make_data: Callable[..., Dataset], tokenizer: Tokenizer) -> None:
    data = make_data(titles={"alien": "Al", "heat": "ien"})
    settings = 'task = "next-item"\nentry = "{title}"\nseparator = ""\nempty = "none"\noutput = "{title}"'
    prompts = Prompts(parse(f"+++\n{settings}\n+++\nThe user likes {{history}} and\n", "close"), tokenizer)
    assert len(cached_rows(prompts, data, ROWS)) == 12
    for _ in range(2):
        with pytest.raises(RectoolError, match=r"the title of 'ien' \(item \d\) has no token of its own in prompt \d"):
            cached_rows(prompts, data, ROWS, spans=True)


def test_prompts_about_items_have_no_spans(data: Dataset, tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match="item-title is about items and has no spans"):
        cached_rows(Prompts(load("item-title"), tokenizer), data, np.arange(7), spans=True)


def test_two_processes_at_once(data: Dataset, tiny_llm: Callable[..., Path], tokenizer: Tokenizer) -> None:
    script = textwrap.dedent("""
        import sys
        from pathlib import Path
        import numpy as np
        from rectool.artifacts import open_artifact
        from rectool.data.dataset import Dataset
        from rectool.llm.backbone import tokenizer_of
        from rectool.prompts.cached import cached_rows
        from rectool.prompts.prompts import Prompts
        from rectool.prompts.template import load

        data = Dataset(open_artifact(Path(sys.argv[1])))
        prompts = Prompts(load("collm-text"), tokenizer_of(Path(sys.argv[2])))
        print(cached_rows(prompts, data, np.arange(12)).ids.tolist())
    """)
    command = [sys.executable, "-c", script, str(data.artifact.path), str(tiny_llm())]
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)
        for _ in range(2)
    ]
    done = [process.communicate(timeout=120) for process in running]
    expected = Prompts(load("collm-text"), tokenizer).rows(data, ROWS).ids.tolist()
    assert [out for out, _ in done] == [f"{expected}\n"] * 2
    assert sum("tokenising collm-text" in said for _, said in done) == 1


def test_a_disk_that_refuses_is_one_line(data: Dataset, tokenizer: Tokenizer) -> None:
    cache_folder().mkdir(parents=True)
    (cache_folder() / "tokens").write_text("in the way")
    with pytest.raises(RectoolError, match="name another folder for it with RECTOOL_CACHE"):
        cached_rows(Prompts(load("collm"), tokenizer), data, ROWS)
