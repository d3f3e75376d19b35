# The recipes of the next item; the Makefile beside this file hands them over, with its variables:
#
#   make -C examples -j2 hatllm     make -C examples -j2 DATA=data/games LLM=meta-llama/Llama-3.2-3B NOUN=games hatllm
#
# Flags are explained in the shell scripts of the same names, and what they share in common-next.sh.
OUT ?= runs/papers-next
NOUN ?= items
SEED ?= 0
EPOCHS ?= 100
SHELL := bash

# Without DATA or LLM both are made here.
ifdef DATA
dataset :=
else
DATA := $(OUT)/data
dataset := $(DATA)/rectool.json
endif
ifdef LLM
backbone :=
SHALLOW ?= 8
DEEP ?= 2
RATE ?= 1e-4
TUNE ?= --learning-rate $(RATE) --batch-size 128 --steps 1600 --validate-steps 100 --patience 2
else
LLM := $(OUT)/nano
backbone := $(LLM)/rectool.json
PROMPT ?= hatllm
SHALLOW ?= 1
DEEP ?= 2
RATE ?= 2e-3
TUNE ?= --learning-rate $(RATE) --batch-size 64 --steps 400 --validate-steps 50 --patience 0
TRAINED := --full
endif
MASK ?= in:$(SHALLOW),or:*,cr:$(DEEP)

model = $(1:%=$(OUT)/models/%/rectool.json)
result = $(1:%=$(OUT)/results/%/rectool.json)
table = $(1:%=$(OUT)/compared/%/rectool.json)
made = rectool $(1) "$(DATA)" --out $(@D) --seed $(SEED) --update --quiet
LORA := --rank 8 --alpha 16 --dropout 0.05
TRAINED ?= $(LORA)
NEXT := --task next-item
tuned = $(call made,tune-lora) --llm "$(LLM)" $(NEXT) --noun "$(NOUN)" $(TRAINED) $(TUNE)
joined = $(call made,train-proj) --llm "$(LLM)" --adapter new $(LORA) $(NEXT) --cf $(OUT)/models/sasrec \
  --tokens history --train projector,lora,head --noun "$(NOUN)" $(TUNE)

.PHONY: next-item hatllm bigrec e4srec llara
next-item: hatllm bigrec e4srec llara
hatllm bigrec e4srec llara: %: $(call table,%)
hatllm: $(OUT)/figures/attention/rectool.json

$(OUT)/data/rectool.json:
	rectool prep synthetic $(NEXT) --items 60 --users 4000 --split windows:11:8,1,1 --out $(@D) --update --quiet
$(OUT)/nano/rectool.json: $(dataset)
	rectool prep backbone "$(DATA)" --layers 4 --prompt hatllm --noun "$(NOUN)" --exercises 15000 --out $(@D) --update

# What needs no language model.
$(call model,popularity): $(dataset)
	$(call made,train-cf) --model popularity $(NEXT)
$(call model,markov): $(dataset)
	$(call made,train-cf) --model markov $(NEXT)
$(call model,sasrec): $(dataset)
	$(call made,train-cf) --model sasrec $(NEXT) --loss full-softmax --embedding-size 64 --max-length 10 \
	  --optimizer adam --learning-rate 1e-3 --batch-size 256 --dropout 0.5 --epochs $(EPOCHS) --patience 5

# Titles alone.
$(call model,hatllm): $(dataset) $(backbone)
	$(tuned) --prompt hatllm --head item --mask "$(MASK)"
$(call model,bigrec): $(dataset) $(backbone)
	$(tuned) --prompt hatllm --head item
$(call model,bigrec-title): $(dataset) $(backbone)
	$(tuned) --prompt $(or $(PROMPT),bigrec) --head title

# Vectors of SASRec instead of titles, and beside them.
$(call model,e4srec): $(call model,sasrec) $(backbone)
	$(joined) --expansion 1 --prompt e4srec
$(call model,llara): $(call model,sasrec) $(backbone)
	$(joined) --activation gelu --mix linear --prompt llara

# Results, tables and the figure.
ranked = rectool eval "$(DATA)" $(<D) --out $(@D) --update --quiet --k 5,10 --exclude none
$(call result,bigrec-nearest): $(call model,bigrec-title)
	$(ranked) --ground nearest
$(call result,bigrec-trie): $(call model,bigrec-title)
	$(ranked) --ground trie --beams 20
$(OUT)/results/%/rectool.json: $(OUT)/models/%/rectool.json
	$(ranked)
$(call table,hatllm): $(call result,bigrec popularity markov sasrec hatllm)
$(call table,bigrec): $(call result,bigrec popularity bigrec-nearest bigrec-trie)
$(call table,e4srec): $(call result,sasrec popularity e4srec)
$(call table,llara): $(call result,bigrec sasrec llara)
$(OUT)/compared/%/rectool.json:
	rectool compare $(^D) --baseline $(<D) --metrics hr@5,ndcg@5,hr@10,ndcg@10 --out $(@D) --update
$(OUT)/figures/attention/rectool.json: $(call model,bigrec hatllm) $(backbone)
	rectool plot attention --within-across "$(DATA)" $(OUT)/models/bigrec $(OUT)/models/hatllm --llm "$(LLM)" --rows 200 \
	  --out $(@D) --update
