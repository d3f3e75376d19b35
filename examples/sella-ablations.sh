#!/usr/bin/env bash
# The ablations of SeLLa-Rec (its tables 4 to 6): without alignment, with a random projector, without tokens, in another
# order, and before stage 3 has trained anything.
# Run it with: bash examples/sella-ablations.sh     Variables and defaults: examples/common.sh
source "$(dirname "$0")/sella-rec.sh"

# joined NAME FLAGS...: stage 3 with other flags, evaluated.
joined() {
  local name=$1
  shift
  made "$name" train-proj --adapter "$OUT/models/lora" --prompt "$(worded sella-rec)" --noun "$NOUN" "${JOIN[@]}" "$@"
  rated "$name"
}
ALL=(--tokens user,item,warm --train projector,cf,semantic)
ALIGNED=(--aligned "$OUT/models/aligned")

# Without alignment: factorisation and embeddings that have not seen each other, and a projector from chance.
joined without-alignment --cf "$OUT/models/mf" --semantic "$OUT/models/semantic" --activation gelu "${ALL[@]}"
joined random-projector "${ALIGNED[@]}" --projector-start random --activation gelu "${ALL[@]}"
joined without-warm "${ALIGNED[@]}" --tokens user,item --train projector,cf
joined without-user-item "${ALIGNED[@]}" --tokens warm --train projector,semantic

# One token first, the others after it.
joined warm-first "${ALIGNED[@]}" --tokens warm --train projector,semantic
joined warm-then-all --init-from "$OUT/models/warm-first" "${ALIGNED[@]}" "${ALL[@]}"
joined user-item-first "${ALIGNED[@]}" --tokens user,item --train projector,cf
joined user-item-then-all --init-from "$OUT/models/user-item-first" "${ALIGNED[@]}" "${ALL[@]}"

# Step 0: what stage 3 starts from, with the projector of the alignment, with the aligned embeddings alone, with neither.
joined step-0 "${ALIGNED[@]}" "${ALL[@]}" --epochs 0
joined step-0-random-projector "${ALIGNED[@]}" --projector-start random --activation gelu "${ALL[@]}" --epochs 0
joined step-0-without-alignment --cf "$OUT/models/mf" --semantic "$OUT/models/semantic" --activation gelu "${ALL[@]}" \
  --epochs 0

compared sella-ablations sella-rec without-alignment random-projector without-warm without-user-item warm-then-all \
  user-item-then-all lora
compared sella-step-0 step-0 step-0-random-projector step-0-without-alignment lora
