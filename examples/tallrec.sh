#!/usr/bin/env bash
# TALLRec (arXiv 2305.00447): LoRA on prompts of what a user likes and dislikes, from few samples and from all.
# Run it with: bash examples/tallrec.sh     Variables and defaults: examples/common.sh
source "$(dirname "$0")/common.sh"

# 64 samples, as in its tables, and all train rows, as SeLLa-Rec and SASRecLLM compare with.
FEW=(--samples 64 --batch-size 16 --epochs 50 --patience 10)
LORA=(--llm "$LLM" --prompt "$(worded tallrec)" --noun "$NOUN" --rank 8 --alpha 16 --dropout 0.05)
made tallrec-64 tune-lora "${LORA[@]}" "${TUNE[@]}" "${FEW[@]}"
made tallrec tune-lora "${LORA[@]}" "${TUNE[@]}"

made item-mean train-cf --model bias --no-users --smoothing 5
for name in item-mean tallrec-64 tallrec; do rated "$name"; done
compared tallrec item-mean tallrec-64 tallrec
