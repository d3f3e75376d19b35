"""Run by test_tune_lora.py in each of two processes: tunes a model in some ways, and keeps what came of it.

`two_tuners.py DATA LLM CASES OUT`; CASES is a JSON file of cases by name, each with settings of the groups `lora`,
`predicting`, `answering` and `fit`. The files of a case are written to OUT/NAME-RANK.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from rectool import console, processes
from rectool.artifacts import Draft, open_artifact
from rectool.data.dataset import Dataset
from rectool.prompts.settings import Prompting
from rectool.training.lora_settings import Answering, FitLanguage, Language, Lora, Predicting
from rectool.training.run import Run
from rectool.training.tune_lora import tune
from rectool.training.tuning import prepare


def run(dataset: Dataset, llm: str, case: dict[str, Any], out: Path) -> Draft:
    """Tune as a case says; the draft of what was made."""
    torch.set_num_threads(1)
    out.mkdir(parents=True)
    lora, answering = Lora(**case.get("lora", {})), Answering(**case.get("answering", {}))
    predicting = Predicting(**case.get("predicting", {}))
    fit = FitLanguage(**case["fit"], device="cpu")
    tuning = prepare(dataset, Language(llm=llm), lora, Prompting(history=4), predicting, answering, fit, 0)
    draft = Draft(out, out)
    tune(draft, tuning, Run(0, tuning.device))
    return draft


def main(data: str, llm: str, cases: str, out: str) -> None:
    console.configure(quiet=True, json=False)

    def work() -> None:
        dataset = Dataset(open_artifact(Path(data), "dataset"))
        for name, case in json.loads(Path(cases).read_text()).items():
            draft = run(dataset, llm, case, Path(out) / f"{name}-{processes.rank()}")
            (draft.path / "metrics.json").write_text(json.dumps(draft.metrics))

    processes.together(work, everywhere=True)
    processes.end(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
