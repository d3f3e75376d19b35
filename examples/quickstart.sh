#!/usr/bin/env bash
# The whole story, offline, in about ten minutes on two cores: what ratings know, what a language model reads in
# titles, what both know together, and what comes next. It ends in one report. Run it with: make quickstart
#
#   DATA  a data set that prep made, and LLM, a name on the Hugging Face hub or a folder: without them both are made here,
#         small; a language model of yours is tuned as the papers tune theirs.
#   OUT   where everything goes; by default runs/quickstart.    Others: examples/common.sh and common-next.sh
#
# The same story on a GPU: DATA=data/ml-1m LLM=TinyLlama/TinyLlama-1.1B-Chat-v1.0 NOUN=movies bash examples/quickstart.sh
# Started again, finished stages are skipped and a stopped one goes on. On Kaggle: examples/kaggle-t4.md.
set -euo pipefail
HERE=$(dirname "$0")
OUT=${OUT:-runs/quickstart}
export OUT DATA LLM

chapter() {
  printf '\n== %s\n' "$1"
}

# next_item: the last chapter's stages, by the language model NEXT_LLM.
next_item() {
  [ "$NEXT_LLM" = "$LLM" ] ||
    rectool prep backbone "$SEQUENCES" --prompt hatllm --exercises 3000 --out "$NEXT_LLM" --update
  RESULTS=$OUT/results/next OUT=$OUT/next DATA=$SEQUENCES LLM=$NEXT_LLM TUNE=${NEXT:-} EXCLUDE=history \
    bash "$HERE/hatllm.sh"
}

if [ -z "${DATA:-}" ]; then
  chapter "Ratings of 1,500 made-up users. Titles carry taste, and how likely each like was is known: the best score there is."
  DATA=$OUT/data
  rectool prep synthetic --out "$DATA" --update --quiet
  # And who took what after what, without ratings, from a smaller shelf.
  SEQUENCES=${SEQUENCES:-$OUT/sequences}
  rectool prep synthetic --task next-item --items 60 --users 4000 --split windows:11:8,1,1 --out "$SEQUENCES" --update --quiet
fi
SEQUENCES=${SEQUENCES:-$DATA}
rectool inspect "$DATA"

beside=
if [ -z "${LLM:-}" ]; then
  # Smaller than in the recipes by themselves, which tell more: fewer exercises in smaller steps, fewer steps of
  # everything, and one table for all of them, at the end.
  LLM=$OUT/nano NEXT_LLM=$OUT/nano-next
  export SMALL=yes EPOCHS=40 TABLES=no
  export TUNE="--learning-rate 1.5e-3 --batch-size 64 --steps 200 --validate-steps 200 --validate-rows 1000"
  export JOIN="--learning-rate 1e-3 --batch-size 64 --steps 80 --validate-steps 80 --validate-rows 1000"
  NEXT="--learning-rate 2e-3 --batch-size 64 --steps 120 --validate-steps 120 --validate-rows 1000 --history 5"

  # The last chapter needs nothing of those before it, and what learns of ratings alone needs no language model. Models as
  # small as these keep one core busy and hardly a second.
  cores=$(getconf _NPROCESSORS_ONLN)
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(((cores + 1) / 2))}
  chapter "What comes next is the last chapter. It is made beside all others, from now on; its words go to $OUT/beside.log"
  mkdir -p "$OUT"
  rm -f "$OUT/ratings-learned"
  set -m # a process group of its own, which ends with this script
  {
    for recipe in sasrecllm sella-rec; do ONLY=train-cf bash "$HERE/$recipe.sh"; done
    touch "$OUT/ratings-learned"
    next_item
  } >"$OUT/beside.log" 2>&1 &
  beside=$!
  set +m
  trap 'kill -- "-$beside" 2>/dev/null || true' EXIT

  chapter "A language model of 0.9 million parameters learns to read lists of titles. Nobody tells it who likes what."
  rectool prep backbone "$DATA" --exercises 12000 --batch-size 512 --out "$LLM" --update
  while [ ! -e "$OUT/ratings-learned" ] && kill -0 "$beside" 2>/dev/null; do sleep 1; done
fi
NEXT_LLM=${NEXT_LLM:-$LLM}

chapter "The smoothed means of users and items: no training, and what every model has to beat."
rectool train-cf "$DATA" --model bias --out "$OUT/models/bias" --update --quiet
rectool eval "$DATA" "$OUT/models/bias" --out "$OUT/results/bias" --update --quiet

chapter "SASRecLLM: a model of sequences, a language model of titles, and both in one prompt."
bash "$HERE/sasrecllm.sh"

chapter "SeLLa-Rec: items as the language model reads them, and a matrix factorisation that is brought to agree."
bash "$HERE/sella-rec.sh"

chapter "What comes next: HatLLM's masks, against the same model without (bigrec), SASRec, and counting who follows whom."
if [ -z "$beside" ]; then
  next_item
elif ! wait "$beside"; then
  cat "$OUT/beside.log" >&2
  exit 1
fi

chapter "All of them, on all rows, on those whose user and item are known (warm), and on the others (cold)."
rectool compare "$OUT/results" --baseline "$OUT/results/bias" --baseline "$OUT/results/next/popularity" \
  --metrics auc,uauc,hr@10,ndcg@10 --groups all,warm,cold --report --out "$OUT/comparison" --update

chapter "Done: open $OUT/comparison/report.html"
echo "A star in the tables marks what differs from the baseline beyond chance; without one, read no order into two figures."
if [ -n "${SMALL:-}" ]; then
  echo "Expect of a language model this small: titles help with ratings, most of all where an item is new; what is learned from"
  echo "ratings adds little to them. For the next item it hardly tells more than what is popular, with HatLLM's masks or"
  echo "without; who follows whom is learned by counting and by SASRec. All are far from the best reachable."
fi
echo "All commands of this run as one script: rectool inspect $OUT/comparison --script"
