#!/usr/bin/env bash
# Every collaborative baseline on CoLLM's split of MovieLens-1M, the one that SeLLa-Rec reports on, three seeds each.
# About half an hour on two cores. Run it with: bash examples/baselines-collm.sh
#
# DATA is the data set; if it is not there, MovieLens-1M is downloaded and prepared. Started again, finished runs are
# skipped and a run that was stopped goes on (--update). docs/results.md has the figures.
set -euo pipefail
DATA=${DATA:-data/collm-ml-1m}
OUT=${OUT:-runs/baselines-collm}
SEEDS=${SEEDS:-"0 1 2"}

# Calendar months, UTC: ten of training, five of validation, five of test; a rating from 4 on is a like.
if [ ! -e "$DATA" ]; then
  rectool prep movielens --variant 1m --split months:10,5,5 --from 2001-06 --until 2003-02 --out "$DATA"
fi

# train NAME FLAGS...: train one model with the seed at hand and evaluate it on the test rows.
train() {
  local name=$1
  shift
  echo "$name, seed $seed"
  rectool train-cf "$DATA" --out "$OUT/models/$name-$seed" --seed "$seed" --update --quiet "$@"
  rectool eval "$DATA" "$OUT/models/$name-$seed" --out "$OUT/results/$name-$seed" --update --quiet
}

for seed in $SEEDS; do
  # What needs no gradient. The smoothed user and item means beat every published collaborative row; smoothing is
  # chosen on validation.
  if [ "$seed" = "${SEEDS%% *}" ]; then
    train bias --model bias
    train item-mean --model bias --no-users --smoothing 5
    train popularity --model popularity
    train markov --model markov
  fi

  # Matrix factorisation as CoLLM trains it: no biases, 256 wide, decay 1e-4, hundreds of epochs. It scores the 42% of
  # test rows whose user is new at chance.
  train mf-collm --model mf --no-biases --embedding-size 256 --weight-decay 1e-4 --batch-size 2048 \
    --epochs 300 --validate-epochs 5
  # With biases, which start from the smoothed means, factors have little to add: they start small.
  train mf --model mf --weight-decay 1e-3 --init-scale 0.01 --epochs 30
  train ncf --model ncf --weight-decay 1e-4 --epochs 30
  train lightgcn --model lightgcn --weight-decay 1e-4 --epochs 100 --validate-epochs 2 --patience 5

  # Histories: each row's own earlier likes. UAUC is what they are after, and validation follows it.
  train gru4rec --model gru4rec --weight-decay 1e-4 --epochs 20 --patience 5 --metric uauc
  train sasrec --model sasrec --epochs 20 --patience 5 --metric uauc
  train din --model din --max-length 50 --weight-decay 1e-3 --epochs 30 --patience 5

  # Labels are few, and the order of what people watch says more of items than they do: embeddings learned from the
  # next item, behind a learned map, are a better start than chance.
  echo "next-item, seed $seed"
  rectool train-cf "$DATA" --model sasrec --task next-item --epochs 40 --patience 5 \
    --out "$OUT/models/next-item-$seed" --seed "$seed" --update --quiet
  train mf-pretrained --model mf --weight-decay 1e-3 --init-items "$OUT/models/next-item-$seed" --epochs 40 --metric uauc
  train sasrec-pretrained --model sasrec --init-items "$OUT/models/next-item-$seed" --epochs 20 --patience 5 \
    --metric uauc
  train din-pretrained --model din --max-length 50 --dropout 0.5 --init-items "$OUT/models/next-item-$seed" \
    --epochs 30 --patience 5
done

rectool compare "$OUT/results" --baseline "$OUT/results/item-mean-${SEEDS%% *}" --group-seeds \
  --metrics auc,uauc,log_loss --groups all,warm --out "$OUT/compared" --update
