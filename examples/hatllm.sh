#!/usr/bin/env bash
# HatLLM: the next item by a language model that reads titles, with masks that let its lower layers read each item by
# itself and its upper layers items against items.
# Run it with: bash examples/hatllm.sh     Variables and defaults: examples/common-next.sh
source "$(dirname "$0")/common-next.sh"

# Section 4.1 and figure 3: IN in the lower layers, OR in the middle, CR in the upper ones; sections 5.1.4 and 5.4: 4 or 8
# lower and 1 to 3 upper layers were best. Table 1's prompt; the last hidden state times a learned key of each item,
# cross-entropy over all items.
MASK=${MASK:-in:$SHALLOW,or:*,cr:$DEEP}
tuned hatllm --prompt hatllm --head item --mask "$MASK"

# The same without masks, which is BIGRec under the embedding-based strategy: what the paper sets out from.
tuned bigrec --prompt hatllm --head item

# What needs no language model.
made popularity train-cf --model popularity --task next-item
made markov train-cf --model markov --task next-item
sasrec sasrec
for name in popularity markov sasrec; do ranked "$name"; done
compared hatllm bigrec popularity markov sasrec hatllm

# Section 3, figure 2: attention inside items and across them, before tuning, after it, and with masks.
partly || rectool plot attention --within-across "$DATA" "$OUT/models/bigrec" "$OUT/models/hatllm" --llm "$LLM" --rows 200 \
  --out "$OUT/figures/attention" --update
