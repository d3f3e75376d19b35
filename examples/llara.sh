#!/usr/bin/env bash
# LLaRA (arXiv 2312.02445): each title in the prompt is followed by the item's vector of a SASRec, brought in by degrees.
# Run it with: bash examples/llara.sh     Variables and defaults: examples/common-next.sh
source "$(dirname "$0")/common-next.sh"
sasrec sasrec

# Hybrid prompts by an MLP of two layers from the vectors of a frozen SASRec, and its curriculum: rows of text alone at
# first, none at the end. LLaRA writes titles of a few candidates; against the whole catalogue it has HatLLM's head here,
# the embedding-based strategy of HatLLM's table 3.
made llara train-proj --llm "$LLM" --adapter new "${LORA[@]}" --task next-item --cf "$OUT/models/sasrec" \
  --tokens history --activation gelu --train projector,lora,head --mix linear --prompt llara --noun "$NOUN" "${TUNE[@]}"

# The same without vectors.
tuned bigrec --prompt hatllm --head item
for name in sasrec llara; do ranked "$name"; done
compared llara bigrec sasrec llara
