"""A byte-level BPE tokenizer made from texts (Sennrich et al. 2016, on bytes as in GPT-2): it can encode any text."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

BEGIN, END, PADDING = "<|begin|>", "<|end|>", "<|pad|>"


def byte_pairs(
    texts: Sequence[str], vocabulary: int, *, words: Sequence[str] = (), context: int
) -> PreTrainedTokenizerFast:
    """Learn a tokenizer, the same from the same texts. It puts `BEGIN` before a text, as Llama's does.

    Args:
        vocabulary: tokens at most, 512 at least; fewer where nothing more occurs twice.
        words: become one token each, alone and after a space, however rare they are. They are ordinary
            tokens: a text that has them has them.
        context: how many tokens the model reads, for the tokenizer to know.
    """
    forms = [form for word in words for form in (word, f" {word}")]
    copies = 1
    while True:
        tokenizer = _learn([*texts, *forms * copies], vocabulary)
        if all(len(encoded.ids) == 1 for encoded in tokenizer.encode_batch(forms)):
            break
        copies *= 2  # until these pairs are among the most frequent ones
    begin = tokenizer.token_to_id(BEGIN)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BEGIN} $A", special_tokens=[(BEGIN, begin)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PADDING,
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    )


def _learn(texts: Sequence[str], vocabulary: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=2,
        special_tokens=[BEGIN, END, PADDING],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer
