"""What is evaluated, found and checked before its weights are read: a collaborative or a language model.

Nothing of language models is imported unless one is named.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rectool.artifacts import Artifact, Input, open_artifact
from rectool.artifacts.artifact import ancestors, is_there
from rectool.errors import RectoolError
from rectool.evaluation.settings import Computing, Language, Measuring, Untuned, given
from rectool.prompts import template
from rectool.prompts.settings import Prompting

if TYPE_CHECKING:
    from rectool.data.dataset import Dataset
    from rectool.evaluation.scorer import Evaluable
    from rectool.llm.backbone import Backbone

KINDS = ("cf", "llm", "backbone")
MADE_BY = "rectool train-cf, tune-lora or train-proj"
SOFT_TOKENS = "unknown.safetensors"
"""The file that all `llm` artifacts with soft tokens have."""


class Subject(Protocol):
    """A model that can be evaluated."""

    @property
    def settings(self) -> Sequence[Any]:
        """The groups of settings that make its scores what they are."""

    @property
    def above(self) -> Collection[str]:
        """The roles of what it is made from and reads, too."""

    def inputs(self) -> list[Input]:
        """What it is read from."""

    def weight_bytes(self) -> int:
        """Size of its weights on disk."""

    def load(self, dataset: Dataset, computing: Computing, seed: int) -> Evaluable:
        """Read its weights.

        Args:
            seed: of the examples in prompts.
        """


@dataclass(frozen=True)
class Collaborative:
    """A `cf` artifact."""

    artifact: Artifact
    settings: Sequence[Any] = ()
    above: Collection[str] = ()

    def inputs(self) -> list[Input]:
        return [Input("model", self.artifact.path, artifact=self.artifact)]

    def weight_bytes(self) -> int:
        return self.artifact.manifest.files["weights.safetensors"].bytes

    def load(self, dataset: Dataset, computing: Computing, seed: int) -> Evaluable:
        from rectool.devices import device_named
        from rectool.evaluation.scorer import CollaborativeScorer
        from rectool.models import saved

        device = device_named(computing.device)
        return CollaborativeScorer(saved.load(self.artifact, device), device, computing.batch_tokens)


@dataclass(frozen=True)
class Tuned:
    """An `llm` artifact, which is asked as it was tuned."""

    artifact: Artifact
    language: Language
    above: Collection[str] = ("backbone",)

    @property
    def settings(self) -> Sequence[Any]:
        return [self.language]

    def inputs(self) -> list[Input]:
        return [Input("model", self.artifact.path, artifact=self.artifact)]

    def weight_bytes(self) -> int:
        return sum(file.bytes for name, file in self.artifact.manifest.files.items() if name.endswith(".safetensors"))

    def load(self, dataset: Dataset, computing: Computing, seed: int) -> Evaluable:
        from rectool.evaluation import language

        return language.tuned(self.artifact, self.language, dataset, computing)


@dataclass(frozen=True)
class AsItIs:
    """A language model that has not been tuned."""

    backbone: Backbone
    language: Language
    prompting: Prompting
    untuned: Untuned
    above: Collection[str] = ()

    @property
    def settings(self) -> Sequence[Any]:
        return [self.language, self.prompting, self.untuned]

    def inputs(self) -> list[Input]:
        return [*self.backbone.inputs("model"), *template.inputs(self.prompting.prompt)]

    def weight_bytes(self) -> int:
        if self.backbone.hub is not None:
            return sum(self.backbone.hub.files[name] or 0 for name in self.backbone.weights)
        return sum((self.backbone.home / name).stat().st_size for name in self.backbone.weights)

    def load(self, dataset: Dataset, computing: Computing, seed: int) -> Evaluable:
        from rectool.evaluation import language

        return language.as_it_is(
            self.backbone, self.language, self.prompting, self.untuned, dataset, computing, seed=seed
        )


def find(
    model: Path | None,
    data: Path,
    measuring: Measuring,
    language: Language,
    prompting: Prompting,
    untuned: Untuned,
    elsewhere: Mapping[str, Path],
) -> Subject:
    """The model that is meant.

    Args:
        model: an artifact, or a Hugging Face folder; None where `language` names one.
        data: the data set, which a collaborative model must be of.
        elsewhere: where parents lie, by role.

    Raises:
        RectoolError: there is none, it is of another kind, or a flag means nothing to it.
    """
    if model is None:
        if language.llm is None:
            raise RectoolError(f"name a model: a folder made by {MADE_BY}, or --llm NAME for a language model as it is")
        return _as_it_is(language.llm, measuring, language, prompting, untuned)
    if is_there(model):
        artifact = open_artifact(model, elsewhere={**elsewhere, "dataset": data})
        kind = artifact.manifest.kind
        if kind == "cf":
            _refuse(f"{model} is a collaborative model", language, prompting, untuned)
            artifact.parent("dataset")
            return Collaborative(artifact)
        if kind == "llm":
            return _tuned(open_artifact(model, kind, elsewhere=elsewhere), measuring, language, prompting, untuned)
        if kind == "aligned":
            raise RectoolError(f"{model} holds three artifacts; name its collaborative model, {model / 'cf'}")
        if kind != "backbone":
            raise RectoolError(
                f"{model} is a {kind} artifact, but a model is needed ({', '.join(KINDS)}); make one with: {MADE_BY}"
            )
    elif not (model / "config.json").is_file():
        raise RectoolError(f"{model} {_what_is_there(model)}; make a model with: {MADE_BY}, or name one with --llm")
    if language.llm is not None:
        raise RectoolError(f"{model} is a language model itself; --llm {language.llm} would be another one: name one")
    return _as_it_is(str(model), measuring, language, prompting, untuned)


def _tuned(
    artifact: Artifact, measuring: Measuring, language: Language, prompting: Prompting, untuned: Untuned
) -> Subject:
    _refuse(f"{artifact.path} is asked as it was tuned", prompting, untuned)
    _refuse_next_item(measuring)
    is_whole_model = "config.json" in artifact.manifest.files
    if language.revision is not None or (language.llm is not None and is_whole_model):
        flag = "--revision" if language.revision is not None else "--llm"
        raise RectoolError(f"{flag}: {artifact.path} says itself which weights it needs; leave it out")
    return Tuned(artifact, language, above=_roles_above(artifact))


def _roles_above(artifact: Artifact) -> set[str]:
    """The roles of parents that are read with a language model: its backbone, and what its soft tokens stand on."""
    roles = {"backbone"}
    if SOFT_TOKENS in artifact.manifest.files:
        for parent, opened in ancestors(artifact):
            roles |= {parent.role} | (_roles_above(opened) if opened is not None else set())
    return roles


def _as_it_is(name: str, measuring: Measuring, language: Language, prompting: Prompting, untuned: Untuned) -> Subject:
    from rectool.llm import backbone

    _refuse_next_item(measuring)
    return AsItIs(backbone.find(name, revision=language.revision), language, prompting, untuned)


def _refuse(why: str, *groups: Any) -> None:
    """Raises RectoolError that names the first flag of some groups that was given."""
    for flag in (flag for group in groups for flag in given(group)):
        raise RectoolError(f"{flag}: {why}, which leaves no choice of this; leave it out")


def _refuse_next_item(measuring: Measuring) -> None:
    if measuring.task == "next-item":
        raise RectoolError(
            "--task next-item: a language model rates the rows that have a label (--task ctr); "
            "rank the catalogue with a model of rectool train-cf --task next-item"
        )


def _what_is_there(path: Path) -> str:
    if not path.exists():
        return "does not exist"
    return (
        "holds neither an artifact nor a Hugging Face model" if path.is_dir() else "is a file, but a model is a folder"
    )
