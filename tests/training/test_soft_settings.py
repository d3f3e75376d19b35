"""Settings of soft tokens check themselves, and name the flag."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from rectool.errors import RectoolError
from rectool.training.lora_settings import Adapters
from rectool.training.soft_settings import FitSoft, Freezing, InheritedPrompting, SoftTokenSettings, Sources, Standing

SOME = Path("some")


@pytest.mark.parametrize(
    ("kind", "given", "said"),
    [
        (Standing, {}, "name a language model: --llm NAME|DIR, --adapter of rectool tune-lora, or --init-from of"),
        (Standing, {"adapter": "new"}, "name a language model: "),
        (Standing, {"adapter": "a", "revision": "main"}, "--revision main needs --llm"),
        (Sources, {"aligned": SOME, "cf": SOME}, "--aligned and --cf both say where vectors of users and items"),
        (Sources, {"cf": SOME, "fresh_ids": 8}, "--cf and --fresh-ids both say"),
        (Sources, {"aligned": SOME, "semantic": SOME}, "--aligned has semantic embeddings of its own"),
        (Sources, {"fresh_ids": 0}, "--fresh-ids 0 must be at least 1"),
        (SoftTokenSettings, {"tokens": "user,title"}, "--tokens title is none of user, item, warm, history"),
        (SoftTokenSettings, {"tokens": " , "}, "--tokens names nothing; choose from user, item, warm, history"),
        (SoftTokenSettings, {"tokens": "item,item"}, "--tokens names item twice"),
        (SoftTokenSettings, {"tokens_per_id": 0}, "--tokens-per-id 0 must be at least 1"),
        (SoftTokenSettings, {"expansion": math.nan}, "--expansion nan must be above 0"),
        (Freezing, {"train": "warm"}, "--train warm is none of projector, cf, semantic, lora"),
        (Freezing, {"train": ""}, "--train names nothing"),
        (Freezing, {"task": "ctr", "item_head": "random"}, "--item-head random is for --task next-item"),
        (Freezing, {"task": "ctr", "head_learning_rate": 0.1}, "--head-learning-rate 0.1 is for --task next-item"),
        (Freezing, {"mask": "in:2,up:*"}, "--mask in:2,up:*: 'up' is no kind of mask"),
        (Freezing, {"mix": "half"}, "--mix half is neither a share from 0 to below 1 nor linear"),
        (Freezing, {"mix": "1"}, "--mix 1 is neither a share"),
        (Freezing, {"mix": "nan"}, "--mix nan is neither a share"),
        (Freezing, {"mix": "0.5"}, "--mix 0.5: rows of text alone train nothing but adapters and"),
        (Freezing, {"unknown_share": 1.0}, "--unknown-share 1.0 must be from 0 to below 1"),
        (Freezing, {"samples": 0}, "--samples 0 must be at least 1"),
        (InheritedPrompting, {"history": -1}, "--history -1 must be at least 0"),
        (
            FitSoft,
            {"cache_prefix": "much"},
            "--cache-prefix much is not a size; write it like 2GB or 500MB, or auto or",
        ),
        (FitSoft, {"cf_learning_rate": -1.0}, "--cf-learning-rate -1.0 must be at least 0"),
    ],
)
def test_what_makes_no_sense(kind: Any, given: dict[str, Any], said: str) -> None:
    with pytest.raises(RectoolError) as error:
        kind(**given)
    assert str(error.value).startswith(said)


def test_names_come_in_one_order() -> None:
    assert SoftTokenSettings(tokens="warm, user").names() == ("user", "warm")
    assert SoftTokenSettings(tokens="warm, user") == SoftTokenSettings(tokens="user,warm"), "one setting to --update"
    assert Freezing(train="cf, projector") == Freezing(train="projector,cf")
    assert SoftTokenSettings().names() is None
    assert Freezing(train="lora,cf").parts() == ("cf", "lora")


def test_schedules_of_text_alone() -> None:
    shares = {mix: [Freezing(train="lora", mix=mix).text_share(at) for at in (0, 0.25, 1)] for mix in ("0.4", "linear")}
    assert shares == {"0.4": [0.4, 0.4, 0.4], "linear": [1.0, 0.75, 0.0]}
    assert [Freezing(train="lora", mix=mix).mixes for mix in ("0", "0.1", "linear")] == [False, True, True]


def test_sizes_of_the_cache() -> None:
    assert [FitSoft(cache_prefix=size).cache_bytes() for size in ("auto", "off", "1.5GB", "2MiB")] == [
        None,
        0,
        1_500_000_000,
        2 << 20,
    ]


def test_a_prompt_is_as_before_unless_it_is_said() -> None:
    before = {"history": 4, "noun": "films", "max_tokens": 300, "frame": None}
    found = InheritedPrompting(noun="books").over(before)
    assert (found.prompt, found.history, found.noun, found.max_tokens) == (None, 4, "books", 300)
    assert found.chat_template == "off"
    assert InheritedPrompting().over({**before, "frame": ["<", ">"]}).chat_template == "auto"
    assert InheritedPrompting().over({}).history == 10


def test_adapters_that_were_given_where_none_start() -> None:
    Adapters().refuse_given("here")
    with pytest.raises(RectoolError, match=r"^--alpha means nothing here$"):
        Adapters(alpha=3.0).refuse_given("here")
