#!/usr/bin/env bash
# PersonPrompt (after arXiv 2202.07371): soft tokens of users and items that nobody has trained before.
# Run it with: bash examples/personprompt.sh     Variables and defaults: examples/common.sh
source "$(dirname "$0")/common.sh"

# SeLLa-Rec compares with it on top of the tuned model: fresh embeddings, and the mapping, are all that is trained.
made lora tune-lora --llm "$LLM" --prompt "$(worded collm-text)" --noun "$NOUN" \
  --rank 8 --alpha 16 --dropout 0.05 "${TUNE[@]}"
made personprompt train-proj --adapter "$OUT/models/lora" --fresh-ids 64 --tokens user,item --train projector,cf \
  --prompt "$(worded personprompt)" --noun "$NOUN" "${JOIN[@]}"

made item-mean train-cf --model bias --no-users --smoothing 5
for name in item-mean lora personprompt; do rated "$name"; done
compared personprompt item-mean lora personprompt
