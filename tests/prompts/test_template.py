"""Templates: what is in them, and what is refused, with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from rectool.errors import RectoolError
from rectool.prompts import template
from rectool.prompts.markup import Phrase, Slot
from rectool.prompts.template import SHIPPED, load, parse

MINIMAL = '+++\ntask = "ctr"\n+++\nWould {target} be liked?\n'


def test_what_is_shipped() -> None:
    assert set(SHIPPED) == {
        *("sasrecllm", "sasrecllm-text", "collm", "collm-text", "sella-rec", "tallrec", "hatllm", "bigrec"),
        *("item-description", "item-title", "plain", "personprompt", "llara-ctr", "e4srec-ctr"),
        *("llara", "e4srec"),
    }
    for name in SHIPPED:
        shipped = load(name)
        assert shipped.source, name
        assert shipped.path is None
        assert parse(shipped.text, name) == shipped
    three = ("user", "item", "warm")
    soft: dict[str, tuple[str, ...]] = dict.fromkeys(("sasrecllm", "collm", "sella-rec", "tallrec", "plain"), three)
    soft |= {"personprompt": three, "llara-ctr": (*three, "history"), "e4srec-ctr": (*three, "history")}
    soft |= dict.fromkeys(("llara", "e4srec"), ("user", "history"))
    for name in SHIPPED:
        assert load(name).soft == soft.get(name, ()), name
    assert {"history", "disliked", "target"} <= load("tallrec").slots


def test_text_and_slots() -> None:
    text = (
        '+++\ntask = "ctr"\nanswers = ["like", "hate"]\nentry = "<{title}>"\nseparator = "; "\nempty = "{}"\n'
        'source = "me"\n+++\n{{braces}} {noun}: {history}\n\nand {target}{user}?\n\n'
    )
    found = parse(text, "mine")
    assert found.parts == (
        *("{braces} ", Slot("noun"), ": ", Slot("history"), "\n\nand ", Slot("target"), Slot("user"), "?\n"),
    )
    assert (found.answers, found.entry, found.separator, found.empty) == (("like", "hate"), ("<", ">"), "; ", "{}")
    assert found.slots == {"noun", "history", "target", "user"}


def test_defaults() -> None:
    found = parse(MINIMAL, "mine")
    assert (found.answers, found.entry, found.separator, found.empty) == (("Yes", "No"), ('"', '"'), ", ", "")
    assert parse('+++\ntask = "next-item"\noutput = "-> {title}"\n+++\n{history}', "x").output == ("-> ", "")


def test_lines_may_end_as_on_windows(tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_bytes(b"\xef\xbb\xbf" + MINIMAL.replace("\n", "\r\n").encode())
    found = load(str(file))
    assert found.parts == parse(MINIMAL, "mine").parts
    assert (found.name, found.path) == (str(file), file)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Would {target} be liked?", "mine, line 1: a prompt begins with a line +++"),
        ('+++\ntask = "ctr"\nWould {target} be liked?', "mine, line 1: a prompt begins with a line +++"),
        ("", "mine, line 1: a prompt begins"),
        ("+++\ntask = ctr\n+++\n{target}", "mine: its settings are not TOML: Invalid value (at line 2"),
        ("+++\n+++\n{target}", "mine: task is missing; it is one of 'ctr', 'next-item', 'item'"),
        ('+++\n\ntask = "rating"\n+++\n{target}', "mine, line 3: task is 'rating'; it is one of"),
        ('+++\ntask = ["ctr"]\n+++\n{target}', "mine, line 2: task is ['ctr']"),
        ('+++\ntask = "ctr"\ncolour = 1\n+++\n{target}', "mine, line 3: there is no setting colour; the settings are"),
        ('+++\ntask = "ctr"\n[answers]\nyes = 1\n+++\n{target}', "mine, line 3: answers must be two different words"),
        ('+++\ntask = "ctr"\nanswers = ["Yes"]\n+++\n{target}', "mine, line 3: answers must be two different words"),
        ('+++\ntask = "ctr"\nanswers = ["Yes", "Yes"]\n+++\n{target}', "answers must be two different words"),
        ('+++\ntask = "ctr"\nanswers = ["Yes", " No"]\n+++\n{target}', "answers must be two different words"),
        ('+++\ntask = "ctr"\nanswers = ["Yes", ""]\n+++\n{target}', "answers must be two different words"),
        ('+++\ntask = "ctr"\nentry = "title"\n+++\n{target}', "mine, line 3: entry must have the slot {title} once"),
        ('+++\ntask = "ctr"\nentry = "{title}{title}"\n+++\n{target}', "entry must have the slot {title} once"),
        ('+++\ntask = "ctr"\nentry = "{titel}"\n+++\n{target}', "mine, line 3: there is no slot {titel} here"),
        ('+++\ntask = "ctr"\nseparator = 1\n+++\n{target}', "mine, line 3: separator must be text in quotes"),
        ('+++\ntask = "ctr"\nempty = "\\u0007"\n+++\n{target}', "line 3: empty has the control character '\\x07'"),
        ('+++\ntask = "ctr"\noutput = "{title}"\n+++\n{target}', "line 3: output is of task 'next-item', but the task"),
        ('+++\ntask = "item"\nanswers = ["a", "b"]\n+++\n{title}', "line 3: answers is of task 'ctr', but the task"),
        ('+++\ntask = "ctr"\n+++\nHello\n{titel}?', "mine, line 5: there is no slot {titel} here; the slots are "),
        ('+++\ntask = "ctr"\n+++\nHello\n{}', "mine, line 5: there is no slot {} here"),
        ('+++\ntask = "ctr"\n+++\n{target} {', "mine, line 4: a { is never closed; write {{ for a brace"),
        ('+++\ntask = "ctr"\n+++\n{target\n}', "mine, line 4: a { is never closed"),
        ('+++\ntask = "ctr"\n+++\n\n}{target}', "mine, line 5: a } closes nothing; write }} for a brace"),
        ('+++\ntask = "ctr"\n+++\n{history}', "mine: a prompt of task ctr needs the slot {target}, and its"),
        ('+++\ntask = "next-item"\n+++\nHello', "needs the slot {history}"),
        ('+++\ntask = "item"\n+++\n{noun}', "needs the slot {title} or {text}"),
        ('+++\ntask = "next-item"\n+++\n{history} {item}', "there is no slot {item} here; the slots are {history}"),
        (
            '+++\ntask = "ctr"\n+++\n{target}\n{? of {user} {? and {item}?}?}',
            "mine, line 5: a {? stands inside another;",
        ),
        ('+++\ntask = "ctr"\n+++\n{target}\n\n{? of {user}', "mine, line 6: a {? is never closed; end it with ?}"),
        ('+++\ntask = "ctr"\n+++\n{target}\nof {user}?}', "mine, line 5: a ?} closes nothing; write ?}} for"),
        ('+++\ntask = "ctr"\n+++\n{target}\n{? of\n{noun}?}', "line 5: between {? and ?} stands no place for an emb"),
        ('+++\ntask = "ctr"\n+++\n{? {user} likes {target}?}', "a prompt of task ctr needs the slot {target}, and its"),
        ('+++\ntask = "item"\n+++\n{title}{? {user}?}', "there is no slot {user} here; the slots are {title}"),
        (
            '+++\ntask = "ctr"\nentry = "{title}{? {item}?}"\n+++\n{target}',
            "line 3: {? is of the text below the settings",
        ),
        (
            '+++\ntask = "ctr"\nentry = "{item}"\n+++\n{target} {disliked}',
            "line 3: entry has no {title}, which {disliked} n",
        ),
        ('+++\ntask = "ctr"\nentry = "{item}{item}"\n+++\n{target}', "once, or {item} beside or instead of it"),
        ('+++\ntask = "next-item"\noutput = "{title} {item}"\n+++\n{history}', "line 3: there is no slot {item} here"),
        ('+++\ntask = "ctr"\n+++\nbell \x07\n{target}', "mine, line 4: it has the control character '\\x07'"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(text: str, said: str) -> None:
    with pytest.raises(RectoolError) as problem:
        parse(text, "mine")
    assert said in str(problem.value)
    assert "\n" not in str(problem.value)


def test_files_that_are_no_templates(tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_bytes(b"+++\ntask = 'ctr'\n+++\nCaf\xe9 {target}")
    with pytest.raises(RectoolError, match=r"mine\.txt, line 4: it is not UTF-8"):
        load(str(file))
    file.write_text(MINIMAL + "x" * template.LARGEST)
    with pytest.raises(RectoolError, match="has more than 65,536 bytes"):
        load(str(file))
    with pytest.raises(RectoolError, match="is a folder; the prompts that come with it are bigrec, collm, "):
        load(str(tmp_path))
    with pytest.raises(RectoolError, match="--prompt colm is neither a file nor a prompt of rectool's; the prompts"):
        load("colm")


PHRASED = (
    '+++\ntask = "ctr"\nentry = \'"{title}" {item}\'\n+++\n{history}{? as {user}?}: {target}{? ({item}, {warm})?}??}}'
)


@pytest.mark.parametrize(
    ("soft", "expected"),
    [
        ("", (Slot("history"), ": ", Slot("target"), "??}")),
        ("user", (Slot("history"), " as ", Slot("user"), ": ", Slot("target"), "??}")),
        ("item", (Slot("history"), ": ", Slot("target"), " (", Slot("item"), ", ", ")", "??}")),
        ("warm", (Slot("history"), ": ", Slot("target"), " (", ", ", Slot("warm"), ")", "??}")),
        ("item warm", (Slot("history"), ": ", Slot("target"), " (", Slot("item"), ", ", Slot("warm"), ")", "??}")),
    ],
)
def test_phrases_are_there_if_an_embedding_fills_them(soft: str, expected: tuple[str | Slot, ...]) -> None:
    template = parse(PHRASED, "mine")
    assert template.soft == ("user", "item", "warm", "history")
    assert Phrase((" as ", Slot("user"))) in template.body
    found = template.filled(soft.split())
    assert found.parts == expected
    assert found.soft == tuple(soft.split())
    assert found.filled(soft.split()) == found


@pytest.mark.parametrize(
    ("entry", "without"),
    [
        ('"{title}" {item}', ('"', '"')),
        ("{title}{item}", ("", "")),
        ("<{item}: {title}>", ("<: ", ">")),
        ("{item} {title}!", ("", "!")),
        ("a {item} b {title}", ("a b ", "")),
    ],
)
def test_an_entry_without_its_embedding(entry: str, without: tuple[str, str]) -> None:
    template = parse(f"+++\ntask = \"ctr\"\nentry = '{entry}'\n+++\n{{history}} {{target}}", "mine")
    assert template.filled([]).entry == without
    assert template.filled([]).soft == ()
    assert template.filled(["history"]).soft == ("history",)


@pytest.mark.parametrize(
    ("entry", "body", "soft", "said"),
    [
        (
            "{title}",
            "{target} {user}",
            "",
            "prompt mine has a place for {user} that nothing fills: fill it (--tokens user of",
        ),
        (
            "{title}",
            "{target}{? {user}?}",
            "item",
            "no place for item embeddings, which is the slot {item}; it has places",
        ),
        ("{title}", "{target}{? {user}?}", "item", "it has places for user"),
        ("{title}", "{target} {history}", "history", "which is {item} in the setting entry; it has places for none"),
        ("{title} {item}", "{target}", "history", "which is {item} in the setting entry; it has places for none"),
        (
            "{item}",
            "{target} {history}",
            "",
            "a place for {item} in its entries that nothing fills: fill it (--tokens hi",
        ),
    ],
)
def test_what_fills_a_template_must_be_what_it_has_places_for(entry: str, body: str, soft: str, said: str) -> None:
    template = parse(f'+++\ntask = "ctr"\nentry = "{entry}"\n+++\n{body}', "mine")
    with pytest.raises(RectoolError) as problem:
        template.filled(soft.split())
    assert said in str(problem.value)
