#!/usr/bin/env bash
# SASRec for the next item under four losses, over the whole catalogue, as HatLLM's tables rank it.
# Run it with: DATA=data/clothing bash examples/next-item.sh
#
# DATA is the data set: by default the embedded one, with each user's last item for the test. HatLLM's are windows of
# eleven items, whose last one is the target:
#   rectool prep amazon --reviews reviews_Clothing_Shoes_and_Jewelry_5.json.gz \
#     --metadata meta_Clothing_Shoes_and_Jewelry.json.gz --split windows:11:8,1,1 --out data/clothing
set -euo pipefail
DATA=${DATA:-runs/next-item/data}
OUT=${OUT:-runs/next-item}

if [ ! -e "$DATA" ]; then
  rectool prep synthetic --split leave-one-out --out "$DATA" --quiet
fi

# train NAME FLAGS...: ten items of history, as in a window; in windows the context of train rows is predicted too.
train() {
  local name=$1
  shift
  echo "$name"
  rectool train-cf "$DATA" --model sasrec --task next-item --max-length 10 --batch-size 2048 --autoregressive \
    --patience 4 --out "$OUT/models/$name" --update --quiet "$@"
  rectool eval "$DATA" "$OUT/models/$name" --k 5,10 --exclude none --out "$OUT/results/$name" --update --quiet
}

rectool train-cf "$DATA" --model popularity --task next-item --out "$OUT/models/popularity" --update --quiet
rectool eval "$DATA" "$OUT/models/popularity" --k 5,10 --exclude none --out "$OUT/results/popularity" --update --quiet

# SASRec's own loss, against one uniform negative for each target.
train bce --loss bce --epochs 40
# Against 512 negatives that a batch shares: nearly as cheap, and much sharper.
train sampled-softmax --loss sampled-softmax --epochs 20
# Popular negatives, corrected for being drawn more often: an unbiased estimate of the full softmax.
train sampled-softmax-log-q --loss sampled-softmax --negatives-by popularity --log-q --epochs 20
# The whole catalogue.
train full-softmax --loss full-softmax --dropout 0.5 --epochs 12

rectool compare "$OUT/results" --baseline "$OUT/results/bce" --groups all --out "$OUT/compared" --update
