"""The files of a Hugging Face model folder: which there must be, and reading its configuration and weights."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_MAPPING,
)
from transformers.utils import logging

from rectool.errors import RectoolError
from rectool.llm import versions

Quantize = Literal["4bit"]

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
ADAPTER = "adapter_config.json"
TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("chat_template.jinja", "chat_template.json", "vocab.json", "merges.txt", "vocab.txt"),
    *("tokenizer.model", "spiece.model", "sentencepiece.bpe.model"),
)
"""Files that tokenizers are made of."""
VOCABULARIES = *("tokenizer.json", "vocab.json", "vocab.txt"), *(name for name in TOKENIZER if name.endswith(".model"))
"""Those of which a tokenizer has one."""

LARGER, SPARE_VALUES = 4, 100_000_000
"""Values that a model may have for each byte of its weights (2 in 4 bits), and beside them, such as masks."""
SPARE_LAYERS = 100
"""That a model may have and its weights lack: which ones are missing is said then."""

_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack")


def refuse_other(name: str, files: Collection[str]) -> None:
    """Raises RectoolError if files are not those of one model with safe weights."""
    if ADAPTER in files and CONFIG in files:
        raise RectoolError(f"{name} has both a model and an adapter ({ADAPTER}); give a folder with the model alone")
    if ADAPTER in files:
        raise RectoolError(f"{name} is an adapter, not a whole language model; name the model that it was made for")
    if CONFIG not in files:
        raise RectoolError(f"{name} has no {CONFIG}: it is no Hugging Face model")
    if WEIGHTS in files or INDEX in files:
        return
    pickled = sorted(file for file in files if file.endswith(_PICKLED))
    if pickled:
        raise RectoolError(
            f"{name} has only pickled weights ({pickled[0]}), which rectool does not read: they can run any code; "
            "choose a model with model.safetensors, or convert it with save_pretrained of transformers"
        )
    raise RectoolError(f"{name} has no {WEIGHTS}")


def weights_of(folder: Path, name: str, files: Collection[str]) -> tuple[str, ...]:
    """The files that hold a model's weights, as its index says where there are several.

    Args:
        files: that it has, or the hub has of it.

    Raises:
        RectoolError: the index is damaged, or a file is missing.
    """
    if WEIGHTS in files:
        return (WEIGHTS,)
    try:
        shards = sorted(set(json.loads((folder / INDEX).read_bytes())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        raise RectoolError(f"{folder / INDEX} is damaged ({problem!r}); copy {name} again") from problem
    for shard in shards:
        if shard not in files:
            raise RectoolError(f"{name} has no {shard}, which its {INDEX} names; copy it again")
    return tuple(shards)


def read_config(folder: Path, name: str, *, encoder: bool) -> PretrainedConfig:
    """The configuration of a model that transformers knows, and that can be used.

    Args:
        encoder: whether any model that makes hidden states of a text will do, not only causal ones.

    Raises:
        RectoolError: it is damaged, needs code of its own, or is of the wrong sort.
    """
    try:
        with hushed():
            config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
    except Exception as problem:  # each architecture's own code reads its configuration, and raises what it likes
        said = " ".join(str(problem).split())
        if "trust_remote_code" in said:
            raise RectoolError(
                f"{name} needs code of its own (trust_remote_code), which rectool does not run; choose a model of an "
                "architecture that transformers has"
            ) from problem
        raise RectoolError(
            f"{folder / CONFIG} of {name} cannot be read: {said.split('. ')[0][:200]}"
            f"{versions.needed(folder / CONFIG, 'transformers')}"
        ) from problem
    _refuse_kernels(folder / CONFIG, config)
    if config.is_encoder_decoder or type(config) not in MODEL_MAPPING:
        raise RectoolError(f"{name} is a {config.model_type} model; a language model of one stack is needed")
    if not encoder and not is_causal(config):
        raise RectoolError(
            f"{name} is a {config.model_type} model, which is not causal: it cannot say what comes next; choose a "
            "causal language model (encoders are for rectool distill --pooling mean or cls)"
        )
    return config


def is_causal(config: PretrainedConfig) -> bool:
    """Whether a model of this configuration reads from left to right, and says what comes next."""
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        return False
    if type(config) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False):
        return False
    text = config.get_text_config(decoder=True)
    return getattr(text, "is_causal", True) and not getattr(text, "use_bidirectional_attention", False)


def read_model(
    folder: Path,
    name: str,
    weights: Collection[str],
    *,
    device: torch.device,
    dtype: torch.dtype,
    quantize: Quantize | None,
    causal: bool,
) -> PreTrainedModel:
    """A model with its weights, in evaluation mode.

    Args:
        causal: with its head; else the body alone.

    Raises:
        RectoolError: a file is damaged, weights are missing or do not fit, the device has too little memory or is no
            GPU for 4 bits.
    """
    for file in weights:
        _refuse_damaged(folder / file, name)
    _refuse_larger(folder, name, weights, causal=causal)
    options: dict[str, Any] = {"device_map": {"": str(device)}} if device.type != "cpu" else {}
    if quantize is not None:
        options["quantization_config"] = _in_four_bits(device, dtype)
    auto = AutoModelForCausalLM if causal else AutoModel
    try:
        with hushed():
            model, report = auto.from_pretrained(
                str(folder),
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **options,
            )
    except torch.OutOfMemoryError as problem:
        raise RectoolError(
            f"{device} has no memory for {name} in {str(dtype).removeprefix('torch.')}; choose a smaller model, or "
            "--quantize 4bit"
        ) from problem
    except Exception as problem:  # each architecture's own code makes the model of its configuration
        raise RectoolError(
            f"{name} cannot be read: {' '.join(str(problem).split())[:300]}"
            f"{versions.needed(folder / CONFIG, 'transformers')}"
        ) from problem
    for key, there, wanted in sorted(report["mismatched_keys"]):
        raise RectoolError(
            f"the weights of {name} do not fit its config.json: {key} is {tuple(there)}, but should be {tuple(wanted)}"
        )
    missing = sorted(key for key in report["missing_keys"] if causal or "pooler" not in key)
    if missing:
        raise RectoolError(
            f"the weights of {name} are not all there: {missing[0]} is missing ({len(missing)} in all); "
            "they are of another model than config.json says, or of a part of it"
        )
    whole: PreTrainedModel = model.eval()
    return whole


@contextmanager
def hushed() -> Iterator[None]:
    """Keep bars and advice of transformers off the screen: what matters is raised."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def refuse_four_bits(device: torch.device) -> None:
    """Raises RectoolError where weights cannot be kept in 4 bits: on a CPU, or without bitsandbytes."""
    if device.type != "cuda":
        raise RectoolError(f"--quantize 4bit needs a GPU, but --device is {device}")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise RectoolError("--quantize 4bit needs bitsandbytes: pip install 'rectool[quant]'")


