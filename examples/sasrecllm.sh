#!/usr/bin/env bash
# SASRecLLM (arXiv 2507.05733): a SASRec encoder and a LoRA-tuned language model, joined by a mapping layer.
# Run it with: bash examples/sasrecllm.sh     Variables and defaults: examples/common.sh
source "$(dirname "$0")/common.sh"

# Stage 1a, sections 3.1.1 and 4.2: SASRec of 25 items, 64 wide, 2 blocks of 4 heads, dropout 0.2; Adam, batch 1028,
# learning rate 1e-2 with a schedule. First the next item, as there; then, from those item embeddings, whether users like
# them, so that it can stand in the table by itself.
made sasrec-next train-cf --model sasrec --task next-item --loss bce --embedding-size 64 --layers 2 --heads 4 \
  --max-length 25 --dropout 0.2 --optimizer adam --learning-rate 1e-2 --schedule cosine --batch-size 1028 --epochs "$EPOCHS"
made sasrec train-cf --model sasrec --init-items "$OUT/models/sasrec-next" --embedding-size 64 --layers 2 --heads 4 \
  --max-length 25 --dropout 0.2 --optimizer adam --learning-rate 1e-3 --schedule cosine --batch-size 1028 \
  --epochs "$EPOCHS" --metric uauc

# Stage 1b, section 3.2.1: LoRA alone on prompts without the two places, TALLRec's r 8, alpha 16, dropout 0.05 on queries
# and values; early stopping on validation.
made lora tune-lora --llm "$LLM" --prompt "$(worded collm-text)" --noun "$NOUN" \
  --rank 8 --alpha 16 --dropout 0.05 "${TUNE[@]}"

# Stage 2, sections 3.1.2 and 3.2.2: LoRA frozen; the mapping layer (equation 8: ReLU, one network for users and items)
# and SASRec are trained together.
made sasrecllm train-proj --adapter "$OUT/models/lora" --cf "$OUT/models/sasrec" --tokens user,item \
  --expansion 10 --activation relu --train projector,cf --prompt "$(worded sasrecllm)" --noun "$NOUN" "${JOIN[@]}"

# The table: its own parts, and the language model as it is (ICL).
made item-mean train-cf --model bias --no-users --smoothing 5
for name in item-mean sasrec lora sasrecllm; do rated "$name"; done
rated icl --llm "$LLM" --prompt "$(worded collm-text)" --noun "$NOUN"
compared sasrecllm item-mean icl sasrec lora sasrecllm
