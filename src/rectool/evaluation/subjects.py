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
from rectool.artifacts.kinds import an
from rectool.errors import RectoolError
from rectool.evaluation.settings import Computing, Grounding, Language, Masking, Measuring, Untuned, given
from rectool.models.table import Task
from rectool.prompts import template
from rectool.prompts.settings import Prompting

if TYPE_CHECKING:
    from rectool.data.dataset import Dataset
    from rectool.evaluation.scorer import Evaluable
    from rectool.llm.backbone import Backbone

KINDS = ("cf", "llm", "backbone")
MADE_BY = "rectool train-cf, tune-lora or train-proj"
STANDING = ("unknown.safetensors", "head.safetensors")
"""Files of `llm` artifacts that may stand on other artifacts: soft tokens and item heads."""


class Subject(Protocol):
    """A model that can be evaluated."""

    @property
    def settings(self) -> Sequence[Any]:
        """The groups of settings that make its scores what they are."""

    @property
    def above(self) -> Collection[str]:
        """The roles of what it is made from and reads, too."""

    @property
    def ranks(self) -> bool:
        """Whether it ranks the catalogue, and does not rate one item after the other."""

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
    ranks: bool = True

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
    """An `llm` artifact, which is asked as it was tuned.

    Attributes:
        head: its kind, as model.json says.
    """

    artifact: Artifact
    head: str
    language: Language
    grounding: Grounding
    masking: Masking
    above: Collection[str] = ("backbone",)

    @property
    def settings(self) -> Sequence[Any]:
        return [self.language, *(group for group in (self.grounding, self.masking) if given(group))]

    @property
    def ranks(self) -> bool:
        return self.head != "answer"

    def inputs(self) -> list[Input]:
        return [Input("model", self.artifact.path, artifact=self.artifact)]

    def weight_bytes(self) -> int:
        return sum(file.bytes for name, file in self.artifact.manifest.files.items() if name.endswith(".safetensors"))

    def load(self, dataset: Dataset, computing: Computing, seed: int) -> Evaluable:
        from rectool.evaluation import language

        return language.tuned(
            self.artifact, self.language, dataset, computing, grounding=self.grounding, masking=self.masking
        )


@dataclass(frozen=True)
class AsItIs:
    """A language model that has not been tuned: it answers questions, or writes titles."""

    backbone: Backbone
    language: Language
    prompting: Prompting
    untuned: Untuned
    grounding: Grounding
    task: Task
    above: Collection[str] = ()

    @property
    def settings(self) -> Sequence[Any]:
        grounding = [self.grounding] if given(self.grounding) else []
        return [self.language, self.prompting, self.untuned, *grounding]

    @property
    def ranks(self) -> bool:
        return self.task == "next-item"

    def inputs(self) -> list[Input]:
        return [*self.backbone.inputs("model"), *template.inputs(self.prompting.prompt)]

    def weight_bytes(self) -> int:
        if self.backbone.hub is not None:
            return sum(self.backbone.hub.files[name] or 0 for name in self.backbone.weights)
        return sum((self.backbone.home / name).stat().st_size for name in self.backbone.weights)

    def load(self, dataset: Dataset, computing: Computing, seed: int) -> Evaluable:
        from rectool.evaluation import language

        return language.as_it_is(
            self.backbone,
            self.language,
            self.prompting,
            self.untuned,
            dataset,
            computing,
            seed=seed,
            task=self.task,
            grounding=self.grounding,
        )


