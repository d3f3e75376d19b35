"""Where a language model comes from: a folder, an artifact or the hub; found before its weights are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoTokenizer, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from rectool.artifacts import Artifact, Input, folder, open_artifact
from rectool.artifacts.artifact import is_there
from rectool.artifacts.kinds import an
from rectool.errors import RectoolError
from rectool.llm import files, versions
from rectool.llm.body import context_of
from rectool.llm.files import Quantize
from rectool.llm.hub import HubModel, look_up
from rectool.prompts.tokenizer import Tokenizer

ROLE = "backbone"
"""What it is to artifacts that are made with it."""


@dataclass(frozen=True)
class Backbone:
    """A language model that has been found, of which only the configuration has been read.

    Attributes:
        name: as it was given: a name of the hub, or a folder.
        config: its configuration.
        home: where its files lie; those of the hub, where they will lie.
        weights: the files of its weights.
        artifact: the artifact that it is, if it is one: a `backbone`, or an `llm` that is a whole model.
        hub: the model of the hub that it is, if it is one.
    """

    name: str
    config: PretrainedConfig
    home: Path
    weights: tuple[str, ...]
    artifact: Artifact | None = None
    hub: HubModel | None = None

    @property
    def folder(self) -> Path | None:
        """The folder that was given; None for a model of the hub."""
        return None if self.hub else self.home

    @property
    def label(self) -> str:
        """What reports call it: its name on the hub, or that of its folder."""
        return self.name if self.hub else folder.real(self.home).name

    @property
    def commit(self) -> str | None:
        """Of a model of the hub."""
        return self.hub.commit if self.hub else None

    @property
    def context(self) -> int:
        """How many tokens it reads at once."""
        return context_of(self.config)

    @property
    def vocabulary(self) -> int:
        """How many tokens it knows."""
        return int(self.config.get_text_config(decoder=True).vocab_size)

    def inputs(self, role: str = ROLE) -> list[Input]:
        """What the manifest of an artifact made with it names: the artifact, the model and commit, or each file."""
        if self.hub is not None:
            return [Input(role, Path(self.name), commit=self.hub.commit)]
        if self.artifact is not None:
            return [Input(role, self.artifact.path, artifact=self.artifact)]
        names = (files.CONFIG, *self.weights, *files.TOKENIZER)
        return [Input(f"{role}:{name}", self.home / name) for name in names if (self.home / name).is_file()]

    def tokenizer(self) -> Tokenizer:
        """Its tokenizer. Raises RectoolError where `tokenizer_of` does, or where it is another model's."""
        tokenizer = tokenizer_of(self.home, self.name)
        if tokenizer.highest >= self.vocabulary:
            raise RectoolError(
                f"the tokenizer of {self.name} has token {tokenizer.highest:,}, but the model knows only "
                f"{self.vocabulary:,}: they are not of the same model"
            )
        return tokenizer

    def model(
        self, *, device: torch.device, dtype: torch.dtype, quantize: Quantize | None = None, causal: bool = True
    ) -> PreTrainedModel:
        """The model in evaluation mode, downloaded first where that is needed.

        Args:
            dtype: of its weights, whatever the files have.
            quantize: "4bit": keep its linear layers in 4 bits (NF4, QLoRA), and compute in `dtype`.
            causal: with its head; else the body alone, as encoders are.

        Raises:
            RectoolError: it cannot be downloaded, is damaged, or the device has no room for it.
        """
        if self.hub is not None:
            self.hub.fetch(self.weights)
        return files.read_model(
            self.home, self.name, self.weights, device=device, dtype=dtype, quantize=quantize, causal=causal
        )


def find(
    name: str,
    *,
    revision: str | None = None,
    elsewhere: Mapping[str, Path] | None = None,
    encoder: bool = False,
) -> Backbone:
    """Find a language model: an artifact or a Hugging Face folder of that path, else a model of the hub of that name.

    Args:
        revision: of a model of the hub: a branch, a tag or a commit.
        elsewhere: where parents of artifacts lie, by role, if not where they were.
        encoder: whether any model that makes hidden states of a text will do, not only causal ones.

    Raises:
        RectoolError: there is none, it cannot be used or read, or is no language model; a folder has no revisions.
    """
    path = Path(name).expanduser()
    if path.is_file():
        raise RectoolError(f"{name} is a file; give the folder of a Hugging Face model, or a name of the hub")
    if revision is not None and path.is_dir():
        raise RectoolError(
            f"revision {revision} is of a model of the hub, but {name} is a folder; leave --revision out, or go where "
            "no folder has that name"
        )
    if is_there(path):
        return _of_artifact(open_artifact(path, elsewhere=elsewhere), name, encoder=encoder)
    if path.is_dir():
        there = {file.name for file in path.iterdir() if file.is_file()}
        files.refuse_other(name, there)
        config = files.read_config(path, name, encoder=encoder)
        return Backbone(name, config, path, files.weights_of(path, name, there))
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise RectoolError(f"there is no folder {name}; --llm takes a folder, or a name of the hub such as gpt2")
    return _of_hub(look_up(name, revision), encoder=encoder)


def find_tokenizer(name: str) -> Tokenizer:
    """The tokenizer of a language model that `find` finds, or of a folder that has nothing but a tokenizer.

    Raises:
        RectoolError: there is none, or it cannot be read.
    """
    path = Path(name).expanduser()
    if path.is_dir() and not is_there(path) and not (path / files.CONFIG).is_file():
        return tokenizer_of(path, name)
    return find(name).tokenizer()


def tokenizer_of(home: Path, name: str | None = None) -> Tokenizer:
    """The tokenizer of a folder: what tokenizer.json says, where there is one, whatever the model's own class would do.

    Args:
        name: what messages call the folder.

    Raises:
        RectoolError: there is none, or it is damaged or not a fast one.
    """
    name = name or str(home)
    if not any((home / each).is_file() for each in files.VOCABULARIES):  # some versions make an empty one
        raise RectoolError(f"{name} has no tokenizer that can be read: no {' or '.join(files.VOCABULARIES)}")
    kind = PreTrainedTokenizerFast if (home / "tokenizer.json").is_file() else AutoTokenizer
    try:
        with files.hushed():
            fast = kind.from_pretrained(str(home), local_files_only=True, trust_remote_code=False)
        fast.name_or_path = name
        return Tokenizer(fast)
    except RectoolError:
        raise
    except Exception as problem:  # the tokenizers library raises bare ones
        said = " ".join(str(problem).split())[:200]
        raise RectoolError(
            f"{name} has no tokenizer that can be read: {said}{versions.needed(home / files.CONFIG, 'transformers')}"
        ) from problem


def _of_artifact(artifact: Artifact, name: str, *, encoder: bool) -> Backbone:
    if artifact.manifest.kind not in ("backbone", "llm"):
        raise RectoolError(
            f"{name} is {an(artifact.manifest.kind)} artifact, but a language model is needed; make one with: "
            "rectool prep backbone, or name one of the hub"
        )
    if files.ADAPTER in artifact.manifest.files:
        raise RectoolError(
            f"{name} is an llm artifact with an adapter, not a whole language model; name the model it was made from"
        )
    files.refuse_other(name, artifact.manifest.files)
    config = files.read_config(artifact.path, name, encoder=encoder)
    return Backbone(name, config, artifact.path, (files.WEIGHTS,), artifact=artifact)


def _of_hub(model: HubModel, *, encoder: bool) -> Backbone:
    files.refuse_other(model.name, model.files)
    wanted = [file for file in (files.CONFIG, files.INDEX, *files.TOKENIZER) if file in model.files]
    home = model.fetch(wanted)
    config = files.read_config(home, model.name, encoder=encoder)
    return Backbone(model.name, config, home, files.weights_of(home, model.name, model.files), hub=model)
