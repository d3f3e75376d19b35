"""Text to tokens: nothing in a text is special, offsets are right, and what stands around is known."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rectool.errors import RectoolError
from rectool.llm.backbone import tokenizer_of
from rectool.prompts.tokenizer import Tokenizer

TEXTS = [
    *("Alien (1979)", "</s> is no end, <s> no start <pad>", "日本語 é 🎬 ok", ""),
    *(" spaces  stay ", "a\nb", "{user} {{"),
]


def test_nothing_in_a_text_is_special(tokenizer: Tokenizer) -> None:
    assert tokenizer.marks == {0, 1, 2}
    encoded = tokenizer.encode(TEXTS)
    assert not tokenizer.marks.intersection(encoded.ids.tolist())
    assert tokenizer.wrapped("</s>", add_special_tokens=False)["input_ids"] == [1]
    stop = np.cumsum(encoded.lengths)
    for text, start, end in zip(TEXTS, stop - encoded.lengths, stop, strict=True):
        assert tokenizer.wrapped.decode(encoded.ids[start:end]) == text


def test_other_text_is_what_the_tokenizer_makes_of_it(tokenizer: Tokenizer) -> None:
    for text in ("A user likes Heat (1995).", "日本語 é 🎬", "a\n\nb  c"):
        assert tokenizer.encode([text]).ids.tolist() == tokenizer.wrapped(text, add_special_tokens=False)["input_ids"]


def test_offsets_cover_the_text(tokenizer: Tokenizer) -> None:
    text = "日本語 é 🎬 ok"
    encoded = tokenizer.encode([text], offsets=True)
    assert encoded.first is not None
    assert encoded.last is not None
    assert tokenizer.encode([text]).ids.tolist() == encoded.ids.tolist()
    covered = [set(range(first, last)) for first, last in zip(encoded.first, encoded.last, strict=True)]
    assert set().union(*covered) == set(range(len(text)))
    assert [len(places) for places in covered[:3]] == [1, 1, 1]  # the three bytes of the first character
    assert covered[0] == covered[1] == covered[2] == {0}


def test_what_the_tokenizer_puts_around(tiny_llm: Callable[..., Path], tiny_encoder: Path) -> None:
    assert tokenizer_of(tiny_llm()).start == (0,)
    assert tokenizer_of(tiny_llm()).end == ()
    assert tokenizer_of(tiny_llm(bos=False)).start == ()
    encoder = tokenizer_of(tiny_encoder)
    assert (encoder.start, encoder.end) == ((0,), (1,))


def test_a_space_before_a_text(metaspace: Callable[..., Tokenizer]) -> None:
    for scheme, continues in (("first", True), ("always", False), ("never", True)):
        tokenizer = metaspace(scheme)
        first, inside = (tokenizer.shown(tokenizer.encode(["Yes"], inside=inside).ids) for inside in (False, True))
        assert inside == tokenizer.shown(tokenizer.encode(["Yes"], inside=True).ids)
        assert first[0].startswith("▁") == (scheme != "never")
        assert not inside[0].startswith("▁")
        assert tokenizer.continues == continues


def test_a_space_before_a_text_of_other_kinds() -> None:
    from tokenizers import Tokenizer as Backend
    from tokenizers import models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {letter: place for place, letter in enumerate("▁Ġab<>/s")}
    prepended = Backend(models.BPE(vocabulary, []))
    prepended.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    alone = Backend(models.BPE(vocabulary, []))
    alone.normalizer = normalizers.Prepend("▁")
    byte_level = Backend(models.BPE(vocabulary, []))
    byte_level.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(), pre_tokenizers.ByteLevel(add_prefix_space=True)]
    )
    for backend, prefix in ((prepended, "▁"), (alone, "▁"), (byte_level, "Ġ")):
        tokenizer = Tokenizer(PreTrainedTokenizerFast(tokenizer_object=backend))
        assert tokenizer.shown(tokenizer.encode(["ab"]).ids) == [prefix, "a", "b"]
        assert tokenizer.shown(tokenizer.encode(["ab"], inside=True).ids) == ["a", "b"]
        assert tokenizer.shown(tokenizer.encode(["ab"]).ids) == [prefix, "a", "b"]  # it is not the same object
        assert not tokenizer.continues


def test_added_tokens_keep_their_ids(tiny_llm: Callable[..., Path]) -> None:
    from transformers import AutoTokenizer

    wrapped = AutoTokenizer.from_pretrained(tiny_llm())
    size = len(wrapped)
    wrapped.add_tokens(["<think>", "covid", "<|x|>", "[MASK]"])
    tokenizer = Tokenizer(wrapped)
    assert tokenizer.marks == {0, 1, 2, size, size + 2, size + 3}
    ids = tokenizer.encode(["covid <think> [MASK]"]).ids.tolist()
    assert ids[0] == size + 1
    assert not tokenizer.marks.intersection(ids)
    assert tokenizer.highest == size + 1


def test_a_unigram_model_does_not_know_them_as_pieces() -> None:
    from tokenizers import Tokenizer as Backend
    from tokenizers import models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = [("<unk>", 0.0), ("</s>", 0.0), *((letter, -2.0) for letter in "▁</s>ab")]
    backend = Backend(models.Unigram(pieces, 0, False))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="<unk>")
    assert wrapped("a</s>b")["input_ids"].count(1) == 1
    tokenizer = Tokenizer(wrapped)
    shown = tokenizer.shown(tokenizer.encode(["a</s>b"]).ids)
    assert shown == ["▁", "a", "<", "/", "s", ">", "b"]


def test_truncation_and_padding_of_a_folder_are_switched_off(tiny_llm: Callable[..., Path], tmp_path: Path) -> None:
    for path in tiny_llm().glob("token*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    backend = json.loads((tmp_path / "tokenizer.json").read_text())
    backend["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    (tmp_path / "tokenizer.json").write_text(json.dumps(backend))
    tokenizer = tokenizer_of(tmp_path)
    text = "A user likes Heat"
    assert tokenizer.encode([text]).ids.tolist() == tokenizer_of(tiny_llm()).encode([text]).ids.tolist()
    assert tokenizer.cut("<s>" + text) == [(0,), text]


def test_a_frame_is_cut_at_its_special_tokens(chat_tokenizer: Tokenizer) -> None:
    assert chat_tokenizer.chat_frame() == ("<s>user\n", "</s>\n<s>assistant\n")
    assert chat_tokenizer.cut("<s>user\n") == [(0,), "user\n"]
    assert chat_tokenizer.cut("</s>\n<s>assistant\n") == [(1,), "\n", (0,), "assistant\n"]
    assert chat_tokenizer.cut("plain") == ["plain"]
    assert chat_tokenizer.cut("") == []


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (None, "has no chat template"),
        ("{{ raise_exception('needs a system prompt') }}", "fails on a single message: needs a system prompt"),
        ("{{ messages[0].content }}{{ messages[0].content }}", "does not write a message once as it is"),
        ("{{ messages[0].content | upper | length }}", "does not write a message once as it is"),
        ("{{ nonsense", "fails on a single message"),
    ],
)
def test_chat_templates_that_do_not_do(template: str | None, said: str, chat_tokenizer: Tokenizer) -> None:
    chat_tokenizer.wrapped.chat_template = template
    with pytest.raises(RectoolError) as problem:
        chat_tokenizer.chat_frame()
    assert said in str(problem.value)
    assert "--chat-template off" in str(problem.value)


def test_the_digest(tiny_llm: Callable[..., Path], metaspace: Callable[..., Tokenizer]) -> None:
    digest = tokenizer_of(tiny_llm()).digest
    assert tokenizer_of(tiny_llm(seed=1)).digest == digest  # other weights, the same tokenizer
    others = [tokenizer_of(tiny_llm(bos=False)).digest, metaspace().digest, metaspace("never").digest]
    assert len({digest, *others}) == 4


def test_folders_without_a_tokenizer(tmp_path: Path, tiny_llm: Callable[..., Path]) -> None:
    def refused(path: Path) -> str:
        with pytest.raises(RectoolError) as problem:
            tokenizer_of(path)
        assert str(path) in str(problem.value)
        return str(problem.value)

    assert "has no tokenizer that can be read" in refused(tmp_path)
    assert "has no tokenizer that can be read" in refused(tmp_path / "none")
    for path in tiny_llm().glob("token*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "tokenizer.json").write_text("{")
    assert "has no tokenizer that can be read" in refused(tmp_path)


def test_an_empty_vocabulary_is_refused() -> None:
    from tokenizers import Tokenizer as Backend
    from tokenizers import models
    from transformers import PreTrainedTokenizerFast

    with pytest.raises(RectoolError, match="has a tokenizer with an empty vocabulary"):
        Tokenizer(PreTrainedTokenizerFast(tokenizer_object=Backend(models.BPE())))


def test_a_slow_tokenizer_is_refused() -> None:
    class Slow:
        name_or_path = "old"
        is_fast = False

    slow: Any = Slow()
    with pytest.raises(RectoolError, match="old has no fast tokenizer"):
        Tokenizer(slow)