def find(
    model: Path | None,
    data: Path,
    measuring: Measuring,
    language: Language,
    prompting: Prompting,
    untuned: Untuned,
    elsewhere: Mapping[str, Path],
    *,
    grounding: Grounding | None = None,
    masking: Masking | None = None,
) -> Subject:
    """The model that is meant.

    Args:
        model: an artifact, or a Hugging Face folder; None where `language` names one.
        data: the data set, which a collaborative model must be of.
        elsewhere: where parents lie, by role.

    Raises:
        RectoolError: there is none, it is of another kind, or a flag means nothing to it.
    """
    grounding, masking = grounding or Grounding(), masking or Masking()

    def as_it_is(name: str) -> Subject:
        return _as_it_is(name, measuring, language, prompting, untuned, grounding, masking)

    if model is None:
        if language.llm is None:
            raise RectoolError(f"name a model: a folder made by {MADE_BY}, or --llm NAME for a language model as it is")
        return as_it_is(language.llm)
    if is_there(model):
        artifact = open_artifact(model, elsewhere={**elsewhere, "dataset": data})
        kind = artifact.manifest.kind
        if kind == "cf":
            _refuse(f"{model} is a collaborative model", language, prompting, untuned, grounding, masking)
            artifact.parent("dataset")
            return Collaborative(artifact)
        if kind == "llm":
            _refuse(f"{model} is asked as it was tuned", prompting, untuned)
            return _tuned(open_artifact(model, kind, elsewhere=elsewhere), measuring, language, grounding, masking)
        if kind == "aligned":
            raise RectoolError(f"{model} holds three artifacts; name its collaborative model, {model / 'cf'}")
        if kind != "backbone":
            raise RectoolError(
                f"{model} is {an(kind)} artifact, but a model is needed ({', '.join(KINDS)}); make one with: {MADE_BY}"
            )
    elif not (model / "config.json").is_file():
        raise RectoolError(f"{model} {_what_is_there(model)}; make a model with: {MADE_BY}, or name one with --llm")
    if language.llm is not None:
        raise RectoolError(f"{model} is a language model itself; --llm {language.llm} would be another one: name one")
    return as_it_is(str(model))


def _tuned(
    artifact: Artifact, measuring: Measuring, language: Language, grounding: Grounding, masking: Masking
) -> Subject:
    from rectool.llm import model_json

    head = model_json.read(artifact).head
    if head == "answer" and measuring.task == "next-item":
        raise RectoolError(
            f"--task next-item: {artifact.path} answers yes/no questions (--task ctr); rank the catalogue with a model "
            "of rectool tune-lora --task next-item, or of rectool train-cf --task next-item"
        )
    if head == "title" and measuring.task == "ctr":
        raise RectoolError(f"--task ctr: {artifact.path} writes the next title; it rates no items")
    if head != "title":
        _refuse(f"{artifact.path} writes no titles", grounding)
    is_whole_model = "config.json" in artifact.manifest.files
    if language.revision is not None or (language.llm is not None and is_whole_model):
        flag = "--revision" if language.revision is not None else "--llm"
        raise RectoolError(f"{flag}: {artifact.path} says itself which weights it needs; leave it out")
    return Tuned(artifact, head, language, grounding, masking, above=_roles_above(artifact))


def _roles_above(artifact: Artifact) -> set[str]:
    """The roles of parents that are read with a language model: its backbone, and what its parts stand on."""
    roles = {"backbone"}
    if any(name in artifact.manifest.files for name in STANDING):
        for parent, opened in ancestors(artifact):
            roles |= {parent.role} | (_roles_above(opened) if opened is not None else set())
    return roles


def _as_it_is(
    name: str,
    measuring: Measuring,
    language: Language,
    prompting: Prompting,
    untuned: Untuned,
    grounding: Grounding,
    masking: Masking,
) -> Subject:
    from rectool.llm import backbone

    task = measuring.task or "ctr"
    _refuse(f"{name} is not tuned, and its mask is causal", masking)
    if task == "ctr":
        _refuse(f"{name} is asked yes/no questions (--task ctr)", grounding)
    else:
        _refuse(f"{name} is to write titles (--task next-item)", untuned)
    found = backbone.find(name, revision=language.revision)
    return AsItIs(found, language, prompting, untuned, grounding, task)


def _refuse(why: str, *groups: Any) -> None:
    """Raises RectoolError that names the first flag of some groups that was given."""
    for flag in (flag for group in groups for flag in given(group)):
        raise RectoolError(f"{flag}: {why}, which leaves no choice of this; leave it out")


def _what_is_there(path: Path) -> str:
    if not path.exists():
        return "does not exist"
    return (
        "holds neither an artifact nor a Hugging Face model" if path.is_dir() else "is a file, but a model is a folder"
    )
