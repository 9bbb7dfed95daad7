# make demo   the whole study on toy rooms, photographs in, report out (about twelve minutes on two cores)
# make test   every test
# make study  the larger demo: every model, every depth, three seeds (an evening on two cores)
# make check  formatting, lint and types
# make soak   kills at random moments and mutated files, half an hour

VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

MODELS := m3ch mlin mmlp m4ch mdf1 mgem
SEEDS := 0 1 2

.PHONY: demo test study check soak clean
.DELETE_ON_ERROR:
.SECONDARY:

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,dev]'
	@$(BIN)/python -c "import torch, torchvision" || \
	  { echo "torch and torchvision do not belong together: rm -rf $(VENV) and install with -c constraints.txt"; exit 1; }
	touch $@

# --- the demo ---------------------------------------------------------------------------------------------------------

# All models see pseudo-depth; m4ch also what a perfect teacher and a sensor would have told it.
DEMO_PSEUDO := $(addprefix demo/runs/,$(addsuffix -pseudo,$(MODELS)))
DEMO_RUNS := $(DEMO_PSEUDO) demo/runs/m4ch-real demo/runs/m4ch-exact
DEMO_DUMPS := $(addsuffix /dumps/latest.zarr,$(DEMO_PSEUDO)) demo/runs/m3ch-pseudo/dumps/epochs
# Table 3: pre-trained with pseudo-depth, fine-tuned with either depth, tested with both.
DEMO_TUNED := $(addprefix demo/runs/,m3ch-pseudo mlin-pseudo m4ch-pseudo)

# From here on two commands at a time with a thread each, which two cores do faster than one command with two threads.
# Their lines mix, so there are no progress bars.
demo: demo/shards/contact-sheet.png
	OMP_NUM_THREADS=1 TTY_COMPATIBLE=0 $(MAKE) --no-print-directory --jobs=2 demo/report/index.html
	@echo "report: $(CURDIR)/demo/report/index.html"

demo/shards/contact-sheet.png: $(INSTALLED)
	$(BIN)/precompute-depth toyrooms demo/shards --teacher toy --val-samples 1000
	$(BIN)/precompute-depth verify demo/shards
	$(BIN)/precompute-depth inspect demo/shards

# Other rooms, seen by the sensor too: what `train gap` compares, as NYUDepthV2 is in the paper.
demo/pairs/index: demo/shards/contact-sheet.png
	$(BIN)/precompute-depth toyrooms demo/pairs --teacher toy --samples 400 --val-samples 100 --seed 1 \
	  --stats-from demo/shards
	touch $@

demo/runs/%/evaluations/val-final.json: demo/shards/contact-sheet.png
	$(BIN)/train pretrain --preset tiny --model $(word 1,$(subst -, ,$*)) --data demo/shards --out demo/runs/$* \
	  --set data.depth=$(word 2,$(subst -, ,$*)) --resume

demo/table3/matrix.json: $(addsuffix /evaluations/val-final.json,$(DEMO_TUNED))
	$(BIN)/train matrix $(DEMO_TUNED) --preset tiny --data demo/shards --out demo/table3

demo/runs/%/dumps/latest.zarr: demo/runs/%/evaluations/val-final.json
	$(BIN)/train dump demo/runs/$* --data demo/shards --images 1000 --causal 500

# Figure 5 follows the baseline over its epochs; epoch 0, untrained, is what other figures are held against.
demo/runs/m3ch-pseudo/dumps/epochs: demo/runs/m3ch-pseudo/evaluations/val-final.json
	$(BIN)/train dump demo/runs/m3ch-pseudo --data demo/shards $(addprefix --checkpoint epoch-,0 1 2 5) --images 1000 --raw 0
	touch $@

# Figures 4 and 14: noise on depth.
demo/runs/%/evaluations/noise: demo/runs/%/evaluations/val-final.json demo/pairs/index
	$(BIN)/train evaluate demo/runs/$* --data demo/shards --noise pixel --noise patch
	$(BIN)/train gap demo/runs/$* --data demo/pairs
	touch $@

# What takes longest comes first, so that no core waits for it at the end.
demo/report/index.html: demo/table3/matrix.json $(addsuffix /evaluations/val-final.json,$(DEMO_RUNS)) \
  $(DEMO_DUMPS) $(addsuffix /evaluations/noise,$(DEMO_PSEUDO))
	$(BIN)/analyze report $(DEMO_RUNS) --matrix demo/table3 --out demo/report

# --- the study --------------------------------------------------------------------------------------------------------

# m3ch reads no depth: one run is its result for every depth.
STUDY_RUNS := $(foreach s,$(SEEDS),$(addsuffix -$(s),$(addprefix study/runs/,m3ch-pseudo \
  $(foreach m,$(filter-out m3ch,$(MODELS)),$(foreach d,pseudo real exact,$(m)-$(d))))))
STUDY_PSEUDO := $(foreach s,$(SEEDS),$(addprefix study/runs/,$(addsuffix -pseudo-$(s),$(MODELS))))

study: study/report/index.html
	@echo "report: $(CURDIR)/study/report/index.html"

study/shards/index: $(INSTALLED)
	$(BIN)/precompute-depth toyrooms study/shards --teacher toy --samples 24000 --val-samples 5000
	$(BIN)/precompute-depth verify study/shards && touch $@

study/pairs/index: study/shards/index
	$(BIN)/precompute-depth toyrooms study/pairs --teacher toy --samples 1000 --val-samples 500 --seed 1 \
	  --stats-from study/shards
	touch $@

study/runs/%/evaluations/val-final.json: study/shards/index
	$(BIN)/train pretrain --preset tiny --model $(word 1,$(subst -, ,$*)) --data study/shards --out study/runs/$* \
	  --set data.depth=$(word 2,$(subst -, ,$*)) --set seed=$(word 3,$(subst -, ,$*)) --set optim.epochs=30 --resume

study/runs/%/dumps/latest.zarr: study/runs/%/evaluations/val-final.json
	$(BIN)/train dump study/runs/$* --data study/shards --images 2000 --causal 500

study/runs/%/evaluations/noise: study/runs/%/evaluations/val-final.json study/pairs/index
	$(BIN)/train evaluate study/runs/$* --data study/shards --noise pixel --noise patch
	$(BIN)/train gap study/runs/$* --data study/pairs
	touch $@

study/table3/matrix.json: $(addsuffix /evaluations/val-final.json,$(STUDY_PSEUDO))
	$(BIN)/train matrix $(STUDY_PSEUDO) --preset tiny --data study/shards --out study/table3 --set optim.epochs=30

study/report/index.html: $(addsuffix /dumps/latest.zarr,$(STUDY_RUNS)) study/table3/matrix.json \
  $(addsuffix /evaluations/noise,$(STUDY_PSEUDO))
	$(BIN)/analyze report $(STUDY_RUNS) --matrix study/table3 --out study/report

# --- development ------------------------------------------------------------------------------------------------------

# Two processes with a thread each; a file's tests stay together, with what they share.
test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

soak: $(INSTALLED)
	$(BIN)/python tests/soak.py
	PSEUDODEPTH_SOAK=1 $(BIN)/python -m pytest tests/analysis/test_strange_runs.py tests/pipeline/test_foreign_shards.py

clean:
	rm -rf demo study build
