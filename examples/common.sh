# What the papers' recipes share; they source it. Everything can be set from the environment:
#
#   DATA  the data set; by default the embedded one      OUT   where models and results go; by default runs/papers
#   LLM   a name on the Hugging Face hub or a folder;    NOUN  what prompts call items, such as movies
#         by default a small one made of the data set    SEED  of everything
#   TUNE  how adapters are tuned, JOIN  how soft tokens are: flags, instead of those below
#   EPOCHS  of SASRec, at most                           RESULTS  where results go, by default to OUT as well
#   SMALL=yes  LLM is such a small one                   TABLES=no  no table of the recipe's own
#   ONLY  a command, such as train-cf: its stages alone, to make them earlier or on another machine
#   UNTIL      a time as date +%s says it: then stop, with a checkpoint and exit code 75; the same command goes on
#
# On a GPU, say: DATA=data/ml-1m LLM=TinyLlama/TinyLlama-1.1B-Chat-v1.0 NOUN=movies bash examples/sasrecllm.sh
# Recipes share OUT, so that a stage that several need is made once. Started again, finished stages are skipped and a
# stopped one goes on (--update).
set -euo pipefail
OUT=${OUT:-runs/papers}
RESULTS=${RESULTS:-$OUT/results}
NOUN=${NOUN:-items}
SEED=${SEED:-0}
SMALL=${SMALL:-}
EPOCHS=${EPOCHS:-100}

if [ -z "${DATA:-}" ]; then
  DATA=$OUT/data
  rectool prep synthetic --out "$DATA" --update --quiet
fi
if [ -z "${LLM:-}" ]; then
  LLM=$OUT/nano SMALL=yes
  rectool prep backbone "$DATA" --out "$LLM" --update
fi
if [ -n "$SMALL" ]; then
  # It has read one wording of questions only, and is so small that it wants larger steps than the papers' models.
  PROMPT=${PROMPT:-plain}
  TUNE=(${TUNE[*]:---learning-rate 3e-3 --batch-size 64 --epochs 2})
  JOIN=(${JOIN[*]:---learning-rate 1e-3 --batch-size 64 --epochs 3})
else
  TUNE=(${TUNE[*]:---learning-rate 2e-4 --batch-size 16 --epochs 300 --patience 10})
  JOIN=(${JOIN[*]:---learning-rate 1e-3 --batch-size 16 --epochs 300 --patience 10})
fi

# work COMMAND ...: what may take long: with its progress where the language model is a large one, until time is up.
work() {
  local flags=() left
  [ -z "$SMALL" ] || flags+=(--quiet)
  if [ -n "${UNTIL:-}" ]; then
    left=$((UNTIL - $(date +%s)))
    flags+=(--max-time "$((left > 0 ? left : 1))s")
  fi
  rectool "$@" --update ${flags[@]+"${flags[@]}"}
}

# partly: are some stages left out?
partly() {
  [ -n "${ONLY:-}" ]
}

# made NAME COMMAND FLAGS...: a stage on the data set.
made() {
  local name=$1 command=$2
  shift 2
  [ "${ONLY:-$command}" = "$command" ] || return 0
  echo "$name"
  work "$command" "$DATA" --out "$OUT/models/$name" --seed "$SEED" "$@"
}

# worded NAME: the prompt of that name; the small model is always asked in the words that it knows.
worded() {
  echo "${PROMPT:-$1}"
}

# rated NAME [MODEL FLAGS...]: evaluate a model on the test rows.
rated() {
  local name=$1
  shift
  [ "${ONLY:-eval}" = eval ] || return 0
  [ $# -gt 0 ] || set -- "$OUT/models/$name"
  work eval "$DATA" "$@" --out "$RESULTS/$name"
}

# compared NAME BASELINE OTHERS...: results side by side, the recipe's table.
SHOWN=(--metrics auc,uauc,log_loss --groups all,warm,cold,cold-item)
compared() {
  if [ "${TABLES:-yes}" = no ] || partly; then return; fi
  local name=$1 baseline=$2
  shift
  rectool compare "${@/#/$RESULTS/}" --baseline "$RESULTS/$baseline" "${SHOWN[@]}" --out "$OUT/compared/$name" --update
}
