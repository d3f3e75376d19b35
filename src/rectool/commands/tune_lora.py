"""`rectool tune-lora`: a data set and a language model -> one that answers yes or no, or says what comes next."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import typer

from rectool.commands.flags import command
from rectool.commands.making import make_artifact
from rectool.commands.options import Data, Talk, Train
from rectool.commands.showing import beside_priors
from rectool.prompts.settings import Prompting
from rectool.training.lora_settings import Answering, FitLanguage, Language, Lora, Predicting

if TYPE_CHECKING:
    from rectool.artifacts import Draft, Input
    from rectool.data.estimate import Plan
    from rectool.training.tuning import Tuning


def register(app: typer.Typer) -> None:
    """Add `rectool tune-lora`."""
    command(
        app,
        "tune-lora",
        examples=[
            "rectool tune-lora data/ml-1m --llm TinyLlama/TinyLlama-1.1B-Chat-v1.0 --noun movies --out runs/lora",
            "rectool tune-lora data/ml-1m --llm Qwen/Qwen2-7B --quantize 4bit --samples 64 --epochs 50 --out runs/few",
            "rectool tune-lora data/ml-1m --llm runs/nano --full --learning-rate 1e-3 --out runs/nano-tuned",
            "rectool tune-lora data/games --llm meta-llama/Llama-3.2-3B --mask in:8,or:*,cr:2 --steps 1600 "
            "--validate-steps 100 --patience 2 --out runs/hatllm",
        ],
    )(tune_lora)


def tune_lora(
    data: Data,
    language: Language,
    lora: Lora,
    prompting: Prompting,
    predicting: Predicting,
    answering: Answering,
    fit: FitLanguage,
    make: Train,
    talk: Talk,
) -> None:
    """Tune a language model to answer whether a user likes an item, or to say the next one, by LoRA or as a whole."""
    from rectool.artifacts import Input, open_artifact
    from rectool.data.dataset import Dataset

    dataset = Dataset(open_artifact(data.data, "dataset", elsewhere=make.parents()))

    @cache
    def tuning() -> Tuning:
        from rectool.training.tuning import prepare

        return prepare(dataset, language, lora, prompting, predicting, answering, fit, make.seed, make.parents())

    def inputs() -> list[Input]:
        return [Input("dataset", data.data, artifact=dataset.artifact), *tuning().parents]

    def plan() -> Plan:
        return tuning().plan([str(source.path) for source in inputs()])

    def build(draft: Draft) -> None:
        from rectool.commands.resuming import run_of
        from rectool.training.tune_lora import tune

        tune(draft, tuning(), run_of(make, draft, tuning().device))

    make_artifact(
        "llm",
        ["rectool", "tune-lora"],
        make,
        [data, language, lora, prompting, predicting, answering, fit],
        plan=plan,
        inputs=inputs,
        build=build,
        show=beside_priors,
    )
