#!/usr/bin/env bash
# CoLLM (arXiv 2310.19488): matrix factorisation mapped into the prompt of a tuned language model, without alignment.
# Run it with: bash examples/collm.sh     Variables and defaults: examples/common.sh
source "$(dirname "$0")/common.sh"

# The collaborative model by itself: 256 wide, no biases, decay 1e-4 (its released configuration).
made mf-collm train-cf --model mf --no-biases --embedding-size 256 --weight-decay 1e-4 --batch-size 2048 \
  --epochs 300 --validate-epochs 5

# Step 1 of its tuning: LoRA on the prompt without its two places.
made lora tune-lora --llm "$LLM" --prompt "$(worded collm-text)" --noun "$NOUN" \
  --rank 8 --alpha 16 --dropout 0.05 "${TUNE[@]}"

# Step 2: only the mapping is trained, an MLP ten times as wide as what comes in.
made collm train-proj --adapter "$OUT/models/lora" --cf "$OUT/models/mf-collm" --tokens user,item --expansion 10 \
  --activation relu --train projector --prompt "$(worded collm)" --noun "$NOUN" "${JOIN[@]}"

made item-mean train-cf --model bias --no-users --smoothing 5
for name in item-mean mf-collm lora collm; do rated "$name"; done
compared collm item-mean mf-collm lora collm