def _in_four_bits(device: torch.device, dtype: torch.dtype) -> BitsAndBytesConfig:
    refuse_four_bits(device)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def _refuse_kernels(path: Path, config: PretrainedConfig) -> None:
    """A configuration may name code of the hub for its attention or its experts, which transformers would run."""
    for name in ("_attn_implementation", "_experts_implementation"):
        chosen = getattr(config, name, None)
        if chosen is not None and chosen not in ("eager", "sdpa", "flash_attention_2", "flex_attention"):
            raise RectoolError(
                f"{path} asks for {name.removeprefix('_')} {chosen!r}, which is none of transformers' own: "
                "remove that line"
            )


def _refuse_larger(folder: Path, name: str, weights: Collection[str], *, causal: bool) -> None:
    """Raises RectoolError if config.json tells of a model far larger than its weights, before room is made for it."""
    tensors = stored = 0
    for file in weights:
        with safe_open(folder / file, "pt") as opened:
            tensors += len(opened.keys())
        stored += (folder / file).stat().st_size
    try:
        with hushed(), torch.device("meta"):
            config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
            depth = config.get_text_config(decoder=True).num_hidden_layers
            if not 0 < depth <= SPARE_LAYERS + tensors:
                raise ValueError(f"{depth} layers, but {tensors} tensors")
            auto = AutoModelForCausalLM if causal else AutoModel
            empty = auto.from_config(config, trust_remote_code=False)
            values = sum(each.numel() for each in (*empty.parameters(), *empty.buffers()))
            if values > LARGER * stored + SPARE_VALUES:
                raise ValueError(f"{values:,} values, but {stored:,} bytes of weights")
    except Exception as problem:  # as in `read_config`
        said = " ".join(str(problem).split())[:200]
        raise RectoolError(
            f"{folder / CONFIG} does not fit the weights of {name}: {said}"
            f"{versions.needed(folder / CONFIG, 'transformers')}"
        ) from problem


def _refuse_damaged(path: Path, name: str) -> None:
    try:
        with safe_open(path, "pt"):
            pass
    except (SafetensorError, OSError) as problem:
        raise RectoolError(f"{path} is damaged ({problem}); copy {name} again, or remove the file") from problem
