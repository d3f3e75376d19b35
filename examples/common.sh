# What the papers' recipes share; they source it. Everything can be set from the environment:
#
#   DATA  the data set; by default the embedded one      OUT   where models and results go; by default runs/papers
#   LLM   a name on the Hugging Face hub or a folder;    NOUN  what prompts call items, such as movies
#         by default a small one made of the data set    SEED  of everything
#
# On a GPU, say: DATA=data/ml-1m LLM=TinyLlama/TinyLlama-1.1B-Chat-v1.0 NOUN=movies bash examples/sasrecllm.sh
# Recipes share OUT, so that a stage that several need is made once. Started again, finished stages are skipped and a
# stopped one goes on (--update).
set -euo pipefail
OUT=${OUT:-runs/papers}
NOUN=${NOUN:-items}
SEED=${SEED:-0}

if [ -z "${DATA:-}" ]; then
  DATA=$OUT/data
  rectool prep synthetic --out "$DATA" --update --quiet
fi
if [ -z "${LLM:-}" ]; then
  # It has read one wording of questions only, and is so small that it wants larger steps than the papers' models.
  LLM=$OUT/nano
  rectool prep backbone "$DATA" --out "$LLM" --update
  PROMPT=plain
  TUNE=(--learning-rate 3e-3 --batch-size 64 --epochs 2)
  JOIN=(--learning-rate 1e-3 --batch-size 64 --epochs 3)
else
  TUNE=(--learning-rate 2e-4 --batch-size 16 --epochs 300 --patience 10)
  JOIN=(--learning-rate 1e-3 --batch-size 16 --epochs 300 --patience 10)
fi

# made NAME COMMAND FLAGS...: a stage on the data set.
made() {
  local name=$1 command=$2
  shift 2
  echo "$name"
  rectool "$command" "$DATA" --out "$OUT/models/$name" --seed "$SEED" --update --quiet "$@"
}

# worded NAME: the prompt of that name; the small model is always asked in the words that it knows.
worded() {
  echo "${PROMPT:-$1}"
}

# rated NAME [MODEL FLAGS...]: evaluate a model on the test rows.
rated() {
  local name=$1
  shift
  [ $# -gt 0 ] || set -- "$OUT/models/$name"
  rectool eval "$DATA" "$@" --out "$OUT/results/$name" --update --quiet
}

# compared NAME BASELINE OTHERS...: results side by side.
SHOWN=(--metrics auc,uauc,log_loss --groups all,warm,cold,cold-item)
compared() {
  local name=$1 baseline=$2
  shift
  rectool compare "${@/#/$OUT/results/}" --baseline "$OUT/results/$baseline" "${SHOWN[@]}" \
    --out "$OUT/compared/$name" --update
}
