#!/usr/bin/env bash
# HatLLM's ablations (section 5.3, table 5): without each of its masks, with others, in other orders; and what we add.
# Run it with: bash examples/hatllm-ablations.sh     Variables and defaults: examples/common-next.sh
source "$(dirname "$0")/hatllm.sh"

# masked NAME PLAN: the same under another plan. Plans keep to positions: what takes the place of the lower mask takes as
# many layers as it has, and so on. The paper does not say how many layers its orders have: a choice of ours.
masked() {
  tuned "$1" --prompt hatllm --head item --mask "$2"
}
# Without IN or CR their layers are OR; without OR, CR takes the middle too.
masked without-in "or:*,cr:$DEEP"
masked without-or "in:$SHALLOW,cr:*"
masked without-cr "in:$SHALLOW,or:*"

# Equation 4: tokens do not see their own item, and so look at the item beside it.
masked cr-pre "in:$SHALLOW,or:*,cr-pre:$DEEP"

# The six orders, the first of which is HatLLM.
masked in-cr-or "in:$SHALLOW,cr:*,or:$DEEP"
masked or-in-cr "or:$SHALLOW,in:*,cr:$DEEP"
masked or-cr-in "or:$SHALLOW,cr:*,in:$DEEP"
masked cr-in-or "cr:$SHALLOW,in:*,or:$DEEP"
masked cr-or-in "cr:$SHALLOW,or:*,in:$DEEP"

# CR -> SASRec: a SASRec on the item embeddings of the language model, which are the keys of its head, by a learned
# projection or their principal axes; the better of the two is the paper's. Those of the tuned HatLLM: a choice of ours.
# The small data's 60 items have fewer axes than SASRec is wide.
sasrec cr-sasrec-projection --init-items "$OUT/models/hatllm" --init-by projection
sasrec cr-sasrec-pca --init-items "$OUT/models/hatllm" --init-by pca ${SMALL:+--embedding-size 32}
for name in cr-sasrec-projection cr-sasrec-pca; do ranked "$name"; done

compared hatllm-ablations hatllm bigrec without-in without-or without-cr cr-sasrec-projection cr-sasrec-pca cr-pre \
  in-cr-or or-in-cr or-cr-in cr-in-or cr-or-in

# Beyond the paper: what the keys of items start from, or are. Tied to titles by a projection, they rank items that no
# train row has. And the stricter masks that make deep layers cheaper.
made titles distill --llm "$LLM"
tuned hatllm-semantic --prompt hatllm --head item --mask "$MASK" --item-head semantic --semantic "$OUT/models/titles"
tuned hatllm-tied --prompt hatllm --head item --mask "$MASK" --item-head tied --semantic "$OUT/models/titles"
tuned hatllm-compressed --prompt hatllm --head item --mask "$MASK" --compress-deep
compared hatllm-heads hatllm hatllm-semantic hatllm-tied hatllm-compressed sasrec
