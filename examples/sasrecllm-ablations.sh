#!/usr/bin/env bash
# SASRecLLM's ablations and training strategies: its parts alone, hierarchical freezing, everything at once, plug and play.
# Run it with: bash examples/sasrecllm-ablations.sh     Variables and defaults: examples/common.sh
source "$(dirname "$0")/sasrecllm.sh"

# joined NAME FLAGS...: the join with other flags, evaluated.
joined() {
  local name=$1
  shift
  made "$name" train-proj --tokens user,item --expansion 10 --activation relu \
    --prompt "$(worded sasrecllm)" --noun "$NOUN" "${JOIN[@]}" "$@"
  rated "$name"
}
PARTS=(--adapter "$OUT/models/lora" --cf "$OUT/models/sasrec")

# Section 3.2.2, hierarchical freezing: the mapping layer alone, with the LoRA, and all three.
joined mapping-alone "${PARTS[@]}" --train projector
joined mapping-and-lora "${PARTS[@]}" --train projector,lora
joined all-after-stages "${PARTS[@]}" --train projector,cf,lora

# What they argue against: everything from scratch, together.
joined joint --llm "$LLM" --adapter new --fresh-ids 64 --train projector,cf,lora

# Section 3.2.3, plug and play: another encoder is put into the joined model, and nothing is trained again.
made gru4rec train-cf --model gru4rec --embedding-size 64 --max-length 25 --epochs 20 --metric uauc
joined plugged --init-from "$OUT/models/sasrecllm" --cf "$OUT/models/gru4rec" --train projector --epochs 0

compared sasrecllm-ablations sasrecllm icl sasrec lora mapping-alone mapping-and-lora all-after-stages joint plugged
