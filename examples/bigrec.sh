#!/usr/bin/env bash
# BIGRec (arXiv 2308.08434): HatLLM's language model without masks, under both strategies that HatLLM names (section 2.2):
# a key for each item, or a title that is written and brought to the nearest item.
# Run it with: bash examples/bigrec.sh     Variables and defaults: examples/common-next.sh
source "$(dirname "$0")/common-next.sh"

# The embedding-based strategy, with HatLLM's prompt, so that nothing differs but the masks.
tuned bigrec --prompt hatllm --head item

# BIGRec as published: tuned to write the title, in its own wording.
made bigrec-title tune-lora --llm "$LLM" --task next-item --head title --prompt "$(worded bigrec)" --noun "$NOUN" \
  "${TRAINED[@]}" "${TUNE[@]}"
# Grounding: the nearest item by the model's own embeddings of what it wrote and of titles (BIGRec, step 2); and titles
# alone can be written, by beams over a trie of them (ours). Beams: 20 for K up to 10, a choice of ours.
ranked bigrec-nearest "$OUT/models/bigrec-title" --ground nearest
ranked bigrec-trie "$OUT/models/bigrec-title" --ground trie --beams 20

made popularity train-cf --model popularity --task next-item
ranked popularity
compared bigrec bigrec popularity bigrec-nearest bigrec-trie
