#!/usr/bin/env bash
# The main job on the embedded data: offline, in about a minute. Run it with: make quickstart
#
# DATA is the data set to make, OUT where models and results go; started again, finished stages are skipped (--update).
set -euo pipefail
DATA=${DATA:-runs/quickstart/data}
OUT=${OUT:-runs/quickstart}

# 1,500 made-up users rate 800 made-up items. Taste is carried by words of the titles, and the true
# probability of every like is known, so the table below can say what the best score is.
rectool prep synthetic --out "$DATA" --update --quiet

# What it is: counts, splits, the best reachable AUC and UAUC, and where it came from.
rectool inspect "$DATA"

# The smoothed means of users and items, which any model has to beat; factors; a sequence model. Early stopping
# follows UAUC on validation rows, since it is there that personalisation shows.
for model in bias mf sasrec; do
  echo "$model"
  rectool train-cf "$DATA" --model "$model" --metric uauc --epochs 20 --patience 3 --out "$OUT/models/$model" \
    --update --quiet
  rectool eval "$DATA" "$OUT/models/$model" --out "$OUT/results/$model" --update --quiet
done

# Side by side: the best in bold, what differs from the baseline beyond chance marked, figures on disk.
rectool compare "$OUT/results" --baseline "$OUT/results/bias" --metrics auc,uauc,log_loss --groups all,warm,cold \
  --out "$OUT/comparison" --update
