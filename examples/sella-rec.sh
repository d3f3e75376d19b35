#!/usr/bin/env bash
# SeLLa-Rec (arXiv 2504.07107): items distilled from a tuned language model, matrix factorisation aligned to them, and
# three soft tokens in the prompt.
# Run it with: bash examples/sella-rec.sh     Variables and defaults: examples/common.sh
source "$(dirname "$0")/common.sh"

# Stage 1, section 4.1: LoRA on prompts of text alone, the softmax of Yes and No (equations 2 to 5).
made lora tune-lora --llm "$LLM" --prompt "$(worded collm-text)" --noun "$NOUN" \
  --rank 8 --alpha 16 --dropout 0.05 "${TUNE[@]}"

# Section 4.2: each item's description through the tuned model; the last hidden state is its semantic embedding.
made semantic distill --llm "$LLM" --adapter "$OUT/models/lora"

# Stage 2, section 4.2, equations 6 to 9: matrix factorisation and InfoNCE over all items together, GELU in between.
# Lambda, tau and the width are not published: choose them on validation.
made aligned align --semantic "$OUT/models/semantic" --model mf --embedding-size 64 --align-weight 0.1 \
  --temperature 0.1 --negatives catalogue --activation gelu --weight-decay 1e-3 --epochs 30

# Stage 3, section 4.3, equation 11: user and item tokens by the projector of stage 2, the warm token by a linear layer;
# both and all embeddings are trained, the language model and its LoRA are not.
made sella-rec train-proj --adapter "$OUT/models/lora" --aligned "$OUT/models/aligned" --tokens user,item,warm \
  --train projector,cf,semantic --prompt "$(worded sella-rec)" --noun "$NOUN" "${JOIN[@]}"

# The table: its own parts.
made item-mean train-cf --model bias --no-users --smoothing 5
made mf train-cf --model mf --embedding-size 64 --weight-decay 1e-3 --epochs 30
for name in item-mean mf lora sella-rec; do rated "$name"; done
rated aligned-mf "$OUT/models/aligned/cf"
compared sella-rec item-mean mf aligned-mf lora sella-rec
