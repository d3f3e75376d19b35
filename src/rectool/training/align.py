"""Alignment: a collaborative model and semantic embeddings of its items, trained together (SeLLa-Rec's stage 2)."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence

import torch
from safetensors.torch import save_file

from rectool.artifacts import Artifact, Draft
from rectool.data.dataset import Dataset
from rectool.data.estimate import TORCH_MEMORY, Plan
from rectool.devices import device_named, free_memory
from rectool.errors import RectoolError, disk_errors
from rectool.evaluation.scorer import CollaborativeScorer
from rectool.models import projector as projectors
from rectool.models import saved, semantic
from rectool.models.priors import start_from_mean
from rectool.models.projector import Projector
from rectool.models.saved import Trained
from rectool.models.semantic import SemanticTable
from rectool.models.table import model_class
from rectool.training import loop
from rectool.training.align_settings import Alignment, Started
from rectool.training.alignment import AlignedParts, AlignObjective, anchors_per_step
from rectool.training.choice import Choice, choose
from rectool.training.counting import prior, training_rows
from rectool.training.estimate import COPIES, estimate
from rectool.training.losses import BUFFER_BYTES
from rectool.training.report import report
from rectool.training.run import Run
from rectool.training.settings import Fit, Loss, Start
from rectool.training.train_cf import objective_of, untrained, validation_of, write

TRAINED_BYTES = 256 << 20
"""The largest semantic table, in float32, that is trained unless told otherwise."""
TABLE_COPIES = 11
"""Of a semantic table that is trained: as distilled, its change, the sum of both and its directions, their gradients,
Adam's moments, the best, a checkpoint on its way."""


