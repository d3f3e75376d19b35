"""The documentation: current where it is made from the code, without dead links, and whole where it lists things."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import shlex
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tests.test_cli import ROOT, commands
from tests.test_examples import environment, written

from rectool.artifacts import kinds
from rectool.artifacts.manifest import Manifest
from rectool.llm.mask_plan import KINDS as MASKS
from rectool.models.table import MODELS

__all__ = ["environment"]
DOCS = ROOT / "docs"
TEXTS = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md")), *sorted((ROOT / "examples").glob("*.md"))]
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("command_pages", DOCS / "command_pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_pages_of_commands_are_current(generator: ModuleType) -> None:
    made = generator.pages()
    assert {path.name for path in generator.FOLDER.glob("*.md")} == made.keys(), "run: make docs"
    for name, text in made.items():
        assert (generator.FOLDER / name).read_text("utf-8") == text, f"docs/commands/{name} is old; run: make docs"


def test_pages_depend_on_nothing_but_the_code(generator: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    made = generator.pages()
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("NO_COLOR", "")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("HOME", "/nowhere")
    monkeypatch.chdir("/")
    assert generator.pages() == made
    assert all(str(Path.home()) not in text and str(ROOT) not in text for text in made.values())


def test_what_is_made_is_written_and_what_is_left_over_removed(
    generator: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generator, "FOLDER", tmp_path / "commands")
    generator.main()
    (tmp_path / "commands" / "gone.md").write_text("of a command that is no more")
    generator.main()
    written = {path.name: path.read_text("utf-8") for path in (tmp_path / "commands").iterdir()}
    assert written == generator.pages()


def test_every_command_has_a_page_with_all_of_its_flags(generator: ModuleType) -> None:
    """Flags as the command line knows them, which the pages do not ask."""
    for words, command in commands().items():
        text = (generator.FOLDER / generator.file_of(words.removeprefix("rectool "))).read_text("utf-8")
        assert text.startswith(f"# {words}\n")
        for parameter in command.params:
            for flag in (*parameter.opts, *parameter.secondary_opts):
                if flag.startswith("--") and flag != "--help":
                    assert re.search(rf"`{flag}[ `]", text), (words, flag)
        for line in (line.strip() for line in command.epilog.splitlines()):
            assert line in text or not line.startswith("rectool "), (words, line)


def test_what_is_said_to_be_written_is_a_kind(generator: ModuleType) -> None:
    for words, about in generator.ABOUT.items():
        assert about.writes in (None, *kinds.KINDS), words
        assert set(re.findall(r"`([a-z]+)`", about.reads)) <= kinds.KINDS.keys(), words
    assert {f"rectool {words}" for words in generator.ABOUT} == commands().keys()


@pytest.mark.parametrize("text", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(text: Path) -> None:
    for target in LINK.findall(FENCED.sub("", text.read_text("utf-8"))):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        path = (text.parent / name).resolve() if name else text
        assert path.is_relative_to(ROOT), f"{target} leads out of the repository"
        assert path.exists(), f"{target}: there is no such file"
        if anchor:
            assert anchor in anchors(path), f"{target}: there is no such heading"


@cache
def anchors(path: Path) -> set[str]:
    """Of a text's headings, as GitHub makes them."""
    found: set[str] = set()
    for line in FENCED.sub("", path.read_text("utf-8")).splitlines():
        if heading := re.match(r"#+ (.*)", line):
            shown = LINK.sub(lambda link: link[0].partition("](")[0][1:], heading[1])
            name = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
            found.add(next(each for each in (name, *(f"{name}-{n}" for n in range(1, 99))) if each not in found))
    return found


def test_anchors_are_those_of_github(tmp_path: Path) -> None:
    text = tmp_path / "text.md"
    text.write_text("# A `--flag` (1,000)!\n\n## It's [here](x.md)\n\n## B\n\n## B\n\n```\n# no\n```\n")
    assert anchors(text) == {"a---flag-1000", "its-here", "b", "b-1"}


