#!/usr/bin/env bash
# In-context learning: the language model as it is, without and with answered train rows in front of each prompt.
# Run it with: bash examples/icl.sh     Variables and defaults: examples/common.sh
source "$(dirname "$0")/common.sh"

made item-mean train-cf --model bias --no-users --smoothing 5
rated item-mean
rated icl --llm "$LLM" --prompt "$(worded collm-text)" --noun "$NOUN"
for shots in 2 4; do
  rated "icl-$shots" --llm "$LLM" --prompt "$(worded collm-text)" --noun "$NOUN" --shots "$shots"
done
compared icl item-mean icl icl-2 icl-4
