"""What all tests share: the command line run in this process, and small data."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rectool import cli, console

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: tests run side by side
os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub is imported: no test asks the network

TOKENIZER_WORDS = str.split("""
    Yes No yes no A user likes like liked dislikes disliked enjoys the user's given gave high low ratings rating to
    following movies movie books book games game items item titles title history using all of this information above
    and whether would predict Answer Question Instruction Input Response Given will enjoy target new Based on
    preferences Please answer with or only next recommend description what is it about empty none nothing
    Haunted Ghosts Cosmic Stars Stolen Detectives Romantic Lovers Wartime Soldiers Funny Clowns Enchanted Dragons
    Western Outlaws Amber Ashen Azure Bronze Cobalt Copper Coral Crimson Golden Silver Violet White
    Abbey Bay Bridge Canal Castle Desert Forest Garden Harbour Hill Island Library Lighthouse Market Palace River
    Road School Station Street Theatre Tower Tunnel Valley Village Alien Heat Up Matrix Toy Story one two three
    The In An By For 1 2 3 4 5 10 1995 1999 2001 0 ( ) " , . : ? # ### ; ' - / [ ] < >
""")
"""Each of these, alone and after a space, is one token of the tokenizer of `tiny_llm`; all else is pieces and bytes."""


@dataclass(frozen=True)
class Outcome:
    """What a run of the command line did."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)

    @property
    def error(self) -> str:
        """The one error line; fails if there is none, or more than one."""
        lines = [line for line in self.stderr.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, self.stderr
        assert "Traceback" not in self.stderr
        return lines[0].removeprefix("error: ")


@pytest.fixture(scope="session")
def free_ports() -> Callable[[int], list[int]]:
    """Ports of this machine, each another one, that nobody listens to."""

    def find(count: int) -> list[int]:
        with ExitStack() as stack:
            found = [stack.enter_context(socket.socket()) for _ in range(count)]
            for free in found:
                free.bind(("127.0.0.1", 0))
            return [int(free.getsockname()[1]) for free in found]

    return find


@pytest.fixture
def rectool(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run `rectool ARGUMENTS` for real, in this process."""

    def run(*arguments: object) -> Outcome:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["rectool", *map(str, arguments)])
        console.configure(quiet=False, json=False)
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        shown = capsys.readouterr()
        code = stopped.value.code
        assert isinstance(code, int)
        return Outcome(code, shown.out, shown.err)

    return run


@pytest.fixture(scope="session")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, int], Path]:
    """A data set of `prep synthetic` with so many users and items: `synthetic(40, 50)`.

    The same numbers give the same folder, which no test may change.
    """
    made: dict[tuple[int, int], Path] = {}

    def make(users: int, items: int) -> Path:
        if (users, items) not in made:
            out = tmp_path_factory.mktemp("data") / "tiny"
            with pytest.MonkeyPatch.context() as patched, pytest.raises(SystemExit) as stopped:
                words = [
                    "prep",
                    "synthetic",
                    "--users",
                    str(users),
                    "--items",
                    str(items),
                    "--quiet",
                    "--out",
                    str(out),
                ]
                patched.setattr(sys, "argv", ["rectool", *words])
                cli.main()
            assert stopped.value.code == 0
            console.configure(quiet=False, json=False)
            made[users, items] = out
        return made[users, items]

    return make


@pytest.fixture(autouse=True)
def plain_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No colours, a wide terminal, a cache of our own: the same everywhere."""
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("RECTOOL_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def tiny_llm(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A Hugging Face folder of a random causal language model of 2 layers and width 32, with a tokenizer.

    `tiny_llm(architecture="llama", tied=False, bos=True, chat=False, dtype="float32", seed=0, **config)`, where the
    architecture is llama, qwen2, qwen3, mistral or gpt2; `bos`: the tokenizer puts `<s>` before a text; `chat`: it has
    a chat template; `config`: what else its configuration shall say, such as max_position_embeddings. The same
    arguments give the same folder, which no test may change.
    """
    made: dict[str, Path] = {}

    def make(architecture: str = "llama", **options: Any) -> Path:
        key = f"{architecture} {sorted(options.items())}"
        if key not in made:
            made[key] = tmp_path_factory.mktemp("llm") / architecture
            _write_model(made[key], architecture, **options)
        return made[key]

    return make


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder of a random BERT of 2 layers and width 32, whose tokenizer puts `<s>`, `</s>` around."""
    folder = tmp_path_factory.mktemp("encoder") / "bert"
    _write_model(folder, "bert", eos=True)
    return folder


@pytest.fixture(scope="session")
def untuned() -> Callable[..., Any]:
    """A backbone as it is, asked with a prompt, in fp32 on a CPU: `untuned(backbone, Prompting(history=3))`."""
    import torch

    from rectool.llm.recommender import assemble, refuse_unfit, usual_prompt
    from rectool.prompts.prompts import Prompts

    def make(backbone: Any, prompting: Any, **options: Any) -> Any:
        usual, device = usual_prompt(backbone), torch.device("cpu")
        prompts = Prompts.chosen(prompting, backbone.tokenizer(), default=usual, context=backbone.context)
        refuse_unfit(prompts, backbone)
        model = backbone.model(device=device, dtype=torch.float32)
        return assemble(backbone, model, prompts, device=device, **options)

    return make


def _write_model(
    folder: Path,
    architecture: str,
    *,
    tied: bool = False,
    bos: bool = True,
    eos: bool = False,
    chat: bool = False,
    dtype: str = "float32",
    seed: int = 0,
    **config: Any,
) -> None:
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    tokenizer = _make_tokenizer(bos=bos, eos=eos, chat=chat)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 512}
    if architecture == "gpt2":
        sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": config.pop("max_position_embeddings", 512)}
    else:
        sizes["intermediate_size"] = 64
    if architecture in ("llama", "mistral", "qwen2", "qwen3"):
        sizes["num_key_value_heads"] = 2
    if architecture in ("mistral", "qwen3"):
        sizes["head_dim"] = 8
    settings: dict[str, Any] = {
        **sizes,
        "vocab_size": len(tokenizer),
        "tie_word_embeddings": tied,
        "initializer_range": 0.15,  # about 1 / sqrt(32): outputs that differ
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **config,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        auto = AutoModel if architecture == "bert" else AutoModelForCausalLM
        model = auto.from_config(AutoConfig.for_model(architecture, **settings))
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _make_tokenizer(*, bos: bool, eos: bool, chat: bool) -> Any:
    """A byte-level BPE tokenizer that knows TOKENIZER_WORDS."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<pad>"]
    trainer = trainers.BpeTrainer(
        vocab_size=4000,
        min_frequency=1,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text for word in TOKENIZER_WORDS for text in (word, f" {word}")], trainer)
    single = " ".join(["<s>"] * bos + ["$A"] + ["</s>"] * eos)
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single=single, special_tokens=[("<s>", 0), ("</s>", 1)]),
        ]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", model_max_length=512
    )
    if chat:
        fast.chat_template = (
            "{% for message in messages %}<s>{{ message['role'] }}\n{{ message['content'] }}</s>\n{% endfor %}"
            "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
        )
    return fast


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets that RECTOOL_TEST_DATA names; skips without it."""
    folder = os.environ.get("RECTOOL_TEST_DATA")
    if not folder:
        pytest.skip("RECTOOL_TEST_DATA names no folder of real data sets")
    return Path(folder)
