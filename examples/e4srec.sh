#!/usr/bin/env bash
# E4SRec (arXiv 2312.02443): a language model that reads no titles, but the frozen item embeddings of a SASRec.
# Run it with: bash examples/e4srec.sh     Variables and defaults: examples/common-next.sh
source "$(dirname "$0")/common-next.sh"
sasrec sasrec

# Its items are vectors of SASRec through a projector in, a learned key for each item out; adapters, projector and keys
# are trained, SASRec is not. Its projector is one linear layer: ours has a hidden one, here as wide as what comes in.
made e4srec train-proj --llm "$LLM" --adapter new "${LORA[@]}" --task next-item --cf "$OUT/models/sasrec" \
  --tokens history --expansion 1 --train projector,lora,head --prompt e4srec --noun "$NOUN" "${TUNE[@]}"

made popularity train-cf --model popularity --task next-item
for name in popularity sasrec e4srec; do ranked "$name"; done
compared e4srec sasrec popularity e4srec
