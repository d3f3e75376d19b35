#!/usr/bin/env bash
# HatLLM's sensitivity to how many layers its masks take (section 5.4, figure 5), and to the model's size (table 4).
# Run it with: bash examples/hatllm-sensitivity.sh     Variables and defaults: examples/common-next.sh
#
# SHALLOW_GRID, DEEP_GRID  how many lower and upper layers; the other is SHALLOW or DEEP
# LLMS                     further language models, such as "meta-llama/Llama-3.2-1B meta-llama/Llama-3.1-8B"
source "$(dirname "$0")/common-next.sh"

# Section 5.1.4: lower layers of 1, 4, 8, 12 and 16, upper ones of 1 to 5. The small model has four in all.
if [ -n "$SMALL" ]; then
  SHALLOW_GRID=${SHALLOW_GRID:-0 1 2} DEEP_GRID=${DEEP_GRID:-0 2 3}
else
  SHALLOW_GRID=${SHALLOW_GRID:-1 4 8 12 16} DEEP_GRID=${DEEP_GRID:-1 2 3 4 5}
fi

names=()
# masked SHALLOW DEEP: so many layers of IN below and of CR above, OR between; 0 leaves a mask out.
masked() {
  local name=in-$1-cr-$2 plan=or:*
  [ "$1" = 0 ] || plan=in:$1,$plan
  [ "$2" = 0 ] || plan=$plan,cr:$2
  case " ${names[*]-} " in *" $name "*) return ;; esac
  names+=("$name")
  tuned "$name" --prompt hatllm --head item --mask "$plan"
}
for shallow in $SHALLOW_GRID; do masked "$shallow" "$DEEP"; done
for deep in $DEEP_GRID; do masked "$SHALLOW" "$deep"; done

# Other sizes, with and without masks; 1B, 3B and 8B in table 4.
for LLM in ${LLMS:-}; do
  size=${LLM##*/}
  tuned "bigrec-$size" --prompt hatllm --head item
  tuned "hatllm-$size" --prompt hatllm --head item --mask "in:$SHALLOW,or:*,cr:$DEEP"
  names+=("bigrec-$size" "hatllm-$size")
done

compared hatllm-sensitivity "${names[@]}"
partly || rectool plot sensitivity "${names[@]/#/$RESULTS/}" --out "$OUT/figures/sensitivity" --update