def test_code_compiles() -> None:
    blocks = [
        (text.name, code)
        for text in TEXTS
        for code in re.findall(r"^```python\n(.*?)^```$", text.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    ]
    assert len(blocks) >= 4
    for name, code in blocks:
        compile(code, name, "exec")


def test_the_code_of_the_readme_runs(rectool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert rectool("prep", "synthetic", "--users", 30, "--items", 60, "--out", "data/ml-100k").code == 0
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    *above, last = code.strip().partition("duckdb.sql(")
    names: dict[str, Any] = {}
    exec(above[0] + "found = duckdb.sql(" + last, names)
    rows = names["found"].fetchall()
    assert len(rows) > 10
    assert all(isinstance(title, str) and 0 <= liked <= 1 for title, liked in rows)


def test_the_recipe_in_the_readme_is_that_of_its_script(environment: dict[str, str], tmp_path: Path) -> None:
    own = {"DATA": "data/ml-1m", "LLM": "TinyLlama/TinyLlama-1.1B-Chat-v1.0", "NOUN": "movies", "OUT": "runs"}
    run = [words_of(line) for line in written("sella-rec.sh", {**environment, **own}, tmp_path)]
    recipe = section((ROOT / "README.md").read_text("utf-8"), "One recipe, line by line").replace("\\\n", " ")
    told = [words_of(line) for line in recipe.splitlines() if line.startswith("rectool ")]
    assert [words[1] for words in told[:5]] == ["prep", "tune-lora", "distill", "align", "train-proj"]
    for words in told[1:-1]:
        assert sorted(words) in [sorted(other) for other in run], words
    assert told[-1][1] == run[-1][1] == "compare"


def words_of(line: str) -> list[str]:
    """A command's words without what the script adds to each, and with its folders as the README has them."""
    text = re.sub(r"runs/results/([\w-]+)", r"runs/\1-test", line).replace("runs/models/", "runs/")
    return shlex.split(text.replace("--seed 0", "").replace("--update", ""))


def section(text: str, title: str) -> str:
    """What stands below a heading, up to the next one of its level or above."""
    found = re.search(rf"^(#+) {re.escape(title)}\n(.*?)(?=^#{{1,3}} |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found is not None, f"there is no heading {title}"
    return found[2]


def test_the_reference_names_every_kind_file_and_column() -> None:
    text = (DOCS / "artifacts.md").read_text("utf-8")
    rows = {row[0]: row[1] for row in re.findall(r"^\| `(\w+)` \|(.*)$", section(text, "Kinds"), re.MULTILINE)}
    assert rows.keys() == kinds.KINDS.keys()
    for kind in kinds.KINDS.values():
        assert f"`{kind.made_by}`" in rows[kind.name]
        for name, file in kind.files.items():
            assert f"`{name}`" in rows[kind.name] or f"`{name.split('/')[0]}/`" in rows[kind.name], (kind.name, name)
            if isinstance(file, kinds.TableFile):
                below = section(text, "Curves" if name == "curve.parquet" else kind.name)
                for column in (*file.schema, *file.side):
                    assert f"`{column.name}`" in below, f"docs/artifacts.md says nothing of {column.name} of {name}"
                    kind_of_column = {"float": "float32", "double": "float64"}.get(str(column.type), str(column.type))
                    assert kind_of_column in below, (name, column)
            elif isinstance(file, kinds.TensorFile):
                below = section(text, "aligned and projector") if "/" in name else rows[kind.name]
                assert all(f"`{tensor}`" in below for tensor in file.tensors) or "/" in name, (kind.name, name)


def test_the_reference_names_every_field_of_the_manifest() -> None:
    below = section((DOCS / "artifacts.md").read_text("utf-8"), "The manifest")
    for field in dataclasses.fields(Manifest):
        assert f"`{field.name}`" in below, field.name


def test_models_and_masks_are_explained() -> None:
    models = section((DOCS / "models.md").read_text("utf-8"), "Models")
    for name in MODELS:
        assert f"| `{name}` |" in models
    masks = section((DOCS / "language-models.md").read_text("utf-8"), "Masks")
    for kind in MASKS:
        assert f"| `{kind}` |" in masks


def test_every_text_can_be_found_from_the_readme() -> None:
    """Within two links."""
    reached = {ROOT / "README.md"}
    for _ in range(2):
        for text in list(reached):
            for target in LINK.findall(text.read_text("utf-8")):
                path = (text.parent / target.partition("#")[0]).resolve()
                if path.suffix == ".md" and path.exists():
                    reached.add(path)
    assert set(DOCS.rglob("*.md")) <= reached
