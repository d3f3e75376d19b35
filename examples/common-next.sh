# What the recipes of the next item share; they source it. Everything can be set from the environment:
#
#   DATA  the data set; by default an embedded one of sequences
#   LLM   a name on the Hugging Face hub or a folder; by default a small one made of the data set
#   OUT   where models and results go; by default runs/papers-next
#   NOUN  what prompts call items, such as games           SEED  of everything
#   SHALLOW, DEEP  layers of HatLLM's lower and upper mask; with LLM 8 and 2, with the small model of four layers 1 and 2
#   RATE  the learning rate
#   TUNE  all flags of how long and how fast; 400 steps of the small model are a beginning, and "--learning-rate 2e-3
#         --batch-size 64 --steps 1200 --validate-steps 100 --patience 0" takes it further (docs/results.md)
#   EXCLUDE  what ranks leave out: none, as in the paper, or history
#
# On a GPU: DATA=data/games LLM=meta-llama/Llama-3.2-3B NOUN=games bash examples/hatllm.sh
# HatLLM's data sets (section 5.1.1: 5-core, windows of eleven in the order of time, 8:1:1) are made so:
#   rectool prep amazon --category Video_Games --year 2014 --split windows:11:8,1,1 --out data/games
set -euo pipefail
OUT=${OUT:-runs/papers-next}
NOUN=${NOUN:-items}
EXCLUDE=${EXCLUDE:-none}

if [ -z "${DATA:-}" ]; then
  DATA=$OUT/data
  rectool prep synthetic --task next-item --items 60 --users 4000 --split windows:11:8,1,1 --out "$DATA" --update --quiet
fi
if [ -z "${LLM:-}" ]; then
  # It has read hatllm's wording in exercises that say nothing of what anybody takes next. It has a layer for each of
  # HatLLM's masks and one more, since a mask of the top layer alone changes nothing.
  LLM=$OUT/nano SMALL=yes
  rectool prep backbone "$DATA" --layers 4 --prompt hatllm --noun "$NOUN" --exercises 15000 --out "$LLM" --update
fi

# Section 5.1.4: LoRA of rank 8, alpha 16, dropout .05; the learning rate one of 1e-3, 5e-4, 1e-4 and 5e-5, at most 1600
# steps, NDCG@10 on validation every 100, and no more than two of these without a better value. RATE's 1e-4 and the batch
# of 128 (that of the code of BIGRec and of LLaRA) are choices of ours: the paper names neither.
LORA=(--rank 8 --alpha 16 --dropout 0.05)
TRAINED=("${LORA[@]}")
if [ -n "${SMALL:-}" ]; then
  # All of its weights are trained, in larger steps: adapters of so small a model learn far more slowly.
  PROMPT=hatllm SHALLOW=${SHALLOW:-1} DEEP=${DEEP:-2} TRAINED=(--full)
  TUNE=(${TUNE[*]:---learning-rate "${RATE:-2e-3}" --batch-size 64 --steps 400 --validate-steps 50 --patience 0})
else
  SHALLOW=${SHALLOW:-8} DEEP=${DEEP:-2}
  TUNE=(${TUNE[*]:---learning-rate "${RATE:-1e-4}" --batch-size 128 --steps 1600 --validate-steps 100 --patience 2})
fi
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# tuned NAME FLAGS...: the language model with LoRA (a small one as a whole), evaluated.
tuned() {
  local name=$1
  shift
  made "$name" tune-lora --llm "$LLM" --task next-item --noun "$NOUN" "${TRAINED[@]}" "${TUNE[@]}" "$@"
  ranked "$name"
}

# sasrec NAME FLAGS...: section 5.1.4: 64 wide, Adam, learning rate 1e-3, batch 256; dropout is one of 0 to 0.5 there. The
# loss is the cross-entropy over all items (appendix A.1). It predicts what language models do, the last item of a window.
sasrec() {
  local name=$1
  shift
  made "$name" train-cf --model sasrec --task next-item --loss full-softmax --embedding-size 64 --max-length 10 \
    --optimizer adam --learning-rate 1e-3 --batch-size 256 --dropout 0.5 --epochs "$EPOCHS" --patience 5 "$@"
}

# ranked NAME [MODEL FLAGS...]: the place of each test row's item among all items (section 5.1.3: K is 5 and 10).
ranked() {
  local name=$1
  shift
  [ $# -gt 0 ] || set -- "$OUT/models/$name"
  rated "$name" "$@" --k 5,10 --exclude "$EXCLUDE"
}
SHOWN=(--metrics hr@5,ndcg@5,hr@10,ndcg@10)
