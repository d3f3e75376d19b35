#!/usr/bin/env bash
# A sweep is a shell loop of runs, and one comparison of their folder. Offline, in minutes on two cores.
# Run it with: bash examples/sweep.sh
#
# DATA is the data set, MODEL what is swept, OUT where everything goes. Started again, finished runs
# are skipped (--update): a longer list of values costs the new ones only.
set -euo pipefail
DATA=${DATA:-runs/quickstart/data}
MODEL=${MODEL:-mf}
OUT=${OUT:-runs/sweep}
SIZES=${SIZES:-"16 64"}
RATES=${RATES:-"0.001 0.003 0.01"}

if [ ! -e "$DATA" ]; then
  rectool prep synthetic --out "$DATA" --quiet
fi

# The smoothed user and item means: what a model must beat before it has learned who likes what.
rectool train-cf "$DATA" --model bias --out "$OUT/models/bias" --update --quiet
rectool eval "$DATA" "$OUT/models/bias" --split valid --out "$OUT/results/bias" --update --quiet

# Settings are chosen on validation rows; the test split stays unseen until one run is chosen.
for size in $SIZES; do
  for rate in $RATES; do
    name="$MODEL-size-$size-rate-$rate"
    echo "$name"
    rectool train-cf "$DATA" --model "$MODEL" --embedding-size "$size" --learning-rate "$rate" --epochs 30 --seed 0 \
      --out "$OUT/models/$name" --update --quiet
    rectool eval "$DATA" "$OUT/models/$name" --split valid --out "$OUT/results/$name" --update --quiet
  done
done

# One line per run, the best in bold, and what differs from the baseline beyond chance; figures beside it.
rectool compare "$OUT/results" --baseline "$OUT/results/bias" --metrics auc,uauc,log_loss --groups all \
  --out "$OUT/compared" --update
