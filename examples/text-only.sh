#!/usr/bin/env bash
# A language model that reads titles alone: as it is, with examples in its prompt, and tuned. TALLRec's way, and the text
# stage of CoLLM, SeLLa-Rec and SASRecLLM. Offline on the embedded data, in about a quarter of an hour on two cores.
# Run it with: bash examples/text-only.sh
#
# DATA is the data set and LLM the model, a name on the Hugging Face hub or a folder; without them both are made here. On a
# GPU, say: DATA=data/ml-1m LLM=TinyLlama/TinyLlama-1.1B-Chat-v1.0 NOUN=movies bash examples/text-only.sh
# Started again, finished stages are skipped and a stopped one goes on (--update).
set -euo pipefail
OUT=${OUT:-runs/text-only}
NOUN=${NOUN:-items}
if [ -z "${DATA:-}" ]; then
  DATA=$OUT/data
  rectool prep synthetic --out "$DATA" --update --quiet
fi

# A small model of the data set's own texts, for want of a real one. It knows no other questions than those of --prompt plain.
PROMPT=${PROMPT:-collm-text}
if [ -z "${LLM:-}" ]; then
  LLM=$OUT/nano
  SMALL=1
  PROMPT=plain
  rectool prep backbone "$DATA" --out "$LLM" --update
fi

# result NAME FLAGS...: evaluate a model on the test rows.
result() {
  local name=$1
  shift
  rectool eval "$DATA" "$@" --out "$OUT/results/$name" --update --quiet
}

# What needs no language model: the smoothed means of items, and of users and items.
rectool train-cf "$DATA" --model bias --no-users --smoothing 5 --out "$OUT/models/item-mean" --update --quiet
rectool train-cf "$DATA" --model bias --out "$OUT/models/bias" --update --quiet
result item-mean "$OUT/models/item-mean"
result bias "$OUT/models/bias"

# The model as it is, and in-context learning: four answered train rows in front of every prompt.
result zero-shot --llm "$LLM" --prompt "$PROMPT" --noun "$NOUN"
result 4-shot --llm "$LLM" --prompt "$PROMPT" --noun "$NOUN" --shots 4

# LoRA of rank 8 on queries and values, as in the papers. A small model wants a larger learning rate, and can be trained as
# a whole. docs/results.md says what may be expected of it.
tune() {
  local name=$1
  shift
  rectool tune-lora "$DATA" --llm "$LLM" --prompt "$PROMPT" --noun "$NOUN" --out "$OUT/models/$name" --update "$@"
  result "$name" "$OUT/models/$name"
}
if [ -n "${SMALL:-}" ]; then
  tune lora --learning-rate 3e-3 --batch-size 64 --epochs 2
  tune full --full --learning-rate 3e-4 --batch-size 64 --epochs 2
else
  tune lora --epochs 3
fi

# Nobody has rated cold items before: there, only titles tell anything.
rectool compare "$OUT/results" --baseline "$OUT/results/item-mean" --metrics auc,uauc,log_loss \
  --groups all,warm,cold,cold-item --out "$OUT/comparison" --update