@dataclasses.dataclass(frozen=True)
class Aligning:
    """What is to be aligned, and how; checked, before weights are read.

    Attributes:
        cf: the model to go on from; None for one that starts here.
        choice: what that model is, and how it is trained.
    """

    dataset: Dataset
    semantic: Artifact
    cf: Artifact | None
    choice: Choice
    settings: Alignment
    fit: Fit

    @classmethod
    def of(
        cls, dataset: Dataset, semantic: Artifact, cf: Artifact | None, model: Started, settings: Alignment, fit: Fit
    ) -> Aligning:
        """Settle what was left open. Raises RectoolError for what does not go together."""
        if cf is None:
            choice = _fresh(dataset, model, settings, fit)
        else:
            model.refuse_given(cf.path)
            choice = _going_on(cf, settings, fit)
        aligning = cls(dataset, semantic, cf, choice, settings, fit)
        if settings.semantic_learning_rate is not None and not aligning.trains_semantic:
            raise RectoolError(
                f"--semantic-learning-rate: the embeddings are {aligning.table_bytes >> 20:,} MiB and therefore frozen "
                "unless --train-semantic is given"
            )
        return aligning

    @property
    def table_bytes(self) -> int:
        """Of the semantic table in float32."""
        return 4 * self.dataset.items * self.width

    @property
    def width(self) -> int:
        """Of semantic embeddings."""
        return self.semantic.manifest.counts["embedding_size"]

    @property
    def trains_semantic(self) -> bool:
        asked = self.settings.train_semantic
        return asked if asked is not None else self.table_bytes <= TRAINED_BYTES

    def plan(self, reads: Sequence[str]) -> Plan:
        """Sizes; the semantic table is read and checked.

        Raises:
            RectoolError: it is of no use, or memory does not suffice.
        """
        collaborative = estimate(self.dataset, self.choice, self.fit, reads)
        inputs = getattr(self.choice.settings, "embedding_size", 1)
        hidden = self.settings.expansion * inputs
        projector = 4 * (hidden * (inputs + 1) + self.width * (hidden + 1))
        trained = self.table_bytes if self.trains_semantic else 0
        device = device_named(self.fit.device)
        memory = collaborative.memory_bytes + COPIES * projector + self._table_memory()
        memory += self._step_memory(hidden, BUFFER_BYTES[device.type])
        free = free_memory(device)
        if memory - TORCH_MEMORY > free:
            raise RectoolError(
                f"aligning {self.dataset.items:,} items with {self.width:,} values each would need about "
                f"{memory / 1e9:.1f} GB of memory, but {device} has {free / 1e9:.1f} GB free; {self._advice()}"
            )
        semantic.read(self.semantic)
        return dataclasses.replace(
            collaborative,
            disk_bytes=collaborative.disk_bytes + projector + max(trained, self._semantic_file()),
            scratch_bytes=collaborative.scratch_bytes + 5 * (projector + trained),
            memory_bytes=memory,
        )

    def train(self, draft: Draft, run: Run) -> None:
        """Train, and write the parts into the draft of an `aligned` artifact.

        Raises:
            RectoolError: the loss is no longer finite, or the semantic embeddings are of no use.
            Stopped: with a checkpoint.
        """
        rates = {}
        if self.settings.semantic_learning_rate is not None:
            rates["semantic."] = self.settings.semantic_learning_rate
        run = dataclasses.replace(run, metric=self.choice.metric, rates=rates)
        table = SemanticTable(semantic.read(self.semantic), trained=self.trains_semantic).to(run.device)
        trained = self._collaborative(run)
        torch.manual_seed(run.seed)
        inputs = trained.model.item_vectors().shape[1]
        projector = Projector(inputs, self.settings.expansion * inputs, self.width, self.settings.activation)
        parts = AlignedParts(trained.model, table, projector.to(run.device))
        validation = validation_of(self.dataset, trained, self.fit, run)
        collaborative = objective_of(
            trained,
            self.dataset,
            self.settings.collaborative(trained.task, self.choice.loss),
            self.choice.loss,
            validation,
            run.device,
        )
        objective = AlignObjective(parts, collaborative, self.settings, run.device, run.seed)
        fitted = loop.fit(objective, self.fit, run)
        parts.load_state_dict(fitted.best, strict=False)
        parts.eval()
        found = {
            "model": trained.name,
            "task": trained.task,
            "metric": self.choice.metric,
            "valid": validation(CollaborativeScorer(trained, run.device)),
        }
        self._write(draft, parts, trained, run.device)
        draft.parts["cf"][1].metrics.update(found)
        draft.metrics.update(
            found,
            prior=prior(self.dataset, trained.task, trained.probability is not None, validation, self.choice.metric),
            alignment=objective.losses(),
            trained_semantic=self.trains_semantic,
            parameters=sum(each.numel() for each in parts.parameters()),
        )
        report(draft, run, fitted)

    def _collaborative(self, run: Run) -> Trained:
        """The model as it is before the first step."""
        if self.cf is not None:
            loaded = saved.load(self.cf, run.device)
            return dataclasses.replace(loaded, probability=self.choice.probability)
        trained = untrained(self.dataset, self.choice, run)
        rows = training_rows(self.dataset, trained)
        trained.model.observe(rows)
        if self.choice.loss == "squared-error":
            start_from_mean(trained.model, rows)
        return trained

    def _write(self, draft: Draft, parts: AlignedParts, trained: Trained, device: torch.device) -> None:
        write(draft.part("cf", "cf").path, self.dataset, trained, device)
        projectors.save(parts.projector, draft.part("projector", "projector").path)
        folder = draft.part("semantic", "semantic").path
        with disk_errors(folder, "choose another --out"):
            about = json.loads(self.semantic.file("config.json").read_bytes())
            (folder / "config.json").write_text(json.dumps({**about, "aligned": self.trains_semantic}, indent=1) + "\n")
            if self.trains_semantic:
                with torch.inference_mode():
                    save_file({"item": parts.semantic().cpu().contiguous()}, folder / semantic.FILE)
            else:
                shutil.copyfile(self.semantic.file(semantic.FILE), folder / semantic.FILE)

    def _semantic_file(self) -> int:
        return self.semantic.manifest.files[semantic.FILE].bytes

    def _anchors(self) -> int:
        rows = self.dataset.artifact.manifest.counts["interactions"]
        steps = max(1, rows // self.fit.batch_size)
        return anchors_per_step(self.settings.anchors, self.fit.batch_size, self.dataset.items, steps)

    def _table_memory(self) -> int:
        return self.table_bytes * (TABLE_COPIES if self.trains_semantic else 1)

    def _step_memory(self, hidden: int, buffer: int) -> int:
        """Of anchors on their way through the projector, and of cosines with the catalogue, in validation at least."""
        items, anchors = self.dataset.items, self._anchors()
        rows = min(items, max(self.width, buffer // (4 * items)))
        return 4 * (anchors * (3 * hidden + 5 * self.width) + rows * items)

    def _advice(self) -> str:
        ways = ["--no-train-semantic keeps the table as it is"] if self.trains_semantic else []
        if self.settings.negatives == "catalogue":
            ways.append("--negatives batch compares with fewer items")
        return ", ".join(ways) or "choose smaller semantic embeddings, or fewer --anchors"


def _fresh(dataset: Dataset, model: Started, settings: Alignment, fit: Fit) -> Choice:
    """A model that starts here: for CTR by squared error, and matrix factorisation without biases, unless told."""
    _refuse_counted(model.model, "--model")
    if model.model == "mf" and model.biases is None:
        model = dataclasses.replace(model, biases=False)
    choice = choose(dataset, model, settings.collaborative(), dataclasses.replace(fit, metric=None), Start())
    loss: Loss | None = "squared-error" if choice.task == "ctr" else None
    return choose(dataset, model, settings.collaborative(choice.task, loss), fit, Start())


def _going_on(cf: Artifact, settings: Alignment, fit: Fit) -> Choice:
    """A model that has been trained; its loss is what it was trained by unless told otherwise."""
    trained = saved.load(cf)
    _refuse_counted(trained.name, f"--cf {cf.path}:")
    if settings.task not in (None, trained.task):
        raise RectoolError(f"--task {settings.task}: --cf {cf.path} was trained for {trained.task}; leave it out")
    loss: Loss | None = None
    if trained.task == "ctr":
        loss = "bce" if trained.probability is not None else "squared-error"
    chosen = settings.collaborative(trained.task, loss).loss_for(trained.task)
    metric = fit.metric_for(trained.task)
    sigmoid = trained.task == "ctr" and chosen == "bce" and trained.model.logits
    if metric == "log_loss" and not sigmoid:
        raise RectoolError(f"--metric log_loss needs probabilities, which {trained.name} does not give with {chosen}")
    kind = model_class(trained.name)
    return Choice(
        trained.name,
        kind,
        trained.model.settings,
        trained.task,
        chosen,
        metric,
        trained.history,
        "sigmoid" if sigmoid else None,
    )


def _refuse_counted(name: str, flag: str) -> None:
    if model_class(name).counted:
        raise RectoolError(f"{flag} {name} only counts: it has no item embeddings to be aligned; choose mf or another")
